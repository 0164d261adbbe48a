"""What a model carries beside its modules: its adapters by name, of which one stands in it."""

import contextlib
import warnings
from dataclasses import dataclass, field

from . import heads, weights
from .layers import AdapterLayer
from .modules import named_tensors, replace, submodule, unwrapped


@dataclass
class Attached:
    """The adapters of a model.

    layers: name -> {projection -> adapter layer}. heads: name -> {path -> trained copy of the
    module there}. active: the name of the one that stands in the model, or None. own: {path -> the
    model's module whose place a head has taken}. merged: {projection -> the frozen weight as it
    was} of a merged adapter.
    """

    layers: dict = field(default_factory=dict)
    heads: dict = field(default_factory=dict)
    configs: dict = field(default_factory=dict)
    active: str | None = None
    own: dict = field(default_factory=dict)
    merged: dict = field(default_factory=dict)

    @property
    def stands(self):
        """Whether an adapter stands in the model and is not merged."""
        return self.active is not None and not self.merged


def attached_to(model):
    """The `Attached` of a model, or an empty one."""
    return unwrapped(model).__dict__.get("_curlora") or Attached()


def refuse_merged(model):
    """ValueError if an adapter is merged into the model's weights."""
    if attached_to(model).merged:
        said = "model: its adapter is merged; call unmerge_adapters first, or fold_adapter to "
        raise ValueError(said + "leave it in the weights for good")


def refuse_others(model, name):
    """ValueError if the model has adapters beside this one, whose base would change with it."""
    if others := [other for other in attached_to(model).layers if other != name]:
        said = f"model: it has other adapters, {', '.join(others)}, for the weights as they are; "
        raise ValueError(said + "save them, if need be, and take them off with remove_adapters")


def named(model, name=None):
    """`name`, or the active adapter's; ValueError if there is no such one."""
    attached = attached_to(model)
    name = attached.active if name is None else name
    if name not in attached.layers:
        there = ", ".join(attached.layers) or "none"
        raise ValueError(f"name: got {name!r}; adapters on this model: {there}")
    return name


def config_of(model, name=None):
    """The configuration that an adapter was added with (of the active one, if None)."""
    return attached_to(model).configs[named(model, name)]


def layers_of(model, name=None):
    """{projection -> adapter layer} of an adapter (of the active one, if None)."""
    return attached_to(model).layers[named(model, name)]


def heads_of(model, name=None):
    """{path -> module trained whole} of an adapter (of the active one, if None)."""
    attached, name = attached_to(model), named(model, name)
    found = attached.heads[name]
    if name == attached.active:  # what stands there: a head may have been resized, or replaced
        return {path: submodule(model, path) for path in found}
    return found


def adapters_own(model):
    """ids of the parameters that belong to the model's adapters, their heads' too."""
    attached = attached_to(model)
    layers = [layer for found in attached.layers.values() for layer in found.values()]
    own = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
    for name in attached.heads:
        own |= {id(p) for head in heads_of(model, name).values() for p in head.parameters()}
    return own


def left_out(model):
    """Names of what is trainable in the model and belongs to none of its adapters."""
    own = adapters_own(model)
    return [n for n, p in named_tensors(model) if p.requires_grad and id(p) not in own]


@weights.plainly()
def install(model, name):
    """Put what adapter `name` has in place of what stands there now; None: the bare base."""
    attached = attached_to(model)
    refuse_merged(model)
    for projection, layer in attached.layers.get(name, {}).items():  # before anything is moved
        standing = submodule(model, projection)
        standing = standing.base if isinstance(standing, AdapterLayer) else standing
        if standing is not layer.base:
            layer.check(standing)
    for projection, layer in attached.layers.get(attached.active, {}).items():
        if submodule(model, projection) is layer:
            replace(model, projection, layer.base)
    for path, own in attached.own.items():
        head = submodule(model, path)
        attached.heads[attached.active][path] = head
        heads.follow(own, head)
        replace(model, path, own.train(head.training))
    attached.active, attached.own = name, {}
    for projection, layer in attached.layers.get(name, {}).items():
        standing = submodule(model, projection)
        if standing is not layer.base:  # another head, say, as resize_token_embeddings makes one
            layer.stand_on(standing)
        layer.refresh()
        for others in attached.layers.values():
            if projection in others and others[projection] is not layer:
                layer.share_basis(others[projection])
        layer.train(model.training)
        replace(model, projection, layer)
    for path, head in attached.heads.get(name, {}).items():
        attached.own[path] = submodule(model, path)
        heads.follow(head, attached.own[path])
        replace(model, path, head.train(attached.own[path].training))


def base_for(model, name):
    """A block in which `model` is what an adapter called `name` is to stand on: the bare base or,
    where an adapter is merged, what came out. ValueError if the name is taken, or others would lose
    their base.
    """
    attached = attached_to(model)
    if getattr(model, "peft_config", None):
        raise ValueError("model: has adapters of PEFT's; merge or unload them there first")
    if attached.merged:
        refuse_others(model, attached.active)
        return contextlib.nullcontext()
    if name in attached.layers:
        said = f"name: the model has an adapter {name!r} already; take it off first with "
        raise ValueError(said + "remove_adapters, or give another name")
    return disable_adapters(model)


@contextlib.contextmanager
def disable_adapters(model):
    """Within the block the model is its frozen base; afterwards the adapter is active again."""
    before = attached_to(model).active
    install(model, None)
    try:
        yield model
    finally:
        if before in attached_to(model).layers and not attached_to(model).merged:
            install(model, before)


def resize_token_embeddings(model, *args, **kwargs):
    """The model's own, done also to heads and embeddings that belong to adapters."""
    attached, resize = attached_to(model), type(model).resize_token_embeddings
    active = attached.active
    with disable_adapters(model):
        resized = resize(model, *args, **kwargs)
    for name in [name for name, found in attached.heads.items() if found]:
        install(model, name)
        resized = resize(model, *args, **kwargs)
    install(model, active)
    return resized


def save_pretrained(model, *args, **kwargs):
    """The model's own, with a warning where what it writes is no model that can be loaded."""
    if attached_to(model).stands:
        warnings.warn(
            "model: with an adapter in it from_pretrained would not find the projections: call "
            "merge_adapters first, or save_adapter, or give the Trainer AdapterCheckpoints",
            stacklevel=2,
        )
    return type(model).save_pretrained(model, *args, **kwargs)


# what a model with adapters has in place of its class's
BOUND = {method.__name__: method for method in (resize_token_embeddings, save_pretrained)}
