"""How an adapter lies in its model: norms, effective ranks, Eq. 14's bound, Eq. 15's shift."""

import torch

from . import cur
from .adapters import adapter_layers
from .layers import CURLoRALinear


def geometry(model, ids):
    """What each wrapped projection's adapter is like now: projection -> dict of floats.

    ids (tokens,): a text that the output shift is measured on. Of every adapter: `weight` ||W||_F,
    `update` ||alpha update||_F and `shift`, the norm of what the adapter adds to the projection's
    output over the tokens, relative to that of x W. Of CURLoRA also `C`, `U`, `R` (Frobenius
    norms), `bound` (alpha times their product), `rank_C` and `rank_R` (effective ranks, at most r).
    Source: Eq. 14 and 15.
    """
    shifts = output_shift(model, ids)
    found = {}
    for name, layer in adapter_layers(model):
        sizes = {"weight": layer.weight_norm(), "update": layer.update_norm()}
        if isinstance(layer, CURLoRALinear):
            C, U, R = layer.factors()
            sizes |= {n: cur.norm(m) for n, m in (("C", C), ("U", U), ("R", R))}
            sizes |= {"bound": abs(layer.alpha) * cur.norm_bound(C, U, R)}
            sizes |= {"rank_C": cur.effective_rank(C), "rank_R": cur.effective_rank(R.T)}
        found[name] = {**sizes, "shift": shifts[name]}
    return found


def output_shift(model, ids):
    """||alpha x update||_F / ||x W||_F over the tokens of `ids` (tokens,), by projection.

    In one forward pass with every adapter in place; the bias is left out of x W. Source: Eq. 15.
    """
    shifts, hooks = {}, []
    for name, layer in adapter_layers(model):
        hooks.append(layer.register_forward_hook(_recorder(shifts, name)))
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            model.base_model(input_ids=ids[None].to(device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return shifts


def _recorder(shifts, name):
    def record(layer, inputs, output):
        base = layer.base(inputs[0])
        added = (output - base).double().norm()
        if layer.base.bias is not None:
            base = base - layer.base.bias
        shifts[name] = (added / base.double().norm()).item()

    return record
