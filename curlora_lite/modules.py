"""Modules of a model by their own names, whatever wraps the model or parts of it."""

import warnings

from torch import distributed
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(module):
    """The module itself, within what `torch.compile`, DistributedDataParallel, … put around it."""
    while True:
        if type(module).__name__ == "OptimizedModule":  # whose own module is slow to import
            module = module._orig_mod
        elif isinstance(module, (DataParallel, DistributedDataParallel)):
            module = module.module
        else:
            return module


def warn_of_parameters_unknown_to(model):
    """Warn where `model` is wrapped already by what averages the gradients that it knows of."""
    wrapped = isinstance(model, DistributedDataParallel)
    if wrapped and distributed.get_world_size(model.process_group) > 1:
        warnings.warn(
            "model: DistributedDataParallel averages gradients of the parameters that it found "
            "when it was made, so not the adapter's; add or set the adapter first, then wrap",
            stacklevel=4,
        )


def named_modules(model, name="", seen=None):
    """Yield (name, module) for `model` and all within, in its order, each once.

    seen: a set of modules to leave out, or False: each under all of its names.
    """
    module, seen = unwrapped(model), set() if seen is None else seen
    if seen is not False:
        if module in seen:
            return
        seen.add(module)
    yield name, module
    for child, inner in module._modules.items():
        if inner is not None:
            yield from named_modules(inner, f"{name}.{child}" if name else child, seen)


def named_tensors(model, seen=None):
    """Yield (name, tensor) for all parameters and buffers of `model`, each module's once.

    seen: as for `named_modules`.
    """
    for name, module in named_modules(model, seen=seen):
        for child, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                yield f"{name}.{child}" if name else child, tensor


def submodule(model, name):
    """The module called `name`, itself."""
    module = unwrapped(model)
    for child in name.split(".") if name else ():
        module = unwrapped(getattr(module, child))
    return module


def replace(model, name, module):
    """Put `module` where the one called `name` stands."""
    owner, _, child = name.rpartition(".")
    setattr(submodule(model, owner), child, module)
