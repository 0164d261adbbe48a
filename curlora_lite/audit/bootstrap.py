"""Intervals over seeds and evaluation rows, from which rows each run got right."""

import functools

import numpy as np

from .. import continual, data, grids, metrics
from ..profiles import RunSpec


def accuracy_interval(first, second):
    """95 % (low, high) of the difference in ACC, seeds and rows drawn anew; None where not known.

    first, second: records of two methods; `metrics.two_level_interval` over the seeds of both.
    None for fewer than two seeds, and for the paper's data, whose labels a clone does not have.
    """
    a, b = ({r.spec["seed"]: r for r in runs if r.status == "finished"} for runs in (first, second))
    seeds = sorted(a.keys() & b.keys())
    if len(seeds) < 2 or any(run.spec["source"] != "embedded" for run in (*first, *second)):
        return None
    ours, theirs = ([right(runs[s]) for s in seeds] for runs in (a, b))
    return metrics.two_level_interval(
        [
            np.stack([x[task].astype(float) - y[task] for x, y in zip(ours, theirs, strict=True)])
            for task in ours[0]
        ]
    )


def right(record):
    """task -> whether each row was answered rightly at the end (rows,), a finished record's.

    Sentiment140 by balanced rows where there are any, as in `measures`. ValueError if the rows that
    are there now are not those that were scored.
    """
    scores, found = record.stages[-1]["scores"], {}
    shared = grids.what_is_read(RunSpec.from_dict(record.spec))
    for stage in record.stages:
        task = stage["task"]
        beside = task == "sentiment140" and metrics.BALANCED in scores
        score = scores[metrics.BALANCED if beside else task]
        answers = np.frombuffer(score["answers"].encode(), np.uint8) - ord("0")
        part = "balanced" if beside else "eval"
        truth, digest = labels(shared, task, part)
        if digest != record.data[task][part]:
            raise ValueError(f"{task}: the rows that were scored are not those that are here")
        found[task] = answers == truth
    return found


@functools.cache
def labels(spec, task, part):
    """(labels (rows,), sha256 of the rows) of one part of a task, as a run of this spec has it."""
    (found,) = (t for t in spec.tasks if t.name == task)
    rows = continual._examples(spec, found)[part]
    return np.array(rows["label"]), data.digest(rows)
