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
    """{name -> (parameter, its last number)} of what no adapter that stands in `model` has.

    Without what is quantised, kept elsewhere, or not finite.
    """
    attached, found = attached_to(model), {}
    own = [*attached.layers.get(attached.active, ()), *attached.heads.get(attached.active, ())]
    for name, tensor in named_tensors(model):
        plain = isinstance(tensor, nn.Parameter) and tensor.dtype in weights.PRECISIONS
        if plain and tensor.numel() and not tensor.is_meta and not weights.quantised(tensor):
            last = tensor.detach()[(-1,) * tensor.dim()].item()
            if math.isfinite(last) and not within(name, own):
                found[name] = tensor, last
    return found


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
    for name, (tensor, last) in not_wrapped(model).items():
        expected = frozen.get(name, last) if isinstance(frozen, dict) else last
        if last == expected or check == "shapes":
            continue
        if check == "rounded" and isinstance(expected, float):
            finer, coarser = _rounded(last, *weights.PRECISIONS), _rounded(expected, tensor.dtype)
            if expected in finer or last in coarser:
                continue
        said = (
            f"{name} was another when this adapter was trained; it was frozen, so not saved: an "
            "earlier adapter folded in? new rows of an embedding? a new pooler?"
        )
        if check == "exact":
            return said
        return warnings.warn(said, stacklevel=4)
    return None


def _rounded(number, *dtypes):
    return [torch.tensor(number, dtype=torch.float64).to(dtype).item() for dtype in dtypes]
