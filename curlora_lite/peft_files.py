"""An adapter written as a PEFT LoRA adapter, which it is exactly."""

import json
import re
import warnings

from safetensors.torch import save
from transformers.models.auto import modeling_auto
from transformers.pytorch_utils import Conv1D

from . import weights
from .adapter_files import warn_of_what_is_left_out, write_together
from .attached import config_of, heads_of, layers_of, refuse_merged
from .checks import finite
from .heads import finite_tensors
from .modules import named_modules, unwrapped

# PEFT's task_type -> what transformers calls its models
TASKS = {
    "SEQ_2_SEQ_LM": "FOR_SEQ_TO_SEQ_CAUSAL_LM",
    "CAUSAL_LM": "FOR_CAUSAL_LM",
    "SEQ_CLS": "FOR_SEQUENCE_CLASSIFICATION",
    "TOKEN_CLS": "FOR_TOKEN_CLASSIFICATION",
    "QUESTION_ANS": "FOR_QUESTION_ANSWERING",
    "FEATURE_EXTRACTION": "",
}


@weights.plainly()
def export_to_peft(model, folder, name=None):
    """Write the adapter called `name` (the active one, if None) as a PEFT LoRA adapter.

    CURLoRA is exactly a LoRA of rank r: with PEFT's delta W = (lora_alpha / r) B A, `nn.Linear` has
    A = R, B = C U; Conv1D A = (C U)^T, B = R^T; lora_alpha = alpha r. Whatever serves LoRA serves
    it (vLLM: set `max_lora_rank` to r at least; its default is 16). What is trained whole are its
    `modules_to_save`. Returns the bytes written. Warns of projections that the model computes with
    past their forward (Mamba's dt_proj), which PEFT would not adapt.
    """
    refuse_merged(model)
    model = unwrapped(model)
    layers, config = layers_of(model, name), config_of(model, name)
    trained, named = heads_of(model, name), getattr(model, "config", None)
    warn_of_what_is_left_out(model)
    if past := [path for path, layer in layers.items() if layer.computed_with]:
        warnings.warn(
            f"model: its code may compute with the weights of {', '.join(past)} themselves, where "
            "PEFT would leave the adapter out: compare what it answers, or merge_adapters instead",
            stacklevel=3,
        )
    if folded := "_curlora_folded" in vars(model):
        warnings.warn(
            "model: an earlier adapter was folded into its weights, on which this one stands: save "
            "that model too, and serve this over it",
            stacklevel=3,
        )
    tensors = {}
    for path, layer in layers.items():
        layer.refresh()  # one that is not active stayed where it was
        for key, tensor in zip(("lora_A", "lora_B"), layer.as_lora(), strict=True):
            stored = weights.sound(f"{key} of {path}", tensor.detach().float())
            tensors[f"{path}.{key}.weight"] = stored.cpu()
    for path, head in trained.items():
        tensors |= finite_tensors({path: head})
    adapter_config = {
        "peft_type": "LORA",
        "task_type": task_type(model),
        "base_model_name_or_path": None if folded else getattr(named, "_name_or_path", None),
        "r": config.rank,
        "lora_alpha": finite("alpha times rank", config.alpha * config.rank),
        "target_modules": _targets(model, list(layers)),
        "modules_to_save": list(trained) or None,
        "fan_in_fan_out": any(isinstance(layer.base, Conv1D) for layer in layers.values()),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    stored = {f"base_model.model.{n}": t.contiguous().clone() for n, t in tensors.items()}
    files = {
        "adapter_model.safetensors": save(stored, metadata={"format": "pt"}),
        "adapter_config.json": f"{json.dumps(adapter_config, indent=2)}\n".encode(),
    }
    return write_together(folder, files)


def task_type(model):
    """PEFT's name of what `model` is for, by the class that transformers makes for it; or None."""
    classes = {cls.__name__ for cls in type(model).__mro__}
    for task, called in TASKS.items():
        known = getattr(modeling_auto, f"MODEL_{called}_MAPPING_NAMES".replace("__", "_"))
        for value in known.values():
            if not classes.isdisjoint([value] if isinstance(value, str) else value):
                return task
    return None


def _targets(model, paths):
    """What PEFT matches to exactly these: short names, or full ones, or a regular expression."""
    there = [name for name, _ in named_modules(model)]
    for names in (sorted({path.rpartition(".")[2] for path in paths}), paths):
        matched = [n for n in there if any(n == t or n.endswith(f".{t}") for t in names)]
        if sorted(matched) == sorted(paths):
            return names
    return "|".join(map(re.escape, paths))
