"""Adapters on a whole model: add, count, list, remove."""

import hashlib
from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from . import cur
from .checks import known, whole
from .layers import LORA_INITS, AdapterLayer, CURLoRALinear, LoRALinear


@dataclass(frozen=True)
class AdapterConfig:
    """What both adapters are configured by.

    rank: r, from 1 to the smaller side of every projection that is wrapped.
    alpha: multiplies the update directly (for common LoRA's alpha / r, pass that quotient).
    target_modules: names of projections; `q_proj` matches `model.layers.0.self_attn.q_proj`.
    seed: from it and the projection's name each projection gets its own random stream.
    """

    rank: int = 16
    alpha: float = 1.0
    target_modules: tuple = ("q_proj", "k_proj", "v_proj")
    seed: int = 0

    def __post_init__(self):
        whole("rank", self.rank, 1)
        if isinstance(self.target_modules, str):
            raise ValueError(
                f"target_modules: got the string {self.target_modules!r}, expected a list of names"
            )
        object.__setattr__(self, "target_modules", tuple(self.target_modules))
        if not self.target_modules:
            raise ValueError("target_modules: got an empty list, expected at least one name")

    def generator(self, name):
        """A CPU generator for the projection called `name`: the same for any order of wrapping."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class CURLoRAConfig(AdapterConfig):
    """CURLoRA (Eq. 5-8). selection: `eq4`, `authors`, or a `Selection` (see `cur.py`)."""

    selection: str | cur.Selection = "eq4"

    def __post_init__(self):
        super().__post_init__()
        cur.as_selection(self.selection)

    def wrap(self, name, base):
        """The adapter layer for the projection `base` called `name`."""
        return CURLoRALinear(
            base, self.rank, self.alpha, self.selection, generator=self.generator(name)
        )


@dataclass(frozen=True)
class LoRAConfig(AdapterConfig):
    """LoRA (Eq. 1). init: `usual` or `authors` (see `LoRALinear`)."""

    init: str = "usual"

    def __post_init__(self):
        super().__post_init__()
        known("init", self.init, LORA_INITS)

    def wrap(self, name, base):
        """The adapter layer for the projection `base` called `name`."""
        return LoRALinear(base, self.rank, self.alpha, self.init, generator=self.generator(name))


def _targets(model, target_modules):
    """Names of the projections that `target_modules` match; ValueError if one matches nothing."""
    projections = {
        name: name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    }
    chosen = set()
    for target in target_modules:
        found = [n for n in projections if n == target or n.endswith(f".{target}")]
        if not found:
            known = ", ".join(sorted(set(projections.values()))) or "none at all"
            raise ValueError(
                f"target_modules: {target!r} matches no nn.Linear or Conv1D of this "
                f"{type(model).__name__}; projections it has: {known}"
            )
        chosen.update(found)
    return [name for name in projections if name in chosen]


def add_adapters(model, config):
    """Freeze `model` and wrap every projection that `config.target_modules` names.

    Right after, the model's output is that of the base model, bit for bit. Returns the wrapped
    names. ValueError if a target matches nothing, a projection is wrapped already, or the rank is
    too large for one; the model is then as it was.
    Source: §4 (which projections: §6.2).
    """
    if any(True for _ in adapter_layers(model)):
        raise ValueError("model: has adapters already; take them off first with remove_adapters")
    names = _targets(model, config.target_modules)
    for name in names:
        cur.check_rank(config.rank, model.get_submodule(name).weight.shape)
    wrapped = {name: config.wrap(name, model.get_submodule(name)) for name in names}
    model.requires_grad_(False)
    for name, layer in wrapped.items():
        layer.train(model.training)
        _replace(model, name, layer)
    return names


def remove_adapters(model):
    """Put every frozen base projection back, dropping its adapter. Returns the names.

    Base weights were never changed; they stay frozen (`requires_grad` False).
    """
    layers = dict(adapter_layers(model))
    for name, layer in layers.items():
        _replace(model, name, layer.base)
    return list(layers)


def adapter_layers(model):
    """Yield (name, layer) for every wrapped projection of `model`."""
    for name, module in model.named_modules():
        if isinstance(module, AdapterLayer):
            yield name, module


def count_trainable(model):
    """Number of parameters of `model` that receive gradients. Source: §4.5."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _replace(model, name, module):
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
