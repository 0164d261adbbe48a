"""The benchmark: step time and memory of every contender on every subject, in one process.

Rounds are interleaved: in each, every contender is timed once, in shuffled order, and what counts
is its time over that of another within the same round. `notebooks/benchmark.ipynb` shows it.
"""

import itertools
import random
import time
from datetime import UTC, datetime
from importlib import metadata

import pandas as pd
import torch
from scipy.stats import quantile_test
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.benchmark import Timer
from tqdm.auto import tqdm

from . import contenders, fetch, machine, notebooks, pages, records

RANKS, QUICK_RANKS = (8, 16, 24), (16,)
PRECISIONS = ("fp32", "bf16")
PASSES = {"training": 1.0, "forward": 0.5}  # and the share of a subject's seconds that each gets
BLOCK = 0.1  # seconds that a contender is timed for in a round, or one step if that takes longer
ROUNDS, QUICK_ROUNDS = (5, 200), (1, 1)  # at least, at most; between them, while there is time
CONFIDENCE = 0.9  # of an interval on both sides: so a verdict is wrong in one of twenty at most
TARGETS = {  # our training step takes at most so many times that of another, on these subjects
    "frozen": (1.05, ["SmolLM2-135M"]),
    "PEFT LoRA": (1.0, [subject.name for subject in contenders.SUBJECTS]),
    "dense": (0.5, ["Mistral q_proj"]),
}
# A row of the CSV is one time. rank: the contender's own. tokens: of a step. trained: numbers.
# kept_bytes: see `kept_bytes`; peak_bytes: see `Case`. seconds: of a step, median of a block.
COLUMNS = (
    "subject", "device", "precision", "tokens", "contender", "rank", "trained", "kept_bytes",
    "peak_bytes", "pass", "round", "seconds", "date", "commit", "processor", "threads", "torch",
    "transformers", "peft",
)  # fmt: skip
CELL = ["subject", "device", "precision", "pass"]


def measure(chosen, quick=False):
    """The DataFrame of all times, columns as in COLUMNS; all cores are used.

    chosen: the subjects. quick: one round at one rank.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(machine.cores())
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    try:
        cells = list(itertools.product(devices, chosen, PRECISIONS))
        rows = [row for cell in tqdm(cells) for row in _measured(*cell, quick)]
        return pd.DataFrame(rows, columns=COLUMNS).astype({"rank": "Int64", "peak_bytes": "Int64"})
    finally:
        torch.set_num_threads(threads)


def _measured(device, subject, precision, quick):
    model, cases, found = subject.build(precision, device), {}, []
    ranks = QUICK_RANKS if quick else RANKS
    for contender, rank in contenders.plan(model, subject.targets, ranks):
        made = contenders.build(contender, model, subject.targets, rank)
        cases[contender, rank] = Case(made, subject, precision, device)
    of_all = {"subject": subject.name, "precision": precision, **_origin(device)}
    for which, share in PASSES.items():
        steps = {key: getattr(case, which) for key, case in cases.items()}
        times = rounds(steps, share * subject.seconds, QUICK_ROUNDS if quick else ROUNDS)
        for (contender, rank), seconds in times.items():
            row = {**of_all, "contender": contender, "rank": rank, "pass": which}
            row |= cases[contender, rank].sizes
            found += [{**row, "round": i, "seconds": s} for i, s in enumerate(seconds)]
    return found


def _origin(device):
    commit, dirty = records.commit().values()
    return {
        "device": device,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": f"{str(commit)[:10]}{' and changes' if dirty else ''}",
        "processor": torch.cuda.get_device_name() if device == "cuda" else machine.cpu_name(),
        "threads": torch.get_num_threads(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "peft")},
    }


class Case:
    """A contender on a subject with its inputs: the steps that are timed, the memory they hold.

    sizes: `peak_bytes` among them: what a training step takes at its peak on a GPU, weights left
    out; None on a CPU.
    """

    def __init__(self, model, subject, precision, device):
        self.model, self.call = model, subject.call
        generator = torch.Generator().manual_seed(0)
        to = (device, machine.DTYPES[precision])
        rows, tokens = subject.tokens[device]
        x = torch.randn(rows, tokens, subject.width, generator=generator).to(*to)
        self.x = x.requires_grad_(True)  # as if there were something to train below
        self.wanted = [self.x, *contenders.trained(model)]
        out = self.forward()
        self.upstream = torch.randn(out.shape, generator=generator).to(*to) if out.dim() else None
        self.sizes = {
            "tokens": rows * tokens,
            "trained": sum(p.numel() for p in self.wanted[1:]),
            "kept_bytes": kept_bytes(
                lambda: self.call(model, self.x), [*model.parameters(), *model.buffers()]
            ),
            "peak_bytes": self._peak_bytes() if device == "cuda" else None,
        }

    def forward(self):
        """One forward pass without autograd."""
        with torch.no_grad():
            return self.call(self.model, self.x)

    def training(self):
        """One forward and backward pass; gradients of x and of all that is trained."""
        return torch.autograd.grad(self.call(self.model, self.x), self.wanted, self.upstream)

    def _peak_bytes(self):
        self.training()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.training()
        return torch.cuda.max_memory_allocated() - before


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
    timers = {
        name: Timer("step()", globals={"step": step}, num_threads=machine.cores())
        for name, step in steps.items()
    }
    times = {name: [] for name in timers}
    order, shuffle = list(timers), random.Random(0).shuffle
    start = time.perf_counter()
    for done in range(least_most[1]):
        if done >= least_most[0] and time.perf_counter() - start >= seconds:
            break
        shuffle(order)
        for name in order:  # the step that finds how many fit is each one's warm-up
            times[name].append(timers[name].blocked_autorange(min_run_time=BLOCK).median)
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
        return pd.read_csv(path, dtype={"rank": "Int64", "peak_bytes": "Int64"})[list(COLUMNS)]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: no whole benchmark ({error}); run `make bench`") from error


def bench(quick=False, measure=True):
    """Execute the notebook, which measures or, if not `measure`, reads what was measured."""
    where = folder(quick)
    if not measure:
        load(where)
    given = {"quick": quick, "measure": measure}
    notebooks.execute("benchmark", given, target=where / "notebooks" / "benchmark.ipynb", anew=True)
    pages.fill(where / "README.md")
    return where
