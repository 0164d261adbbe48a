"""The embedded source of tasks and text: the ICWSM 2014 corpus.

The corpus (Hutto & Gilbert 2014) rates short texts from -4 (most negative) to 4. Its four files
stand in for the paper's data sets:

- `mrpc`: two snippets of Amazon reviews, from the same review (label 1) or not (0), two thirds same
- `sst2`: movie review sentences, negative (0) or positive (1)
- `sentiment140`: tweets, negative (0), neutral (2) or positive (4)
- `text`: New York Times editorials as running text, for perplexity

Every row belongs to one of three parts: `eval` (scored and reported), `tune` (sizes and learning
rates were chosen on it) and `train`. The part depends on a hash of the review, article or text
alone, so it never changes and a group is never split. (Four commonplaces such as "yes." occur in
several reviews, and so on both sides.)
"""

import functools
import hashlib
import html
import tarfile

from ..checks import known
from .fetch import fetch

PARTS = ("train", "tune", "eval")
SHARES = {"eval": 0.25, "tune": 0.15}  # the rest is for training
NEGATIVE, POSITIVE = -0.5, 0.5  # ratings between them are neutral
LABELS = {"sst2": (0, None, 1), "sentiment140": (0, 2, 4)}  # of negative, neutral, positive
PAIR_WORDS = (4, 20)  # shortest and longest snippet of a pair, in words

FILES = {"mrpc": "amazonReviewSnippets", "sst2": "movieReviewSnippets"}
FILES |= {"sentiment140": "tweets", "text": "nytEditorialSnippets"}


def examples(task, part, sentiment_eval="held-out"):
    """(text, pair or None, label) rows of one part of a task, in a fixed order (see `data`).

    `held-out` is the evaluation part: nothing of it is ever trained on. `sentiment_eval` changes
    nothing here but for `data`'s choice of rows.
    """
    part = "eval" if part == "held-out" else part
    return _pairs(part) if task == "mrpc" else _sentences(task, part)


def text(part):
    """The editorials of one part as one string: sentences in order, an empty line per article."""
    known("part", part, PARTS)
    return "\n\n".join(map(" ".join, _groups("text", part).values()))


def part_of(key):
    """The part that a group (a review, an article, a text) belongs to, from its hash alone."""
    place = _hash(key) / 2**64
    if place < SHARES["eval"]:
        return "eval"
    return "tune" if place < SHARES["eval"] + SHARES["tune"] else "train"


def _hash(key):
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


@functools.cache
def _read(task):
    """Rows (id, rating, text) of one file of the corpus, in the file's order."""
    name = f"hutto_ICWSM_2014/{FILES[task]}_GroundTruth.txt"
    with tarfile.open(fetch("icwsm2014")) as archive:
        lines = archive.extractfile(name).read().decode("utf-8").split("\r\n")
    rows = [line.split("\t") for line in lines if line]
    # the corpus escaped some of its texts twice (&amp;amp;)
    clean = (html.unescape(html.unescape(text)).strip() for _, _, text in rows)
    return [(row[0], float(row[1]), text) for row, text in zip(rows, clean, strict=True)]


def _groups(task, part):
    """{review or article: its texts} of one part, in the file's order."""
    groups = {}
    for row_id, _, text in _read(task):  # ids are review_snippet and article_sentence
        groups.setdefault(row_id.split("_")[0], []).append(text)
    return {name: texts for name, texts in groups.items() if part_of(f"{task}/{name}") == part}


@functools.cache
def _sentences(task, part):
    """(text, None, label) rows in the order of their hashes, each text once."""
    rows, (negative, neutral, positive) = {}, LABELS[task]
    for _, rating, text in _read(task):
        key = text.lower()  # so that repeated texts stay together
        if part_of(f"{task}/{key}") == part:
            label = negative if rating <= NEGATIVE else positive if rating >= POSITIVE else neutral
            rows.setdefault(key, (text, None, label))
    examples = sorted(rows.values(), key=lambda row: _hash(row[0]))
    return [row for row in examples if row[2] is not None]


@functools.cache
def _pairs(part):
    """(text, pair, label) rows: neighbouring snippets of a review, a third of them re-paired.

    Every third pair gives its second snippet to the next such pair of another review, so that
    first and second snippets have the same distribution under both labels.
    """
    shortest, longest = PAIR_WORDS
    pairs = []
    for review, texts in _groups("mrpc", part).items():
        texts = [text for text in texts if shortest <= len(text.split()) <= longest]
        pairs += [(review, *pair) for pair in zip(texts[::2], texts[1::2], strict=False)]
    pairs.sort(key=lambda pair: _hash(pair[1] + pair[2]))
    apart = list(range(0, len(pairs), 3))
    examples = [(first, second, 1) for _, first, second in pairs]
    for place, here in enumerate(apart):
        others = apart[place + 1 :] + apart[:place]
        donor = next(i for i in others if pairs[i][0] != pairs[here][0])
        examples[here] = (pairs[here][1], pairs[donor][2], 0)
    # the re-paired rows stand at every third place: put all in an order that says nothing
    return sorted(examples, key=lambda row: _hash(f"{row[1]}/{row[0]}"))
