"""What the benchmark compares: the frozen model, ours, CURLoRA written otherwise, PEFT's adapters.

All wrap copies of one model that share its frozen weights. Shapes as in `layers`.
"""

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from ...adapter_files import save_adapter
from ...adapters import CURLoRAConfig, adapter_layers, add_adapters, projections
from ...checks import known


class _OtherwiseCURLoRA(nn.Module):
    """A `CURLoRALinear`'s base, U, C and R, for a forward pass that does not use the gather."""

    def __init__(self, layer):
        super().__init__()
        self.base, self.U = layer.base, layer.U
        self.alpha, self.transposed = layer.alpha, layer.transposed
        self.register_buffer("C", layer.C.clone())  # (a, r) of the stored W (a, b)
        self.register_buffer("R", layer.R.clone())  # (r, b)


class DenseCURLoRA(_OtherwiseCURLoRA):
    """y = x W + alpha x (C U R): the product C U R is formed, as large as W, in every forward pass.

    This is how the author's code computes Eq. 8: a second full-size product with x.
    """

    def forward(self, x):
        update = self.C @ self.U.to(self.C.dtype) @ self.R  # (a, b)
        return self.base(x) + self.alpha * F.linear(x, update if self.transposed else update.T)


class FactoredCURLoRA(_OtherwiseCURLoRA):
    """y = x W + alpha ((x R^T) U^T) C^T (Conv1D: ((x C) U) R): no product as large as W."""

    def forward(self, x):
        first, last = (self.R.T, self.C.T) if self.transposed else (self.C, self.R)
        middle = self.U.T if self.transposed else self.U
        z = (x @ first).to(self.U.dtype) @ middle  # (B..., r)
        return self.base(x) + self.alpha * (z.to(x.dtype) @ last)


def shared_copy(model):
    """A copy of `model` with modules of its own and the same parameters and buffers."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def limit(model, targets, rank):
    """Nothing at all: the frozen model, through which gradients flow to its inputs."""
    return model.requires_grad_(False)


def curlora(model, targets, rank):
    """Ours: the gather."""
    add_adapters(model, CURLoRAConfig(rank=rank, target_modules=targets))
    return model


def _otherwise(kind):
    def build(model, targets, rank):
        for name, layer in list(adapter_layers(curlora(model, targets, rank))):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, kind(layer))
        return model

    return build


def lora(model, targets, rank):
    """PEFT's LoRA, at its defaults."""
    from peft import LoraConfig, get_peft_model

    options = {"r": rank, "lora_alpha": rank, "target_modules": list(targets)}
    return get_peft_model(model, LoraConfig(**options, fan_in_fan_out=_has_conv1d(model, targets)))


def vera(model, targets, rank):
    """PEFT's VeRA, at its defaults but for the rank."""
    from peft import VeraConfig, get_peft_model

    options = {"r": rank, "target_modules": list(targets)}
    return get_peft_model(model, VeraConfig(**options, fan_in_fan_out=_has_conv1d(model, targets)))


def _has_conv1d(model, targets):
    return any(isinstance(module, Conv1D) for module in projections(model, targets).values())


@dataclass(frozen=True)
class Kind:
    """build: (model, targets, rank) -> model. peft: whether it is PEFT's, and saved by it."""

    label: str
    build: object
    peft: bool = False


KINDS = {
    "limit": Kind("frozen model (limit)", limit),
    "curlora": Kind("CURLoRA (ours)", curlora),
    "factored": Kind("CURLoRA, factored", _otherwise(FactoredCURLoRA)),
    "dense": Kind("CURLoRA, dense Eq. 8", _otherwise(DenseCURLoRA)),
    "lora": Kind("PEFT LoRA", lora, peft=True),
    "vera": Kind("PEFT VeRA", vera, peft=True),
}


def build(kind, model, targets, rank):
    """A contender over the weights of `model`, which stays as it is."""
    known("contender", kind, KINDS)
    return KINDS[kind].build(shared_copy(model), targets, rank)


def start(model, generator):
    """Give what is trained small random values, so that no contender multiplies by zeros."""
    for parameter in trained(model):
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.01 * noise.to(parameter.device, parameter.dtype)
    return model


def trained(model):
    """The parameters that receive gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def disk_bytes(kind, model, folder):
    """Bytes of the saved adapter, tensors and description; None for what cannot be saved."""
    if kind == "curlora":
        return save_adapter(model, folder)
    if not KINDS[kind].peft:
        return None
    model.save_pretrained(folder, save_embedding_layers=False)
    kept = (".safetensors", ".json")  # not the model card
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.suffix in kept)


def optimiser_bytes(model):
    """Bytes of AdamW's state after one step on what is trained."""
    parameters = trained(model)
    if not parameters:
        return 0
    optimiser = torch.optim.AdamW(parameters, lr=0.0)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for parameter in parameters:
        parameter.grad = None
    states = [value for state in optimiser.state.values() for value in state.values()]
    return sum(value.numel() * value.element_size() for value in states)
