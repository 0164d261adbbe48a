"""The benchmark: what a step of ours takes beside a step of others, in one process.

Rounds are interleaved at the grain of one step: in each, every contender of a subject is timed
once, in shuffled order, and what counts is its time over that of another within the same round.
`notebooks/benchmark.ipynb` shows it.
"""

import itertools
import random
import time
from collections import namedtuple
from importlib import metadata

import pandas as pd
import torch
from scipy.stats import quantile_test
from torch.utils.benchmark import Timer
from tqdm.auto import tqdm

from . import contenders, fetch, machine, records

RANKS, QUICK_RANKS = (8, 16, 24), (16,)
PRECISIONS = ("fp32", "bf16")
SHORTEST = 0.02  # seconds; a shorter step is repeated within its turn
ROUNDS = (9, 400)  # at least, at most
CONFIDENCE = 0.9  # of an interval on both sides
NARROW = 0.01  # an interval of the median within so much of it, relative, ends a subject's rounds
BUSY = 0.02  # of a step against itself
# A row of the CSV is one time. rank: the contender's own. kept_bytes: what autograd keeps for
# the backward pass. seconds: of a step.
COLUMNS = (
    "subject", "device", "precision", "contender", "rank", "kept_bytes", "round", "seconds",
    "date", "commit", "processor", "amx", "torch", "transformers", "peft",
)  # fmt: skip
CELL = ["subject", "device", "precision", "rank"]
# A target: `ours` takes at most `bound` times as long as `other` on these subjects, at each rank.
# other None: `bound` is in seconds.
Target = namedtuple("Target", "ours other bound subjects")
SHAPES = [subject.name for subject in contenders.SUBJECTS]
# a run's bounds: on processors without matrix units (AMX), and with them, whose products are faster
TARGETS = (
    Target("CURLoRA", "frozen", 1.03, SHAPES[:1]),
    Target("CURLoRA", "PEFT LoRA", 1.0, SHAPES),
    Target("CURLoRA", "dense", 0.5, ["Mistral q_proj"]),
    Target("training step", "its products", (1.5, 2.2), ["a run of Table 1"]),
    Target("scoring batch", "its own products", (1.5, 2.2), ["a run of Table 1"]),
    Target("norms", "sum over W", 4.0, ["adding to 4096 x 4096"]),
    *(Target(w, None, 1.0, ["Mistral-7B's adapter"]) for w in ("switching", "saving", "loading")),
)


class BusyError(RuntimeError):
    """The machine does something else: a step differs from itself by more than is to be decided."""


def measure(subjects, quick=False):
    """The DataFrame of all times on models, see `timed`. quick: one round at one rank."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found, ranks = [], QUICK_RANKS if quick else RANKS
    for device, subject, precision in tqdm([*itertools.product(devices, subjects, PRECISIONS)]):
        of = subject.steps(precision, device, ranks)
        found.append(timed(subject.name, precision, *of, device, subject.seconds, quick))
    return pd.concat(found, ignore_index=True)


def check_quiet():
    """Time one step against itself for some ten seconds: a sentence, or BusyError.

    BusyError if the interval of the ratio is wider than BUSY on either side.
    """
    x, w = torch.randn(256, 1024), torch.randn(1024, 1024)
    steps = dict.fromkeys(("a step", "itself"), lambda: [x @ w for _ in range(20)])
    times = rounds(steps, [("a step", "itself")], 10.0, (30, 400))
    low, median, high = interval([a / b for a, b in zip(*times.values(), strict=True)])
    said = f"a step takes {median:.3f} ({low:.3f} to {high:.3f}) of its own time"
    if max(1 - low, high - 1) > BUSY:
        raise BusyError(f"{said}: this machine is too busy to measure on; try again when it is not")
    return said


def timed(subject, precision, steps, kept=None, device="cpu", seconds=60.0, quick=False):
    """The DataFrame of a subject's times, columns as in COLUMNS.

    steps: (contender, rank or None) -> function. kept: likewise -> bytes (see COLUMNS). seconds:
    see `rounds`. quick: one round.
    """
    pairs = [pair for target in TARGETS if subject in target.subjects
             for pair in pairs_of(target, steps)]  # fmt: skip
    times = rounds(steps, pairs, seconds, (1, 1) if quick else ROUNDS)
    of_all = {"subject": subject, "precision": precision, **_origin(device)}
    rows = [
        {"contender": name[0], "rank": name[1], "kept_bytes": (kept or {}).get(name),
         "round": i, "seconds": s, **of_all}
        for name, spent in times.items() for i, s in enumerate(spent)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS).astype({"rank": "Int64"})


def pairs_of(target, steps):
    """(ours, other) of a target among steps called (contender, rank): of equal rank, if of any."""
    found = []
    for name, rank in steps:
        if name == target.ours:
            others = [(target.other, rank), (target.other, None)]
            found.append(((name, rank), next((n for n in others if n in steps), None)))
    return [pair for pair in found if pair[1] or not target.other]


def _origin(device):
    made = records.provenance(device, rows=None)
    commit = f"{str(made['commit'])[:10]}{' and changes' if made['dirty'] else ''}"
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    origin = {"date": made["date"], "processor": made["device"], "amx": machine.has_amx()}
    return {"device": device, "commit": commit, **origin, **versions}


def rounds(steps, pairs, seconds, least_most):
    """{name -> seconds of its step in each round}, every step timed once a round in shuffled order.

    steps: name -> function. Until the interval of every pair's ratio is within NARROW of its
    median, or `seconds` are over. least_most: of the number of rounds.
    """
    timers = {name: Timer("step()", globals={"step": step}) for name, step in steps.items()}
    # the first call warms up
    repeat = {name: 1 + int(SHORTEST / timer.timeit(1).mean) for name, timer in timers.items()}
    times, order, shuffle = {name: [] for name in steps}, list(steps), random.Random(0).shuffle
    start = time.perf_counter()
    for done in range(least_most[1]):
        if done >= least_most[0] and (
            time.perf_counter() - start >= seconds
            or all(narrow(*interval(ratios(times, *pair))) for pair in pairs)
        ):
            break
        shuffle(order)
        for name in order:
            times[name].append(timers[name].timeit(repeat[name]).mean)
    return times


def ratios(times, ours, other):
    """Ours over other in each round; the seconds themselves where there is no other."""
    others = times[other] if other else [1.0] * len(times[ours])
    return [a / b for a, b in zip(times[ours], others, strict=True)]


def interval(values):
    """(low, median, high) of values: an interval of the median, by order statistics.

    So whatever the distribution. NaN below five values, which give none.
    """
    values = list(values)
    found = quantile_test(values).confidence_interval(CONFIDENCE)
    return found.low, pd.Series(values).median(), found.high


def narrow(low, median, high):
    """Whether an interval lies within NARROW of its median, relative."""
    return (1 - NARROW) * median <= low and high <= (1 + NARROW) * median


def verdicts(times):
    """A row a target, subject and rank: `bound`, `low`, `median`, `high`, `verdict`, `rounds`.

    met: the median is at or below the bound; missed: above it; undecided: the interval holds the
    bound and is not narrow.
    """
    found = []
    for (subject, device, precision), cell in times.groupby(CELL[:3], sort=False):
        steps = {
            (name, None if pd.isna(rank) else int(rank)): mine.sort_values("round").seconds.tolist()
            for (name, rank), mine in cell.groupby(["contender", "rank"], sort=False, dropna=False)
        }
        for target in (t for t in TARGETS if subject in t.subjects):
            bound = target.bound
            if isinstance(bound, tuple):
                bound = bound[bool(cell.amx.iloc[0])]
            for ours, other in pairs_of(target, steps):
                low, median, high = interval(ratios(steps, ours, other))
                verdict = "met" if median <= bound else "missed"
                if not (high <= bound or low > bound or narrow(low, median, high)):
                    verdict = "undecided"
                found.append((target.ours, target.other, bound, subject, device, precision,
                              ours[1], len(steps[ours]), low, median, high, verdict))  # fmt: skip
    columns = ["ours", "other", "bound", *CELL, "rounds", "low", "median", "high", "verdict"]
    return pd.DataFrame(found, columns=columns).astype({"rank": "Int64"})


def save(times, where):
    """Write `benchmarks.csv`, whole or not at all."""
    with fetch.aside(where / "benchmarks.csv") as part:
        times.to_csv(part, index=False, float_format="%.6g")


def load(where):
    """What `save` wrote; ValueError, naming the file, if there is none or another's columns."""
    path = where / "benchmarks.csv"
    try:
        return pd.read_csv(path, dtype={"rank": "Int64"})[list(COLUMNS)]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: no whole benchmark ({error}); run `make bench`") from error
