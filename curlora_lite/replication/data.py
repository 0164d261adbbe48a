"""The tasks and the text as a run reads them: from the embedded corpus or the paper's own data.

Both sources give `examples(task, part, sentiment_eval)`: (text, pair or None, label) rows in a
fixed order, where Sentiment140's label is the rating 0 (negative), 2 (neutral) or 4 (positive); and
`text(part)`. What the protocol says of its labels and evaluation rows is done here, for either.
"""

import hashlib
import json

from datasets import Dataset

from ..checks import known, whole
from . import corpus, hub
from .protocol import Protocol

TASKS = ("mrpc", "sst2", "sentiment140")
SOURCES = {"embedded": corpus, "paper": hub}
PARTS = ("train", "tune", "eval", "held-out")


def load_task(task, part, rows=None, *, protocol=None, source="embedded"):
    """The first `rows` rows (all, if None) of one part of a task, in a fixed order.

    part: `train`, `eval`, `tune` (sizes and rates are chosen on it) or `held-out` (Sentiment140:
    three classes, not trained on). protocol: its `labels` and `sentiment_eval` are used; None for
    three labels and held-out rows. Returns a Dataset with columns `text`, `pair`
    (None for single texts) and `label`.
    ValueError for an unknown task, part or source, or more rows than there are.
    """
    known("task", task, TASKS)
    known("part", part, PARTS)
    known("source", source, SOURCES)
    protocol = protocol or Protocol.parse("corrected,sentiment_eval=held-out")
    examples = SOURCES[source].examples(task, part, protocol.sentiment_eval)
    if task == "sentiment140":
        if part in ("eval", "tune"):
            examples = _evaluation_rows(examples, rows, protocol.sentiment_eval)
        # held out: the three-class score, whatever the labels trained on
        by = 4 if protocol.labels == "sentiment//4" and part != "held-out" else 2
        examples = [(text, pair, sentiment // by) for text, pair, sentiment in examples]
    if rows is not None:
        if whole("rows", rows, 1) > len(examples):
            there = f"{len(examples)}, all {part} rows of {task}"
            raise ValueError(f"rows: got {rows}, expected at most {there}")
        examples = examples[:rows]
    columns = zip(*examples, strict=True)
    return Dataset.from_dict(dict(zip(("text", "pair", "label"), map(list, columns), strict=True)))


def _evaluation_rows(examples, rows, choice):
    """Sentiment140's evaluation rows as the protocol chooses them (see `Protocol`)."""
    if choice == "first":
        return sorted(examples, key=lambda row: row[2])  # stable; the real split is sorted already
    if choice == "held-out":
        return examples
    sides = [[row for row in examples if row[2] == sentiment] for sentiment in (0, 4)]
    half = min(len(sides[0]), len(sides[1]), (rows or len(examples)) // 2)
    return [row for pair in zip(*(side[:half] for side in sides), strict=True) for row in pair]


def load_text(part, source="embedded"):
    """Running text for perplexity, as one string."""
    known("source", source, SOURCES)
    return SOURCES[source].text(part)


def digest(dataset):
    """Hex sha256 of a Dataset's rows: what a record names its data by."""
    return hashlib.sha256(json.dumps(dataset.to_list()).encode()).hexdigest()


def digest_of_text(text):
    """Hex sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def origins(source):
    """Where the data of a source come from: one dict a repository, for a record."""
    if source == "embedded":
        return [{"source": "embedded"}]
    return [hub.origin(repository) for repository in hub.DATASETS]
