"""Each question's conclusion in two or three sentences, all numbers from its records."""

import statistics

from .. import metrics
from ..protocol import Protocol
from . import movement, selection
from .factors import effects
from .measures import difference, mean, place, values
from .text import (
    adjusted,
    majority,
    over_seeds,
    paired_text,
    ratio_text,
    selection_label,
    switch_label,
    weighting_label,
)


def head_only(found):
    """How much of each method's accuracy the head alone reaches."""
    said = []
    for where in dict.fromkeys(place(cell) for cell in found):
        cells = {cell: runs for cell, runs in found.items() if place(cell) == where}
        head = next(runs for cell, runs in cells.items() if cell.method == "head-only")
        parts = [f"{where}: head only ends at {over_seeds(values(head, 'acc').values(), 2)}"]
        parts[0] += f" (majority {majority(head):.2f})"
        for cell, runs in cells.items():
            pair = difference(runs, head, "acc")
            if cell.method != "head-only" and pair:
                parts.append(f"{cell.name} {paired_text(pair)}")
            elif cell.method != "head-only" and None not in (mean(runs, "acc"), mean(head, "acc")):
                more = mean(runs, "acc") - mean(head, "acc")
                parts.append(f"{cell.name} {more:+.2f} (one seed: a description)")
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
    for init in ("authors", "usual"):
        for scaling in ("alpha", "alpha/r"):
            cells = {
                cell.rate: runs
                for cell, runs in found.items()
                if cell.rate and (cell.protocol.lora_init, cell.protocol.scaling) == (init, scaling)
            }
            lost = [r for r in sorted(cells) if _lost(cells[r])]
            held += not lost
            at = f"from {lost[0]:g} on" if lost else "at no rate tried"
            said.append(f"{init} initialisation, {scaling}: {at}")
    gone = sum(run.status != "finished" for runs in found.values() for run in runs)
    return (
        "Perplexity has more than doubled (or the loss diverged) at learning rates as follows. "
        + "; ".join(said)
        + f". {gone} of {sum(map(len, found.values()))} runs diverged outright. "
        + ("Every choice breaks at some rate tried." if not held else f"{held} of 4 never break.")
    )


def _lost(runs):
    """Whether a run diverged, or perplexity has more than doubled (geometric mean over seeds)."""
    ratios = list(values(runs, "ratio").values())
    return len(ratios) < len(runs) or statistics.geometric_mean(ratios) > 2


def sentiment(found):
    """What the published Sentiment140 score says."""
    pairs = []
    for runs in found.values():
        last = [r.stages[-1]["scores"] for r in runs if r.status == "finished"]
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
        "third has no schedule). With a proper warm-up and decay at the same nominal rate: "
        + "; ".join(said)
        + "."
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
    cells = selection.matched(found)
    at_rate = [(w, r, difference(a, b, "nats")) for w, r, a, b in selection.others(found)]
    at_norm = [(w, r, pairs[m]) for m in selection.MEASURES for w, r, _, pairs in cells]
    if not any(pair for *_, pair in at_norm):
        return "At rates where the adapter moves, too few seeds have been run."
    said = f"At rates where the adapter moves: perplexity {_shown(at_rate)} at Eq. 4's rate. "
    by = {m: [(w, r, pairs[m]) for w, r, _, pairs in cells] for m in selection.MEASURES}
    said += "Where Eq. 4 has moved the weights as far, " + "; ".join(
        f"{title.lower()} {_shown(by[m])}" for m, title in selection.MEASURES.items()
    )
    nothing = not any(_found(cells_of) for cells_of in by.values())
    return said + (
        ". The inversion is not shown to do anything that a smaller learning rate does not."
        if nothing
        else ". There a difference remains that the size of the update does not account for."
    )


def _found(cells):
    """Those (weighting, rate, Paired) whose Holm-adjusted p is below 5 %."""
    ps = adjusted([pair for *_, pair in cells])
    return [cell for cell, p in zip(cells, ps, strict=True) if p is not None and p < 0.05]


def _shown(cells):
    named = [
        f"{weighting_label(Protocol.parse(f'corrected,weighting={w}'))} at {r:g} ({pair.mean:+.3f})"
        for w, r, pair in _found(cells)
    ]
    return "differs for " + ", ".join(named) if named else "is not shown to differ"


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
    for measure, unit in movement.PRICES.items():
        ps = adjusted([pairs[measure] for *_, pairs in cells])
        for (level, name, _, pairs), p in zip(cells, ps, strict=True):
            if p is not None and p < 0.05:
                pair = pairs[measure]
                said.append(f"{pair.mean:+.3f} {unit} against {name} at +{level:g}")
    if not any(any(pairs.values()) for *_, pairs in cells):
        return f"{movement.OURS} learns as much as another method in too few seeds to compare"
    shown = ", ".join(said) or "no difference is shown"
    return f"{movement.OURS}'s price on seeds in common, Holm-adjusted: {shown}"


def factors(found):
    """Which switches matter, by the intervals that leave zero out."""
    said, cells = [], effects(found)
    ps = adjusted([pairs["nats"] for *_, pairs in cells])
    for method, name in (("lora", "LoRA"), ("curlora", "CURLoRA")):
        own = [(*cell, p) for cell, p in zip(cells, ps, strict=True) if cell[0].method == method]
        if not own:
            continue
        changed, whole = [], "–"
        for cell, runs, pairs, p in own:
            if cell.protocol == Protocol.corrected():
                whole = ratio_text(values(runs, "ratio").values())
            elif pairs["nats"] and pairs["nats"].low * pairs["nats"].high > 0:
                holds = p == p and p < 0.05  # NaN: no spread to judge by
                mark = "" if holds else ", not after Holm's adjustment"
                changed.append(f"{switch_label(cell.protocol)} ({pairs['nats'].mean:+.3f}{mark})")
        before = ratio_text(values(own[0][1], "ratio").values())
        said.append(
            f"{name}: perplexity {before} as published, {whole} corrected; single switches whose "
            "interval leaves zero out, in nats: " + (", ".join(changed) or "none")
        )
    return ". ".join(said) + "."


ALL = {
    "head-only": head_only,
    "collapse": collapse,
    "sentiment": sentiment,
    "schedule": schedule,
    "selection": rules,
    "movement": beyond,
    "factors": factors,
}
