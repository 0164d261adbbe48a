"""What the audit reads off its records: measures of a run, means over seeds, pairs, prices."""

import math
import statistics
from dataclasses import dataclass

from .. import metrics, training
from ..tables import MODEL_LABELS

COLLAPSED = 2.0  # times the perplexity before


@dataclass(frozen=True)
class Measures:
    """One finished run. Sentiment140 counts by balanced rows where it was scored on them.

    learned: accuracy of each task right after its own stage, mean. acc: of all tasks at the end.
    forgetting: best earlier less last. bwt: last less right after. ratio, nats: perplexity after
    over before, and its log.
    update: ||W_adapted||_F / ||W||_F at the end, mean over projections; None without an adapter.
    """

    seed: int
    learned: float
    acc: float
    forgetting: float
    bwt: float
    ratio: float
    nats: float
    update: float | None


def measures(record):
    """The `Measures` of a finished record; None for one that diverged."""
    if record.status != "finished":
        return None
    R = metrics.score_matrix(record, balanced=True)
    before, after = record.initial_perplexity(), record.final_perplexity()
    norms = record.stages[-1]["norms"].values()
    return Measures(
        seed=record.spec["seed"],
        learned=metrics.plasticity(R),
        acc=metrics.average_accuracy(R),
        forgetting=metrics.forgetting(R),
        bwt=metrics.backward_transfer(R),
        ratio=after / before,
        nats=metrics.nats_lost(before, after),
        update=statistics.fmean(norms) if norms else None,
    )


def values(records, name):
    """seed -> one measure of every finished run that has it."""
    found = [m for m in map(measures, records) if m is not None]
    return {m.seed: getattr(m, name) for m in found if getattr(m, name) is not None}


def pair(first, second):
    """`metrics.Paired` of two {seed: value} over the seeds that both have; None for fewer than two.

    Never of different seeds: what one lacks, both do without.
    """
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return None
    return metrics.paired([first[s] for s in seeds], [second[s] for s in seeds])


def difference(first, second, name):
    """`pair` of a measure of two lists of records."""
    return pair(values(first, name), values(second, name))


def mean(records, name):
    """Mean of a measure over the finished runs; None if there are none."""
    found = values(records, name).values()
    return statistics.fmean(found) if found else None


def place(cell):
    """Where a Condition was run: the model, and the paper's data if it was on these."""
    spec = cell.specs([0])[0]
    label = MODEL_LABELS[spec.model.name].removesuffix("-135M-Instruct")
    return label + (", paper's data" if spec.source == "paper" else "")


def at(found, where):
    """The cells of one model and data, by its name in tables (see `place`)."""
    return {cell: runs for cell, runs in found.items() if place(cell) == where}


def done(records):
    """Those that finished."""
    return [record for record in records if record.status == "finished"]


def lora_sweeps(found):
    """(initialisation, scaling) -> {learning rate -> records}, of question 2's sweep of LoRA."""
    sweeps = {}
    for cell, runs in found.items():
        if cell.rate is not None:
            choice = cell.protocol.lora_init, cell.protocol.scaling
            sweeps.setdefault(choice, {})[cell.rate] = runs
    return {choice: dict(sorted(sweep.items())) for choice, sweep in sorted(sweeps.items())}


def applied_rates(task, batch, schedule):
    """The share of the nominal learning rate at every optimiser step of a task, in order."""
    steps = task.epochs * -(-task.train_rows // batch)
    return [training.rate(step, steps, task.peak, schedule) for step in range(steps)]


def best_rate(sweep):
    """The rate of {rate: records} whose mean over seeds of `learned` is highest.

    Among the rates that most seeds have finished, so that means are over the same ones.
    ValueError if no run has finished.
    """
    found = {rate: values(runs, "learned") for rate, runs in sweep.items()}
    most = max(map(len, found.values()), default=0)
    if not most:
        raise ValueError("sweep: got no finished run, expected at least one")
    whole = {rate: by_seed for rate, by_seed in found.items() if len(by_seed) == most}
    return max(whole, key=lambda rate: statistics.fmean(whole[rate].values()))


def least_paid(sweep, floor, name):
    """The least of a measure among a method's rates that learn at least so much: seed -> value.

    sweep: {rate: records}. floor: {seed: the `learned` accuracy asked of it}. Seeds of which no
    rate learns as much are left out, to be counted by the caller.
    """
    learned = {rate: values(runs, "learned") for rate, runs in sweep.items()}
    paid = {rate: values(runs, name) for rate, runs in sweep.items()}
    found = {}
    for seed, asked in floor.items():
        # 1e-9: sums of rounded shares
        there = [r for r in sweep if learned[r].get(seed, -math.inf) >= asked - 1e-9]
        if there:
            found[seed] = min(paid[r][seed] for r in there)
    return found
