"""The audit's plan: which runs each question about the paper's claims needs. Plain data.

A `Condition` is one cell of a study: a method under a protocol at a learning rate, run once a
seed. Conditions of different studies that are the same share their runs. Questions are issue-like:
`head-only`, `collapse`, `sentiment`, `schedule`, `selection`, `movement`, `factors`.
"""

import dataclasses
from dataclasses import dataclass

from .. import models, profiles, provenance, records
from ..protocol import CHOICES, Protocol

RANK = 16
# six learning rates over three decades, for the sweeps; what trains few numbers needs larger ones
RATES = (1e-4, 4e-4, 1.6e-3, 6.3e-3, 2.5e-2, 1e-1)
FEW = {"curlora": 10, "vera": 10}
MOVED = RATES[2:5]  # times FEW: where CURLoRA moves the weights, for the rules of drawing
REAL = "smollm2"  # the profile on the paper's data
MOVERS = ("lora", "curlora", "full", *profiles.BESIDE[1:])  # whose frontier is drawn
INITS = {"authors": "author's init", "usual": "usual init"}  # LoRA's, as tables call them
SCORED = {"sentiment_eval", "perplexity"}  # switches of the scores, not of the training
# switches that mean nothing to a model: SmolLM2 pads on the left and has no dropout
UNTOUCHED = {profiles.SMOLLM2.name: {"readout", "dropout"}}


@dataclass(frozen=True)
class Condition:
    """One cell of a study. rate: of the optimiser; None for the profile's own."""

    profile: str
    table: str
    method: str
    protocol: Protocol
    rank: int | None = RANK
    rate: float | None = None

    def specs(self, seeds):
        """Its RunSpecs, one a seed."""
        fast = models.fast_precision()
        ranks = [self.rank or RANK]
        chosen = {"methods": [self.method], "ranks": ranks, "seeds": list(seeds)}
        found = profiles.grid(self.profile, self.table, protocol=self.protocol, fast=fast, **chosen)
        if self.rate is None:
            return found
        return [dataclasses.replace(spec, learning_rate=self.rate) for spec in found]

    @property
    def name(self):
        """The method as tables call it, with LoRA's initialisation."""
        ranked = self.method in ("lora", "curlora", "peft-lora")
        label = profiles.method_label(self.method, self.rank if ranked else None)
        return f"{label}, {INITS[self.protocol.lora_init]}" if self.method == "lora" else label


def published(**changes):
    """The published protocol with fields changed."""
    return dataclasses.replace(Protocol.published(), **changes)


def corrected(**changes):
    """The corrected protocol with fields changed."""
    return dataclasses.replace(Protocol.corrected(), **changes)


def small(profile, table, method, protocol, rank=RANK, rate=None):
    """A Condition; head only has no rank."""
    return Condition(
        profile, table, method, protocol, None if method == "head-only" else rank, rate
    )


def plan(profile="audit", real=False):
    """question -> its Conditions, on the profile's models; real: the paper's data, SmolLM2, too."""
    quick = profile.endswith("-quick")
    ranks = (RANK,) if quick else profiles.profile_named(profile).ranks
    rates = RATES[::2] if quick else RATES
    both, usual = Protocol.published(), published(lora_init="usual")
    core = [("head-only", both), ("curlora", both), ("lora", both), ("lora", usual)]
    where = [(profile, "table2"), (profile, "table1")] + ([(REAL, "table1")] if real else [])
    shared = [small(p, t, method, protocol) for p, t in where for method, protocol in core]
    small2 = (profile, "table2")
    heads = sorted({*rates, *(10 * rate for rate in rates)})
    moved = MOVED[-1:] if quick else MOVED
    return {
        "head-only": [*shared, *(small(*small2, "curlora", both, r) for r in ranks if r != RANK)],
        "collapse": [
            small(*small2, "lora", published(lora_init=init, scaling=scaling), rate=rate)
            for init in CHOICES["lora_init"]
            for scaling in CHOICES["scaling"]
            for rate in rates
        ]
        + [c for c in shared if c.method == "lora"],
        "sentiment": shared,
        "schedule": [
            small(*small2, method, published(schedule=schedule))
            for method in profiles.METHODS
            for schedule in CHOICES["schedule"]
        ],
        "selection": [
            small(*small2, "curlora", published(weighting=weighting, replacement=replacement))
            for weighting in CHOICES["weighting"]
            for replacement in (False, True)  # the text's reading first: others are held against it
        ]
        # Eq. 4 (and head only, to take its learning off) at every rate, the others where they move
        + [
            small(*small2, method, corrected(), rate=10 * rate)
            for method in ("curlora", "head-only")
            for rate in rates
        ]
        + [
            small(*small2, "curlora", corrected(weighting=weighting), rate=10 * rate)
            for weighting in CHOICES["weighting"]
            if weighting != corrected().weighting
            for rate in moved
        ],
        "movement": [
            small(*small2, method, corrected(lora_init=init), rate=rate * FEW.get(method, 1))
            for method in ([m for m in MOVERS if m not in profiles.BESIDE[1:]] if quick else MOVERS)
            for init in (CHOICES["lora_init"] if method == "lora" else ("usual",))
            for rate in rates
        ]
        + [small(*small2, "head-only", corrected(), rate=rate) for rate in (None, *heads)],
        # SmolLM2's are 19 runs a seed of two minutes and more: too long for the quick audit
        "factors": [
            small(profile, table, method, protocol)
            for table in (("table2",) if quick else ("table2", "table1"))
            for method in profiles.METHODS
            for protocol in factors(method, profiles.profile_named(profile).tables[table].model)
        ],
    }


def factors(method, model):
    """Published, then one switch at a time set as in corrected, then corrected; for one method.

    model: a ModelSpec. Switches that touch neither the method nor the model are left out; of the
    larger model (SmolLM2, minutes a run) those of the scores alone too. Head only has the two ends
    alone: what the head gains by them is no adapter's.
    """
    if method == "head-only":
        return [published(), corrected()]
    other = {"lora": {"weighting", "replacement"}, "curlora": {"lora_init", "scaling"}}[method]
    if model.name in UNTOUCHED:
        other = other | UNTOUCHED[model.name] | SCORED
    right = dataclasses.asdict(Protocol.corrected())
    wrong = dataclasses.asdict(Protocol.published())
    changed = [field for field in wrong if right[field] != wrong[field] and field not in other]
    return [published(), *(published(**{field: right[field]}) for field in changed), corrected()]


def all_specs(questions, seeds):
    """Every RunSpec of a plan once: seed by seed, so that an interrupted audit has whole seeds."""
    cells = dict.fromkeys(cell for cells in questions.values() for cell in cells)
    return list(dict.fromkeys(s for seed in seeds for cell in cells for s in cell.specs([seed])))


def outputs(profile, seeds, results=None):
    """Where a plan's tables go: other seeds than the profile's own have a folder of their own."""
    return records.outputs(profile, results, seeds=_other(profile, seeds))


def command(profile, seeds):
    """What a user types for it."""
    return provenance.command("audit", profile, seeds=_other(profile, seeds))


def _other(profile, seeds):
    own = profiles.profile_named(profile).tables["table2"].seeds
    return None if sorted(seeds) == sorted(own) else list(seeds)


def gather(questions, seeds, results=None):
    """question -> {Condition: its records}, as far as there are any."""
    found = {}
    for question, cells in questions.items():
        runs = {
            cell: [r for s in cell.specs(seeds) if (r := records.find(s, results)) is not None]
            for cell in cells
        }
        found[question] = {cell: list_ for cell, list_ in runs.items() if list_}
    return found
