"""What is run: frozen dataclasses, and the named profiles built from them.

A `Profile` and a choice of ranks, seeds and methods give a grid of `RunSpec`s. A RunSpec is plain
data and says everything that influences the numbers of one run.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass

from . import paper
from .checks import finite, known, whole
from .protocol import Protocol

# tokens of a row where eight are padded together (SmolLM2's tokenizer); for estimates alone
TOKENS = {
    "paper": {"mrpc": 76, "sst2": 30, "sentiment140": 39},
    "embedded": {"mrpc": 45, "sst2": 42, "sentiment140": 35},
}
METHODS = ("head-only", "lora", "curlora")  # of the tables
BESIDE = ("full", "peft-lora", "vera", "osf")  # of the audit (see `rivals`)
TABLES = ("table1", "table2")
# the smaller side of the smallest projection that takes an adapter
LARGEST_RANK = {"smollm2-135m": 192, "small-gpt2": 192, "gpt2-large": 1280, "mistral-7b": 1024}
SEEDS = 2**32  # so many, from 0
PRECISIONS = ("fp32", "tf32", "bf16")  # tf32: fp32 weights, products in TF32 (GPU)


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

    weight: how long one token takes, relative to the small GPT-2; for estimates alone.
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
    same numbers. tune: score on the part kept for tuning, not on the evaluation part.
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

    def __post_init__(self):
        # it names a folder
        if not isinstance(self.profile, str) or not re.fullmatch(r"\w[\w.-]*", self.profile):
            raise ValueError(f"profile: got {self.profile!r}, expected letters, digits, . and -")
        known("table", self.table, TABLES)
        known("method", self.method, (*METHODS, *BESIDE))
        known("precision", self.precision, PRECISIONS)
        known("source", self.source, TOKENS)
        known("checkpointing", self.checkpointing, (True, False))
        known("tune", self.tune, (True, False))
        whole("seed", self.seed, 0)
        if self.seed >= SEEDS:
            raise ValueError(f"seed: got {self.seed}, expected one below {SEEDS}")
        if not self.tasks:
            raise ValueError("tasks: got none, expected at least one")
        for field in ("batch", "max_length", "text_tokens", "text_window"):
            whole(field, getattr(self, field), 1)
        if self.method != "head-only":
            whole("rank", self.rank, 1)
        finite("alpha", self.alpha)
        finite("learning_rate", self.learning_rate)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: got {self.learning_rate!r}, expected above zero")

    def to_dict(self):
        """As plain JSON data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values):
        """The spec that `to_dict` gave these values; ValueError if none does."""
        try:
            model = {**values["model"], "target_modules": tuple(values["model"]["target_modules"])}
            made = {
                "model": ModelSpec(**model),
                "tasks": tuple(TaskSpec(**task) for task in values["tasks"]),
                "protocol": Protocol(**values["protocol"]),
            }
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

    def steps(self, task):
        """Optimiser steps that training on `task` takes."""
        return task.epochs * -(-task.train_rows // self.batch)

    @property
    def training_cost(self):
        """How long training on one row takes, relative to scoring it."""
        return 1 if self.method == "head-only" else 4

    def row_cost(self, task):
        """How long scoring one row of the task called `task` takes, relative to others."""
        return TOKENS[self.source][task] * self.model.weight

    def cost(self):
        """Relative time of the run, for estimates; perplexity is left out."""
        total, last = 0, len(self.tasks)
        for place, task in enumerate(self.tasks):
            scored = task.eval_rows * (last - place)
            if task.name == "sentiment140" and self.protocol.sentiment_eval == "first":
                scored += task.eval_rows  # balanced rows beside them
            rows = self.training_cost * task.train_rows * task.epochs + scored
            total += rows * self.row_cost(task.name)
        return total


METHOD_NAMES = {
    "head-only": "Head only",
    "lora": "LoRA",
    "curlora": "CURLoRA",
    "full": "Full weights",
    "peft-lora": "LoRA (PEFT)",
    "vera": "VeRA (PEFT)",
    "osf": "OSF (PEFT)",
}


def method_label(method, rank):
    """How a method is called in tables and figures."""
    name = METHOD_NAMES[method]
    return name if rank is None else f"{name}-{rank}"


@dataclass(frozen=True)
class TablePlan:
    """One table of a profile: its model, tasks and training. precision: None for the fast one."""

    model: ModelSpec
    tasks: tuple
    learning_rate: float
    batch: int
    max_length: int
    text_tokens: int
    text_window: int
    precision: str | None = None
    seeds: tuple = (0,)


@dataclass(frozen=True)
class Profile:
    """A named set of sizes for one table or both."""

    name: str
    tables: dict
    protocol: Protocol
    source: str = "paper"
    ranks: tuple = paper.RANKS
    methods: tuple = METHODS


_LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj")
SMOLLM2 = ModelSpec("smollm2-135m", _LLAMA_TARGETS, padding_side="left", weight=30)
SMALL_GPT2 = ModelSpec("small-gpt2", ("c_attn",), padding_side="right", weight=1)
GPT2_LARGE = ModelSpec("gpt2-large", ("c_attn",), padding_side="right", weight=180)
MISTRAL = ModelSpec("mistral-7b", _LLAMA_TARGETS, padding_side="left", weight=1600)


def _tasks(train, scored, epochs, peaks):
    names = (("mrpc", 2), ("sst2", 2), ("sentiment140", 3))
    return tuple(
        TaskSpec(name, classes, train[i], scored[i], epochs[i], peaks[i])
        for i, (name, classes) in enumerate(names)
    )


# Highest rate reached, of the nominal one: steps taken / 500 warm-up steps (Table 2's Sentiment140
# has no schedule).
WARMUP = 500  # steps
PEAKS = {
    "table1": (375 / WARMUP, 375 / WARMUP, 189 / WARMUP),
    "table2": (345 / WARMUP, 471 / WARMUP, None),
}


# Sizes and rates were chosen on the tune part, for time (15 minutes on two cores) and so that the
# head alone and LoRA learn something; where they do not, the README says so.
def _embedded(name, train1, train2, scored1, scored2, text_tokens, **kwargs):
    table1 = TablePlan(
        model=SMOLLM2,
        tasks=_tasks(train1, scored1, (3, 3, 3), PEAKS["table1"]),
        learning_rate=3e-3,
        batch=8,
        max_length=64,
        text_tokens=text_tokens,
        text_window=1024,
    )
    table2 = TablePlan(
        model=SMALL_GPT2,
        tasks=_tasks(train2, scored2, (3, 3, 5), PEAKS["table2"]),
        learning_rate=3e-3,
        batch=32,
        max_length=64,
        text_tokens=4 * text_tokens,
        text_window=256,
    )
    # the tweets keep their three classes, and are not sorted by them
    protocol = Protocol.parse("published,labels=three,sentiment_eval=held-out")
    tables = {"table1": table1, "table2": table2}
    return Profile(name, tables, protocol, source="embedded", **kwargs)


# Small, since there are hundreds of them. The small GPT-2, which carries the sweeps, in fp32: the
# rounding of bf16 would swallow the smallest updates, which are part of what is asked. SmolLM2 in
# the precision that the machine is fast in, for time. Epochs are three throughout.
def _audit(name, train, scored, text_tokens, seeds):
    sizes = {"max_length": 64, "text_tokens": text_tokens, "learning_rate": 3e-3, "seeds": seeds}
    table1 = TablePlan(
        SMOLLM2,
        _tasks(train[0], scored[0], (3, 3, 3), PEAKS["table1"]),
        batch=8,
        text_window=1024,
        **sizes,
    )
    table2 = TablePlan(
        SMALL_GPT2,
        _tasks(train[1], scored[1], (3, 3, 3), PEAKS["table2"]),
        batch=32,
        text_window=256,
        precision="fp32",
        **sizes,
    )
    return Profile(
        name, {"table1": table1, "table2": table2}, Protocol.published(), source="embedded"
    )


# The paper's own sizes (section 6.2-6.3 and the author's code).
def _table1(model, text, precision):
    tasks = _tasks((1000, 1000, 498), (408, 872, 1024), (3, 3, 3), PEAKS["table1"])
    return TablePlan(model, tasks, 2.5e-4, 8, 512, text, text, precision)


def _table2(model, precision):
    # 5,024 rows of SST-2: the author's loop to 5,000 fills its last batch
    tasks = _tasks((3668, 5024, 498), (408, 872, 1024), (3, 3, 5), PEAKS["table2"])
    return TablePlan(model, tasks, 2.5e-4, 32, 256, 256, 256, precision)


def _paper(name, **tables):
    return Profile(name, tables, Protocol.published())


PROFILES = {
    profile.name: profile
    for profile in (
        _embedded(
            "embedded",
            train1=(32, 96, 240),
            train2=(300, 2000, 1000),
            scored1=(120, 240, 560),
            scored2=(274, 400, 800),
            text_tokens=2048,
        ),
        _embedded(
            "embedded-quick",
            train1=(16, 32, 48),
            train2=(96, 480, 320),
            scored1=(80, 100, 150),
            scored2=(150, 200, 200),
            text_tokens=1024,
            ranks=(8,),
        ),
        _audit(
            "audit",
            train=((32, 64, 96), (200, 600, 400)),
            scored=((140, 200, 256), (274, 400, 256)),
            text_tokens=1024,
            seeds=(0, 1, 2, 3, 4),
        ),
        _audit(
            "audit-quick",
            train=((16, 24, 32), (64, 160, 96)),
            scored=((40, 48, 48), (120, 160, 160)),
            text_tokens=1024,
            seeds=(0, 1),
        ),
        # 8,192 tokens are the model's context, where the paper reads 10,000 at once
        _paper("smollm2", table1=_table1(SMOLLM2, 8192, None)),
        _paper("gpt2-large", table2=_table2(GPT2_LARGE, "fp32")),
        _paper(
            "mistral-7b",
            table1=_table1(MISTRAL, 10_000, "fp32"),
        ),
    )
}


def profile_named(name):
    """The Profile called `name`; ValueError, naming those there are, for another."""
    whole_name = str(name).removesuffix("-quick")
    if whole_name != name and whole_name in PROFILES and name not in PROFILES:
        raise ValueError(f"QUICK: profile {whole_name} has no quick variant; embedded has one")
    known("profile", name, PROFILES)
    return PROFILES[name]


def grid(
    profile,
    table,
    *,
    ranks=None,
    seeds=None,
    methods=None,
    protocol=None,
    precision=None,
    fast="fp32",
    checkpointing=False,
):
    """The RunSpecs of one table, head only first, then by rank.

    ranks, seeds, methods, precision: None for the profile's own. protocol: a Protocol, its text
    (see `Protocol.parse`), or None for the profile's. fast: the precision of a profile that takes
    the fast one. ValueError, naming what is known, for an unknown profile, table, method, precision
    or protocol, a rank below 1, a negative seed, or an empty list.
    """
    chosen = profile_named(profile)
    known("table", table, chosen.tables)
    plan = chosen.tables[table]
    ranks = _list("ranks", ranks, chosen.ranks)
    seeds = _list("seeds", seeds, plan.seeds)
    methods = _list("methods", methods, chosen.methods)
    for method in methods:
        known("methods", method, (*METHODS, *BESIDE))
    largest = LARGEST_RANK[plan.model.name]
    for rank in ranks:
        whole("ranks", rank, 1)
        if rank > largest:
            raise ValueError(f"ranks: got {rank}, expected at most {largest} for {plan.model.name}")
    if isinstance(protocol, str) and protocol:
        protocol = Protocol.parse(protocol)
    protocol = protocol or chosen.protocol
    if not isinstance(protocol, Protocol):
        raise ValueError(f"protocol: got {protocol!r}, expected a Protocol or its text")
    cells = [(method, None) for method in methods if method == "head-only"]
    cells += [(method, rank) for rank in ranks for method in methods if method != "head-only"]
    return [
        RunSpec(
            profile=profile,
            table=table,
            model=plan.model,
            tasks=_rows_there_are(plan.tasks, chosen.source, protocol, plan.batch),
            method=method,
            rank=rank,
            alpha=1.0,
            seed=seed,
            protocol=protocol,
            learning_rate=plan.learning_rate,
            batch=plan.batch,
            max_length=plan.max_length,
            text_tokens=plan.text_tokens,
            text_window=plan.text_window,
            precision=precision or plan.precision or fast,
            source=chosen.source,
            checkpointing=checkpointing,
        )
        for seed in seeds
        for method, rank in cells
    ]


# The embedded tweets to be scored: 254 negative, 186 neutral and more positive ones. So many rows
# can be labelled negative as published (neutral ones too), or be negative and positive in halves.
EMBEDDED_SENTIMENT = {"first": 254 + 186, "balanced": 2 * 254}


def _rows_there_are(tasks, source, protocol, batch):
    """Tasks with Sentiment140 cut to the rows that there are under the protocol.

    Of the paper's data, a fifth of what was trained on is kept aside: fewer steps then leave the
    published warm-up earlier, at a lower rate.
    """
    *others, last = tasks
    if source == "embedded":
        most = EMBEDDED_SENTIMENT.get(protocol.sentiment_eval, last.eval_rows)
        return (*others, dataclasses.replace(last, eval_rows=min(last.eval_rows, most)))
    if protocol.sentiment_eval == "first":
        return tasks
    kept = {"train_rows": paper.SENTIMENT_TEST_ROWS - paper.SENTIMENT_TEST_ROWS // 5}
    if protocol.sentiment_eval == "held-out":
        kept["eval_rows"] = paper.SENTIMENT_TEST_ROWS // 5
    last = dataclasses.replace(last, **kept)
    if last.peak is not None:
        steps = last.epochs * -(-last.train_rows // batch)
        last = dataclasses.replace(last, peak=steps / WARMUP)
    return (*others, last)


def _list(name, value, default):
    if value is None:
        return tuple(default)
    if isinstance(value, str) or not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{name}: got {value!r}, expected a list of one or more values")
    return tuple(v for i, v in enumerate(value) if v not in value[:i])
