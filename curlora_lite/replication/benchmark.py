"""The benchmark: what a step of ours takes beside a step of others, in one process.

The two steps of a comparison are timed in turn, again and again; what counts is each time of ours
over the mean of the other's just before and just after it. `notebooks/benchmark.ipynb` shows it.
"""

import ctypes
import time
from functools import partial
from importlib import metadata

import pandas as pd
import torch
from scipy.stats import quantile_test

from . import machine, records

RANKS, QUICK_RANKS = (8, 16, 24), (16,)
PRECISIONS = ("fp32", "bf16")
SHORTEST = 0.02  # seconds; a shorter step is repeated within its turn
ROUNDS = (9, 400)  # at least, at most
CONFIDENCE = 0.9  # of an interval on both sides
NARROW = 0.01  # an interval of the median within so much of it, relative, ends the rounds
SECOND = "one second"
# Subject -> targets: ours takes at most so many times as long as the other, or as a second.
_LORA = [(f"CURLoRA-{r}", f"PEFT LoRA-{r}", 1.0) for r in RANKS]
TARGETS = {
    "SmolLM2-135M": [*((f"CURLoRA-{r}", "frozen", 1.03) for r in RANKS), *_LORA],
    "Mistral q_proj": [*_LORA, ("CURLoRA-16", "dense-16", 0.5)],
    "Mistral block": _LORA,
    "GPT-2 Large block": _LORA,
    # on a processor without matrix units, which make products in bf16 faster: see RUN_WITH_AMX
    "a run of Table 1": [
        ("training step", "its products", 1.5),
        ("scoring batch", "products", 1.5),
    ],
    "adding to 4096 x 4096": [("norms", "sum over W", 4.0)],
    "Mistral-7B's adapter": [(what, SECOND, 1.0) for what in ("switching", "saving", "loading")],
}
RUN_WITH_AMX = 2.2


def prepare():
    """One thread; memory that a step frees stays with the process, so that no step waits for it."""
    torch.set_num_threads(1)
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def timed(subject, precision, steps, device="cpu", seconds=420.0, quick=False):
    """The DataFrame of a subject's comparisons, a row a round: `ours_seconds`, `other_seconds`.

    steps: contender -> function; without a contender its targets are left out. seconds: that a
    comparison takes at most. quick: one round.
    """
    found, steps = [], steps | {SECOND: None}
    for ours, other, _ in TARGETS[subject]:
        if ours in steps and other in steps:
            times = compared(steps[ours], steps[other], seconds, (1, 1) if quick else ROUNDS)
            found.append(times.assign(ours=ours, other=other))
    made = records.provenance(device, rows=None)
    commit = f"{records.short(made['commit'])}{' and changes' if made['dirty'] else ''}"
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    return pd.concat(found).assign(
        **{"subject": subject, "device": device, "precision": precision, "date": made["date"]},
        **{"commit": commit, "processor": made["device"], **versions},
        amx=bool(machine.processor().get("amx_bf16")),
    )


def compared(ours, other, seconds, least_most):
    """The DataFrame of `ours_seconds` and `other_seconds`, a round a row, of two steps in turn.

    The other's are the mean of its times just before and just after ours: the machine's speed
    wanders, and so stands on both sides. ours, other: functions; other None: one second. Until the
    interval of the ratio is within NARROW of its median, or `seconds` are over. least_most: of the
    number of rounds.
    """
    turns = [_repeated(step) if step else lambda: 1.0 for step in (ours, other)]
    found, start, before = [], time.perf_counter(), turns[1]()
    for done in range(1, 1 + least_most[1]):
        mine, after = turns[0](), turns[1]()
        found.append((mine, (before + after) / 2))
        before = after
        if done >= least_most[0]:
            near = narrow(*interval(pd.Series([mine / its for mine, its in found])))
            if near or time.perf_counter() - start >= seconds:
                break
    return pd.DataFrame(found, columns=["ours_seconds", "other_seconds"]).rename_axis("round")


def _repeated(step):
    """A function that times the step, so often that it takes SHORTEST; warmed up."""
    once(step)
    return partial(once, step, 1 + int(SHORTEST / once(step)))


def once(step, times=1):
    """Seconds that a call takes, the mean of so many; a GPU is waited for."""
    begun = time.perf_counter()
    for _ in range(times):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / times


def interval(values):
    """(low, median, high) of a Series: an interval of the median, by order statistics.

    So whatever the distribution, of independent values, which successive ratios only nearly are.
    NaN below five values, which give none.
    """
    found = quantile_test(values).confidence_interval(CONFIDENCE)
    return found.low, values.median(), found.high


def narrow(low, median, high):
    """Whether an interval lies within NARROW of its median, relative."""
    return (1 - NARROW) * median <= low and high <= (1 + NARROW) * median


def verdicts(times):
    """A row a target, device and precision: `bound`, `low`, `median`, `high`, `verdict`, `rounds`.

    met: the median is at or below the bound; missed: above it; undecided: the interval holds the
    bound and is not narrow.
    """
    found, cells = [], ["subject", "device", "precision", "ours", "other"]
    bounds = {(subject, *pair): bound for subject, of in TARGETS.items() for *pair, bound in of}
    for where, cell in times.groupby(cells, sort=False):
        bound = bounds[where[0], *where[3:]]
        if where[0] == "a run of Table 1" and where[2] == "bf16" and cell.amx.all():
            bound = RUN_WITH_AMX
        low, median, high = interval(cell.ours_seconds / cell.other_seconds)
        verdict = "met" if median <= bound else "missed"
        if not (high <= bound or low > bound or narrow(low, median, high)):
            verdict = "undecided"
        found.append((*where, bound, len(cell), low, median, high, verdict))
    columns = [*cells, "bound", "rounds", "low", "median", "high", "verdict"]
    return pd.DataFrame(found, columns=columns)
