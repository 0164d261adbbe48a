"""curlora_lite: the CURLoRA paper (arXiv 2408.14572), replicated, and its adapter, ready to use."""

from .adapter_files import AdapterFileError, load_adapter, save_adapter
from .adapters import (
    active_adapter,
    adapter_layers,
    adapter_names,
    add_adapters,
    count_trainable,
    fold_adapter,
    merge_adapters,
    remove_adapters,
    set_adapter,
    unmerge_adapters,
)
from .attached import disable_adapters
from .configs import CURLoRAConfig, LoRAConfig
from .cur import Selection
from .peft_files import export_to_peft


def __getattr__(name):
    if name == "AdapterCheckpoints":  # not before: it takes the Trainer's modules along
        from .trainer import AdapterCheckpoints

        return AdapterCheckpoints
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.2.0"
__all__ = [
    "AdapterCheckpoints",
    "AdapterFileError",
    "CURLoRAConfig",
    "LoRAConfig",
    "Selection",
    "active_adapter",
    "adapter_layers",
    "adapter_names",
    "add_adapters",
    "count_trainable",
    "disable_adapters",
    "export_to_peft",
    "fold_adapter",
    "load_adapter",
    "merge_adapters",
    "remove_adapters",
    "save_adapter",
    "set_adapter",
    "unmerge_adapters",
]
