"""What a run reads: the rows and the text of its spec, as they are and as token ids."""

import math

import torch

from .. import training
from . import data, models


def digests(spec):
    """What a run of this spec would read now: (sha256 of the model, `data` of its record)."""
    read = {"text": text_digest(spec)}
    for task in spec.tasks:
        rows = examples(spec, task)
        read[task.name] = {part: data.digest(dataset) for part, dataset in rows.items()}
    return models.sha256(spec.model.name), read


def text_digest(spec):
    """part -> sha256 of the text that perplexity is measured on."""
    part = "tune" if spec.tune else "eval"
    return {part: data.digest_of_text(data.load_text(part, spec.source))}


def examples(spec, task):
    """part -> Dataset (see `RunSpec.parts`)."""
    return {
        name: data.load_task(task.name, part, rows, protocol=protocol, source=spec.source)
        for name, (part, rows, protocol) in spec.parts(task).items()
    }


def encoded(spec, task, loaded, digests):
    """A task's token ids: (those to train on, name -> those to score); sha256 into `digests`."""
    texts_of = examples(spec, task)
    digests[task.name] = {part: data.digest(rows) for part, rows in texts_of.items()}
    train, scored = None, {}
    for part, texts in texts_of.items():
        rows = training.encode(texts, loaded.tokenizer, spec.max_length, spec.protocol.separator)
        limits = (task.classes, *_limits(loaded.model))
        training.check_rows(rows, f"{task.name}, {part}", *limits)
        if part == "train":
            train = rows
        else:
            scored[task.name if part == "eval" else f"{task.name}, {part}"] = rows
    return train, scored


def _limits(model):
    """How many token ids there are, and the longest row: with learned positions, no more."""
    return model.get_input_embeddings().num_embeddings, model.config.max_position_embeddings


def text_ids(spec, loaded):
    """The text's token ids (tokens,), read and tokenised once a model."""
    key = ("ids", spec.source, spec.tune)
    if key not in loaded.memo:
        text = data.load_text("tune" if spec.tune else "eval", spec.source)
        ids = loaded.tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][0]
        whole = training.Encoded([ids.tolist()], torch.tensor([0]))
        training.check_rows(whole, "text", 1, _limits(loaded.model)[0], math.inf)
        loaded.memo[key] = ids
    return loaded.memo[key]
