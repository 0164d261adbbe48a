"""The benchmark: step time and memory of every contender on every subject, in one process.

Rounds are interleaved: in each, every contender is timed once, in shuffled order, and what counts
is its time over that of the frozen model within the same round.
"""

import json
import random
import re
import statistics
import tempfile
import time
from importlib import metadata

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.benchmark import Timer
from tqdm.auto import tqdm
from transformers.pytorch_utils import Conv1D

from ...adapters import projections
from .. import fetch, models, records
from ..baselines import vera_rank
from . import contenders

RANKS, QUICK_RANKS = (8, 16, 24), (16,)
DTYPES = ("fp32", "bf16")
PASSES = ("training", "forward")  # forward and backward; forward alone, without autograd
BLOCK = 0.1  # seconds that a contender is timed for in a round, or one step if that takes longer
ROUNDS, QUICK_ROUNDS = (5, 200), (1, 1)  # at least, at most; between them, while there is time
REPEATS = 3  # of adding adapters and of reading the weights
_BAR = "{desc} |{bar:20}| {percentage:3.0f} %, {elapsed} gone, {remaining} left"


def plan(subject, ranks):
    """(kind, rank) of the contenders of a subject; VeRA's rank is that of ours it is likened to."""
    middle = ranks[len(ranks) // 2]
    otherwise = ranks if subject.thorough else (middle,)
    return [
        ("limit", None),
        *(("curlora", rank) for rank in ranks),
        *(("lora", rank) for rank in ranks),
        *((kind, rank) for kind in ("factored", "dense") for rank in otherwise),
        ("vera", ranks[-1]),
    ]


def devices():
    """`cpu`, and `cuda` where there is one."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def seconds(subject, which):
    """Seconds that timing one pass of a subject at one precision takes."""
    return subject.seconds * (1 if which == "training" else 0.5)


def announcement(chosen, quick=False):
    """What `measure` will do, and about how long it takes on two idle cores."""
    ranks = QUICK_RANKS if quick else RANKS
    timed = len(devices()) * len(DTYPES) * sum(seconds(s, w) for s in chosen for w in PASSES)
    contestants = sorted({len(plan(subject, ranks)) for subject in chosen})
    return (
        f"Timing {' to '.join(map(str, contestants))} contenders on each of {len(chosen)} subjects "
        f"({', '.join(subject.label for subject in chosen)}), in {' and '.join(DTYPES)}, training "
        f"and forward, at rank {', '.join(map(str, ranks))}, on {' and '.join(devices())} with "
        f"{machine.cores()} cores: "
        + ("one round, a minute or two" if quick else f"about {4 + timed / 60:.0f} minutes")
    )


def measure(chosen, quick=False):
    """Everything: `rows` of times, `sizes` of what each contender holds, `provenance` by device.

    chosen: the subjects. quick: one round at one rank. Shows a progress bar. All cores are used.
    """
    ranks = QUICK_RANKS if quick else RANKS
    result = {"rows": [], "sizes": [], "provenance": {}}
    threads = torch.get_num_threads()
    torch.set_num_threads(machine.cores())
    cells = len(devices()) * len(DTYPES)
    total = cells * sum(seconds(subject, which) for subject in chosen for which in PASSES)
    try:
        with tqdm(total=total, bar_format=_BAR) as bar:
            for device in devices():
                result["provenance"][device] = records.provenance(device)
                result["provenance"][device]["packages"]["peft"] = metadata.version("peft")
                for subject in chosen:
                    for precision in DTYPES:
                        _measure_one(result, subject, precision, device, ranks, quick, bar)
    finally:
        torch.set_num_threads(threads)
    return result


def _measure_one(result, subject, precision, device, ranks, quick, bar):
    bar.set_description_str(f"{subject.label}, {precision} on {device}")
    model = subject.build(precision, device)
    rows, tokens = subject.tokens[device]
    at = {"subject": subject.name, "dtype": precision, "device": device, "tokens": rows * tokens}
    added, sizes = _added(subject, model, ranks, device)
    first = next(iter(projections(model, subject.targets).values()))
    width = first.weight.shape[0 if isinstance(first, Conv1D) else 1]
    cases = {}
    for (kind, rank), made in added.items():
        case = Case(made, subject.call, (rows, tokens, width), precision, device)
        sizes[kind, rank] |= {"kept_bytes": case.kept_bytes(), "peak_bytes": case.peak_bytes()}
        result["sizes"].append({**at, "contender": kind, "rank": rank, **sizes[kind, rank]})
        cases[kind, rank] = case
    for which in PASSES:
        budget = seconds(subject, which)
        times = _rounds(cases, which, budget, QUICK_ROUNDS if quick else ROUNDS)
        for (kind, rank), spent in times.items():
            against = zip(spent, times["limit", None], strict=True)
            ratios = [round(own / limit, 5) for own, limit in against]
            row = {**at, "pass": which, "contender": kind, "rank": rank, "rounds": len(spent)}
            row |= {"median_seconds": statistics.median(spent), "seconds": spent, "ratios": ratios}
            result["rows"].append(row)
        bar.update(budget)


def _added(subject, model, ranks, device):
    """{(kind, rank) -> contender} and what adding, saving and optimising each takes.

    Adding is timed together with one reading of the frozen weights, in turn.
    """
    added, sizes = {}, {}
    weights = [m.weight for m in projections(model, subject.targets).values()]
    for kind, rank in plan(subject, ranks):
        if kind == "vera":
            rank = vera_rank(model, subject.targets, rank)
        adding, reading = [], []
        for _ in range(1 if kind in ("limit", "factored", "dense") else REPEATS):
            bare = contenders.shared_copy(model)
            reading.append(_seconds(device, lambda: [w.sum() for w in weights]))
            build = contenders.KINDS[kind].build
            adding.append(_seconds(device, build, bare, subject.targets, rank))
        made = contenders.build(kind, model, subject.targets, rank)
        with tempfile.TemporaryDirectory() as folder:
            disk = contenders.disk_bytes(kind, made, folder)
        added[kind, rank] = contenders.start(made, torch.Generator().manual_seed(0))
        sizes[kind, rank] = {
            "projections": len(weights),
            "trained": sum(p.numel() for p in contenders.trained(made)),
            "optimiser_bytes": contenders.optimiser_bytes(made),
            "disk_bytes": disk,
            "add_seconds": adding,
            "read_seconds": reading,
        }
    return added, sizes


def _seconds(device, work, *arguments):
    """Seconds that `work` takes once, until the device has done it."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work(*arguments)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Case:
    """A contender on a subject with its inputs: the steps that are timed, the memory they hold."""

    def __init__(self, model, call, shape, precision, device):
        self.model, self.call, self.device = model, call, device
        generator = torch.Generator().manual_seed(0)
        to = (device, models.DTYPES[precision])
        x = torch.randn(*shape, generator=generator).to(*to)  # (rows, tokens, width)
        self.x = x.requires_grad_(True)  # as if there were something to train below
        self.wanted = [self.x, *contenders.trained(model)]
        with torch.no_grad():
            out = self.call(model, self.x)
        self.upstream = torch.randn(out.shape, generator=generator).to(*to) if out.dim() else None

    def forward(self):
        """One forward pass without autograd."""
        with torch.no_grad():
            return self.call(self.model, self.x)

    def training(self):
        """One forward and backward pass; gradients of x and of all that is trained."""
        return torch.autograd.grad(self.call(self.model, self.x), self.wanted, self.upstream)

    def kept_bytes(self):
        """Bytes that autograd keeps for the backward pass, without parameters and buffers."""
        frozen = [*self.model.parameters(), *self.model.buffers()]
        return kept_bytes(lambda: self.call(self.model, self.x), frozen)

    def peak_bytes(self):
        """Bytes that a training step takes at its peak on the GPU, weights left out; CPU: None."""
        if self.device != "cuda":
            return None
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

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # held, so that no other gets its address
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    total = sum(storage.nbytes() for storage in kept.values())
    del out
    return total


def _rounds(cases, which, budget, least_most):
    """{contender -> seconds of a step in each round}; rounds until `budget` seconds are over."""
    least, most = least_most
    timers = {
        key: Timer("step()", globals={"step": getattr(case, which)}, num_threads=machine.cores())
        for key, case in cases.items()
    }
    times = {key: [] for key in timers}
    order, shuffle = list(timers), random.Random(0).shuffle
    start = time.perf_counter()
    while len(times["limit", None]) < most:
        if len(times["limit", None]) >= least and time.perf_counter() - start >= budget:
            break
        shuffle(order)
        for key in order:  # the step that finds how many fit is each one's warm-up
            times[key].append(timers[key].blocked_autorange(min_run_time=BLOCK).median)
    return times


def save(result, folder):
    """Write `benchmarks.json`, whole or not at all."""
    text = json.dumps(result, indent=1)
    lists = re.compile(r"\[\s+([-+.\de,\s]+?)\s+\]")  # of numbers: each on one line
    text = lists.sub(lambda m: f"[{' '.join(m[1].split())}]", text)
    with fetch.aside(folder / "benchmarks.json") as part:
        part.write_text(text + "\n")


def load(folder):
    """The result that `save` wrote; ValueError, naming the file, if there is none."""
    path = folder / "benchmarks.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{path}: no whole benchmark ({error}); run `make bench`") from error
