"""Adapters on a whole model: add, switch, count, merge, unmerge, remove."""

import contextlib
import functools
import re
import warnings

from torch import nn
from transformers.pytorch_utils import Conv1D

from . import cur, heads, weights
from .attached import (
    BOUND,
    attached_to,
    base_for,
    heads_of,
    install,
    layers_of,
    named,
    refuse_merged,
    refuse_others,
)
from .checks import known
from .configs import ALL_LINEAR
from .layers import AdapterLayer
from .modules import (
    named_modules,
    named_tensors,
    replace,
    submodule,
    unwrapped,
    warn_of_parameters_unknown_to,
)


def projections(model, target_modules, apart=()):
    """name -> module of the projections, `nn.Linear` or `Conv1D`, that `target_modules` match.

    In the model's order, without those within the modules named `apart`, which are trained whole.
    ValueError, naming those there are, if a target matches nothing.
    """
    linear = {n: m for n, m in named_modules(model) if n and isinstance(m, (nn.Linear, Conv1D))}
    there = {n: m for n, m in linear.items() if not heads.within(n, apart)}
    chosen = set()
    for target in [target_modules] if isinstance(target_modules, str) else target_modules:
        found = [n for n in there if n == target or n.endswith(f".{target}")]
        if target_modules == ALL_LINEAR:
            output = unwrapped(getattr(model, "get_output_embeddings", lambda: None)())
            outside = heads.of_its_own(model)
            found = [n for n in there if there[n] is not output and not heads.within(n, outside)]
        elif not found or isinstance(target_modules, str):
            found = [name for name in there if re.fullmatch(target, name)]
        if not found:
            known = ", ".join(sorted({n.rsplit(".", 1)[-1] for n in there})) or "none at all"
            whole = f"; trained whole, as modules_to_save: {', '.join(apart)}" if apart else ""
            raise ValueError(
                f"target_modules: {target!r} matches no nn.Linear or Conv1D of this "
                f"{type(model).__name__}; projections it has: {known}{whole}. A list has names, a "
                "string is a regular expression for whole ones (model.layers.0.self_attn.q_proj)"
            )
        chosen.update(found)
    return {name: module for name, module in there.items() if name in chosen}


@weights.plainly()
def add_adapters(model, config, name="default"):
    """Freeze `model`, wrap every projection that `config.target_modules` names, and return them.

    Right after, the model's output is that of the base model, bit for bit. What
    `config.modules_to_save` names is trained whole: the adapter has a copy of it, of its own. A
    second call under another name adds another adapter over the same frozen weights; the newest is
    active (see `set_adapter`), and what was made trainable by hand since the first remains so. On
    a model whose adapter is merged it stands on the merged weights: that one is folded (see
    `fold_adapter`), with a warning.
    model: may be wrapped (`torch.compile`, DataParallel, …), here and in every other function.
    ValueError if a target matches nothing, the name is taken, a weight has no numbers (zeros, or
    the meta device without a hook of accelerate's), or the rank is too large for a projection; the
    model is then as it was.
    Source: §4 (which projections: §6.2).
    """
    warn_of_parameters_unknown_to(model)
    model = unwrapped(model)
    base = base_for(model, name)
    weights.prepare(model)
    with base, trainable_as_before(model):
        whole = heads.chosen(model, config.modules_to_save)
        found = projections(model, config.target_modules, apart=whole)
        for module in found.values():
            cur.check_rank(config.rank, weights.shape(module))
        absent = [n for n, m in found.items() if m.weight.is_meta and not weights.offload(m)]
        if absent and (weights.hooked(model) or not all(p.is_meta for p in model.parameters())):
            raise ValueError(
                f"model: the weight of {absent[0]} is on the meta device, without numbers; load it "
                "first, or let accelerate dispatch the model"
            )
        layers = {n: _wrapped(config, n, module) for n, module in found.items()}
        trained = heads.copies(model, whole)
    attach(model, layers, trained, config, name)
    return list(found)


def _wrapped(config, name, module):
    try:
        return config.wrap(name, module)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def attach(model, layers, trained, config, name):
    """Put ready adapter layers, {projection -> layer}, and heads into `model`, active as `name`."""
    attached = attached_to(model)
    if attached.merged:
        warnings.warn(
            f"model: its adapter {attached.active!r} is merged, and stays in the weights for good, "
            "as fold_adapter leaves it; to keep it apart call unmerge_adapters before",
            stacklevel=4,
        )
        fold_adapter(model)
    install(model, None)
    if "_curlora" not in model.__dict__:
        model.requires_grad_(False)
    for projection, layer in layers.items():
        owner, _, child = projection.rpartition(".")
        layer.computed_with = weights.computed_with(type(submodule(model, owner)), child)
    attached.layers[name], attached.heads[name] = layers, trained
    attached.configs[name] = config
    model.__dict__["_curlora"] = attached
    for called, method in BOUND.items():
        if hasattr(type(model), called) and called not in vars(model):
            setattr(model, called, functools.partial(method, model))
    install(model, name)


def set_adapter(model, name):
    """Make the adapter called `name` the active one; the others keep what they learned.

    Only the active one is part of the model: it alone receives gradients, moves with `.to()` (the
    others follow when they are set) and stands in `state_dict()`. An optimiser made before goes on
    holding the parameters that it was given.
    ValueError, naming those there are, for an unknown name; or while an adapter is merged.
    """
    known("name", name, attached_to(model).layers)
    warn_of_parameters_unknown_to(model)
    install(unwrapped(model), name)


def active_adapter(model):
    """The name of the active adapter, or None."""
    return attached_to(model).active


def adapter_names(model):
    """Names of all adapters on `model`, in the order they were added."""
    return list(attached_to(model).layers)


@contextlib.contextmanager
def trainable_as_before(model):
    """Wrapping freezes a projection: after the block what was trainable is so again."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, trainable in before:
            parameter.requires_grad_(trainable)


@weights.plainly()
def merge_adapters(model, name=None):
    """Fold adapter `name` (the active one, if None) into the frozen weights, W + alpha C U R.

    The model is then a plain transformers model: `save_pretrained` writes one, its heads with it.
    The update is computed in the adapter's dtype and rounded once to the weight's. The weights as
    they were are kept for `unmerge_adapters`, which costs a second copy of the wrapped projections
    until it, `remove_adapters` or `fold_adapter` is called. Returns the names.
    ValueError if no adapter is active, one is merged already, a frozen weight is quantised, one is
    tied to another part of the model, which would change with it, or the sum is not finite (alpha
    or U too large, above all for fp16).
    """
    model = unwrapped(model)
    refuse_merged(model)
    attached = attached_to(model)
    before, name = attached.active, named(model, name)
    if name != before:
        install(model, name)
    try:
        heads.finite_tensors(heads_of(model))
        merged = _merged(model, layers_of(model))
    except BaseException:
        install(model, before)
        raise
    for projection, layer in layers_of(model).items():
        attached.merged[projection] = weights.set_weight(layer.base, merged[projection])
        replace(model, projection, layer.base)
    return list(merged)


def _merged(model, layers):
    wrapped = {id(layer.base.weight) for layer in layers.values()}
    seen = [n for n, p in named_tensors(model, seen=False) if id(p) in wrapped]
    if len(seen) > len(wrapped) or weights.tied_head(model):
        raise ValueError(f"model: a weight of the adapter is tied: {', '.join(seen)}; untie it")
    return {
        name: weights.sound(f"model: the merged weight of {name}", layer.merged_weight())
        for name, layer in layers.items()
    }


@weights.plainly()
def unmerge_adapters(model):
    """Take a merged adapter out of the weights again: they are restored bit for bit, from the copy.

    The merged adapter is then the active one, even where another was before. Of a model that was
    cast meanwhile they are in its dtype. Returns the names. ValueError if no adapter is merged.
    """
    model = unwrapped(model)
    attached = attached_to(model)
    if not attached.merged:
        raise ValueError("model: no adapter is merged; merge_adapters does that")
    restored = list(attached.merged)
    layers = layers_of(model)
    replaced = [n for n in restored if submodule(model, n) is not layers[n].base]
    if replaced:
        raise ValueError(f"model: {replaced[0]} is another module than the one merged into")
    for name, weight in attached.merged.items():
        weights.set_weight(layers[name].base, weight)
    attached.merged = {}
    install(model, attached.active)
    return restored


def fold_adapter(model, name=None):
    """Leave adapter `name` (the active one, if None) in the weights for good, and forget it.

    What it trained whole is then the model's own. The next task's adapter is added to what came
    out: what it learns is beside what was learned before. Returns the names of the projections.
    ValueError as `merge_adapters`, or if the model has other adapters, which stand on the weights
    as they are without this one.
    """
    model = unwrapped(model)
    attached, name = attached_to(model), named(model, name)
    refuse_others(model, name)
    if not attached.merged:
        merge_adapters(model, name)
    for head in heads_of(model).values():
        head.requires_grad_(False)
    folded, attached.merged, attached.own = list(attached.merged), {}, {}
    model.__dict__["_curlora_folded"] = True
    _forget(model, [name])
    return folded


def remove_adapters(model, name=None):
    """Take one adapter off, or all (None); the frozen base projections are back. Returns the names.

    One that is merged is unmerged first, so base weights are as they were; they stay frozen
    (`requires_grad` False). ValueError for an unknown name.
    """
    model = unwrapped(model)
    attached = attached_to(model)
    gone = list(attached.layers) if name is None else [named(model, name)]
    if attached.merged and attached.active in gone:
        unmerge_adapters(model)
    projections = list(dict.fromkeys(p for n in gone for p in attached.layers[n]))
    if attached.active in gone:
        install(model, None)
    _forget(model, gone)
    if not attached.layers:  # the next is a first one
        model.__dict__.pop("_curlora", None)
    return projections


def _forget(model, names):
    attached = attached_to(model)
    for name in names:
        del attached.layers[name], attached.heads[name], attached.configs[name]
    if attached.active in names:
        attached.active = None
    if not attached.layers:
        for called, method in BOUND.items():
            if getattr(vars(model).get(called), "func", None) is method:
                delattr(model, called)


def adapter_layers(model):
    """Yield (name, layer) for every wrapped projection of `model`: those of the active adapter."""
    for name, module in named_modules(model):
        if isinstance(module, AdapterLayer):
            yield name, module


def count_trainable(model):
    """Number of parameters of `model` that receive gradients. Source: §4.5."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
