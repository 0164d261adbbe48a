"""Whether an adapter stands on the frozen weights that it was trained on: by checksums of these,
and by the last number of every other parameter.
"""

import hashlib
import math
import warnings

import torch
from torch import nn

from . import weights
from .attached import attached_to
from .heads import within
from .layers import CURLoRALinear
from .modules import named_tensors

CHECKS = ("rounded", "exact", "shapes")


def checksum(layer, dtype=None):
    """Of columns and rows of the frozen weight: those chosen or, for LoRA, r at even distances.

    dtype: rounded to it before; None: as they are.
    """
    W = weights.codes(layer.base)
    if isinstance(layer, CURLoRALinear):
        rows, cols = layer.rows, layer.cols
    else:
        rank = layer.A.shape[1]
        rows, cols = (torch.arange(rank, device=W.device) * (n // rank) for n in W.shape)
    dtype = dtype or W.dtype
    digest = hashlib.sha256(f"{dtype} {tuple(W.shape)}".encode())
    for part in (W[rows], W[:, cols]):
        part = weights.sound("model: a frozen weight", part)
        digest.update(part.to(dtype).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def checksums(layers, dtype):
    """One of the weights of all layers, {projection -> layer}, rounded to `dtype`."""
    parts = "".join(checksum(layer, dtype) for layer in layers.values())
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def not_wrapped(model):
    """Yield (name, parameter) of what the adapter that stands in `model`, if one does, has not.

    Without what is quantised, or kept elsewhere.
    """
    attached = attached_to(model)
    own = [*attached.layers.get(attached.active, ()), *attached.heads.get(attached.active, ())]
    for name, tensor in named_tensors(model):
        if not isinstance(tensor, nn.Parameter) or within(name, own) or tensor.is_meta:
            continue
        if tensor.numel() and tensor.dtype in weights.PRECISIONS and not weights.quantised(tensor):
            yield name, tensor


def last_numbers(model):
    """{name -> the last number} of those `not_wrapped` that are frozen, where it is finite."""
    found = {name: _last(p) for name, p in not_wrapped(model) if not p.requires_grad}
    return {name: number for name, number in found.items() if math.isfinite(number)}


def _last(parameter):
    return parameter.detach()[(-1,) * parameter.dim()].item()


def other_base(layers, description, check):
    """What is wrong with the weights that the layers stand on, or None. check: one of `CHECKS`.

    Warns where they are accepted in another precision.
    """
    expected = description["projections"]
    others = [path for path, layer in layers.items() if checksum(layer) != expected[path]]
    if not others or check == "shapes":
        return None
    dtypes = {weights.codes(layer.base).dtype for layer in layers.values()}
    rounded = description.get("rounded")  # older versions wrote none
    rounded = rounded if isinstance(rounded, dict) else {}
    # finer than what it was trained on, and rounded to it the same; or coarser, rounded from it,
    # some of them perhaps (T5 keeps a part in fp32)
    finer = all(expected[p] in [checksum(layers[p], d) for d in weights.PRECISIONS] for p in others)
    coarser = any(rounded.get(str(d)) == checksums(layers, d) for d in dtypes)
    if check == "rounded" and (finer or coarser):
        warnings.warn(
            "the adapter was trained over these weights in another precision: it is as it was "
            "saved, the model's output differs by the rounding of the weights",
            stacklevel=4,
        )
        return None
    return (
        f"the frozen weight of {others[0]} is not the one this adapter was trained on (checksum "
        f"{checksum(layers[others[0]])}, expected {expected[others[0]]}). Load it into the same "
        f"base model; check_base ({check}) says what counts as such"
    )


def other_rest(model, description, check):
    """What is wrong with the frozen parameters beside the wrapped ones, or None.

    A warning, where `exact` is not asked for: of a new pooler, say, or a new row of an embedding,
    the model's output may not depend.
    """
    frozen = description.get("frozen")  # older versions wrote none
    if check == "shapes" or not isinstance(frozen, dict):
        return None
    heads = description.get("heads", [])  # not trained where it was saved beside another adapter
    frozen = {name: last for name, last in frozen.items() if not within(name, heads)}
    for name, p in not_wrapped(model):
        if name not in frozen or (last := _last(p)) == (expected := frozen[name]):
            continue
        rounded = check == "rounded" and isinstance(expected, float)
        finer = rounded and expected in _rounded(last, *weights.PRECISIONS)
        if finer or (rounded and last in _rounded(expected, p.dtype)):
            continue
        said = f"{name} was another when this adapter was trained; it was frozen, so not saved: an "
        said += "earlier adapter folded in? new rows of an embedding? a new pooler?"
        if check == "exact":
            return said
        return warnings.warn(said, stacklevel=4)
    return None


def _rounded(number, *dtypes):
    return [torch.tensor(number, dtype=torch.float64).to(dtype).item() for dtype in dtypes]
