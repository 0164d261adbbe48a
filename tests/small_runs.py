"""Made-up texts, a tokenizer and cut-down specs: runs that take a fraction of a second."""

import dataclasses

import torch
from datasets import Dataset

from curlora_lite import profiles


class WordTokenizer:
    """One id per word, by the sum of its letters."""

    eos_token_id = pad_token_id = 0

    def __call__(self, text, return_tensors=None, verbose=True):
        ids = [1 + sum(map(ord, word)) % 63 for word in text.split()]
        return {"input_ids": torch.tensor([ids]) if return_tensors else ids}


def fake_task(task, part, rows, protocol=None, source=None):
    rows = rows or 10
    words = ["good", "bad", "so", "very", "film", "phone", "news"]
    classes = 3 if task == "sentiment140" else 2
    texts = [" ".join(words[(i * k) % 7] for k in range(1, 4 + i % 5)) for i in range(rows)]
    labels = [i % classes for i in range(rows)]
    pairs = [f"{part} {t}" for t in texts] if task == "mrpc" else [None] * rows
    return Dataset.from_dict({"text": texts, "pair": pairs, "label": labels})


def small(spec, **changes):
    """The same spec, cut to a few rows."""
    tasks = tuple(dataclasses.replace(t, train_rows=12, eval_rows=10, epochs=1) for t in spec.tasks)
    changes = {"text_tokens": 60, "text_window": 20, "batch": 4, **changes}
    return dataclasses.replace(spec, tasks=tasks, **changes)


def small_grid(table="table1", **chosen):
    return [small(s) for s in profiles.grid("embedded", table, **{"ranks": [4], **chosen})]
