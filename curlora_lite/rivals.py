r"""What the audit sets beside LoRA and CURLoRA: full fine-tuning, and methods that PEFT offers.

Full fine-tuning is written as a layer of ours, W + D with D zero at the start. The others are
PEFT's own code, unchanged, on the same projections: an optional extra (`pip install peft`).
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .adapters import AdapterConfig, projections
from .checks import known
from .layers import AdapterLayer, adapter_dtype

PEFT_METHODS = ("peft-lora", "vera", "osf")


class FullLinear(AdapterLayer):
    r"""y = x (W + alpha D): every entry of the projection is trained, as D (in, out), from zero.

    The same function and, for AdamW without weight decay, the same steps as training W itself in
    the adapter's dtype. The bias stays frozen, as with the adapters. Source: §4.5's `full`.
    """

    def __init__(self, base, alpha=1.0):
        super().__init__(base, alpha)
        W = self.W
        n_out, n_in = self.out_in
        self.D = nn.Parameter(torch.zeros(n_in, n_out, dtype=adapter_dtype(W), device=W.device))

    def forward(self, x):
        return self.base(x) + self.alpha * (x @ self.D.to(x.dtype))

    def update(self):
        """D in the stored orientation, alpha left out."""
        return self.D.T if self.transposed else self.D

    def update_norm(self):
        """||alpha D||_F, a float."""
        return abs(self.alpha) * torch.linalg.vector_norm(self.D, dtype=torch.float64).item()


@dataclass(frozen=True)
class FullConfig(AdapterConfig):
    """Full fine-tuning of the target projections; rank and seed have no effect."""

    def wrap(self, _, base):
        """The layer for the projection `base`."""
        return FullLinear(base, self.alpha)


def add_peft(model, method, config):
    """Put a PEFT method's layers into `model` in place, trainable; returns their names.

    config: an AdapterConfig; its rank, alpha, targets and seed are used. `peft-lora`: rank r and
    lora_alpha = alpha r, so that alpha multiplies directly, with PEFT's initialisation. `vera`:
    vectors over one pair of shared random matrices of rank `vera_rank`, PEFT's default scales.
    `osf`: all but the last r singular directions of each weight are kept; r are trained.
    There is no way back but to load the model anew. ValueError for another method, ImportError if
    PEFT is not installed.
    """
    known("method", method, PEFT_METHODS)
    import peft

    targets = list(config.target_modules)
    if method == "peft-lora":
        chosen = peft.LoraConfig(
            r=config.rank, lora_alpha=config.alpha * config.rank, target_modules=targets
        )
    elif method == "vera":
        chosen = peft.VeraConfig(
            r=vera_rank(model, targets, config.rank),
            target_modules=targets,
            projection_prng_key=config.seed,
            save_projection=False,
        )
    else:
        _as_linear(model, targets)
        smallest = min(min(m.weight.shape) for m in projections(model, targets).values())
        chosen = peft.OSFConfig(effective_rank=smallest - config.rank, target_modules=targets)
    names = list(projections(model, targets))
    peft.get_peft_model(model, chosen)  # replaces the projections in place
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(adapter_dtype(parameter))
    return names


def vera_rank(model, targets, rank):
    """The rank at which VeRA trains about as many parameters as CURLoRA of this rank, at least 1.

    VeRA trains out + r_v parameters a projection, CURLoRA r^2; out alone may be more.
    """
    outs = [_widths(m)[0] for m in projections(model, targets).values()]
    return max(1, rank * rank - round(sum(outs) / len(outs)))


def _widths(module):
    """(out, in) of a projection."""
    shape = tuple(module.weight.shape)
    return shape[::-1] if isinstance(module, Conv1D) else shape


def _as_linear(model, targets):
    """Every `Conv1D` among the targets as the `nn.Linear` of the same function, for OSF."""
    for name, module in projections(model, targets).items():
        if isinstance(module, Conv1D):
            n_out, n_in = _widths(module)
            with torch.device("meta"):
                linear = nn.Linear(n_in, n_out, dtype=module.weight.dtype)
            linear.weight = nn.Parameter(module.weight.detach().T.contiguous(), requires_grad=False)
            linear.bias = module.bias
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, linear)
