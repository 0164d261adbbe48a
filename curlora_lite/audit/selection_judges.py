"""The rules by which claims about drawing rows and columns are judged (see `judges`)."""

import statistics

from ..protocol import Protocol
from . import selection
from .measures import difference, done, mean, pair, values
from .tables import has_results
from .text import adjusted, paired_text
from .verdicts import LESS, UNKNOWN, Verdict, evidence, said, yes


def inversion(found, _):
    """Whether drawing rows and columns of small norm does anything; equally far moved, too.

    As coded (smoothed, with repeats) and as the text has it (Eq. 4, none), each beside uniform
    draws with and without repeats.
    """
    cells = found.get("selection", {})
    if not has_results("selection", cells):
        return Verdict()
    drawn = selection.published(cells)
    first, *others = drawn.values()
    ps = [p for p in adjusted([difference(runs, first, "acc") for runs in others]) if p is not None]
    if not ps:
        return Verdict()
    by = {(c.protocol.weighting, c.protocol.replacement): runs for c, runs in drawn.items()}
    smaller, parts = {}, []
    for name, weighting, repeats in (("as coded", "smoothed", True), ("Eq. 4", "inverted", False)):
        ours, uniform = by.get((weighting, repeats), []), by.get(("uniform", repeats), [])
        less = pair(_percent(ours), _percent(uniform))
        if less:
            smaller[name] = said(less) == LESS
            sizes = [100 * mean(runs, "update") for runs in (ours, uniform)]
            shown = f"{sizes[0]:.3g} against {sizes[1]:.3g} %, {paired_text(less, 2)} points"
            parts.append(f"{name} {shown}")
    if parts:
        parts[0] = f"‖CUR‖/‖W‖ less that of uniform draws: {parts[0]}"
    differ = sum(p < 0.05 for p in ps)
    parts.append(f"{differ} of {len(ps)} other rules differ from Eq. 4 in ACC (Holm, 5 %)")
    beyond, far = _equally_far(cells)
    if far:
        parts.append(far)
    remains = UNKNOWN if not far else f"beyond a smaller step: {'yes' if beyond else 'not shown'}"
    verdicts = [f"{name}: {yes(less)}" for name, less in smaller.items()]
    accuracy = f"another accuracy: {'yes' if differ else 'not shown'}"
    said_ = {True: "moves", False: "is not shown to move"}
    honest = "; ".join(
        f"{name} {said_[less]} the weights less than uniform draws do"
        for name, less in smaller.items()
    )
    honest = f"{honest[:1].upper()}{honest[1:]}. " if honest else ""
    if far:
        honest += "Where all have moved equally far, " + (
            "some differences between the rules remain."
            if beyond
            else "Eq. 4 is not shown to do more than a smaller learning rate would."
        )
    return Verdict(
        f"smaller update than uniform draws: {', '.join(verdicts) or UNKNOWN}; {accuracy}",
        remains,
        evidence(parts, "tables/selection_matched", "figures/selection_moved"),
        honest.strip() or "No effect was seen.",
    )


def _percent(runs):
    return {seed: 100 * value for seed, value in values(runs, "update").items()}


def _equally_far(cells):
    """(comparisons that differ after Holm, evidence) of all rules less Eq. 4 at equal movement."""
    left = [p for *_, pairs in selection.matched(cells) for p in pairs.values() if p]
    ps = [p for p in adjusted(left) if p is not None]
    beyond = sum(p < 0.05 for p in ps)
    alone = sum(one.low * one.high > 0 for one in left)
    shown = f"equally far moved, {beyond} of {len(ps)} comparisons differ (Holm)"
    return beyond, f"{shown}, {alone} by their interval alone" if ps else ""


def bounded(found, _):
    """Whether Eq. 14 holds wherever it was measured; beside it how far the norm grows, of which
    the paper says nothing."""
    cells = found.get("selection", {})
    coded = done(next((r for c, r in cells.items() if c.protocol == Protocol.published()), []))
    text = done(
        next((r for c, r in selection.published(cells).items()
              if c.protocol.weighting == selection.EQ4), [])
    )  # fmt: skip
    sweep = selection.moved(cells).get(selection.EQ4, {})
    swept = {rate: whole for rate, runs in sweep.items() if (whole := done(runs))}
    if not coded and not text:
        return Verdict()
    parts, held = [], []
    for one in ([*coded, *text], [run for runs in swept.values() for run in runs]):
        sizes = [g for run in one for s in run.stages for g in s["geometry"].values()]
        held.append((sum(g["update"] <= g["bound"] * (1 + 1e-6) for g in sizes), len(sizes)))
    parts.append(
        f"Eq. 14 holds in {sum(n for n, _ in held)} of {sum(n for _, n in held)} measurements"
    )
    growths = [_growth(runs) for runs in swept.values()]
    if coded:
        parts.append(f"first to last task the norm grows ×{_growth(coded):.1f} as published")
    if growths:
        parts.append(
            f"×{min(growths):.1f} to ×{max(growths):.1f} at the rates of the corrected sweep"
        )
    return Verdict(
        _bound(*held[0]),
        _bound(*held[1]) if growths else UNKNOWN,
        evidence(parts, "tables/selection", "tables/selection_moved"),
        "The update's norm stays below Eq. 14's bound, as it must; the bound grows with U, and so "
        "does the norm from task to task.",
    )


def _bound(within, measured):
    return "yes, by construction" if within == measured else f"in {within} of {measured}"


def _growth(runs):
    """The norm after the last task over that after the first, mean over projections, then runs."""
    norms = [[statistics.fmean(s["norms"].values()) for s in run.stages] for run in runs]
    return statistics.fmean(last / max(first, 1e-12) for first, *_, last in norms)
