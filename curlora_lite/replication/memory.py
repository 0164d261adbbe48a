"""What memory a run needs, whether the machine has it, and for how many at once."""

import dataclasses

import torch

from . import machine

OVERHEAD = 1.2e9  # libraries, CUDA context, buffers
LONGEST_ROW = 124  # tokens: MRPC's longest pair, the longest row there is (SmolLM2's tokenizer)

# (parameters, layers, width, inner width, tokens read at once at most, bytes kept for the backward
# pass per token and layer in fp32 and in bf16). The last two were measured with LoRA-16, which
# keeps more than CURLoRA, as the storages that autograd saves for one more block of the real shape.
SHAPES = {
    "smollm2-135m": (134_515_008, 30, 576, 1536, 8192, 31_724, 18_618),
    "gpt2-large": (774_030_080, 36, 1280, 5120, 1024, 134_960, 81_979),
    "mistral-7b": (7_248_023_552, 32, 4096, 14336, 32_768, 262_472, 150_637),
}


class MemoryTooSmallError(ValueError):
    """The device cannot hold the run."""


def estimate(spec):
    """Bytes that a run needs at its peak: weights, activations of the longest batch, overhead.

    Frozen weights need no input kept, and have neither gradients nor optimiser state. With
    checkpointing one vector of the model's width is kept per token and layer, and one layer whole.
    """
    shape = SHAPES[spec.model.name.removesuffix("-fused")]
    parameters, layers, width, inner, context, *kept = shape
    size = machine.DTYPES[spec.precision].itemsize
    per_layer = kept[0] if size == 4 else kept[1]
    tokens = spec.batch * min(spec.max_length, LONGEST_ROW)
    frugal = layers * width * size + per_layer
    training = tokens * (frugal if spec.checkpointing else layers * per_layer)
    window = context if spec.protocol.perplexity == "whole-text" else spec.text_window
    reading = window * (6 * width + 3 * inner) * size  # one layer at a time
    return parameters * size + max(training, reading) + OVERHEAD


def default_workers(specs):
    """Runs at once: one a core on a CPU, as far as memory allows and there are runs; one on a GPU.

    Single runs here are too small to keep two cores busy: side by side they take less time.
    """
    if machine.default_device() != "cpu":
        return 1
    each = max(map(estimate, specs))
    return max(1, min(machine.cores(), int(0.8 * machine.installed_memory() / each), len(specs)))


def check(spec, device):
    """MemoryTooSmallError, saying what would fit, if the device cannot hold the run at all."""
    gpu = device == "cuda"
    has = torch.cuda.get_device_properties(0).total_memory if gpu else machine.installed_memory()
    if (needs := estimate(spec)) <= has:
        return
    half, options = {"precision": "bf16"}, {"CHECKPOINTING=1": {"checkpointing": True}}
    if gpu or machine.fast_precision() == "bf16":  # elsewhere it would take days
        options |= {"PRECISION=bf16": half}
        options["PRECISION=bf16 CHECKPOINTING=1"] = half | options["CHECKPOINTING=1"]
    then = {name: estimate(dataclasses.replace(spec, **given)) for name, given in options.items()}
    fits = [f"{name} ({size / 1e9:.0f} GB)" for name, size in then.items() if size <= has]
    raise MemoryTooSmallError(
        f"memory: {spec.model.name} in {spec.precision} needs about {needs / 1e9:.0f} GB, the "
        f"{'GPU' if gpu else 'machine'} has {has / 1e9:.0f} GB. What would fit: "
        f"{', '.join(fits) or 'nothing of this model; PROFILE=smollm2 or embedded'}"
    )
