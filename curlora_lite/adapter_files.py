"""An adapter on disk: saved, and loaded again bit for bit.

Two files: `adapter.safetensors` and `adapter.json`. Of CURLoRA only U and the index vectors are
kept, since C and R are columns and rows of weights that the base model brings along; a checksum of
these tells whether it is the same base model. Nothing is ever unpickled.
"""

import dataclasses
import hashlib
import json
import tempfile
import warnings
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load, save
from torch import nn
from transformers.pytorch_utils import Conv1D

from . import heads, weights
from .adapters import attach, trainable_as_before
from .attached import base_for, config_of, heads_of, layers_of, left_out, refuse_merged
from .base_check import CHECKS, checksum, checksums, last_numbers, other_base, other_rest
from .checks import known
from .configs import CURLoRAConfig, LoRAConfig
from .layers import CURLoRALinear, LoRALinear, adapter_dtype
from .modules import named_modules, unwrapped, warn_of_parameters_unknown_to

TENSORS, DESCRIPTION = "adapter.safetensors", "adapter.json"
FORMAT = "curlora_lite adapter 1"
CONFIGS = {"curlora": CURLoRAConfig, "lora": LoRAConfig}


class AdapterFileError(ValueError):
    """An adapter folder is not whole, not of this format, or not of this base model."""


@weights.plainly()
def save_adapter(model, folder, name=None):
    """Write the adapter called `name` (the active one, if None) into `folder`, made if need be.

    CURLoRA: U (n, r, r) as trained, rows and columns (n, r) as int32, of n projections. LoRA:
    A (in, r) and B (r, out) of each. Both: a checksum of columns and rows of each frozen weight,
    and the last number of each other frozen parameter. Returns how many bytes that takes:
    Mistral-7B at rank 16, some 128 KB. ValueError, saying where, for numbers that are not finite.
    Modules trained whole stand beside them as they are.
    Warns of what is trainable in the model and belongs to no adapter: it is not saved.
    A save that fails, for want of space, say, leaves what was in the folder.
    """
    refuse_merged(model)
    layers, config = layers_of(model, name), config_of(model, name)
    trained = heads_of(model, name)
    warn_of_what_is_left_out(model)
    description = {
        "format": FORMAT,
        "kind": next(kind for kind, known in CONFIGS.items() if isinstance(config, known)),
        "config": dataclasses.asdict(config),
        "projections": {path: checksum(layer) for path, layer in layers.items()},
        "rounded": {str(dtype): checksums(layers, dtype) for dtype in weights.PRECISIONS[1:]},
        "frozen": last_numbers(model),
        "heads": list(trained),
    }
    tensors = _tensors(layers) | heads.finite_tensors(trained)
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    # an interrupted save over another adapter must not load as a mixture of both
    description["tensors_sha256"] = hashlib.sha256(content).hexdigest()
    files = {TENSORS: content, DESCRIPTION: f"{json.dumps(description)}\n".encode()}
    return write_together(folder, files)


def warn_of_what_is_left_out(model):
    """Warn of what is trainable in the model and belongs to none of its adapters."""
    if lost := left_out(model):
        some = ", ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
        warnings.warn(
            f"model: trainable, but not part of the adapter and not saved with it: {some}; name "
            "the modules in modules_to_save when the adapter is added",
            stacklevel=4,
        )


def write_together(folder, files):
    """Write {name -> bytes} into `folder`, made if need be: aside, then moved. Returns how many."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as aside:
        for name, content in files.items():
            (Path(aside) / name).write_bytes(content)
        for name in files:
            (Path(aside) / name).replace(folder / name)
    return sum(map(len, files.values()))


@weights.plainly()
def load_adapter(model, folder, name="default", check_base="rounded"):
    """Add the adapter saved in `folder` to `model` under `name`, active; returns the names wrapped.

    check_base: which frozen weights to accept. `exact`: those it was trained on, bit for bit.
    `rounded`: or the wrapped ones in another precision, with a warning, and other frozen parameters
    (by their last number), with one too, if they differ by more. `shapes`: any of these shapes.

    Every number is as it was saved, bit for bit; but a head's are rounded, with a warning, where
    the model's own is of a coarser precision. AdapterFileError, saying which file and what was
    expected, for a folder that lacks a file, a damaged or foreign file, projections or shapes that
    the model does not have, indices out of range, numbers that are not finite, or frozen weights
    other than those the adapter was trained on; ValueError if the name is taken. The model is then
    as it was. Warns where a classifier or the like gets no head, as of files of older versions; and
    on a model whose adapter is merged, as `add_adapters`.
    """
    warn_of_parameters_unknown_to(model)
    model, folder = unwrapped(model), Path(folder)
    known("check_base", check_base, CHECKS)
    base_for(model, name)
    description = _read_description(folder / DESCRIPTION)
    config = _read_config(folder / DESCRIPTION, description)
    paths = description["projections"]
    weights.prepare(model)
    with base_for(model, name):
        bases = {path: _base(model, path, folder) for path in paths}
    tensors, digest = _read_tensors(folder / TENSORS)
    if "U" in tensors and tensors["U"].shape[:1] != (len(paths),):
        shape = tuple(tensors["U"].shape)
        raise AdapterFileError(f"{folder}: U is {shape}, expected one for {len(paths)} projections")
    layers = {}
    with base_for(model, name), trainable_as_before(model):
        trained = _heads(model, description, tensors, folder)
        for place, path in enumerate(paths):
            layers[path] = _layer(bases[path], config, tensors, path, place, folder / TENSORS)
        unlike = other_base(layers, description, check_base)
        if unlike := unlike or other_rest(model, description, check_base):
            raise AdapterFileError(f"{folder}: {unlike}")
        if description.get("tensors_sha256", digest) != digest:  # older versions wrote none
            raise AdapterFileError(f"{folder / TENSORS}: not the one saved with {DESCRIPTION}")
    attach(model, layers, trained, config, name)
    if config.modules_to_save is None and not trained and (own := heads.of_its_own(model)):
        warnings.warn(
            f"{folder}: the adapter was saved without {', '.join(own)}, the head of this "
            f"{type(model).__name__}, which stays as it is: where it is new, it answers at random",
            stacklevel=3,
        )
    return list(layers)


def _tensors(layers):
    def kept(path, name):
        layer = layers[path]
        found = weights.sound(f"{name} of {path}", getattr(layer, name).detach())
        trained = isinstance(getattr(layer, name), nn.Parameter)
        return found.to("cpu", adapter_dtype(layer.base.weight) if trained else torch.int32)

    if all(isinstance(layer, CURLoRALinear) for layer in layers.values()):
        return {k: torch.stack([kept(path, k) for path in layers]) for k in ("U", "rows", "cols")}
    return {f"{path}.{k}": kept(path, k) for path in layers for k in "AB"}


def _read_description(path):
    try:
        description = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise AdapterFileError(f"{path}: there is no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFileError(f"{path}: not a whole JSON file ({error})") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise AdapterFileError(f"{path}: not a description of an adapter, format {FORMAT!r}")
    paths = description.get("projections")
    kind = description.get("kind")
    known = isinstance(kind, str) and kind in CONFIGS
    if not known or not isinstance(paths, dict) or not paths:
        said = f"expected `kind`, one of {', '.join(CONFIGS)}, and `projections`, not empty"
        raise AdapterFileError(f"{path}: {said}")
    return description


def _read_config(path, description):
    try:
        return CONFIGS[description["kind"]](**description["config"])
    except (KeyError, TypeError, ValueError) as error:
        said = f"its `config` is not one of an adapter ({error})"
        raise AdapterFileError(f"{path}: {said}") from error


def _read_tensors(path):
    """The tensors of a file, and its sha256."""
    try:
        content = path.read_bytes()
        tensors = load(content)
    except FileNotFoundError as error:
        raise AdapterFileError(f"{path}: there is no such file") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise AdapterFileError(f"{path}: not a whole safetensors file ({error})") from error
    return tensors, hashlib.sha256(content).hexdigest()


def _base(model, path, folder):
    """The frozen projection of `model` at `path`."""
    module = dict(named_modules(model)).get(path)
    if not isinstance(module, (nn.Linear, Conv1D)):
        raise AdapterFileError(f"{folder}: this {type(model).__name__} has no projection {path!r}")
    return module


def _heads(model, description, tensors, folder):
    """{path -> module} of those trained whole: copies of the model's, with the saved numbers."""
    paths = description.get("heads", [])  # older versions had none
    there = dict(named_modules(model, seen=False))
    paths = paths if isinstance(paths, list) else [paths]
    for path in paths:
        if not isinstance(path, str) or path not in there:
            raise AdapterFileError(
                f"{folder}: this {type(model).__name__} has no module {path!r} to train whole"
            )
    made = heads.copies(model, paths)
    for name, tensor in heads.tensors(made).items():
        shape, file = tuple(tensor.shape), folder / TENSORS
        saved = _take(tensors, name, None, shape, tensor.dtype, file)
        value = saved.to(tensor.dtype)
        if not torch.isfinite(value).all():
            raise AdapterFileError(f"{file}: {name} holds numbers that are not finite")
        tensor.data.copy_(value)
        if not torch.equal(value, saved):
            said = f"{name}: saved in {saved.dtype}, and rounded to this model's {tensor.dtype}"
            warnings.warn(said, stacklevel=4)
    return made


def _layer(base, config, tensors, path, place, file):
    """The adapter layer of one projection, its tensors checked and put in."""
    rank, dtype = config.rank, adapter_dtype(base.weight)
    a, b = weights.shape(base)
    if rank > min(a, b):
        raise AdapterFileError(f"{file}: rank {rank}, expected at most {min(a, b)} for {path}")
    if isinstance(config, CURLoRAConfig):
        rows = _take(tensors, "rows", place, (rank,), torch.int32, file).long()
        cols = _take(tensors, "cols", place, (rank,), torch.int32, file).long()
        for name, indices, size in (("rows", rows, a), ("cols", cols, b)):
            if indices.min() < 0 or indices.max() >= size:
                raise AdapterFileError(
                    f"{file}: {name} of {path} go from {int(indices.min())} to "
                    f"{int(indices.max())}, expected within 0 to {size - 1}"
                )
        layer = CURLoRALinear(base, rank, config.alpha, indices=(rows, cols))
        trained = {"U": _take(tensors, "U", place, (rank, rank), dtype, file)}
    else:
        layer = LoRALinear(base, rank, config.alpha, generator=torch.Generator())
        n_out, n_in = layer.out_in
        trained = {
            "A": _take(tensors, f"{path}.A", None, (n_in, rank), dtype, file),
            "B": _take(tensors, f"{path}.B", None, (rank, n_out), dtype, file),
        }
    for name, value in trained.items():
        if not torch.isfinite(value.to(dtype)).all():
            raise AdapterFileError(f"{file}: {name} of {path} holds numbers that are not finite")
        getattr(layer, name).data.copy_(value)
    return layer


def _take(tensors, key, place, shape, dtype, file):
    """One tensor, or its slice number `place`, of this shape and dtype, or any floating one."""
    found = tensors.get(key)
    if found is not None and place is not None:
        found = found[place] if found.dim() and place < len(found) else None
    floating = dtype.is_floating_point and found is not None and found.is_floating_point()
    if found is None or tuple(found.shape) != shape or not (floating or found.dtype == dtype):
        had = "nothing" if found is None else f"{tuple(found.shape)} {found.dtype}"
        raise AdapterFileError(f"{file}: {key} is {had}, expected {shape} {dtype}")
    return found
