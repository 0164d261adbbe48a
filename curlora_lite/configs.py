"""What an adapter is configured by: frozen dataclasses, checked when made."""

import hashlib
from dataclasses import dataclass

import torch

from . import cur
from .checks import finite, known, whole
from .layers import LORA_INITS, CURLoRALinear, LoRALinear


@dataclass(frozen=True)
class AdapterConfig:
    """What both adapters are configured by.

    rank: r, from 1 to the smaller side of every projection that is wrapped.
    alpha: multiplies the update directly (for common LoRA's alpha / r, pass that quotient).
    target_modules: names of projections; `q_proj` matches `model.layers.0.self_attn.q_proj`.
    seed: from it and the projection's name each projection gets its own random stream.
    """

    rank: int = 16
    alpha: float = 1.0
    target_modules: tuple = ("q_proj", "k_proj", "v_proj")
    seed: int = 0

    def __post_init__(self):
        plain = {
            "rank": whole("rank", self.rank, 1),
            "alpha": finite("alpha", self.alpha),
            "seed": whole("seed", self.seed),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        names = self.target_modules
        if isinstance(names, str) or not isinstance(names, (list, tuple, set)):
            what = "the string " if isinstance(names, str) else ""
            raise ValueError(f"target_modules: got {what}{names!r}, expected a list of names")
        object.__setattr__(self, "target_modules", tuple(self.target_modules))
        if not self.target_modules:
            raise ValueError("target_modules: got an empty list, expected at least one name")

    def generator(self, name):
        """A CPU generator for the projection called `name`: the same for any order of wrapping."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class CURLoRAConfig(AdapterConfig):
    """CURLoRA (Eq. 5-8). selection: `eq4`, `authors`, or a `Selection` (see `cur.py`)."""

    selection: str | cur.Selection = "eq4"

    def __post_init__(self):
        super().__post_init__()
        cur.as_selection(self.selection)

    def wrap(self, name, base):
        """The adapter layer for the projection `base` called `name`."""
        return CURLoRALinear(
            base, self.rank, self.alpha, self.selection, generator=self.generator(name)
        )


@dataclass(frozen=True)
class LoRAConfig(AdapterConfig):
    """LoRA (Eq. 1). init: `usual` or `authors` (see `LoRALinear`)."""

    init: str = "usual"

    def __post_init__(self):
        super().__post_init__()
        known("init", self.init, LORA_INITS)

    def wrap(self, name, base):
        """The adapter layer for the projection `base` called `name`."""
        return LoRALinear(base, self.rank, self.alpha, self.init, generator=self.generator(name))
