"""The audit as a whole: its answers, how large models and runs are, and what it took."""

from .. import memory
from ..tables import Table
from . import tables, words
from .measures import place


def answers(found):
    """What the runs say to each question that has any."""
    rows = tuple(
        (str(i), words.ALL[question](found[question]))
        for i, question in enumerate(tables.ALL, 1)
        if tables.has_results(question, found.get(question, {}))
    )
    return Table("The seven questions, answered", ("", "What follows"), rows, left=(0, 1))


def sizes(found):
    """How large models and runs are, by model and data."""
    specs = {}
    for cells in found.values():
        for cell, runs in cells.items():
            if runs and cell.rate is None:
                specs.setdefault(place(cell), cell.specs([0])[0])
    rows = []
    for where, spec in specs.items():
        parameters, layers, *_ = memory.SHAPES[spec.model.name]
        by_task = [
            [str(getattr(t, name)) for t in spec.tasks] for name in ("train_rows", "eval_rows")
        ]
        rows.append(
            (
                where,
                f"{parameters:,}",
                str(layers),
                *(" / ".join(rows_) for rows_ in by_task),
                " / ".join(str(spec.steps(task)) for task in spec.tasks),
                str(spec.batch),
                f"{spec.learning_rate:g}",
                f"{spec.text_tokens:,}",
            )
        )
    columns = (
        "", "Parameters", "Layers", "Rows trained on", "Rows scored", "Optimiser steps", "Batch",
        "Learning rate", "Tokens of perplexity",
    )  # fmt: skip
    notes = (
        "By task: MRPC, SST-2 and Sentiment140, or what stands in for them; rows of each epoch, "
        "steps of all. As published; tokens: where the protocol does not read the whole text.",
    )
    return Table("Models and sizes", columns, tuple(rows), notes)


def compute(found):
    """What the audit's runs took: by model and data, runs, seeds, hours and device."""
    by = {}
    for cells in found.values():
        for cell, runs in cells.items():
            by.setdefault(place(cell), {}).update({(cell, r.spec["seed"]): r for r in runs})
    rows = []
    for where, runs in by.items():
        records = list(runs.values())
        seeds = sorted({r.spec["seed"] for r in records})
        rows.append(
            (
                where,
                str(len(records)),
                ", ".join(map(str, seeds)),
                str(sum(r.status == "diverged" for r in records)),
                f"{sum(r.seconds for r in records) / 3600:.1f}",
                ", ".join(sorted({r.provenance["device"] for r in records})),
                _ten(records, "commit"),
                _ten(records, "code"),
            )
        )
    columns = ("", "Runs", "Seeds", "Diverged", "Hours, all runs", "Device", "Commit", "Code")
    notes = (
        "Hours: of one process each, others beside it; they can be longer than alone. Code: the "
        "version of what computes numbers; a dash: the record is older than such versions.",
    )
    return Table("What the audit took", columns, tuple(rows), notes, left=(0, 2, 5, 6, 7))


def _ten(runs, name):
    """What the runs' provenance has under a name, ten digits each."""
    found = {str(run.provenance.get(name) or "–")[:10] for run in runs}
    return ", ".join(sorted(found))
