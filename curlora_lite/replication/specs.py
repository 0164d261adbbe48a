"""What one run is: frozen dataclasses, plain data that says everything its numbers depend on."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass

from ..checks import finite, known, whole
from .protocol import Protocol

# tokens of a row where eight are padded together (SmolLM2's tokenizer); for estimates alone
TOKENS = {"paper": {"mrpc": 76, "sst2": 30, "sentiment140": 39}}
TOKENS |= {"embedded": {"mrpc": 45, "sst2": 42, "sentiment140": 35}}
HELD_OUT = {"paper": 99, "embedded": 998}  # rows of three classes
METHODS = ("head-only", "lora", "curlora")  # of the tables
BASELINES = ("lora-xs",)  # of the audit (see `baselines`)
# the smaller side of the smallest projection that takes an adapter
LARGEST_RANK = {"smollm2-135m": 192, "smollm2-135m-fused": 576}
LARGEST_RANK |= {"gpt2-large": 1280, "mistral-7b": 1024}
SEEDS = 2**32  # so many, from 0
PRECISIONS = ("fp32", "tf32", "bf16")  # tf32: fp32 weights, products in TF32 (GPU)
CHOICES = {"table": ("table1", "table2"), "method": (*METHODS, *BASELINES), "precision": PRECISIONS}
CHOICES |= {"source": tuple(TOKENS), "checkpointing": (True, False), "tune": (True, False)}


@dataclass(frozen=True)
class TaskSpec:
    """One task's sizes. `peak`: the share of the nominal learning rate that the published schedule
    has reached when training ends (steps taken / 500 warm-up steps); None: a constant rate."""

    name: str
    classes: int
    train_rows: int
    eval_rows: int
    epochs: int
    peak: float | None

    def __post_init__(self):
        for field in ("classes", "train_rows", "eval_rows", "epochs"):
            whole(field, getattr(self, field), 1)
        known("task", self.name, TOKENS["paper"])
        if self.peak is not None:
            finite("peak", self.peak)


@dataclass(frozen=True)
class ModelSpec:
    """A model, the projections that take adapters, and the side its tokenizer pads on.

    weight: how long one token takes, relative to a small model of two layers; for estimates alone.
    """

    name: str
    target_modules: tuple
    padding_side: str
    weight: int

    def __post_init__(self):
        known("model", self.name, LARGEST_RANK)
        known("padding_side", self.padding_side, ("left", "right"))


@dataclass(frozen=True)
class RunSpec:
    """One run: everything that influences its numbers.

    text_tokens, text_window: perplexity is over the first `text_tokens` tokens, read in windows
    of `text_window` (unless the protocol reads the whole text). source: of data, see `data`.
    checkpointing: layers' activations are computed again in the backward pass: less memory, the
    same numbers. tune: score on the part kept for tuning, not on the evaluation part. head_rate:
    learning rate of the heads, if it is another than the adapter's.
    """

    profile: str
    table: str
    model: ModelSpec
    tasks: tuple
    method: str
    rank: int | None
    alpha: float
    seed: int
    protocol: Protocol
    learning_rate: float
    batch: int
    max_length: int
    text_tokens: int
    text_window: int
    precision: str
    source: str = "embedded"
    checkpointing: bool = False
    tune: bool = False
    head_rate: float | None = None

    def __post_init__(self):
        # it names a folder
        if not isinstance(self.profile, str) or not re.fullmatch(r"\w[\w.-]*", self.profile):
            raise ValueError(f"profile: got {self.profile!r}, expected letters, digits, . and -")
        for field, choices in CHOICES.items():
            known(field, getattr(self, field), choices)
        whole("seed", self.seed, 0)
        if self.seed >= SEEDS:
            raise ValueError(f"seed: got {self.seed}, expected one below {SEEDS}")
        if not self.tasks:
            raise ValueError("tasks: got none, expected at least one")
        for field in ("batch", "max_length", "text_tokens", "text_window"):
            whole(field, getattr(self, field), 1)
        if self.method != "head-only":
            largest, name = LARGEST_RANK[self.model.name], self.model.name
            if whole("rank", self.rank, 1) > largest:
                raise ValueError(f"rank: got {self.rank}, expected at most {largest} for {name}")
        finite("alpha", self.alpha)
        for name, rate in (("learning_rate", self.learning_rate), ("head_rate", self.head_rate)):
            if rate is not None and not finite(name, rate) > 0:
                raise ValueError(f"{name}: got {rate!r}, expected above zero")

    def to_dict(self):
        """As plain JSON data. Without `head_rate` where there is none, as before there was one."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        return {n: v for n, v in values.items() if n != "head_rate" or v is not None}

    @classmethod
    def from_dict(cls, values):
        """The spec that `to_dict` gave these values; ValueError if none does."""
        try:
            model = {**values["model"], "target_modules": tuple(values["model"]["target_modules"])}
            made = {"model": ModelSpec(**model), "protocol": Protocol(**values["protocol"])}
            made["tasks"] = tuple(TaskSpec(**task) for task in values["tasks"])
            spec = cls(**{**values, **made})
        except (KeyError, TypeError) as error:
            raise ValueError(f"spec: not one of a run ({error})") from error
        if spec.to_dict() != values:
            raise ValueError("spec: not one of a run as it is written (lists, numbers, names)")
        return spec

    @property
    def key(self):
        """File name of its record: readable, and unique by a hash of the whole spec."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        rank = "" if self.rank is None else f"-r{self.rank}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.table}-{self.method}{rank}-s{self.seed}-{digest}"

    @property
    def label(self):
        """`LoRA-8`, `CURLoRA-16`, `Head only`."""
        return method_label(self.method, self.rank)

    @property
    def training_cost(self):
        """How long training on one row takes, relative to scoring it."""
        return 1 if self.method == "head-only" else 4

    def row_cost(self, task):
        """How long scoring one row of the task called `task` takes, relative to others."""
        return TOKENS[self.source][task] * self.model.weight

    def parts(self, task):
        """part -> (part of the source, rows, protocol) that a task is trained and scored on.

        Sentiment140 has further parts that are scored beside its evaluation rows: `balanced` (as
        many negative as positive rows) where these are the first ones, all negative, and `three
        classes` (all rows kept out of training; not for tuning) where they are balanced and three
        labels trained.
        """
        protocol, scored = self.protocol, "tune" if self.tune else "eval"
        found = {"train": ("train", task.train_rows, protocol)}
        found["eval"] = (scored, task.eval_rows, protocol)
        if task.name == "sentiment140" and protocol.sentiment_eval == "first":
            balanced = dataclasses.replace(protocol, sentiment_eval="balanced")
            found["balanced"] = (scored, task.eval_rows // 2 * 2, balanced)
        three = protocol.sentiment_eval == "balanced" and protocol.labels == "three"
        if task.name == "sentiment140" and three and not self.tune:
            found["three classes"] = ("held-out", None, protocol)
        return found

    def cost(self):
        """Relative time of the run, for estimates; perplexity is left out."""
        total, last = 0, len(self.tasks)
        for place, task in enumerate(self.tasks):
            _, *scored = (rows or HELD_OUT[self.source] for _, rows, _ in self.parts(task).values())
            rows = self.training_cost * task.train_rows * task.epochs + sum(scored) * (last - place)
            total += rows * self.row_cost(task.name)
        return total


METHOD_NAMES = {"lora": "LoRA", "curlora": "CURLoRA", "lora-xs": "LoRA-XS"}
METHOD_NAMES |= {"head-only": "Head only"}


def method_label(method, rank):
    """How a method is called in tables and figures."""
    name = METHOD_NAMES[method]
    return name if rank is None else f"{name}-{rank}"
