"""The frozen weight of a projection, however it is kept: plain, quantised, or elsewhere.

accelerate keeps weights on the CPU or on disk (`device_map="auto"`, `cpu_offload`, `disk_offload`):
the parameter is then an empty one on the meta device, and a hook on its module has the numbers.
"""

import contextlib
import copy
import functools
import inspect
import re

import torch
from torch import nn

PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# what is read of a weight without computing with it
_METADATA = "dtype|device|shape|size|ndim|dim|numel|data_ptr|requires_grad|is_meta"


@contextlib.contextmanager
def plainly():
    """Whatever mode the caller is in, tensors made within can be trained, and stand where they are.

    inference_mode would make them useless for training, a default device would put them elsewhere,
    autocast would round products.
    """
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.device("cpu"),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


def offload(module):
    """The accelerate hook that keeps the parameters of `module` elsewhere, or None."""
    hook = module.__dict__.get("_hf_hook")
    return next((h for h in getattr(hook, "hooks", [hook]) if getattr(h, "offload", False)), None)


def hooked(model):
    """Whether accelerate dispatched any part of `model`."""
    return any("_hf_hook" in vars(module) for module in model.modules())


def place(module):
    """The device that `module` computes on."""
    hook = offload(module)
    return hook.execution_device if hook and module.weight.is_meta else module.weight.device


def parameter(module, name):
    """The parameter called `name`, or None; a copy on `place` of one that is kept elsewhere."""
    found = getattr(module, name)
    hook = offload(module) if found is not None and found.is_meta else None
    return hook.weights_map[name].to(hook.execution_device, found.dtype) if hook else found


def set_weight(base, weight):
    """Put other numbers into the weight of `base`, where it is kept; returns those that it had."""
    hook = offload(base) if base.weight.is_meta else None
    if hook is None:
        before = base.weight.data
        base.weight.data = weight.to(base.weight.device, base.weight.dtype)
        return before
    kept, key = hook.weights_map, "weight"
    if hasattr(kept, "prefix"):
        kept, key = kept.dataset, kept.prefix + key
    before = kept[key]
    # those on disk are not written to: what stands in `state_dict` is taken before them
    getattr(kept, "state_dict", kept)[key] = weight.to("cpu", before.dtype)
    return before


def tied_head(model):
    """Whether a wrapped output head is tied to an embedding that accelerate keeps apart from it."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    elsewhere = hasattr(head, "base") and head.base.weight.is_meta
    return elsewhere and model.config.tie_word_embeddings


def keep_here(module):
    """Take the tensors of `module` itself back from an accelerate hook: they are to be trained."""
    hook = offload(module)
    if hook is None:
        return
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None and tensor.is_meta:
                here = hook.weights_map[name].to(hook.execution_device, tensor.dtype, copy=True)
                trained = isinstance(tensor, nn.Parameter)
                tensors[name] = nn.Parameter(here, tensor.requires_grad) if trained else here
    hook.offload = False


def shape(base):
    """The shape of a projection's weight as it is stored, were it not packed."""
    packed = isinstance(base, nn.Linear)
    return (base.out_features, base.in_features) if packed else tuple(base.weight.shape)


def quantised(weight):
    """Whether a weight is quantised, by bitsandbytes or torchao (which keeps shape and dtype)."""
    if hasattr(weight, "SCB"):
        return not weight.is_floating_point()
    four_bit = getattr(weight, "quant_state", None) is not None
    return four_bit or type(weight.detach()) is not torch.Tensor


def dense(base):
    """The weight of `base` as stored, detached; fetched and dequantised where it must be."""
    weight = parameter(base, "weight")
    if not quantised(weight):
        return weight.detach()
    if hasattr(weight, "SCB"):
        from bitsandbytes.functional import int8_vectorwise_dequant

        scale = base.state.SCB if weight.SCB is None else weight.SCB
        return int8_vectorwise_dequant(weight.data, scale.to(weight.device))
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach().dequantize()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state)


def codes(base):
    """What tells one frozen weight from another: of 4-bit ones the codes (out, in), else `dense`.

    Their scales do not tell: inference on some CPUs rounds them (see `prepare`).
    """
    state = getattr(base.weight, "quant_state", None)
    if state is None:
        return dense(base)
    packed = parameter(base, "weight").detach().view(torch.uint8).flatten()
    return torch.stack([packed >> 4, packed & 15], 1).view(state.shape)


def prepare(model):
    """Have a quantised `model` as it can be trained under adapters.

    Inference of bitsandbytes on some CPUs packs 4-bit weights in another way, past which gradients
    are lost silently: it is kept from that. The Trainer refuses a quantised model without adapters,
    and knows only PEFT's: it is told.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
            state = module.weight.quant_state
            if getattr(state, "packing_format_for_cpu", False):
                from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

                kept = copy.copy(state)  # of which it restores the codes, but not the scales
                module.weight.data = _convert_weight_packed_for_cpu_inverse(module.weight, kept)[0]
                state.absmax = state.absmax.T.flatten().float()
                state.dtype, state.packing_format_for_cpu = state.original_dtype, False
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and not quantizer.is_qat_trainable:
        kind = type(quantizer)
        quantizer.__class__ = type(kind.__name__, (kind,), {"is_qat_trainable": True})


def sound(what, tensor):
    """The tensor; ValueError unless its numbers are there and finite."""
    if tensor.is_meta:
        raise ValueError(
            f"{what} is on the meta device, without numbers: load the model's weights, then add or "
            "load the adapter"
        )
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{what} holds numbers that are not finite in {tensor.dtype}")
    return tensor


@functools.cache
def computed_with(owner, name):
    """Whether the class `owner` computes with `self.<name>.weight`, past that module's forward.

    As `nn.MultiheadAttention` does, and as fused kernels do. Read off the source of its forward's
    class; a dtype or a device that is looked at does not count.
    """
    use = rf"(?<!isinstance\()self\.{re.escape(name)}\.weight\b(?!\.({_METADATA})\b)"
    for cls in owner.__mro__:
        if "forward" in vars(cls) and cls is not nn.Module:
            with contextlib.suppress(OSError, TypeError):
                if re.search(use, inspect.getsource(cls)):
                    return True
    return False
