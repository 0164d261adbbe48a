"""The rules by which each of the paper's claims is judged from the audit's records.

Words follow from the numbers; no number is typed. A difference counts where its 95 % interval over
seeds leaves zero out; one of accuracies where the one over seeds and rows does too.
"""

import statistics

from .. import metrics
from ..findings import SAME
from ..protocol import Protocol
from . import movement
from .bootstrap import accuracy_interval
from .measures import COLLAPSED, at, difference, done, mean, place, values
from .plan import RANK
from .tables import has_results
from .text import interval_text, paired_text, ratio_text
from .verdicts import (
    LESS,
    MORE,
    UNKNOWN,
    Verdict,
    evidence,
    judged,
    of_all,
    one_cell,
    one_seed,
    places,
    ratios_of,
    ratios_under,
    said,
    within,
    yes,
)

LEARNED = 0.9  # what CURLoRA has for Sentiment140 in the paper's tables, at least
MARGIN = 0.02  # of accuracy: an interval within it on both sides counts as no difference
_SAME = f"no, within {MARGIN:g} of it"


def forgetting(found, _):
    """Whether CURLoRA forgets less than the author's LoRA; then where both have learned."""
    parts, verdicts, single = [], [], ""
    for where in places(found):
        ours = one_cell(found, "head-only", "curlora", where=where)
        theirs = one_cell(found, "head-only", "lora", Protocol.published(), where)
        pair = difference(ours, theirs, "forgetting")
        if pair:
            verdicts.append(said(pair))
        elif one_seed(ours, theirs, "forgetting"):
            less = mean(ours, "forgetting") < mean(theirs, "forgetting")
            single += f"; {where}, one seed: {'less' if less else 'not less'}"
        if shown := paired_text(pair) if pair else one_seed(ours, theirs, "forgetting"):
            parts.append(f"{where} {shown}")
    if not verdicts:
        return Verdict()
    parts[0] = f"CURLoRA's forgetting less LoRA's: {parts[0]}"
    holds = f"stand-in data: {judged(verdicts, LESS, MORE)}{single}"
    corrected, equal = _equal_gain(found, "forgetting")
    level = f"{movement.LEVELS[0]:g} more than a head alone"
    than = "than LoRA with the usual initialisation"
    ends = {
        "yes": f"where both learn {level} it forgets less {than}.",
        "no": f"where both learn {level} it forgets more {than}.",
        "not reached": f"it learns {level} in too few seeds to be compared there.",
    }
    return Verdict(
        holds,
        corrected,
        evidence([*parts, *equal], "tables/movement_pairs", "figures/movement"),
        f"Less forgetting than the author's LoRA, on {holds}. Corrected, "
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
    where = f"less {other}'s where both learn {movement.LEVELS[0]:g} more than a head alone"
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
    corrected = ratios_under(found, "curlora", Protocol.corrected())
    if corrected:
        parts.append(f"corrected {_of_models(corrected)}")
    at = "in every model here" if all(kept) else "in some models only" if any(kept) else "nowhere"
    honest = f"At the profiles' own learning rates CURLoRA-{RANK} keeps perplexity within 1 % {at}"
    cells = found.get("movement", {})
    sweep = movement.sweeps(cells).get(movement.OURS, {})
    if sweep and has_results("movement", cells):
        level = movement.LEVELS[0]
        one = movement.price(cells, sweep, level)
        most = max((ratios_of(runs) for runs in sweep.values()), key=_middle)
        parts.append(f"over learning rates up to {ratio_text(most)}")
        honest += f"; it learns {level:g} more than a head alone in {len(one.nats)} of {one.seeds}"
        honest += " seeds"
        if len(one.nats) > 1:
            honest += f", for {statistics.fmean(one.nats.values()):.3f} nats a token"
    return Verdict(
        of_all(kept),
        of_all([_unchanged(ratios) for ratios in corrected.values()]) if corrected else UNKNOWN,
        evidence(parts, "tables/movement", "figures/movement"),
        honest + ".",
    )


def _of_models(ratios):
    return ", ".join(f"{ratio_text(found)} ({where})" for where, found in ratios.items())


def _middle(ratios):
    return statistics.geometric_mean(ratios) if ratios else 0.0


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
            raised.append(f"{where} {_collapsed(ratios)} ({ratio_text(ratios)}{one})")
        pair = difference(ours, theirs, "nats")
        if pair:
            worse.append(said(pair))
            both = f"{ratio_text(ratios)} against {ratio_text(ratios_of(theirs))}"
            parts.append(f"{where} {both} with the usual one, {paired_text(pair, 2)} nats")
    if not worse:
        return Verdict()
    corrected = ratios_under(found, "lora", Protocol.corrected())
    steps = ratios_under(found, "lora", Protocol.parse("published,schedule=steps"))
    scheduled = [
        f"{m} {ratio_text(r)} (×{min(r):.3g} to ×{max(r):.3g} over seeds)" for m, r in steps.items()
    ]
    if scheduled:
        parts.append(f"published but for a proper schedule: {', '.join(scheduled)}")
    return Verdict(
        "more than doubled: " + "; ".join(raised),
        "; ".join(f"{m} {_collapsed(r)} ({ratio_text(r)})" for m, r in corrected.items())
        or UNKNOWN,
        evidence(parts, "tables/collapse", "tables/factors_smollm2"),
        {
            "yes": "The author's initialisation of LoRA does more damage to perplexity than the "
            "usual one.",
            "in part": "In some models the author's initialisation of LoRA does more damage to "
            "perplexity than the usual one.",
        }.get(judged(worse, MORE, LESS), "How much its initialisation adds is undecided here."),
    )


def sentiment(found, _):
    """CURLoRA's Sentiment140 as scored in the paper, and on as many positive as negative rows."""
    parts, first, balanced = [], {}, {}
    cells = found.get("sentiment", {})
    for where in dict.fromkeys(place(cell) for cell in cells):
        both = {c.method: _first_and_balanced(runs) for c, runs in at(cells, where).items()}
        if not both.get("curlora"):
            continue
        kind = "paper's data, one seed" if "paper" in where else "stand-in tweets"
        for held, score in zip((first, balanced), both["curlora"], strict=True):
            held.setdefault(kind, []).append(score >= LEARNED)
        shown = {"CURLoRA": both["curlora"], "head only": both.get("head-only")}
        shown = [f"{name} {pair[0]:.2f} ({pair[1]:.2f})" for name, pair in shown.items() if pair]
        parts.append(f"{where}: {', '.join(shown)}")
    if not parts:
        return Verdict()
    parts[0] = f"first rows, all negative (and balanced ones): {parts[0]}"
    return Verdict(
        _counted(first) + "; always answering “negative” scores 1.00",
        "the same runs on balanced rows: " + _counted(balanced),
        evidence(parts, "tables/sentiment", "figures/sentiment"),
        "Accuracy on rows of one class is that class's recall: always giving that answer scores "
        "1.00.",
    )


def _first_and_balanced(runs):
    """Mean Sentiment140 accuracy on the first rows and on balanced ones; None without either."""
    last = [r.stages[-1]["scores"] for r in done(runs)]
    last = [scores for scores in last if metrics.BALANCED in scores]
    names = ("sentiment140", metrics.BALANCED)
    return [statistics.fmean(s[n]["accuracy"] for s in last) for n in names] if last else None


def _counted(held):
    return ", ".join(f"in {sum(h)} of {len(h)} models ({kind})" for kind, h in held.items())


def _collapsed(ratios):
    return yes(_middle(ratios) > COLLAPSED)
