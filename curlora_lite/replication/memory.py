"""What memory a run needs, and whether the machine has it."""

import dataclasses

import torch

from . import machine

BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}
OVERHEAD = 1.2e9  # libraries, CUDA context, buffers
LONGEST_ROW = 124  # tokens: MRPC's longest pair, the longest row there is (SmolLM2's tokenizer)

# (parameters, layers, width, inner width, bytes kept for the backward pass per token and layer in
# fp32 and in bf16). The last two were measured with LoRA-16, which keeps more than CURLoRA, as the
# storages that autograd saves for one more block of the real shape.
SHAPES = {
    "smollm2-135m": (134_515_008, 30, 576, 1536, 31_724, 18_618),
    "smollm2-135m-fused": (134_515_008, 30, 576, 1536, 31_724, 18_618),
    "gpt2-large": (774_030_080, 36, 1280, 5120, 134_960, 81_979),
    "mistral-7b": (7_248_023_552, 32, 4096, 14336, 262_472, 150_637),
}
# tokens that a model reads at once at most, where the protocol has perplexity read the whole text
CONTEXTS = {
    "smollm2-135m": 8192,
    "smollm2-135m-fused": 8192,
    "gpt2-large": 1024,
    "mistral-7b": 32_768,
}


class MemoryTooSmallError(ValueError):
    """The device cannot hold the run."""


def estimate(spec):
    """Bytes that a run needs at its peak: weights, activations of the longest batch, overhead.

    Frozen weights need no input kept, and have neither gradients nor optimiser state. With
    checkpointing one vector of the model's width is kept per token and layer, and one layer whole.
    """
    parameters, layers, width, inner, *kept = SHAPES[spec.model.name]
    size = BYTES[spec.precision]
    per_layer = kept[0] if size == 4 else kept[1]
    tokens = spec.batch * min(spec.max_length, LONGEST_ROW)
    training = tokens * layers * per_layer
    if spec.checkpointing:
        training = tokens * (layers * width * size + per_layer)
    whole = spec.protocol.perplexity == "whole-text"
    window = CONTEXTS[spec.model.name] if whole else spec.text_window
    reading = window * (6 * width + 3 * inner) * size  # one layer at a time
    return parameters * size + max(training, reading) + OVERHEAD


def check(spec, device):
    """MemoryTooSmallError, saying what would fit, if the device cannot hold the run at all."""
    if device == "cuda":
        has = torch.cuda.get_device_properties(0).total_memory
    else:
        has = machine.installed_memory()
    needs = estimate(spec)
    if needs <= has:
        return
    options = {
        "PRECISION=bf16": {"precision": "bf16"},
        "CHECKPOINTING=1": {"checkpointing": True},
        "PRECISION=bf16 CHECKPOINTING=1": {"precision": "bf16", "checkpointing": True},
    }
    fits = [
        f"{name} ({estimate(dataclasses.replace(spec, **change)) / 1e9:.0f} GB)"
        for name, change in options.items()
        if estimate(dataclasses.replace(spec, **change)) <= has
    ]
    raise MemoryTooSmallError(
        f"memory: {spec.model.name} in {spec.precision} needs about {needs / 1e9:.0f} GB, the "
        f"{'GPU' if device == 'cuda' else 'machine'} has {has / 1e9:.0f} GB. What would fit: "
        f"{', '.join(fits) or 'nothing of this model; PROFILE=smollm2 or embedded'}"
    )
