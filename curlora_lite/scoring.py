"""Accuracy of a task and perplexity of a text."""

import contextlib
import math

import torch
from torch.nn import functional as F

from .modules import unwrapped
from .training import DivergedError, by_length, padded_features

PUBLISHED_BATCH = 128  # of Sentiment140's evaluation in the author's code
LONG_WINDOW = 1024  # tokens; longer ones are read twice as fast by sdpa, in less memory
LOGIT_CHUNK = 256  # tokens whose vocabulary logits are held at once


def accuracy(predictions, references, classes):
    """Accuracy with what it takes to judge it, as a dict.

    predictions, references: class numbers, one a row. `accuracy`, `n` (rows), `majority` (the share
    of the most frequent reference class) and `predicted` (how often each class was answered).
    ValueError for no rows.
    """
    n = len(references)
    if not n:
        raise ValueError("references: got none, expected at least one row")
    counts = [references.count(c) for c in range(classes)]
    return {
        "accuracy": sum(p == r for p, r in zip(predictions, references, strict=True)) / n,
        "n": n,
        "majority": max(counts) / n,
        "predicted": [predictions.count(c) for c in range(classes)],
    }


def predict(backbone, head, rows, pad_id, last_position=False, read=None):
    """Predicted classes of rows of token ids, in their order; read by length in large batches.

    last_position: in batches of 128 in their own order, class logits read at position -1 of rows
    padded on the right, which is how the author's code scores Sentiment140 with GPT-2. read: lists
    of ids -> fp32 (B, D), in place of `features` of padded rows.
    """
    with torch.inference_mode():
        if last_position:
            parts = [rows[i : i + PUBLISHED_BATCH] for i in range(0, len(rows), PUBLISHED_BATCH)]
            found = torch.cat([padded_features(backbone, part, pad_id, True) for part in parts])
        else:
            found = by_length(read or (lambda part: padded_features(backbone, part, pad_id)), rows)
        return head(found).argmax(-1).tolist()


def score_task(backbone, head, encoded, pad_id, last_position=False):
    """`accuracy` of `head` on a task's encoded rows, as a dict (see `predict`)."""
    predictions = predict(backbone, head, encoded.ids, pad_id, last_position)
    return accuracy(predictions, encoded.labels.tolist(), head.out_features)


def perplexity(model, ids, window, stride=None):
    """exp of the mean negative log-likelihood, in nats, of token ids (tokens,) under `model`.

    stride None: read in consecutive windows of `window` tokens, each from a fresh context; the
    first token of a window has no prediction and is not scored. Otherwise windows begin `stride`
    tokens apart, and each scores the tokens that no earlier one has, all but the text's first.
    model: a causal language model, adapted by us or by PEFT or not at all; without dropout here,
    and in the modes it was in afterwards.
    Returns `perplexity` (exp(700) at most: a collapsed model could exceed what a float holds),
    `tokens` (scored), `window`. ValueError for a window or a text of fewer than two tokens, or a
    stride above the window; DivergedError if the model answers with numbers that are not finite.
    Source: section 6.2. Departure: the paper reads one window; more windows make small models'
    figure steadier.
    """
    if min(window, len(ids)) < 2 or not 1 <= (stride or 1) <= window:
        said = f"window: got {window}, stride {stride}, for a text of {len(ids)} tokens, "
        raise ValueError(said + "expected 2 or more of both, and no stride above the window")
    model = unwrapped(model)
    there = (p.device for p in model.parameters() if not p.is_meta)
    device = next(there, ids.device)  # all elsewhere: accelerate's hooks bring what is needed
    nats, tokens, done = 0.0, 0, 1
    with torch.inference_mode(), _evaluating(model), _frugal_attention(model, window):
        for start in range(0, len(ids) - 1, stride or window):
            end = min(start + window, len(ids))
            first = start + 1 if stride is None else max(done, start + 1)
            if end <= first:
                continue
            part = ids[start:end].to(device)
            read = first - start
            for logits in _logits(model, part, read):
                targets = part[read : read + len(logits)].to(logits.device)
                nats += F.cross_entropy(logits.float(), targets, reduction="sum").item()
                read += len(logits)
            tokens, done = tokens + end - first, end
    mean = nats / tokens
    if not math.isfinite(mean):
        raise DivergedError(f"perplexity: the mean log-likelihood is {mean}")
    return {"perplexity": math.exp(min(mean, 700.0)), "tokens": tokens, "window": window}


def _logits(model, ids, first):
    """Yield the model's own logits (T, vocabulary) for ids[first:], `LOGIT_CHUNK` at most at once.

    Its `forward` does more than its head: it may scale or cap what the head says. So the text's
    states are read once, and each part of them answers in place of those of a single token.
    """
    asked = {"input_ids": ids[None], "use_cache": False}
    # PEFT's may hold a prompt, which only the whole reads; one kept elsewhere is slow to read twice
    if not hasattr(model, "peft_config") and not any(p.is_meta for p in model.parameters()):
        states = model.base_model(**asked).last_hidden_state[:, first - 1 : -1]
        parts = [*states.split(LOGIT_CHUNK, dim=1)][::-1]

        def answer(backbone, given, out):
            out["last_hidden_state"] = parts.pop()
            return out

        with model.base_model.register_forward_hook(answer):
            for left in range(len(parts), 0, -1):
                logits = model(input_ids=ids[None, :1], use_cache=False).logits[0]
                if len(parts) == left:  # its forward goes past the backbone's
                    break
                yield logits
            else:
                return
    yield model(**asked).logits[0][-len(ids) :][first - 1 : -1]


@contextlib.contextmanager
def _evaluating(model):
    """Evaluation mode; each module is then in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _frugal_attention(model, window):
    """Attention that never holds a window's square of scores, where the window is long."""
    usual = model.config._attn_implementation
    if window <= LONG_WINDOW or usual == "sdpa":
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
