"""How the audit writes numbers, intervals and names: used by its tables, figures and words."""

import math
import statistics

from .. import metrics
from ..protocol import Protocol
from . import plan

INTERVAL = "In brackets: 95 % interval by Student's t over seeds (rows and model stay the same)."
PAIRED = "Differences: pairs of runs of the same seed and rows; p by the paired t test, Holm's."
BALANCED = "Sentiment140 counts by as many positive as negative rows."


def signed(value, digits=3):
    """With its sign, and no minus zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def over_seeds(found, digits=3):
    """`0.62 (0.60 to 0.64)`; without an interval for one seed, a dash for none."""
    found = list(found)
    if not found:
        return "–"
    numbers = found if len(found) == 1 else metrics.t_interval(found)
    middle, *ends = (f"{round(x, digits) + 0.0:.{digits}f}" for x in numbers)  # no minus zero
    return f"{middle} ({' to '.join(ends)})" if ends else middle


def interval_text(low, high, digits=3):
    """`-0.01 to +0.05`."""
    return f"{signed(low, digits)} to {signed(high, digits)}"


def paired_text(found, digits=3):
    """A `Paired` as `+0.02 (-0.01 to +0.05)`; a dash for None: fewer than two seeds in common."""
    if found is None:
        return "–"
    return f"{signed(found.mean, digits)} ({interval_text(found.low, found.high, digits)})"


def ratio_text(found):
    """Perplexity ratios of several seeds: their geometric mean."""
    found = list(found)
    if not found:
        return "–"
    value = statistics.geometric_mean(found)
    return f"×{value:,.0f}" if value >= 100 else f"×{value:.3g}" if value >= 10 else f"×{value:.2f}"


def finished(records):
    """How many runs finished, and of how many where some did not."""
    done = sum(r.status == "finished" for r in records)
    return str(done) if done == len(records) else f"{done} of {len(records)}"


def adjusted(pairs):
    """Holm-adjusted p of every `Paired` in a list; None for None."""
    there = [pair for pair in pairs if pair is not None]
    found = iter(metrics.holm([pair.p for pair in there]))
    return [None if pair is None else next(found) for pair in pairs]


def p_texts(pairs):
    """`adjusted` as text: blank for None, a dash where there is no spread to judge by."""
    return ["" if p is None else _p(p) for p in adjusted(pairs)]


def whole(rows, adjust=adjusted):
    """`adjusted` (or `p_texts`) of a whole table of pairs, [{measure: Paired or None}], as one
    family: in the same shape."""
    found = iter(adjust([pair for row in rows for pair in row.values()]))
    return [{measure: next(found) for measure in row} for row in rows]


def _p(value):
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def majority(records):
    """The mean over tasks of the majority class's share, by a finished run; NaN without one."""
    run = next((r for r in records if r.status == "finished"), None)
    if run is None:
        return math.nan
    shares = []
    for stage in run.stages:
        scores = run.stages[-1]["scores"]
        beside = scores.get(metrics.BALANCED) if stage["task"] == "sentiment140" else None
        shares.append((beside or scores[stage["task"]])["majority"])
    return statistics.fmean(shares)


def weighting_label(protocol):
    """`inverted (Eq. 4)`, `smoothed (the code's)`, `uniform`, `importance (Eq. 3)`."""
    of = {"inverted": "Eq. 4", "importance": "Eq. 3", "smoothed": "the code's"}
    source = of.get(protocol.weighting)
    return f"{protocol.weighting} ({source})" if source else protocol.weighting


def selection_label(protocol):
    """`inverted (Eq. 4), no repeats`, …"""
    repeats = "may repeat" if protocol.replacement else "no repeats"
    return f"{weighting_label(protocol)}, {repeats}"


def switch_label(protocol):
    """What differs from published, or `published`, or `corrected`."""
    if protocol == Protocol.corrected():
        return "corrected (all of them)"
    said = protocol.name().removeprefix("published, ")
    return said + (" (scores only)" if scored(protocol) else "")


def scored(protocol):
    """Whether the one switch by which a protocol differs from published touches scores alone."""
    return protocol.name().removeprefix("published, ").split("=")[0] in plan.SCORED
