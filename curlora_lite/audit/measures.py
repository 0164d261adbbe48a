"""What the audit reads off its records: measures of a run, means over seeds, pairs, equal gains."""

import itertools
import statistics
from dataclasses import dataclass

from .. import metrics
from ..tables import MODEL_LABELS


@dataclass(frozen=True)
class Measures:
    """One finished run. Sentiment140 counts by balanced rows where it was scored on them.

    learned: accuracy of each task right after its own stage, mean. acc: of all tasks at the end.
    forgetting: best earlier less last. ratio, nats: perplexity after over before, and its log.
    update: ||W_adapted||_F / ||W||_F at the end, mean over projections; None without an adapter.
    """

    seed: int
    learned: float
    acc: float
    forgetting: float
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
        ratio=after / before,
        nats=metrics.nats_lost(before, after),
        update=statistics.fmean(norms) if norms else None,
    )


def values(records, name):
    """seed -> one measure of every finished run."""
    found = [m for m in map(measures, records) if m is not None]
    return {m.seed: getattr(m, name) for m in found}


def difference(first, second, name):
    """`metrics.Paired` of a measure over the seeds that both have; None for fewer than two."""
    a, b = values(first, name), values(second, name)
    seeds = sorted(a.keys() & b.keys())
    if len(seeds) < 2:
        return None
    return metrics.paired([a[s] for s in seeds], [b[s] for s in seeds])


def mean(records, name):
    """Mean of a measure over the finished runs; None if there are none."""
    found = values(records, name).values()
    return statistics.fmean(found) if found else None


def place(cell):
    """Where a Condition was run: the model, and the paper's data if it was on these."""
    spec = cell.specs([0])[0]
    label = MODEL_LABELS[spec.model.name].removesuffix("-135M-Instruct")
    return label + (", paper's data" if spec.source == "paper" else "")


def at_equal_gain(sweep, gain, name):
    """What a method pays, in the measure `name`, where it has learned `gain`: seed -> value.

    sweep: {learning rate -> records}. For each seed the runs go by rising rate; between the first
    two neighbours whose `learned` accuracies lie on either side of `gain` (or on it) the measure is
    interpolated linearly. Seeds that never learn as much are left out.
    """
    rates = sorted(sweep)
    gains = {rate: values(sweep[rate], "learned") for rate in rates}
    costs = {rate: values(sweep[rate], name) for rate in rates}
    found = {}
    for seed in sorted({s for by_seed in gains.values() for s in by_seed}):
        points = [(gains[r][seed], costs[r][seed]) for r in rates if seed in gains[r]]
        for (low, paid), (high, pays) in itertools.pairwise(points):
            if low <= gain <= high and high > low:
                found[seed] = paid + (pays - paid) * (gain - low) / (high - low)
                break
    return found
