"""Accuracy of a task and perplexity of a text."""

import math

import datasets
import evaluate
import torch
from torch.nn import functional as F

from .training import features, pad

SCORING_BATCH = 64
LOGIT_CHUNK = 256  # tokens whose vocabulary logits are held at once


class Accuracy(evaluate.Metric):
    """Accuracy with what it takes to judge it: sample size, majority class, predicted classes.

    `compute(predictions=..., references=..., classes=k)` -> `accuracy`, `n`, `majority` (the share
    of the most frequent reference class) and `predicted` (how often each class was answered).
    """

    def _info(self):
        columns = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description="Accuracy beside the majority class and the predicted classes.",
            citation="",
            inputs_description="",
            features=datasets.Features(columns),
        )

    def _compute(self, predictions, references, classes):
        n = len(references)
        counts = [references.count(c) for c in range(classes)]
        return {
            "accuracy": sum(p == r for p, r in zip(predictions, references, strict=True)) / n,
            "n": n,
            "majority": max(counts) / n,
            "predicted": [predictions.count(c) for c in range(classes)],
        }


def predict(backbone, head, rows, pad_id):
    """Predicted classes of rows of token ids, in their order; read by length in large batches."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    predictions = [0] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), SCORING_BATCH):
            chosen = order[start : start + SCORING_BATCH]
            ids, lengths = pad([rows[i] for i in chosen], pad_id, head.weight.device)
            classes = head(features(backbone, ids, lengths)).argmax(-1).tolist()
            for i, predicted in zip(chosen, classes, strict=True):
                predictions[i] = predicted
    return predictions


def score_task(backbone, head, encoded, pad_id):
    """`Accuracy` of `head` on a task's encoded rows, as a dict."""
    predictions = predict(backbone, head, encoded.ids, pad_id)
    return Accuracy(keep_in_memory=True).compute(
        predictions=predictions, references=encoded.labels.tolist(), classes=head.out_features
    )


def perplexity(model, ids, window):
    """exp of the mean negative log-likelihood, in nats, of token ids (tokens,) under `model`.

    Read in consecutive windows of `window` tokens, each from a fresh context; the first token of a
    window has no prediction and is not scored. Returns `perplexity`, `tokens` (scored), `window`.
    Source: §6.2. Departure: the paper reads one window; more windows make small models' figure
    steadier.
    """
    model.eval()
    device = next(model.parameters()).device
    nats, tokens = 0.0, 0
    with torch.inference_mode():
        for part in ids.to(device).split(window):
            if len(part) < 2:
                continue
            hidden = model.base_model(input_ids=part[None], use_cache=False).last_hidden_state[0]
            pairs = zip(hidden[:-1].split(LOGIT_CHUNK), part[1:].split(LOGIT_CHUNK), strict=True)
            for states, targets in pairs:
                logits = model.lm_head(states).float()  # (T, vocabulary)
                nats += F.cross_entropy(logits, targets, reduction="sum").item()
            tokens += len(part) - 1
    mean = nats / tokens
    # a collapsed model's mean can be too large for exp
    return {
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
        "tokens": tokens,
        "window": window,
    }
