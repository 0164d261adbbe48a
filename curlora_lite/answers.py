"""Prompts with their answers: rows of a task, token ids with the loss on the answer alone, scores.

Embedded: review sentences and their sentiment. The paper's profiles: SQuAD.
"""

import hashlib
import re
import string
from collections import Counter
from dataclasses import dataclass

from . import data, hub
from .checks import known, whole

IGNORED = -100  # the label of a token that is not in the loss
SENTIMENTS = ("negative", "positive")
TASKS = {"sst2": "sentiment of review sentences", "squad": "SQuAD"}


@dataclass(frozen=True)
class Row:
    """A prompt and the answers that count as right; the first one is trained on."""

    prompt: str
    answers: tuple


def rows(task, part, count, source="embedded"):
    """The first `count` Rows of a part (`train`, `eval`; embedded: `tune` too) of a task.

    Neighbours in SQuAD are of one article, so its rows are taken in the order of a hash.
    ValueError for an unknown task or part, or more rows than there are.
    """
    known("task", task, TASKS)
    whole("count", count, 1)
    if task == "sst2":
        found = data.load_task("sst2", part, count, source=source)
        pairs = zip(found["text"], found["label"], strict=True)
        return [Row(f"Review: {t}\nSentiment:", (SENTIMENTS[label],)) for t, label in pairs]
    known("part", part, ("train", "eval"))
    found = sorted(hub.questions(part), key=lambda row: hashlib.sha256(repr(row).encode()).digest())
    if count > len(found):
        raise ValueError(f"count: got {count}, expected at most {len(found)}, SQuAD's {part} rows")
    return [
        Row(f"Context: {context}\nQuestion: {question}\nAnswer:", tuple(answers))
        for context, question, answers in found[:count]
    ]


def prompt_ids(prompt, tokenizer, room):
    """Token ids of a prompt, cut to `room` at its beginning: the question is at its end."""
    return tokenizer(prompt)["input_ids"][-room:]


def answer_ids(answer, tokenizer):
    """Token ids of an answer as it follows a prompt: after a space, no start token."""
    return tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]


def encode(rows, tokenizer, max_length):
    """Rows -> dicts of `input_ids` and `labels`: prompt, answer, end token; the answer in the loss.

    labels: the ids again, `IGNORED` over the prompt (transformers shifts them). A row of more than
    `max_length` tokens loses the beginning of its prompt, never a part of its answer; ValueError if
    the answer leaves no room for a prompt.
    """
    encoded = []
    for row in rows:
        answer = [*answer_ids(row.answers[0], tokenizer), tokenizer.eos_token_id]
        room = max_length - len(answer)
        if room < 1:
            raise ValueError(
                f"max_length: got {max_length}, expected more than {len(answer)}, the tokens of "
                f"the answer {row.answers[0][:40]!r}"
            )
        prompt = prompt_ids(row.prompt, tokenizer, room)
        labels = [IGNORED] * len(prompt) + answer
        encoded.append({"input_ids": prompt + answer, "labels": labels})
    return encoded


def normalised(text):
    """Words of an answer in lower case, without punctuation and articles.

    Source: the evaluation of SQuAD (Rajpurkar et al. 2016).
    """
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def f1(answer, expected):
    """F1 of the words that two answers share, each counted as often as it occurs; 0 to 1."""
    ours, theirs = normalised(answer), normalised(expected)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


def score(answers, rows):
    """`exact` and `f1` (means; the best of a row's accepted answers), `n`, `majority`, `right`.

    majority: the share of rows that the most frequent first answer would get right. right: whether
    each answer is exactly one of the accepted ones, normalised. ValueError for no rows.
    """
    if not rows:
        raise ValueError("rows: got none, expected at least one")
    right = [
        normalised(a) in [normalised(accepted) for accepted in row.answers]
        for a, row in zip(answers, rows, strict=True)
    ]
    overlap = [max(f1(a, b) for b in row.answers) for a, row in zip(answers, rows, strict=True)]
    commonest = Counter(" ".join(normalised(row.answers[0])) for row in rows).most_common(1)[0][0]
    constant = [commonest in [" ".join(normalised(a)) for a in row.answers] for row in rows]
    n = len(rows)
    return {
        "exact": sum(right) / n,
        "f1": sum(overlap) / n,
        "n": n,
        "majority": sum(constant) / n,
        "right": right,
    }
