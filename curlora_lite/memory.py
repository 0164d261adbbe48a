"""What a run needs and what the machine has: memory and cores."""

import dataclasses
import functools
import os

import torch

from . import models

BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}
OVERHEAD = 1.2e9  # libraries, CUDA context, buffers
TYPICAL_LENGTH = 100  # tokens of the longest row of a batch: MRPC's pairs, the longest there are

_KNOWN = {"smollm2-135m": (134_515_008, 30, 576, 1536), "small-gpt2": (4_273_664, 4, 256, 1024)}


class MemoryTooSmallError(ValueError):
    """The device cannot hold the run."""


@functools.cache
def shapes(name):
    """(parameters, layers, width, inner width) of a model by its name in `models.NAMES`.

    Counted on the meta device, so that nothing is fetched.
    """
    if name in _KNOWN:
        return _KNOWN[name]
    label = {"gpt2-large": "GPT-2 Large", "mistral-7b": "Mistral-7B-v0.3"}[name]
    model, _ = models.meta_model(label)
    config = model.config
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return model.num_parameters(), config.num_hidden_layers, config.hidden_size, inner


def estimate(spec):
    """Bytes that a run needs at its peak: weights, activations kept for the backward pass, logits.

    An estimate from shapes. Kept per token and layer: some eight vectors of the model's width and
    four of the feed-forward's inner width (with checkpointing one of the width); frozen weights
    need no input kept, and have neither gradients nor optimiser state.
    """
    parameters, layers, width, inner = shapes(spec.model.name)
    size = BYTES[spec.precision]
    tokens = spec.batch * min(spec.max_length, TYPICAL_LENGTH)
    kept = width if spec.checkpointing else 8 * width + 4 * inner
    training = tokens * layers * kept * size
    reading = spec.text_window * (6 * width + 3 * inner) * size  # one layer at a time
    return parameters * size + max(training, reading) + OVERHEAD


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def installed():
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check(spec, device):
    """MemoryTooSmallError, saying what would fit, if the device cannot hold the run at all."""
    has = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else installed()
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
