"""What an adapter is configured by: frozen dataclasses, checked when made."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from . import cur
from .checks import finite, known, names, whole
from .layers import LORA_INITS, CURLoRALinear, LoRALinear

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class AdapterConfig:
    """What both adapters are configured by.

    rank: r, from 1 to the smaller side of every projection that is wrapped.
    alpha: multiplies the update directly (for common LoRA's alpha / r, pass that quotient).
    target_modules: names of projections; `q_proj` matches `model.layers.0.self_attn.q_proj`. Or, as
        in PEFT, a string: a regular expression for whole names, or `all-linear`, which leaves the
        model's output head out.
    seed: from it and the projection's name each projection gets its own random stream.
    modules_to_save: names of modules that are trained whole, saved and switched with the adapter,
        which has a copy of each. A classifier's head is one by default (of `…Classification`,
        `…QuestionAnswering` and `…MultipleChoice` classes); `[]` for none. It has the model's
        dtype and follows its casts: in a model of bf16 it is trained in bf16.
    """

    rank: int = 16
    alpha: float = 1.0
    target_modules: tuple | str = ("q_proj", "k_proj", "v_proj")
    seed: int = 0
    modules_to_save: tuple | None = field(default=None, kw_only=True)

    def __post_init__(self):
        plain = {
            "rank": whole("rank", self.rank, 1),
            "alpha": finite("alpha", self.alpha),
            "seed": whole("seed", self.seed),
            "target_modules": _targets(self.target_modules),
        }
        if self.modules_to_save is not None:
            plain["modules_to_save"] = names("modules_to_save", self.modules_to_save)
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def generator(self, name):
        """A CPU generator for the projection called `name`: the same for any order of wrapping."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _targets(value):
    if isinstance(value, str) and value.lower() == ALL_LINEAR:
        return ALL_LINEAR
    found = (value,) if isinstance(value, str) else names("target_modules", value)
    if not found or "" in found:
        got = repr(value) if found else "an empty list"
        raise ValueError(f"target_modules: got {got}, expected at least one name")
    for pattern in found:
        try:
            re.compile(pattern)
        except re.error as error:
            said = f"target_modules: {pattern!r} is no regular expression ({error})"
            raise ValueError(said) from error
    return str(value) if isinstance(value, str) else found


@dataclass(frozen=True)
class CURLoRAConfig(AdapterConfig):
    """CURLoRA (Eq. 5-8). selection: `eq4`, `authors`, or a `Selection` (see `cur.py`)."""

    selection: str | cur.Selection = "eq4"

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.selection, Mapping):  # as files of values have it
            object.__setattr__(self, "selection", cur.Selection(**self.selection))
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
