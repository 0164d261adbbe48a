"""curlora_lite: the CURLoRA paper (arXiv 2408.14572), replicated, and its adapter, ready to use."""

from .adapters import (
    CURLoRAConfig,
    LoRAConfig,
    adapter_layers,
    add_adapters,
    count_trainable,
    remove_adapters,
)
from .cur import Selection

__version__ = "0.1.0"
__all__ = [
    "CURLoRAConfig",
    "LoRAConfig",
    "Selection",
    "adapter_layers",
    "add_adapters",
    "count_trainable",
    "remove_adapters",
]
