"""Adapters on a whole model: add, switch, count, merge, unmerge, remove."""

import contextlib
import types
from dataclasses import dataclass, field

from torch import nn
from transformers.pytorch_utils import Conv1D

from . import cur, weights
from .checks import known
from .layers import AdapterLayer


def projections(model, target_modules):
    """name -> module of the projections, `nn.Linear` or `Conv1D`, that `target_modules` match.

    In the model's order. ValueError, naming those there are, if a target matches nothing.
    """
    there = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    chosen = set()
    for target in target_modules:
        found = [n for n in there if n == target or n.endswith(f".{target}")]
        if not found:
            known = ", ".join(sorted({n.rsplit(".", 1)[-1] for n in there})) or "none at all"
            raise ValueError(
                f"target_modules: {target!r} matches no nn.Linear or Conv1D of this "
                f"{type(model).__name__}; projections it has: {known}"
            )
        chosen.update(found)
    return {name: module for name, module in there.items() if name in chosen}


@dataclass
class _Attached:
    """What a model carries beside its modules: its adapters by name, of which one is in place.

    layers: name -> {projection -> adapter layer}. active: the name of the one whose layers stand in
    the model, or None. merged: {projection -> the frozen weight as it was} of a merged adapter.
    """

    layers: dict = field(default_factory=dict)
    configs: dict = field(default_factory=dict)
    active: str | None = None
    merged: dict = field(default_factory=dict)


@weights.plainly()
def add_adapters(model, config, name="default"):
    """Freeze `model`, wrap every projection that `config.target_modules` names, and return them.

    Right after, the model's output is that of the base model, bit for bit. A second call under
    another name adds another adapter over the same frozen weights; the newest is active (see
    `set_adapter`).
    ValueError if a target matches nothing, the name is taken, an adapter is merged, a weight has no
    numbers (zeros, or the meta device without a hook of accelerate's), or the rank is too large for
    a projection; the model is then as it was.
    Source: §4 (which projections: §6.2).
    """
    attached = _attached(model)
    if name in attached.layers:
        raise ValueError(
            f"name: the model has an adapter {name!r} already; take it off first with "
            "remove_adapters, or give another name"
        )
    weights.prepare(model)
    with disable_adapters(model), as_it_was_if_it_fails(model):
        found = projections(model, config.target_modules)
        for module in found.values():
            cur.check_rank(config.rank, weights.shape(module))
        absent = [n for n, m in found.items() if m.weight.is_meta and not weights.offload(m)]
        if absent and (weights.hooked(model) or not all(p.is_meta for p in model.parameters())):
            raise ValueError(
                f"model: the weight of {absent[0]} is on the meta device, without numbers; load it "
                "first, or let accelerate dispatch the model"
            )
        layers = {n: _wrapped(config, n, module) for n, module in found.items()}
    attach(model, layers, config, name)
    return list(found)


def _wrapped(config, name, module):
    try:
        return config.wrap(name, module)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def attach(model, layers, config, name):
    """Put ready adapter layers, {projection -> layer}, into `model` under `name`, active."""
    attached = _attached(model)
    _install(model, None)
    model.requires_grad_(False)
    for projection, layer in layers.items():
        owner, _, child = projection.rpartition(".")
        layer.computed_with = weights.computed_with(type(model.get_submodule(owner)), child)
    attached.layers[name], attached.configs[name] = layers, config
    model.__dict__["_curlora"] = attached
    if hasattr(model, "resize_token_embeddings"):
        model.resize_token_embeddings = types.MethodType(_resize_token_embeddings, model)
    _install(model, name)


def set_adapter(model, name):
    """Make the adapter called `name` the active one; the others keep what they learned.

    Only the active one is part of the model: it alone receives gradients, moves with `.to()` (the
    others follow when they are set) and stands in `state_dict()`. An optimiser made before goes on
    holding the parameters that it was given.
    ValueError, naming those there are, for an unknown name; or while an adapter is merged.
    """
    attached = _attached(model)
    known("name", name, attached.layers)
    _install(model, name)


def active_adapter(model):
    """The name of the active adapter, or None."""
    return _attached(model).active


def adapter_names(model):
    """Names of all adapters on `model`, in the order they were added."""
    return list(_attached(model).layers)


def config_of(model, name=None):
    """The configuration that an adapter was added with (of the active one, if None)."""
    attached = _attached(model)
    return attached.configs[named(model, name)]


def layers_of(model, name=None):
    """{projection -> adapter layer} of an adapter (of the active one, if None)."""
    return _attached(model).layers[named(model, name)]


def named(model, name=None):
    """`name`, or the active adapter's; ValueError if there is no such one."""
    attached = _attached(model)
    name = attached.active if name is None else name
    if name not in attached.layers:
        there = ", ".join(attached.layers) or "none"
        raise ValueError(f"name: got {name!r}; adapters on this model: {there}")
    return name


@contextlib.contextmanager
def as_it_was_if_it_fails(model):
    """Wrapping freezes a projection: if the block raises, what was trainable is so again."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for parameter, trainable in before:
            parameter.requires_grad_(trainable)
        raise


@contextlib.contextmanager
def disable_adapters(model):
    """Within the block the model is its frozen base; afterwards the adapter is active again."""
    before = _attached(model).active
    _install(model, None)
    try:
        yield model
    finally:
        if before in _attached(model).layers:
            _install(model, before)


@weights.plainly()
def merge_adapters(model):
    """Fold the active adapter into the frozen weights, W + alpha C U R, and return their names.

    The model is then a plain transformers model: `save_pretrained` writes one. The update is
    computed in the adapter's dtype and rounded once to the weight's. The weights as they were are
    kept for `unmerge_adapters`, which costs a second copy of the wrapped projections until it or
    `remove_adapters` is called.
    ValueError if no adapter is active, one is merged already, a frozen weight is quantised, one is
    tied to another part of the model, which would change with it, or the sum is not finite (alpha
    or U too large, above all for fp16).
    """
    attached = _attached(model)
    refuse_merged(model)
    layers = layers_of(model)
    wrapped = {id(layer.base.weight) for layer in layers.values()}
    seen = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in wrapped]
    if len(seen) > len(layers) or weights.tied_head(model):
        raise ValueError(f"model: a weight of the adapter is tied: {', '.join(seen)}; untie it")
    merged = {
        name: weights.sound(f"model: the merged weight of {name}", layer.merged_weight())
        for name, layer in layers.items()
    }
    for name, layer in layers.items():
        attached.merged[name] = weights.set_weight(layer.base, merged[name])
        _replace(model, name, layer.base)
    return list(layers)


@weights.plainly()
def unmerge_adapters(model):
    """Take a merged adapter out of the weights again: they are restored bit for bit, from the copy.

    The adapter is active again, as before `merge_adapters`. Of a model that was cast meanwhile they
    are in its dtype. Returns the names. ValueError if no adapter is merged.
    """
    attached = _attached(model)
    if not attached.merged:
        raise ValueError("model: no adapter is merged; merge_adapters does that")
    restored = list(attached.merged)
    layers = attached.layers[attached.active]
    replaced = [n for n in restored if model.get_submodule(n) is not layers[n].base]
    if replaced:
        raise ValueError(f"model: {replaced[0]} is another module than the one merged into")
    for name, weight in attached.merged.items():
        weights.set_weight(layers[name].base, weight)
    attached.merged, name, attached.active = {}, attached.active, None
    _install(model, name)
    return restored


def remove_adapters(model, name=None):
    """Take one adapter off, or all (None); the frozen base projections are back. Returns the names.

    One that is merged is unmerged first, so base weights are as they were; they stay frozen
    (`requires_grad` False). ValueError for an unknown name.
    """
    attached = _attached(model)
    gone = list(attached.layers) if name is None else [named(model, name)]
    if attached.merged and attached.active in gone:
        unmerge_adapters(model)
    projections = list(dict.fromkeys(p for n in gone for p in attached.layers[n]))
    if attached.active in gone:
        _install(model, None)
    for n in gone:
        del attached.layers[n], attached.configs[n]
    if not attached.layers:
        model.__dict__.pop("resize_token_embeddings", None)
    return projections


def adapter_layers(model):
    """Yield (name, layer) for every wrapped projection of `model`: those of the active adapter."""
    for name, module in model.named_modules():
        if isinstance(module, AdapterLayer):
            yield name, module


def count_trainable(model):
    """Number of parameters of `model` that receive gradients. Source: §4.5."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def refuse_merged(model):
    """ValueError if an adapter is merged into the model's weights."""
    if _attached(model).merged:
        raise ValueError("model: its adapter is merged; call unmerge_adapters first")


def _attached(model):
    return model.__dict__.get("_curlora") or _Attached()


@weights.plainly()
def _install(model, name):
    """Put the layers of adapter `name` in place of what stands there now; None: the bare base."""
    attached = _attached(model)
    refuse_merged(model)
    before = attached.layers.get(attached.active, {})
    for projection, layer in before.items():
        if model.get_submodule(projection) is layer:
            _replace(model, projection, layer.base)
    attached.active = name
    for projection, layer in attached.layers.get(name, {}).items():
        standing = model.get_submodule(projection)
        if standing is not layer.base:  # another head, say, as resize_token_embeddings makes one
            layer.stand_on(standing)
        layer.refresh()
        for others in attached.layers.values():
            if projection in others and others[projection] is not layer:
                layer.share_basis(others[projection])
        layer.train(model.training)
        _replace(model, projection, layer)


def _resize_token_embeddings(model, *args, **kwargs):
    """The model's own; a wrapped output head is wrapped again, with the outputs it has then."""
    refuse_merged(model)
    wrapped = isinstance(model.get_output_embeddings(), AdapterLayer)
    with disable_adapters(model) if wrapped else contextlib.nullcontext():
        return type(model).resize_token_embeddings(model, *args, **kwargs)


def _replace(model, name, module):
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
