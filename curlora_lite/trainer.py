"""Checkpoints of the Hugging Face `Trainer` that hold the adapter, not the frozen model."""

import contextlib
import functools
import inspect
from unittest import mock

from torch import nn
from transformers import TrainerCallback

from .adapter_files import save_adapter
from .attached import adapters_own, attached_to, save_pretrained
from .modules import named_tensors, unwrapped


class AdapterCheckpoints(TrainerCallback):
    """`Trainer(…, callbacks=[AdapterCheckpoints()])`: its checkpoints hold what is trained alone.

    The adapter has to stand in the very model that the Trainer gets, one of transformers'; of any
    other, or of one of which a part alone was adapted, checkpoints hold the whole, as ever.

    Each is also a folder for `load_adapter`. To go on from one, build the model and add the adapter
    as before, of the same configuration (its alpha is not in the tensors), over the same frozen
    weights, an earlier adapter folded in again (resuming compares neither; `load_adapter` does),
    then `train(resume_from_checkpoint=…)`: the numbers are those of an uninterrupted run. From then
    on the model's `save_pretrained` does so too, while an adapter stands in it that is not merged.
    """

    def on_init_end(self, args, state, control, model=None, **kwargs):
        model = unwrapped(model)
        own = vars(model).get("save_pretrained", save_pretrained)  # somebody's own is left alone
        ours = getattr(own, "func", own) is save_pretrained
        if hasattr(type(model), "save_pretrained") and ours:
            model.save_pretrained = functools.partial(_save_pretrained, model)
            model.register_load_state_dict_post_hook(_forgive_what_is_frozen)

    on_train_begin = on_init_end  # where it was added to a Trainer made before


def _save_pretrained(model, save_directory, is_main_process=True, state_dict=None, **kwargs):
    hidden = contextlib.nullcontext()
    if attached_to(model).stands:
        kept = {name for name, _ in named_tensors(model, seen=False)} - frozen(model)
        state_dict = model.state_dict() if state_dict is None else state_dict
        state_dict = {k: tensor for k, tensor in state_dict.items() if _plain(k) in kept}
        if is_main_process:
            save_adapter(model, save_directory)
        # names as the model has them: under those of the hub what is resumed would not be found
        if "save_original_format" in inspect.signature(type(model).save_pretrained).parameters:
            kwargs["save_original_format"] = False
        # it would write the quantised weights, whatever it is given
        hidden = mock.patch.object(model, "hf_quantizer", None, create=True)
    kwargs |= {"state_dict": state_dict, "is_main_process": is_main_process}
    with hidden:
        type(model).save_pretrained(model, save_directory, **kwargs)


def _forgive_what_is_frozen(model, keys):
    """A checkpoint without any of the frozen parameters is whole: none of them is missing."""
    left = frozen(model)
    if attached_to(model).stands and left <= {_plain(key) for key in keys.missing_keys}:
        keys.missing_keys[:] = [key for key in keys.missing_keys if _plain(key) not in left]


def frozen(model):
    """Names of the parameters that are neither trained nor an adapter's: the base model's."""
    own = adapters_own(model)
    found = [(n, t) for n, t in named_tensors(model, seen=False) if isinstance(t, nn.Parameter)]
    return {n for n, p in found if not p.requires_grad and id(p) not in own}


def _plain(key):
    return key.replace("_orig_mod.", "")
