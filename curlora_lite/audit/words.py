"""Each question's conclusion in two or three sentences, all numbers from its records."""

import statistics

from .. import metrics, profiles
from ..protocol import Protocol
from . import movement, plan, selection
from .factors import FACTORS, MODELS, effects
from .measures import COLLAPSED, at, difference, done, lora_sweeps, mean, place, values
from .text import (
    adjusted,
    majority,
    over_seeds,
    paired_text,
    ratio_text,
    selection_label,
    switch_label,
    weighting_label,
    whole,
)


def head_only(found):
    """How much of each method's accuracy the head alone reaches."""
    said = []
    for where in dict.fromkeys(place(cell) for cell in found):
        cells = at(found, where)
        head = next(runs for cell, runs in cells.items() if cell.method == "head-only")
        parts = [f"{where}: head only ends at {over_seeds(values(head, 'acc').values(), 2)}"]
        parts[0] += f" (majority {majority(head):.2f})"
        for cell, runs in cells.items():
            pair = difference(runs, head, "acc")
            if cell.method != "head-only" and pair:
                parts.append(f"{cell.name} {paired_text(pair)}")
            elif cell.method != "head-only" and None not in (mean(runs, "acc"), mean(head, "acc")):
                more = mean(runs, "acc") - mean(head, "acc")
                parts.append(f"{cell.name} {more:+.2f} (one seed)")
        said.append("; ".join(parts))
    return (
        "Accuracy at the end, then what each method adds to it, with 95 % intervals over seeds. "
        + ". ".join(said)
        + ". An interval that includes zero means that the adapter adds nothing that these runs "
        "can tell from the head's own learning; not that there is no difference."
    )


def collapse(found):
    """Where each initialisation starts to lose the language model."""
    said, held = [], 0
    for (init, scaling), sweep in lora_sweeps(found).items():
        lost = [rate for rate, runs in sweep.items() if _lost(runs)]
        held += not lost
        breaks = f"from {lost[0]:g} on" if lost else "at no rate tried"
        said.append(f"{plan.INITS[init]}, {scaling}: {breaks}")
    gone = sum(run.status != "finished" for runs in found.values() for run in runs)
    return (
        _initialisation(found)
        + "On the small GPT-2 perplexity has more than doubled (or the loss diverged) as follows. "
        + "; ".join(said)
        + f". {gone} of {sum(map(len, found.values()))} runs diverged outright. "
        + (
            f"{held} of {len(said)} never break."
            if held
            else "Every choice breaks at some rate tried."
        )
    )


def _initialisation(found):
    """What the author's initialisation costs over the usual one, all else as published."""
    by = {(place(c), c.protocol.lora_init): runs for c, runs in found.items() if c.rate is None}
    said = []
    for where in dict.fromkeys(where for where, _ in by):
        pair = difference(by.get((where, "authors"), []), by.get((where, "usual"), []), "nats")
        if pair:
            said.append(f"{where} {paired_text(pair, 2)} nats")
    if not said:
        return ""
    return f"The author's initialisation less the usual one, as published: {', '.join(said)}. "


def _lost(runs):
    """Whether a run diverged, or perplexity has more than doubled (geometric mean over seeds)."""
    ratios = list(values(runs, "ratio").values())
    return len(ratios) < len(runs) or statistics.geometric_mean(ratios) > COLLAPSED


def sentiment(found):
    """What the published Sentiment140 score says."""
    pairs = []
    for runs in found.values():
        last = [r.stages[-1]["scores"] for r in done(runs)]
        pairs += [(s["sentiment140"]["accuracy"], s[metrics.BALANCED]["accuracy"]) for s in last]
    low, high = min(p[0] for p in pairs), max(p[0] for p in pairs)
    half_low, half_high = min(p[1] for p in pairs), max(p[1] for p in pairs)
    return (
        f"Scored as published, all {len(pairs)} runs lie between {low:.2f} and {high:.2f}; on as "
        f"many positive as negative rows the same runs lie between {half_low:.2f} and "
        f"{half_high:.2f}, where always answering “negative” has 0.50. The published score is the "
        "recall of one class: how often “negative” is answered where it is right."
    )


def schedule(found):
    """What a proper schedule does to LoRA and CURLoRA."""
    by = {(cell.method, cell.protocol.schedule): runs for cell, runs in found.items()}
    said = []
    for method, name in (("lora", "LoRA"), ("curlora", "CURLoRA")):
        after, before = by.get((method, "steps"), []), by.get((method, "records"), [])
        pair = [difference(after, before, m) for m in ("acc", "nats")]
        if all(pair):
            said.append(
                f"{name}: ACC {paired_text(pair[0])}, perplexity {paired_text(pair[1])} nats"
            )
    return (
        "As published no task of Table 1 leaves its warm-up, nor do the first two of Table 2 (its "
        "third has no schedule). With a proper warm-up and decay at the same nominal rate, on the "
        "small GPT-2 (SmolLM2: question 7): " + "; ".join(said) + "."
    )


def rules(found):
    """Whether the rule by which rows and columns are drawn matters."""
    cells = selection.published(found)
    (first, base), *others = cells.items()
    pairs = [(c, difference(runs, base, "acc")) for c, runs in others]
    differ = [
        selection_label(c.protocol)
        for (c, _), p in zip(pairs, adjusted([pair for _, pair in pairs]), strict=True)
        if p is not None and p < 0.05
    ]
    norms = {selection_label(c.protocol): mean(runs, "update") for c, runs in cells.items()}
    norms = {name: m for name, m in norms.items() if m is not None}
    least, most = min(norms, key=norms.get), max(norms, key=norms.get)
    effect = f"differ in ACC: {', '.join(differ)}" if differ else "none is shown to differ in ACC"
    return (
        f"Against {selection_label(first.protocol)}, of {len(pairs)} other rules {effect} (Holm, "
        f"5 %). The rule changes how far the weights move: least by {least} "
        f"({100 * norms[least]:.2g} % of ‖W‖), most by {most} ({100 * norms[most]:.2g} %). "
        + _where_it_moves(found)
    )


def _where_it_moves(found):
    """What is left of the inversion at rates where the adapter moves: same rate, same norm."""
    tables = {"At Eq. 4's rate": selection.same_rate(found)}
    tables["where Eq. 4 has moved the weights as far"] = cells = selection.matched(found)
    if not any(pair for *_, pairs in cells for pair in pairs.values()):
        return "At rates where the adapter moves, too few seeds have been run."
    said = "; ".join(f"{where} {_differ(cells)}" for where, cells in tables.items())
    if any(p is not None and p < 0.05 for ps in whole([c[3] for c in cells]) for p in ps.values()):
        return said + ". There a difference remains that the size of the update does not explain."
    return said + ". The inversion is not shown to do more than a smaller learning rate does."


def _differ(cells):
    """Which rules differ from Eq. 4 after Holm's adjustment, and by their interval alone."""
    shown, alone = [], []
    for (weighting, rate, _, pairs), ps in zip(cells, whole([c[3] for c in cells]), strict=True):
        label = weighting_label(Protocol.parse(f"corrected,weighting={weighting}"))
        for measure, pair in pairs.items():
            said = pair and f"{label} at {rate:g}, {selection.SHORT[measure]} {paired_text(pair)}"
            if pair and ps[measure] < 0.05:
                shown.append(said)
            elif pair and pair.low * pair.high > 0:
                alone.append(said)
    result = (
        f"differ (Holm, 5 %): {'; '.join(shown)}"
        if shown
        else "no rule is shown to differ (Holm, 5 %)"
    )
    return result + (f"; by its interval alone: {'; '.join(alone)}" if alone else "")


def beyond(found):
    """What methods learn beyond a head alone, and who pays least for it."""
    (_, rate, head), *cells = movement.best(found)
    pairs = [movement.gains(found, runs) for *_, runs in cells]
    parts = [
        f"{name} {paired_text(pair)}" for (name, *_), pair in zip(cells, pairs, strict=True) if pair
    ]
    said = [
        f"A head alone learns {over_seeds(values(head, 'learned').values())} at its best rate, "
        f"{rate:g} (majority {majority(head):.3f}). Each method at its own best rate, over that: "
        + ("; ".join(parts) or "too few seeds")
    ]
    for level, by_method in movement.prices(found).items():
        reached = [
            f"{name} in {len(one.nats)} of {one.seeds} seeds "
            f"({statistics.fmean(one.nats.values()):.3f} nats)"
            for name, one in by_method.items()
            if one.nats
        ]
        said.append(f"{level:g} more is learned by " + (", ".join(reached) or "no method"))
    return ". ".join(said) + ". " + _pairs_said(found) + "."


def _pairs_said(found):
    """Where CURLoRA pays more or less than another method, on the seeds of both."""
    cells, said = movement.against(found), []
    adjusted_ps = whole([pairs for *_, pairs in cells])
    for (level, name, _, pairs), ps in zip(cells, adjusted_ps, strict=True):
        for measure, pair in pairs.items():
            if pair and ps[measure] < 0.05:
                said.append(f"{pair.mean:+.3f} {measure} against {name} at +{level:g}")
    if not any(any(pairs.values()) for *_, pairs in cells):
        return f"{movement.OURS} learns as much as another method in too few seeds to compare"
    shown = ", ".join(said) or "no difference is shown"
    return f"{movement.OURS}'s price on seeds in common, Holm-adjusted: {shown}"


def factors(found):
    """Which switches matter, by the intervals that leave zero out, model by model."""
    cells = {where: at(found, where) for where in MODELS.values()}
    said = [_switches(where, own) for where, own in cells.items() if own]
    return (
        "Perplexity as published and corrected, what all switches together change in ACC, then the "
        "single ones whose interval leaves zero out. " + ". ".join(said) + "."
    )


def _switches(where, found):
    cells = effects(found)
    ps, said = whole([pairs for *_, pairs in cells]), []
    for method in profiles.METHODS:
        own = [(*cell, p) for cell, p in zip(cells, ps, strict=True) if cell[0].method == method]
        if not own:
            continue
        ratios = {c.protocol: ratio_text(values(runs, "ratio").values()) for c, runs, *_ in own}
        before, after = (ratios.get(p, "–") for p in (own[0][0].protocol, Protocol.corrected()))
        changed = next((p["acc"] for c, _, p, _ in own if c.protocol == Protocol.corrected()), None)
        name = profiles.method_label(method, None)
        parts = [f"{where}, {name}: {before} and {after}, ACC {paired_text(changed)}"]
        for measure, called in FACTORS.items() if method != "head-only" else ():
            changed = ", ".join(_changed(own, measure)) or "none"
            parts.append(f"{called}: {changed}")
        said.append("; ".join(parts))
    return ". ".join(said)


def _changed(own, measure):
    """The single switches that change a measure by their interval, and whether Holm's p agrees."""
    for cell, _, pairs, ps in own:
        pair = pairs[measure]
        if pair and cell.protocol != Protocol.corrected() and pair.low * pair.high > 0:
            mark = "" if ps[measure] < 0.05 else ", not after Holm's adjustment"
            yield f"{switch_label(cell.protocol)} ({pair.mean:+.3f}{mark})"


ALL = {
    "head-only": head_only,
    "collapse": collapse,
    "sentiment": sentiment,
    "schedule": schedule,
    "selection": rules,
    "movement": beyond,
    "factors": factors,
}
