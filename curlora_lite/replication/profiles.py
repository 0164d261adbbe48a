"""The named profiles, and the grid of runs that each asks for."""

import dataclasses
import itertools
from dataclasses import dataclass, field

from ..checks import known
from . import paper
from .protocol import Protocol
from .specs import METHODS, ModelSpec, RunSpec, TaskSpec


@dataclass(frozen=True)
class TablePlan:
    """One table of a profile: its model, tasks and training.

    precision: None for the fast one. more: rank (None: head only) -> seeds that it has instead.
    """

    model: ModelSpec
    tasks: tuple
    learning_rate: float
    batch: int
    max_length: int
    text_tokens: int
    text_window: int
    precision: str | None = None
    seeds: tuple = (0,)
    more: dict = field(default_factory=dict)


PUBLISHED = Protocol.parse("published")
SHARED = ("model", "learning_rate", "batch", "max_length", "text_tokens", "text_window")


@dataclass(frozen=True)
class Profile:
    """A named set of sizes for one table or both."""

    name: str
    tables: dict
    protocol: Protocol = PUBLISHED
    source: str = "paper"
    ranks: tuple = paper.RANKS
    methods: tuple = METHODS


_LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj")
SMOLLM2 = ModelSpec("smollm2-135m", _LLAMA_TARGETS, padding_side="left", weight=30)
FUSED = ModelSpec("smollm2-135m-fused", ("qkv_proj",), padding_side="right", weight=30)
GPT2_LARGE = ModelSpec("gpt2-large", ("c_attn",), padding_side="right", weight=180)
MISTRAL = ModelSpec("mistral-7b", _LLAMA_TARGETS, padding_side="left", weight=1600)


def _tasks(train, scored, epochs, peaks):
    names, classes = ("mrpc", "sst2", "sentiment140"), (2, 2, 3)
    columns = zip(names, classes, train, scored, epochs, peaks, strict=True)
    return tuple(itertools.starmap(TaskSpec, columns))


# Highest rate reached, of the nominal one: steps taken / 500 warm-up steps (Table 2's Sentiment140
# has no schedule).
WARMUP = 500  # steps
PEAKS = {"table1": (375 / WARMUP, 375 / WARMUP, 189 / WARMUP)}
PEAKS |= {"table2": (345 / WARMUP, 471 / WARMUP, None)}


# Sizes and rates were chosen on the tune part, for time (15 minutes on two cores) and so that the
# head alone and LoRA learn something; where they do not, the README says so.
def _embedded(name, train1, train2, scored1, scored2, text_tokens, ranks=paper.RANKS):
    sizes = {"learning_rate": 3e-3, "max_length": 64, "text_tokens": text_tokens}
    tasks1 = _tasks(train1, scored1, (3, 3, 3), PEAKS["table1"])
    tasks2 = _tasks(train2, scored2, (3, 3, 5), PEAKS["table2"])
    tables = {"table1": TablePlan(SMOLLM2, tasks1, batch=8, text_window=1024, **sizes)}
    tables |= {"table2": TablePlan(FUSED, tasks2, batch=32, text_window=256, **sizes)}
    # the tweets keep their three classes, and are not sorted by them
    protocol = Protocol.parse("published,labels=three,sentiment_eval=held-out")
    return Profile(name, tables, protocol, "embedded", ranks)


# Few rows, since there are many cells (see `cells.txt`) and five seeds.
def _audit(name, train, scored, seeds):
    sizes = {"max_length": 64, "text_tokens": 1024, "learning_rate": 3e-3, "seeds": seeds}
    sizes |= {"tasks": _tasks(train, scored, (3, 3, 3), PEAKS["table1"]), "text_window": 1024}
    tables = {"table1": TablePlan(SMOLLM2, batch=8, **sizes)}
    tables |= {"table2": TablePlan(FUSED, batch=32, **sizes)}
    return Profile(name, tables, source="embedded")


# The paper's own sizes (section 6.2-6.3 and the author's code).
def _table1(model, text, precision, **others):
    tasks = _tasks((1000, 1000, 498), (408, 872, 1024), (3, 3, 3), PEAKS["table1"])
    return TablePlan(model, tasks, 2.5e-4, 8, 512, text, text, precision, **others)


def _table2(model, precision):
    # 5,024 rows of SST-2: the author's loop to 5,000 fills its last batch
    tasks = _tasks((3668, 5024, 498), (408, 872, 1024), (3, 3, 5), PEAKS["table2"])
    return TablePlan(model, tasks, 2.5e-4, 32, 256, 256, 256, precision)


# the audit's on the paper's data, which no profile has
AUDIT_TABLE2 = _table2(FUSED, None)
FIVE = dict.fromkeys((None, 16), range(5))  # head only and rank 16 have five seeds

PROFILES = {
    profile.name: profile
    for profile in (
        # rows trained on and rows scored of MRPC, SST-2, Sentiment140, each for Tables 1 and 2
        _embedded("embedded", (32, 96, 160), (32, 48, 32), (120, 240, 400), (80, 80, 80), 2048),
        _embedded("embedded-quick", (16, 32, 48), (32,) * 3, (80, 100, 150), (40,) * 3, 1024, (8,)),
        _audit("audit", (32, 64, 96), (140, 200, 256), seeds=(0, 1, 2, 3, 4)),
        _audit("audit-quick", (16, 24, 32), (40, 48, 48), seeds=(0, 1)),
        # 8,192 tokens are the model's context, where the paper reads 10,000 at once
        Profile("smollm2", {"table1": _table1(SMOLLM2, 8192, None, seeds=(0, 1, 2), more=FIVE)}),
        Profile("gpt2-large", {"table2": _table2(GPT2_LARGE, "fp32")}),
        Profile("mistral-7b", {"table1": _table1(MISTRAL, 10_000, "fp32")}),
    )
}


def profile_named(name):
    """The Profile called `name`; ValueError, naming those there are, for another."""
    known("profile", name, PROFILES)
    return PROFILES[name]


def grid(profile, table, *, ranks=None, seeds=None, methods=None, protocol=None,
         precision=None, fast="fp32", checkpointing=False):  # fmt: skip
    """The RunSpecs of one table, seed by seed: head only first, then by rank.

    ranks, seeds, methods, precision: None for the profile's own. protocol: a Protocol, its text
    (see `Protocol.parse`), or None for the profile's. fast: the precision of a profile that takes
    the fast one. ValueError, naming what is known, for an unknown profile, table, method, precision
    or protocol, a rank below 1, a negative seed, or an empty list.
    """
    chosen = profile_named(profile)
    known("table", table, chosen.tables)
    plan = chosen.tables[table]
    ranks = listed("ranks", ranks, chosen.ranks)
    seeds = listed("seeds", seeds, ())
    methods = listed("methods", methods, chosen.methods)
    for method in methods:
        known("methods", method, METHODS)
    if not isinstance(protocol, Protocol):
        protocol = Protocol.parse(protocol) if protocol else chosen.protocol
    cells = [("head-only", None)] * ("head-only" in methods)
    cells += [(method, rank) for rank in ranks for method in methods if method != "head-only"]
    how = {"precision": precision or plan.precision or fast, "checkpointing": bool(checkpointing)}
    each = [(seed, cell) for cell in cells for seed in seeds or plan.more.get(cell[1], plan.seeds)]
    each.sort(key=lambda one: one[0])
    return [run_spec(chosen, table, plan, *cell, protocol, seed=seed, **how) for seed, cell in each]


def run_spec(profile, table, plan, method, rank, protocol, /, **others):
    """The RunSpec of one run of a TablePlan; others: what else it has, or has instead."""
    same = {name: getattr(plan, name) for name in SHARED}
    same |= {"profile": profile.name, "table": table, "source": profile.source, "alpha": 1.0}
    same["tasks"] = _rows_there_are(plan.tasks, profile.source, protocol, plan.batch)
    own = {"method": method, "rank": rank, "protocol": protocol}
    return RunSpec(**same | own | others)


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


def listed(name, value, default):
    """A list as it is typed, `8` or `8,16`, or as it is, each once; the default for None."""
    if value is None:
        return tuple(default)
    if isinstance(value, (int, str)):
        typed = [part.strip() for part in str(value).split(",")]
        value = [int(v) if v.removeprefix("-").isdecimal() else v for v in typed]
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{name}: got {value!r}, expected a list of one or more values")
    return tuple(v for i, v in enumerate(value) if v not in value[:i])
