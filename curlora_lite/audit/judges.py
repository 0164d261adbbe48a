"""The rules by which each of the paper's claims is judged from the audit's records.

Words follow from the numbers; no number is typed. A difference counts where its 95 % interval over
seeds leaves zero out; one of accuracies where the one over seeds and rows does too.
"""

import statistics

from .. import metrics
from ..findings import SAME
from ..protocol import Protocol
from . import movement, selection
from .bootstrap import accuracy_interval
from .measures import difference, mean, values
from .plan import RANK
from .tables import has_results
from .text import adjusted, interval_text, paired_text, ratio_text
from .verdicts import (
    LESS,
    MORE,
    UNKNOWN,
    Verdict,
    corrected_ratios,
    evidence,
    judged,
    of_all,
    one_cell,
    one_seed,
    places,
    ratios_of,
    said,
    within,
    yes,
)

LEARNED = 0.9  # what the paper's tables have for Sentiment140, at least
MARGIN = 0.02  # of accuracy: an interval within it on both sides counts as no difference
_SAME = f"no, within {MARGIN:g} of it"
STANDSTILL = 1.1  # times the first task's norm: up to this it counts as standing still


def forgetting(found, _):
    """Whether CURLoRA forgets less than the author's LoRA; then where both have learned."""
    parts, verdicts = [], []
    for where in places(found):
        ours = one_cell(found, "head-only", "curlora", where=where)
        theirs = one_cell(found, "head-only", "lora", Protocol.published(), where)
        pair = difference(ours, theirs, "forgetting")
        if pair:
            verdicts.append(said(pair))
        if shown := paired_text(pair) if pair else one_seed(ours, theirs, "forgetting"):
            parts.append(f"{where} {shown}")
    if not verdicts:
        return Verdict()
    parts[0] = f"CURLoRA's forgetting less LoRA's: {parts[0]}"
    holds = judged(verdicts, LESS, MORE)
    corrected, equal = _equal_gain(found, "forgetting")
    level = f"{movement.LEVELS[0]:g} more than a head alone"
    ends = {
        "yes": f"where both learn {level} it forgets less.",
        "no": f"where both learn {level} it forgets more.",
        "not reached": f"it learns {level} in too few seeds to be compared there.",
    }
    return Verdict(
        holds,
        corrected,
        evidence([*parts, *equal], "tables/movement_pairs", "figures/movement"),
        f"That CURLoRA forgets less than the author's LoRA: {holds}; "
        + ends.get(corrected, f"where both learn {level} these runs do not decide it."),
    )


def _equal_gain(found, measure):
    """(verdict, evidence): CURLoRA less LoRA with the usual init where both learn the first level
    more than a head alone; `not reached` where fewer than two seeds of both do."""
    cells = found.get("movement", {})
    other = f"LoRA-{RANK}, usual init"
    if not has_results("movement", cells):
        return UNKNOWN, []
    found_pairs = [c for c in movement.against(cells) if c[0] == movement.LEVELS[0]]
    (common, pair) = next(((n, p[measure]) for _, m, n, p in found_pairs if m == other), (0, None))
    where = f"where both learn {movement.LEVELS[0]:g} more than a head alone"
    if pair is None:
        return "not reached", [f"{where}: seeds in common {common}"]
    verdict = {LESS: "yes", MORE: "no"}.get(said(pair), "undecided")
    return verdict, [f"{where} ({common} seeds) {paired_text(pair)}"]


def perplexity(found, _):
    """Whether CURLoRA keeps perplexity within 1 %; and what learning costs it."""
    parts, kept = [], []
    for where in places(found):
        ratios = ratios_of(one_cell(found, "head-only", "curlora", where=where))
        if ratios:
            kept.append(_unchanged(ratios))
            one = " (one seed)" if len(ratios) == 1 else ""
            parts.append(f"{where} {ratio_text(ratios)}{one}")
    if not kept:
        return Verdict()
    corrected = corrected_ratios(found, "curlora")
    if corrected:
        parts.append(f"corrected {_of_models(corrected)}")
    at = "in every model here" if all(kept) else "in some models only" if any(kept) else "nowhere"
    honest = f"At the profiles' own learning rates CURLoRA-{RANK} keeps perplexity within 1 % {at}"
    cells = found.get("movement", {})
    sweep = movement.sweeps(cells).get(movement.OURS, {})
    if sweep and has_results("movement", cells):
        level = movement.LEVELS[0]
        one = movement.price(cells, sweep, level)
        most = max(m for m in (mean(runs, "ratio") for runs in sweep.values()) if m is not None)
        parts.append(f"at the largest learning rate up to ×{most:,.1f}")
        honest += f"; it learns {level:g} more than a head alone in {len(one.nats)} of {one.seeds}"
        honest += " seeds"
        if one.nats:
            honest += f", for {statistics.fmean(one.nats.values()):.3f} nats a token"
    return Verdict(
        of_all(kept),
        of_all([_unchanged(ratios) for ratios in corrected.values()]) if corrected else UNKNOWN,
        evidence(parts, "tables/movement", "figures/movement"),
        honest + ".",
    )


def _of_models(ratios):
    return ", ".join(f"{ratio_text(found)} ({where})" for where, found in ratios.items())


def _unchanged(ratios):
    return all(abs(ratio - 1) <= SAME for ratio in ratios)


def accuracy(found, _):
    """Whether CURLoRA's accuracy is stable, and above a head's on the frozen model."""
    parts, verdicts, lost, same = [], [], [], []
    for where in places(found):
        ours = one_cell(found, "head-only", "curlora", where=where)
        head = one_cell(found, "head-only", "head-only", where=where)
        pair = difference(ours, head, "acc")
        if pair:
            rows = accuracy_interval(ours, head)
            verdicts.append(said(pair, rows))
            same.append(within(pair, rows, MARGIN))
            lost.append(metrics.t_interval(values(ours, "forgetting").values())[2])
            parts.append(f"{where} {paired_text(pair)}" + _rows_too(rows))
        elif shown := one_seed(ours, head, "acc"):
            parts.append(f"{where} {shown}")
    if not verdicts:
        return Verdict()
    parts[0] = f"ACC over head only: {parts[0]}"
    kept = max(lost) <= MARGIN
    above = _SAME if all(same) else judged(verdicts, MORE, LESS)
    corrected, best = _best_rates(found)
    return Verdict(
        f"stable: {'yes' if kept else 'not shown'}; above a head on the frozen model: {above}",
        corrected,
        evidence([*parts, *best], "tables/head_only", "tables/movement_best"),
        ("CURLoRA's task accuracy is stable" if kept else "Stability is not shown by these seeds")
        + f"; above a head trained on the frozen model: {above}.",
    )


def _rows_too(rows):
    return f", rows too {interval_text(*rows)}" if rows else ""


def _best_rates(found):
    """(verdict, evidence): CURLoRA's ACC over head only's, corrected, each at its best rate."""
    cells = found.get("movement", {})
    if not has_results("movement", cells):
        return UNKNOWN, []
    at = {name: runs for name, _, runs in movement.best(cells)}
    pair = movement.gains(cells, at.get(movement.OURS, []), "acc")
    if pair is None:
        return UNKNOWN, []
    rows = accuracy_interval(at[movement.OURS], at["Head only"])
    above = {MORE: "yes", LESS: "no"}.get(said(pair, rows), "undecided")
    above = _SAME if within(pair, rows, MARGIN) else above
    shown = f"corrected, each at its best rate {paired_text(pair)}{_rows_too(rows)}"
    return f"above a head: {above}", [shown]


def inversion(found, _):
    """Whether drawing rows and columns of small norm does anything; equally far moved, too."""
    cells = found.get("selection", {})
    if not has_results("selection", cells):
        return Verdict()
    drawn = selection.published(cells)
    first, *others = drawn.values()
    ps = [p for p in adjusted([difference(runs, first, "acc") for runs in others]) if p is not None]
    if not ps:
        return Verdict()
    differ = sum(p < 0.05 for p in ps)
    norms = {(c.protocol.weighting, c.protocol.replacement): runs for c, runs in drawn.items()}
    importance = norms.get(("importance", False), [])
    smaller = difference(first, importance, "update")
    parts = [f"{differ} of {len(ps)} other rules differ from Eq. 4 in ACC (Holm, 5 %)"]
    if smaller:
        inverted = 100 * mean(first, "update")
        other = 100 * mean(importance, "update")
        parts.append(f"‖CUR‖/‖W‖ {inverted:.2g} % against {other:.2g} % by importance")
    less = smaller is not None and said(smaller) == LESS
    left = [p for *_, pairs in selection.matched(cells) for p in pairs.values()]
    left = [p for p in adjusted(left) if p is not None]
    beyond = sum(p < 0.05 for p in left)
    if left:
        parts.append(f"equally far moved, {beyond} of {len(left)} comparisons differ (Holm)")
    remains = UNKNOWN if not left else f"beyond a smaller step: {'yes' if beyond else 'not shown'}"
    honest = "Drawing small rows and columns makes the update smaller. " if less else ""
    if left:
        honest += "Where all have moved equally far, " + (
            "some differences to other rules remain."
            if beyond
            else "it is not shown to do more than a smaller learning rate would."
        )
    return Verdict(
        f"smaller update: {'yes' if less else 'not shown'}; "
        f"in accuracy: {'yes' if differ else 'not shown'}",
        remains,
        evidence(parts, "tables/selection_matched", "figures/selection_moved"),
        honest.strip() or "No effect was seen.",
    )


def bounded(found, _):
    """Whether the norm of W_adapted stands still, beside Eq. 14's bound; of Eq. 4's runs alone."""
    cells = found.get("selection", {})
    drawn = selection.published(cells)
    own = next((r for c, r in drawn.items() if c.protocol.weighting == selection.EQ4), [])
    own = [r for r in own if r.status == "finished"]
    sweep = selection.moved(cells).get(selection.EQ4, {})
    swept = {rate: [r for r in runs if r.status == "finished"] for rate, runs in sweep.items()}
    swept = {rate: runs for rate, runs in swept.items() if runs}
    if not own:
        return Verdict()
    everything = [*own, *(run for runs in swept.values() for run in runs)]
    sizes = [g for run in everything for s in run.stages for g in s["geometry"].values()]
    within = sum(g["update"] <= g["bound"] * (1 + 1e-6) for g in sizes)
    published = _growth(own)
    parts = [
        f"Eq. 14 holds in {within} of {len(sizes)} measurements (it must)",
        f"first to last task, the norm grows ×{published:.1f} as published",
    ]
    growths = {rate: _growth(runs) for rate, runs in swept.items()}
    if growths:
        low, high = min(growths.values()), max(growths.values())
        parts.append(f"×{low:.1f} to ×{high:.1f} at the rates of the corrected sweep")
    still = published <= STANDSTILL
    kept = all(growth <= STANDSTILL for growth in growths.values())
    grows = not still or not kept
    return Verdict(
        f"the bound: {yes(within == len(sizes))}; a standstill: {yes(still)}",
        UNKNOWN if not growths else f"a standstill: {yes(kept)}",
        evidence(parts, "tables/selection", "tables/selection_moved"),
        "The update's norm stays below a bound that itself grows with U"
        + ("; from task to task it grows." if grows else "."),
    )


def _growth(runs):
    """The norm after the last task over that after the first, mean over projections, then runs."""
    norms = [[statistics.fmean(s["norms"].values()) for s in run.stages] for run in runs]
    return statistics.fmean(last / max(first, 1e-12) for first, *_, last in norms)


def lora_collapses(found, _):
    """What LoRA does to perplexity, with the author's initialisation and with the usual one."""
    parts, worse, raised = [], [], []
    usual = Protocol.parse("published,lora_init=usual")
    for where in places(found):
        ours = one_cell(found, "head-only", "lora", Protocol.published(), where)
        theirs = one_cell(found, "head-only", "lora", usual, where)
        ratios = ratios_of(ours)
        if ratios:
            one = ", one seed" if len(ratios) == 1 else ""
            raised.append(f"{ratio_text(ratios)} ({where}{one})")
        pair = difference(ours, theirs, "nats")
        if pair:
            worse.append(said(pair))
            both = f"{ratio_text(ratios)} against {ratio_text(ratios_of(theirs))}"
            parts.append(f"{where} {both} with the usual one, {paired_text(pair, 2)} nats")
    if not worse:
        return Verdict()
    corrected = corrected_ratios(found, "lora")
    return Verdict(
        "with the author's initialisation: " + ", ".join(raised),
        f"at the same learning rate: {_of_models(corrected)}" if corrected else UNKNOWN,
        evidence(parts, "tables/collapse", "figures/collapse"),
        {
            "yes": "The author's initialisation of LoRA does more damage to perplexity than the "
            "usual one.",
            "in part": "In some models the author's initialisation of LoRA does more damage to "
            "perplexity than the usual one.",
        }.get(judged(worse, MORE, LESS), "How much its initialisation adds is undecided here."),
    )


def all_negative(found, _):
    """Sentiment140 as scored in the paper, and on as many positive as negative rows."""
    seen = []
    for cell, runs in found.get("sentiment", {}).items():
        last = [r.stages[-1]["scores"] for r in runs if r.status == "finished"]
        last = [s for s in last if metrics.BALANCED in s]
        if last and cell.method in ("lora", "curlora"):
            both = ("sentiment140", metrics.BALANCED)
            seen.append([statistics.fmean(s[name]["accuracy"] for s in last) for name in both])
    if not seen:
        return Verdict()
    first, half = zip(*seen, strict=True)
    return Verdict(
        f"in {sum(a >= LEARNED for a in first)} of {len(seen)} cells; always answering “negative” "
        "has 1.00",
        f"the same runs on balanced rows: in {sum(a >= LEARNED for a in half)} of {len(seen)} "
        "cells",
        evidence(
            [
                f"first rows, all negative: {min(first):.2f} to {max(first):.2f} over {len(seen)} "
                f"cells; balanced rows: {min(half):.2f} to {max(half):.2f}"
            ],
            "tables/sentiment",
            "figures/sentiment",
        ),
        "Accuracy on rows of one class is that class's recall: answering it always scores 1.00.",
    )
