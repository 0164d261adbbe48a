"""What a verdict on a claim is made of: a cell's records, differences judged, evidence in words."""

from dataclasses import dataclass

from .factors import MODELS
from .measures import mean, place, values
from .plan import RANK
from .text import signed

UNKNOWN = "not known: runs are missing"
LESS, MORE, UNDECIDED = "less", "more", "not distinguishable"


@dataclass(frozen=True)
class Verdict:
    """holds: as published; corrected: under the corrected protocol; evidence; honest: what an
    honest abstract would say."""

    holds: str = UNKNOWN
    corrected: str = UNKNOWN
    evidence: str = ""
    honest: str = ""


def evidence(parts, *links):
    """Parts of a sentence, then links to tables (`tables/…`) and figures (`figures/…`)."""
    to = [f"[{n}]({n}{'.png' if n.startswith('figures/') else '.md'})" for n in links]
    return "; ".join([*parts, *to])


def one_cell(found, question, method, protocol=None, where="small GPT-2"):
    """Records of one cell at the profile's own rate; [] if there is none."""
    for cell, runs in found.get(question, {}).items():
        same = protocol is None or cell.protocol == protocol
        named = (cell.method, cell.rank) in ((method, RANK), (method, None))
        if named and same and place(cell) == where and cell.rate is None:
            return runs
    return []


def places(found):
    """Every model and data of question 1."""
    return list(dict.fromkeys(place(cell) for cell in found.get("head-only", {})))


def ratios_under(found, method, protocol):
    """model -> perplexity ratios of a method under a protocol, at the profile's own rate; of the
    models that question 7 asks."""
    asked = {where: one_cell(found, "factors", method, protocol, where)
             for where in MODELS.values()}  # fmt: skip
    return {where: ratios for where, runs in asked.items() if (ratios := ratios_of(runs))}


def ratios_of(runs):
    """Perplexity after over before, of every finished run."""
    return list(values(runs, "ratio").values())


def said(pair, rows=None):
    """`more`, `less` or `not distinguishable` of a `Paired`; rows: a second interval, or None."""
    intervals = [(pair.low, pair.high), rows or (pair.low, pair.high)]
    if pair.low == pair.high:  # equal in all seeds: no spread to judge by
        return UNDECIDED
    if all(low > 0 for low, _ in intervals):
        return MORE
    return LESS if all(high < 0 for _, high in intervals) else UNDECIDED


def within(pair, rows, margin):
    """Whether every interval of a difference (see `said`) lies within the margin of zero."""
    ends = [pair.low, pair.high, *(rows or ())]
    return -margin <= min(ends) and max(ends) <= margin


def judged(verdicts, wanted, contrary):
    """`yes`, `in part` or `no` by the verdicts of several models; else `undecided`."""
    if set(verdicts) == {wanted}:
        return "yes"
    if wanted in verdicts:
        return "in part"
    return "no" if contrary in verdicts else "undecided"


def of_all(held):
    """`yes`, `in part` or `no` by what holds in several models."""
    return "yes" if all(held) else "in part" if any(held) else "no"


def yes(holds):
    """`yes` or `no`."""
    return "yes" if holds else "no"


def one_seed(ours, theirs, measure):
    """The difference of two means, said to be of one seed; None where a run is missing."""
    a, b = mean(ours, measure), mean(theirs, measure)
    return None if a is None or b is None else f"{signed(a - b)} (one seed)"
