"""Modules that are trained whole and belong to an adapter: heads, above all (`modules_to_save`)."""

import copy
import re
import warnings

import torch

from . import weights
from .modules import named_modules, submodule, unwrapped

# classes whose head is new when a pretrained model is loaded
_NEW = re.compile(r"For\w*(Classification|QuestionAnswering|MultipleChoice)$")
_USUAL = ("classifier", "score", "qa_outputs")


def of_its_own(model):
    """Names of the head of a classifier or the like: what stands beside its backbone. Else none."""
    if not any(_NEW.search(cls.__name__) for cls in type(model).__mro__):
        return []
    backbone = unwrapped(getattr(model, "base_model", model))
    children = {name: unwrapped(child) for name, child in model.named_children()}
    if backbone is model:  # it does not say
        return [name for name in children if name in _USUAL]
    beside = [name for name, child in children.items() if child is not backbone]
    return [name for name in beside if next(children[name].parameters(), None) is not None]


def chosen(model, asked):
    """Names of the modules that `modules_to_save`, here `asked`, means in this model.

    None: the head of a classifier or the like. A list: the modules of these names, and that head
    unless the list has it or a part of it; nothing, if it is empty. A module with a weight that is
    tied to another module's takes that along, so that they stay tied.
    ValueError if a name matches nothing, or weights are quantised, which cannot be trained.
    """
    there = dict(named_modules(model, seen=False))
    own = of_its_own(model)
    found = set()
    for name in asked or ():
        matching = {n for n in there if n == name or n.endswith(f".{name}")}
        if not matching:
            known = ", ".join(own or [name for name, _ in model.named_children()])
            raise ValueError(
                f"modules_to_save: {name!r} matches no module of this {type(model).__name__}; at "
                f"its top it has: {known}"
            )
        found |= matching
    if asked is None or found:
        found |= {head for head in own if not any(within(n, (head,)) for n in found)}
    if asked is None and not own and any(_NEW.search(cls.__name__) for cls in type(model).__mro__):
        warnings.warn(
            f"this {type(model).__name__} has no head that is known as such, and all of it is "
            "frozen; name what is to be trained in modules_to_save",
            stacklevel=4,
        )
    parts = [m for name in found for m in there[name].modules()]
    trained = {id(p) for part in parts for p in part.parameters(recurse=False)}
    for name, module in there.items():
        if any(id(p) in trained for p in module.parameters(recurse=False)):
            found.add(name)
    for name in found:
        for part, parameter in there[name].named_parameters():
            if weights.quantised(parameter):
                raise ValueError(
                    f"modules_to_save: {name}.{part} is quantised and cannot be trained; leave it "
                    "out when the model is quantised (its config says how)"
                )
    return [name for name in there if name in found and not within(name, found - {name})]


def copies(model, names):
    """{name -> trainable copy} of these modules; weights that they share stay shared."""
    own = {name: submodule(model, name) for name in names}
    hooks = [weights.offload(part) for module in own.values() for part in module.modules()]
    made = copy.deepcopy(own, {id(hook): copy.copy(hook) for hook in hooks if hook})
    for module in made.values():
        for part in module.modules():
            weights.keep_here(part)
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    return made


def tensors(heads):
    """{name -> tensor} of what these modules hold, each once, under the first of its names."""
    found, seen = {}, set()
    for path, head in heads.items():
        for name, tensor in head.state_dict(keep_vars=True).items():
            if isinstance(tensor, torch.Tensor) and id(tensor) not in seen:
                found[f"{path}.{name}"] = tensor
                seen.add(id(tensor))
    return found


def finite_tensors(heads):
    """Those of `tensors` on the CPU; ValueError, saying where, for numbers that are not finite."""
    return {n: weights.sound(n, tensor.detach()).cpu() for n, tensor in tensors(heads).items()}


def follow(head, other):
    """Move and cast a head that was not in the model to where the one is whose place it takes."""
    there = dict([*other.named_parameters(), *other.named_buffers()])
    for name, tensor in [*head.named_parameters(), *head.named_buffers()]:
        like = there.get(name)
        if like is not None and not like.is_meta and not tensor.is_meta:
            tensor.data = tensor.data.to(like.device, like.dtype)


def within(name, others):
    """Whether `name` is that of one of these modules, or of a part of one."""
    return any(name == other or name.startswith(f"{other}.") for other in others)
