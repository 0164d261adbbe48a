"""Records with made-up numbers that a reader can work out, and the committed ones."""

import linecache
from pathlib import Path

import nbformat

from curlora_lite.replication import conclusions, profiles, records

TASKS = ("mrpc", "sst2", "sentiment140")
MAJORITY = {"mrpc": 0.68, "sst2": 0.51, "sentiment140": 1.0, "sentiment140, balanced": 0.5}


def record(spec, R, text, *, balanced=None, answered=80, status="finished", seconds=10.0):
    """A RunRecord of 100 rows a score. R: accuracies after each stage; text: perplexities.

    balanced: the accuracy beside Sentiment140's. answered: rows that got the most frequent answer.
    """
    scored = [dict(zip(TASKS, row, strict=False)) for row in R]
    if balanced is not None:
        scored[-1]["sentiment140, balanced"] = balanced
    made = records.RunRecord(spec.to_dict(), version=3, status=status, seconds=seconds)
    for i, scores in enumerate(scored, 1):
        losses = [9.0, 9.0, 9.0, 9.0, 1.0, 2.0]  # of three epochs
        stage = {"task": TASKS[i - 1], "scores": {}, "norms": {}}
        stage["training"] = {"losses": losses, "last_rate": 0.1 * i, "steps": 6}
        if spec.method != "head-only":
            stage["norms"] = {"q_proj": 0.01 * i, "v_proj": 0.03 * i}
        for task, accuracy in scores.items():
            shares = {"accuracy": accuracy, "n": 100, "majority": MAJORITY[task]}
            stage["scores"][task] = {**shares, "predicted": [100 - answered, answered]}
        made.stages.append(stage)
    tokens = {"initial": 8191, "final": 8191}
    for when, value in zip(tokens, text, strict=False):
        made.perplexity[when] = {"perplexity": value, "tokens": tokens[when]}
    made.trainable = {} if spec.method == "head-only" else {"adapter": 64}
    made.provenance = {"device": "a machine", "commit": "0123456789abcdef", "workspace": "w"}
    return made


def two_seeds(profile="smollm2", table="table1"):
    """Head only, LoRA-8 and CURLoRA-8 with two seeds; LoRA's second diverged in its second task."""
    specs = profiles.grid(profile, table, ranks=[8], seeds=[0, 1], precision="fp32")
    frozen = [[0.60], [0.60, 0.70], [0.60, 0.70, 0.90]]
    return [
        record(specs[0], frozen, (20.0, 20.0), balanced=0.5, answered=96, seconds=10.0),
        record(specs[1], [[0.70], [0.60, 0.90], [0.40, 0.80, 0.92]], (20.0, 60.0), balanced=0.6,
               seconds=30.0),
        record(specs[2], [[0.62], [0.63, 0.70], [0.64, 0.74, 0.90]], (20.0, 21.0), balanced=0.52,
               seconds=10.0),
        record(specs[3], frozen, (20.0, 20.0), balanced=0.5, answered=94, seconds=20.0),
        record(specs[4], [[0.30]], (20.0,), status="diverged", answered=100, seconds=500.0),
        record(specs[5], [[0.66], [0.63, 0.72], [0.62, 0.76, 0.94]], (20.0, 29.0), balanced=0.52,
               seconds=20.0),
    ]  # fmt: skip


def committed_records(results, profile, table):
    """The records of a profile's own grid as they are committed (see `conftest.committed`)."""
    return [records.find(spec, results) for spec in profiles.grid(profile, table, fast="bf16")]


def committed_sentences(results, profile, notebook):
    """What a notebook's sentences say in its executed copy as it is committed."""
    book = nbformat.read(results / profile / "notebooks" / f"{notebook}.ipynb", 4)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    shown = [output.data for output in outputs if output.output_type == "display_data"]
    return [data["text/markdown"] for data in shown if "text/markdown" in data]


def sentences(patch, notebook, **parameters):
    """What a notebook's sentences and assertions show, its cells run here with parameters."""
    shown, scope = [], {}
    patch.setattr(conclusions, "display", lambda text: shown.append(text.data))
    path = Path(__file__).parents[1] / "notebooks" / f"{notebook}.ipynb"
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            # `holds` shows the source of the line that failed
            linecache.cache[cell.id] = (0, None, cell.source.splitlines(), cell.id)
            exec(compile(cell.source, cell.id, "exec"), scope)
            if "parameters" in cell.metadata.get("tags", []):
                assert parameters.keys() <= scope.keys()
                scope |= parameters
    return shown
