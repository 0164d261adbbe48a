"""The benchmark: step time and memory of every contender on every subject, in one process.

Rounds are interleaved: in each, every contender is timed once, in shuffled order, and what counts
is its time over that of another within the same round. `notebooks/benchmark.ipynb` shows it.
"""

import itertools
import random
import time
from functools import partial
from importlib import metadata

import pandas as pd
import torch
from scipy.stats import quantile_test
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.benchmark import Timer
from tqdm.auto import tqdm

from . import contenders, fetch, machine, records

RANKS, QUICK_RANKS = (8, 16, 24), (16,)
PRECISIONS = ("fp32", "bf16")
BLOCK = 0.1  # seconds that a contender is timed for in a round, or one step if that takes longer
ROUNDS, QUICK_ROUNDS = (5, 200), (1, 1)  # at least, at most; between them, while there is time
CONFIDENCE = 0.9  # of an interval on both sides: so a verdict is wrong in one of twenty at most
TARGETS = {  # our training step takes at most so many times that of another, on these subjects
    "frozen": (1.05, ["SmolLM2-135M"]),
    "PEFT LoRA": (1.0, [subject.name for subject in contenders.SUBJECTS]),
    "dense": (0.5, ["Mistral q_proj"]),
}
# A row of the CSV is one time. rank: the contender's own. tokens: of a step. trained: numbers.
# kept_bytes: see the function. seconds: of a step, median of a block.
COLUMNS = (
    "subject", "device", "precision", "tokens", "contender", "rank", "trained", "kept_bytes",
    "pass", "round", "seconds", "date", "commit", "processor", "threads", "torch", "transformers",
    "peft",
)  # fmt: skip
CELL = ["subject", "device", "precision", "pass"]


def measure(chosen, quick=False):
    """The DataFrame of all times, columns as in COLUMNS; all cores are used.

    chosen: the subjects. quick: one round at one rank.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    cells = list(itertools.product(devices, chosen, PRECISIONS))
    rows = [row for cell in tqdm(cells) for row in _measured(*cell, quick)]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"rank": "Int64"})


def _measured(device, subject, precision, quick):
    model, steps, rows = subject.build(precision, device), {}, {}
    for key in contenders.plan(model, subject.targets, QUICK_RANKS if quick else RANKS):
        contender, rank = key
        made = contenders.build(contender, model, subject.targets, rank)
        steps[key], sizes = case(made, subject, precision, device)
        rows[key] = sizes | {"contender": contender, "rank": rank, "pass": "training"}
    of_all = {"subject": subject.name, "precision": precision, **_origin(device)}
    times = rounds(steps, subject.seconds, QUICK_ROUNDS if quick else ROUNDS)
    return [of_all | rows[key] | {"round": i, "seconds": s}
            for key, seconds in times.items() for i, s in enumerate(seconds)]  # fmt: skip


def _origin(device):
    made = records.provenance(device, rows=None)
    commit = f"{str(made['commit'])[:10]}{' and changes' if made['dirty'] else ''}"
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    origin = {"date": made["date"], "processor": made["device"], "threads": machine.cores()}
    return {"device": device, "commit": commit, **origin, **versions}


def case(model, subject, precision, device):
    """A contender on a subject with its inputs: the step to time, and its sizes for a row.

    The step is one forward and backward pass; gradients of x and of all that is trained.
    """
    generator = torch.Generator().manual_seed(0)
    to = (device, machine.DTYPES[precision])
    rows, tokens = subject.tokens[device]
    x = torch.randn(rows, tokens, subject.width, generator=generator).to(*to)
    x.requires_grad_(True)  # as if there were something to train below
    trained, frozen = contenders.trained(model), [*model.parameters(), *model.buffers()]
    forward = partial(subject.call, model, x)
    shape = forward().shape  # of a loss: ()
    upstream = torch.randn(shape, generator=generator).to(*to) if shape else None
    sizes = {"tokens": rows * tokens, "trained": sum(p.numel() for p in trained)}
    sizes["kept_bytes"] = kept_bytes(forward, frozen)
    return lambda: torch.autograd.grad(forward(), [x, *trained], upstream), sizes


def kept_bytes(forward, frozen):
    """Bytes of the storages that autograd saves in `forward`, each once, without those of `frozen`.

    Exact: no allocator, no noise. What a backward pass needs beside them is not in it.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in frozen}
    kept = {}

    def pack(tensor):  # gives nothing back: an output saved by its own node would never be freed
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # held, so that no other gets its address

    with saved_tensors_hooks(pack, lambda nothing: nothing):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def rounds(steps, seconds, least_most):
    """{name -> seconds of its step in each round}; rounds until `seconds` are over.

    steps: name -> function. least_most: of the number of rounds.
    """
    times = {name: [] for name in steps}
    order, shuffle = list(steps), random.Random(0).shuffle
    start = time.perf_counter()
    for done in range(least_most[1]):
        if done >= least_most[0] and time.perf_counter() - start >= seconds:
            break
        shuffle(order)
        for name in order:  # the step that finds how many fit is each one's warm-up
            timer = Timer("step()", globals={"step": steps[name]}, num_threads=machine.cores())
            times[name].append(timer.blocked_autorange(min_run_time=BLOCK).median)
    return times


def ratios(times, contender, other):
    """A contender's time over another's in the same round: a Series by CELL and round.

    Means over the ranks that both were timed at; what has none is set beside each.
    """
    own, others = (times[times.contender == name] for name in (contender, other))
    at = [*CELL, "round"]
    ranked = not (own["rank"].isna().any() or others["rank"].isna().any())
    both = own.merge(others, on=[*at, "rank"] if ranked else at, suffixes=("", "_other"))
    both = both.groupby(at, sort=False)[["seconds", "seconds_other"]].mean()
    return both.seconds / both.seconds_other


def summary(ratio):
    """Of `ratios`, by CELL: number of rounds, median, and the interval of the median.

    By order statistics, so whatever the distribution; NaN below five rounds, which give none.
    """
    by_cell = ratio.groupby(level=CELL, sort=False)
    found = by_cell.agg(rounds="size", median="median").reset_index()
    limits = [quantile_test(values).confidence_interval(CONFIDENCE) for _, values in by_cell]
    return found.assign(low=[low for low, _ in limits], high=[high for _, high in limits])


def verdicts(times):
    """A row a target and cell: `other`, `bound`, `summary` of the ratio in training, `verdict`.

    met: the interval lies at or below the bound; missed: above it; else undecided.
    """
    training, found = times[times["pass"] == "training"], []
    for other, (bound, names) in TARGETS.items():
        cells = summary(ratios(training[training.subject.isin(names)], "CURLoRA", other))
        found.append(cells.assign(other=other, bound=bound, verdict="undecided"))
    found = pd.concat(found, ignore_index=True)
    found.loc[found.high <= found.bound, "verdict"] = "met"
    found.loc[found.low > found.bound, "verdict"] = "missed"
    return found


def folder(quick=False):
    """Where the benchmark is: `results/benchmarks`, or `results/benchmarks-quick`."""
    return records.ROOT / "results" / ("benchmarks-quick" if quick else "benchmarks")


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
