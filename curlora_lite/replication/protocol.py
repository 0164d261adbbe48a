"""The protocol: what the author's code did, what the text says, and any mixture of the two."""

import dataclasses
from dataclasses import dataclass

from .. import cur
from ..checks import known


@dataclass(frozen=True)
class Protocol:
    """The choices on which the author's code and the paper's text differ; one field each.

    weighting, replacement: how rows and columns are drawn (see `cur.Selection`).
    lora_init: `authors` (bound 1/sqrt(r)) or `usual` (bound 1/sqrt(in)).
    scaling: what multiplies the update, `alpha` or `alpha/r`.
    schedule: `records` (its length counts records, so training ends within the warm-up) or `steps`
        (10 % of the steps warm up, then a cosine to zero).
    shuffle: whether rows are put in a new seeded order each epoch.
    separator: whether the end token stands between the two texts of a pair.
    readout: where class logits are read from rows padded on the right: `last-position` (a padding
        token, in training and in Sentiment140's evaluation in batches of 128, which is where the
        author's code pads) or `last-token` everywhere. Models that pad on the left know no
        difference.
    labels: of Sentiment140: `sentiment//4` (0 -> 0, 2 -> 0, 4 -> 1) or `three` (4 -> 2, 2 -> 1).
    sentiment_eval: the rows that Sentiment140 is scored on: `first` (the first of a split sorted by
        label: all negative), `balanced` (as many negative as positive ones; the three-class score
        on held-out rows stands beside it) or `held-out` (rows of all three classes, as they come).
    perplexity: of the text's `first-tokens` in windows side by side, of the same in windows that
        overlap by `halves`, or of the `whole-text` in such windows of the model's context length.
    dropout: whether the model's own dropout is on in training.
    optimiser: whose AdamW: `transformers`' (its own class, since removed, adds epsilon before the
        bias correction: up to 32 times larger in the first steps) or `torch`'s.
    """

    weighting: str
    replacement: bool
    lora_init: str
    scaling: str
    schedule: str
    shuffle: bool
    separator: bool
    readout: str
    labels: str
    sentiment_eval: str
    perplexity: str
    dropout: bool
    optimiser: str

    def __post_init__(self):
        for field, (_, _, choices) in SWITCHES.items():
            known(field, getattr(self, field), choices)

    @classmethod
    def parse(cls, text):
        """From `published`, `corrected`, or either with changes: `published,readout=last-token`.

        Published is what the author's code did, which is where the paper's tables come from;
        corrected what the paper's text says or, where it is silent, good practice asks.
        ValueError, naming what is known, for an unknown name, field or value.
        """
        name, *changes = str(text).split(",")
        known("protocol", name, NAMED)
        values = {field: switch[NAMED.index(name)] for field, switch in SWITCHES.items()}
        for change in changes:
            field, _, value = change.strip().partition("=")
            known("protocol field", field, SWITCHES)
            spelled = {str(choice).lower(): choice for choice in SWITCHES[field][2]}
            known(field, value.lower(), spelled)
            values[field] = spelled[value.lower()]
        return cls(**values)

    def name(self):
        """`published`, `corrected`, or the nearer of the two with the fields that differ."""
        own, nearest = dataclasses.asdict(self), []
        for place, name in enumerate(NAMED):
            changed = [f"{f}={own[f]}" for f in own if own[f] != SWITCHES[f][place]]
            nearest.append([name, *changed])
        return ", ".join(min(nearest, key=len))


NAMED = ("published", "corrected")
BOTH = (True, False)
# field, in the order of the class: (published, corrected, all that it may be)
SWITCHES = {
    "weighting": ("smoothed", "inverted", cur.WEIGHTINGS),
    "replacement": (True, False, BOTH),
    "lora_init": ("authors", "usual", ("authors", "usual")),
    "scaling": ("alpha", "alpha", ("alpha", "alpha/r")),
    "schedule": ("records", "steps", ("records", "steps")),
    "shuffle": (False, True, BOTH),
    "separator": (False, True, BOTH),
    "readout": ("last-position", "last-token", ("last-position", "last-token")),
    "labels": ("sentiment//4", "three", ("sentiment//4", "three")),
    "sentiment_eval": ("first", "balanced", ("first", "balanced", "held-out")),
    "perplexity": ("first-tokens", "whole-text", ("first-tokens", "halves", "whole-text")),
    "dropout": (True, False, BOTH),
    "optimiser": ("transformers", "torch", ("transformers", "torch")),
}
