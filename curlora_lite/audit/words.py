"""Each question's conclusion in two or three sentences, all numbers from its records."""

import statistics

from .. import metrics
from ..protocol import Protocol
from .measures import at_equal_gain, difference, mean, place, values
from .tables import (
    gains,
    majority,
    movement_sweeps,
    over_seeds,
    paired_text,
    ratio_text,
    selection_label,
    switch_label,
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
                parts.append(f"{cell.name} {paired_text(pair, 2)}")
        said.append("; ".join(parts))
    return (
        "Accuracy at the end, then what each method adds to it, with 95 % intervals. "
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
                f"{name}: ACC {paired_text(pair[0], 2)}, perplexity {paired_text(pair[1], 2)} nats"
            )
    return (
        "As published no task of Table 1 leaves its warm-up, nor do the first two of Table 2 (its "
        "third has no schedule). With a proper warm-up and decay at the same nominal rate: "
        + "; ".join(said)
        + "."
    )


def selection(found):
    """Whether the rule by which rows and columns are drawn matters."""
    (first, base), *others = found.items()
    pairs = [(c, p) for c, runs in others if (p := difference(runs, base, "acc"))]
    adjusted = metrics.holm([pair.p for _, pair in pairs])
    differ = [
        selection_label(c.protocol) for (c, _), p in zip(pairs, adjusted, strict=True) if p < 0.05
    ]
    moved = {selection_label(c.protocol): mean(runs, "update") for c, runs in found.items()}
    moved = {name: m for name, m in moved.items() if m is not None}
    least, most = min(moved, key=moved.get), max(moved, key=moved.get)
    effect = f"differ in ACC: {', '.join(differ)}" if differ else "none differs in ACC"
    return (
        f"Against {selection_label(first.protocol)}, of {len(pairs)} other rules {effect} (Holm, "
        f"5 %). What the rule changes is how far the weights move: least by {least} "
        f"({100 * moved[least]:.2g} % of ‖W‖), most by {most} ({100 * moved[most]:.2g} %)."
    )


def movement(found):
    """Who is ahead where all have learned as much."""
    said = []
    for level in gains(found):
        costs = {}
        for name, sweep in movement_sweeps(found).items():
            seeds = {run.spec["seed"] for runs in sweep.values() for run in runs}
            paid = at_equal_gain(sweep, level, "nats")
            if 2 * len(paid) > len(seeds):
                costs[name] = statistics.fmean(paid.values())
        order = sorted(costs, key=costs.get)
        shown = ", ".join(f"{name} {costs[name]:.3f}" for name in order) or "no method"
        said.append(f"at {level:.3f}: {shown}")
    return (
        "Nats of perplexity paid for the same accuracy on the task just learned, least first, for "
        "methods that reach it in most seeds: " + "; ".join(said) + "."
    )


def factors(found):
    """Which switches matter, by the intervals that leave zero out."""
    said = []
    for method, name in (("lora", "LoRA"), ("curlora", "CURLoRA")):
        cells = [(c, runs) for c, runs in found.items() if c.method == method]
        if not cells:
            continue
        (_, base), *others = cells
        strong = []
        for cell, runs in others:
            pair = difference(runs, base, "nats")
            if pair and cell.protocol != Protocol.corrected() and pair.low * pair.high > 0:
                strong.append(f"{switch_label(cell.protocol)} ({pair.mean:+.2f})")
        whole = [runs for cell, runs in others if cell.protocol == Protocol.corrected()]
        ratios = ratio_text(values(whole[0], "ratio").values()) if whole else "–"
        said.append(
            f"{name}: perplexity {ratio_text(values(base, 'ratio').values())} as published, "
            f"{ratios} corrected; single switches that change it, in nats: "
            + (", ".join(strong) or "none")
        )
    return ". ".join(said) + "."


ALL = {
    "head-only": head_only,
    "collapse": collapse,
    "sentiment": sentiment,
    "schedule": schedule,
    "selection": selection,
    "movement": movement,
    "factors": factors,
}
