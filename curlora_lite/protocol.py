"""The protocol: what the author's code did, what the text says, and any mixture of the two."""

from dataclasses import dataclass

from . import cur


def known(name, value, choices):
    """ValueError, naming the choices, unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(str, choices))}")


def whole(name, value, least):
    """ValueError unless `value` is a whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: got {value!r}, expected a whole number of {least} or more")


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
    readout: where class logits are read in training: `last-position` (a padding token, where a
        model pads on the right) or `last-token`. Evaluation always reads the last real token.
    dropout: whether the model's own dropout is on in training.
    """

    weighting: str
    replacement: bool
    lora_init: str
    scaling: str
    schedule: str
    shuffle: bool
    separator: bool
    readout: str
    dropout: bool

    def __post_init__(self):
        known("weighting", self.weighting, cur.WEIGHTINGS)
        known("lora_init", self.lora_init, ("authors", "usual"))
        known("scaling", self.scaling, ("alpha", "alpha/r"))
        known("schedule", self.schedule, ("records", "steps"))
        known("readout", self.readout, ("last-position", "last-token"))

    @classmethod
    def published(cls):
        """What the author's code did, which is where the paper's tables come from."""
        return cls(
            weighting="smoothed",
            replacement=True,
            lora_init="authors",
            scaling="alpha",
            schedule="records",
            shuffle=False,
            separator=False,
            readout="last-position",
            dropout=True,
        )

    @classmethod
    def corrected(cls):
        """What the paper's text says or, where it is silent, good practice asks."""
        return cls(
            weighting="inverted",
            replacement=False,
            lora_init="usual",
            scaling="alpha",
            schedule="steps",
            shuffle=True,
            separator=True,
            readout="last-token",
            dropout=False,
        )
