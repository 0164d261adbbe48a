"""The benchmark: what a step of ours takes beside a step of others, in one process.

Rounds are interleaved at the grain of one step: in each, every contender of a subject is timed
once, in shuffled order, what is compared one after the other; what counts is the ratio of two times
of the same round. `notebooks/benchmark.ipynb` shows it.
"""

import random
import time
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
NARROW = 0.01  # an interval of the median within so much of it, relative, ends a subject's rounds
SECOND = "one second"
# Subject -> targets: ours takes at most so many times as long as the other, or as a second.
_LORA = [(f"CURLoRA-{r}", f"PEFT LoRA-{r}", 1.0) for r in RANKS]
TARGETS = {
    "SmolLM2-135M": [*((f"CURLoRA-{r}", "frozen", 1.03) for r in RANKS), *_LORA],
    "Mistral q_proj": [*_LORA, ("CURLoRA-16", "dense-16", 0.5)],
    "Mistral block": _LORA,
    "GPT-2 Large block": _LORA,
    # on a processor without matrix units; with them, whose products are faster: see RUN_WITH_AMX
    "a run of Table 1": [
        ("training step", "its products", 1.5),
        ("scoring batch", "products", 1.5),
    ],
    "adding to 4096 x 4096": [("norms", "sum over W", 4.0)],
    "Mistral-7B's adapter": [(what, SECOND, 1.0) for what in ("switching", "saving", "loading")],
}
RUN_WITH_AMX = 2.2


def timed(subject, precision, steps, kept=None, device="cpu", seconds=60.0, quick=False):
    """The DataFrame of a subject's times, a row a time: seconds of a step in a round.

    steps: contender -> function. kept: contender -> bytes that autograd keeps for the backward
    pass. seconds: see `rounds`. quick: one round.
    """
    times = rounds(steps, TARGETS[subject], seconds, (1, 1) if quick else ROUNDS)
    found = pd.DataFrame(times).rename_axis("round")
    found = found.melt(var_name="contender", value_name="seconds", ignore_index=False)
    made = records.provenance(device, rows=None)
    commit = f"{records.short(made['commit'])}{' and changes' if made['dirty'] else ''}"
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    return found.reset_index().assign(
        kept_bytes=found.contender.map(kept or {}).to_numpy(),
        **{"subject": subject, "device": device, "precision": precision, "date": made["date"]},
        **{"commit": commit, "processor": made["device"], **versions},
        amx=bool(machine.processor().get("amx_bf16")),
    )


def rounds(steps, targets, seconds, least_most):
    """{name -> seconds of its step in each round}, every step timed once a round in shuffled order.

    What is compared comes one after the other: a slow moment strikes both. steps: name -> function.
    Until the interval of every target's ratio is within NARROW of its median, or `seconds` are
    over. least_most: of the number of rounds.
    """
    for step in steps.values():  # the first call warms up
        once(step)
    repeat = {name: 1 + int(SHORTEST / once(step)) for name, step in steps.items()}
    pairs = [(a, b) for a, b, _ in targets if a in steps and b in steps]
    times, order, shuffle = {name: [] for name in steps}, list(steps), random.Random(0).shuffle
    beside, start = {b: a for a, b in pairs}, time.perf_counter()
    for done in range(least_most[1]):
        if done >= least_most[0]:
            so_far = pd.DataFrame(times)
            near = all(narrow(*interval(so_far[a] / so_far[b])) for a, b in pairs)
            if near or time.perf_counter() - start >= seconds:
                break
        shuffle(order)
        for name in sorted(order, key=lambda name: order.index(beside.get(name, name))):
            times[name].append(once(steps[name], repeat[name]))
    return times


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

    So whatever the distribution. NaN below five values, which give none.
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
    found, cells = [], ["subject", "device", "precision"]
    for (subject, *where), cell in times.groupby(cells, sort=False):
        wide = cell.pivot(index="round", columns="contender", values="seconds")
        wide[SECOND] = 1.0
        for ours, other, bound in TARGETS[subject]:
            if ours not in wide or other not in wide:
                continue
            if subject == "a run of Table 1" and cell.amx.all():
                bound = RUN_WITH_AMX
            low, median, high = interval(wide[ours] / wide[other])
            verdict = "met" if median <= bound else "missed"
            if not (high <= bound or low > bound or narrow(low, median, high)):
                verdict = "undecided"
            row = (ours, other, bound, subject, *where, len(wide), low, median, high, verdict)
            found.append(row)
    columns = ["ours", "other", "bound", *cells, "rounds", "low", "median", "high", "verdict"]
    return pd.DataFrame(found, columns=columns)
