"""Question 5: rows and columns drawn by several rules; at the same rate, and equally far moved."""

import math
import statistics

import numpy as np

from ..tables import Table
from . import plan
from .measures import difference, done, mean, pair, values
from .text import (
    BALANCED,
    INTERVAL,
    PAIRED,
    finished,
    over_seeds,
    p_texts,
    paired_text,
    ratio_text,
    selection_label,
    weighting_label,
    whole,
)

GEOMETRY = ("C", "R", "rank_C", "rank_R", "U", "update", "bound", "shift")
MEASURES = {"learned": "Just learned", "forgetting": "Forgetting", "nats": "Perplexity, nats"}
SHORT = {"learned": "just learned", "forgetting": "forgetting", "nats": "nats"}  # in a sentence
EQ4 = "inverted"


def published(found):
    """The Conditions under the published protocol but for the drawing; Eq. 4 as the text has it
    (no repeats) comes first."""
    return {cell: runs for cell, runs in found.items() if cell.rate is None}


def moved(found, method="curlora"):
    """weighting -> {learning rate -> records}, corrected protocol; Eq. 4 has all rates."""
    sweeps = {}
    for cell, runs in found.items():
        if cell.rate is not None and cell.method == method:
            sweeps.setdefault(cell.protocol.weighting, {})[cell.rate] = runs
    return {name: dict(sorted(sweep.items())) for name, sweep in sweeps.items()}


def heads(found):
    """{learning rate -> records} of head only, corrected protocol."""
    return moved(found, "head-only").get(EQ4, {})


def others(found):
    """[(weighting, rate, its records, Eq. 4's records at that rate)] of the rules but Eq. 4."""
    sweeps = moved(found)
    base = sweeps.pop(EQ4, {})
    return [
        (name, rate, runs, base.get(rate, []))
        for name, sweep in sweeps.items()
        for rate, runs in sweep.items()
    ]


def geometry_of(record, name, stage=-1):
    """Mean over projections of one figure of `geometry.geometry`; norms relative to ||W||_F."""
    found = record.stages[stage]["geometry"].values()
    relative = name in ("C", "R", "update", "bound")
    return statistics.fmean(g[name] / (g["weight"] if relative else 1) for g in found)


def over_head(runs, head, name):
    """seed -> (log of ||CUR|| / ||W||, a measure), `learned` less head only's at the same rate:
    one rate trains head and adapter, so that the head's own learning moves with it."""
    norms, found = values(runs, "update"), values(runs, name)
    alone = values(head, name) if name == "learned" else dict.fromkeys(found, 0.0)
    return {s: (math.log(norms[s]), found[s] - alone[s]) for s in found.keys() & alone.keys()}


def less_at_norm(cell, sweep):
    """What one cell has of a measure less what a sweep has where it has moved as far: by seed.

    cell, and each in the list sweep: {seed: (log norm, value)}. Of the same seed, the sweep's value
    is interpolated linearly between neighbours. Seeds out of the sweep's range are left out.
    """
    differences = {}
    for seed, (norm, value) in cell.items():
        known = sorted(one[seed] for one in sweep if seed in one)
        if known and known[0][0] <= norm <= known[-1][0]:
            differences[seed] = value - float(np.interp(norm, *zip(*known, strict=True)))
    return differences


def same_rate(found):
    """[(weighting, rate, records, {measure: Paired or None})]: less Eq. 4 at the same rate."""
    return [
        (name, rate, runs, {m: difference(runs, eq4, m) for m in MEASURES})
        for name, rate, runs, eq4 in others(found)
    ]


def matched(found):
    """[(weighting, rate, records, {measure: Paired or None})]: less Eq. 4 at the same norm."""
    alone, out = heads(found), []
    base = {
        m: [over_head(runs, alone.get(r, []), m) for r, runs in moved(found).get(EQ4, {}).items()]
        for m in MEASURES
    }
    for name, rate, runs, _ in others(found):
        pairs = {}
        for m in MEASURES:
            less = less_at_norm(over_head(runs, alone.get(rate, []), m), base[m])
            pairs[m] = pair(less, dict.fromkeys(less, 0.0))
        out.append((name, rate, runs, pairs))
    return out


def selection(found):
    """Question 5: rows and columns drawn by eight rules, published protocol."""
    cells = published(found)
    first, *rest = cells.values()
    pairs = [None, *(difference(runs, first, "acc") for runs in rest)]
    rows = []
    for (cell, runs), against, p in zip(cells.items(), pairs, p_texts(pairs), strict=True):
        whole_runs = done(runs)
        shown = (
            [f"{statistics.fmean(geometry_of(r, g) for r in whole_runs):.3g}" for g in GEOMETRY]
            if whole_runs
            else ["–"] * len(GEOMETRY)
        )
        rows.append(
            (
                selection_label(cell.protocol),
                finished(runs),
                *shown,
                over_seeds(values(runs, "acc").values()),
                "" if runs is first else paired_text(against),
                p,
                ratio_text(values(runs, "ratio").values()),
            )
        )
    columns = (
        "", "Seeds", "‖C‖/‖W‖", "‖R‖/‖W‖", "Rank C", "Rank R", "‖U‖", "‖CUR‖/‖W‖", "Bound/‖W‖",
        "Shift", "ACC", "ACC over the first", "p", "Perplexity",
    )  # fmt: skip
    notes = (
        f"CURLoRA-{plan.RANK}, published protocol but for the selection; small GPT-2, after the "
        f"last task, means over projections. {BALANCED} Rank: effective rank (Roy and Vetterli). "
        f"Bound: Eq. 14. Shift: Eq. 15, relative to the output. {INTERVAL} {PAIRED}",
    )
    return Table("Question 5: which rows and columns", columns, tuple(rows), notes)


def selection_moved(found):
    """Question 5: the rules at rates where the adapter moves, less Eq. 4 at the same rate."""
    base = moved(found).get(EQ4, {})
    cells, rates = same_rate(found), {rate for _, rate, *_ in others(found)}
    rows = []
    for rate, runs in base.items():
        if rate in rates:
            shown = [t for m in MEASURES for t in (over_seeds(values(runs, m).values()), "")]
            rows.append((f"{_label(EQ4)}, {rate:g}", finished(runs), _norm(runs), *shown))
    texts = whole([pairs for *_, pairs in cells], p_texts)
    for (weighting, rate, runs, pairs), ps in zip(cells, texts, strict=True):
        shown = [t for m in MEASURES for t in (paired_text(pairs[m]), ps[m])]
        rows.append((f"{_label(weighting)}, {rate:g}", finished(runs), _norm(runs), *shown))
    columns = ["Rule, learning rate", "Seeds", "‖CUR‖/‖W‖"]
    for title in MEASURES.values():
        columns += [title, "p"]
    notes = (
        f"CURLoRA-{plan.RANK}, corrected protocol (no repeats) but for the weighting; small GPT-2. "
        "Eq. 4: its values. Others: less Eq. 4 at the same learning rate, pair by pair; p by the "
        f"paired t test, Holm's over the table. {BALANCED} {INTERVAL}",
    )
    return Table(
        "Question 5: the rules where the adapter moves", tuple(columns), tuple(rows), notes
    )


def selection_matched(found):
    """Question 5: the rules less Eq. 4 where ‖CUR‖/‖W‖ is the same."""
    cells = matched(found)
    texts = whole([pairs for *_, pairs in cells], p_texts)
    rows = []
    for (weighting, rate, runs, pairs), ps in zip(cells, texts, strict=True):
        n = max((one.n for one in pairs.values() if one), default=0)
        shown = [text for m in MEASURES for text in (paired_text(pairs[m]), ps[m])]
        rows.append((f"{_label(weighting)}, {rate:g}", f"{n} of {len(runs)}", _norm(runs), *shown))
    columns = ["Rule, learning rate", "Seeds compared", "‖CUR‖/‖W‖"]
    for title in MEASURES.values():
        columns += [title, "p"]
    notes = (
        "Each rule less Eq. 4 where both have moved the weights as far: Eq. 4's value at the "
        "same ‖CUR‖/‖W‖ is read off its own sweep over learning rates, of the same seed, linear "
        "in the norm's logarithm between neighbours. Just learned: over head only at the same "
        "rate, for either, since the rate trains the head too. If Eq. 4 acts as a smaller "
        "learning rate does, nothing is left here. p by the paired t test, Holm's over the table. "
        f"{BALANCED} {INTERVAL}",
    )
    caption = "Question 5: the rules at equal movement"
    return Table(caption, tuple(columns), tuple(rows), notes)


def _norm(runs):
    found = mean(runs, "update")
    return "–" if found is None else f"{100 * found:.2g} %"


def _label(weighting):
    return weighting_label(plan.corrected(weighting=weighting))
