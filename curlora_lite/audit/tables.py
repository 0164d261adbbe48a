"""The audit's tables: one a question, each from the records of its Conditions."""

import math
import statistics

from .. import metrics, paper, profiles, training
from ..protocol import Protocol
from ..tables import Table
from . import plan
from .measures import at_equal_gain, difference, mean, measures, place, values

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
    if len(found) == 1:
        return f"{found[0]:.{digits}f}"
    middle, low, high = metrics.t_interval(found)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def paired_text(found, digits=3):
    """A `Paired` as `+0.02 (-0.01 to +0.05)`; `one seed` for None."""
    if found is None:
        return "one seed"
    low, high = signed(found.low, digits), signed(found.high, digits)
    return f"{signed(found.mean, digits)} ({low} to {high})"


def ratio_text(found):
    """Perplexity ratios of several seeds: their geometric mean."""
    found = list(found)
    if not found:
        return "–"
    value = statistics.geometric_mean(found)
    return f"×{value:,.0f}" if value >= 100 else f"×{value:.3g}" if value >= 10 else f"×{value:.2f}"


def _finished(records):
    done = sum(r.status == "finished" for r in records)
    return str(done) if done == len(records) else f"{done} of {len(records)}"


def _holm(pairs):
    """Holm-adjusted p of every `Paired` in the list, as text; blank for None."""
    there = [pair for pair in pairs if pair is not None]
    adjusted = iter(metrics.holm([pair.p for pair in there]))
    return ["" if pair is None else _p(next(adjusted)) for pair in pairs]


def _p(value):
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


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


def head_only(found):
    """Question 1: what of CURLoRA's (and LoRA's) accuracy a frozen model with a head reaches."""
    heads = {place(cell): runs for cell, runs in found.items() if cell.method == "head-only"}
    pairs = [difference(runs, heads[place(cell)], "acc") for cell, runs in found.items()]
    rows = []
    adjusted = _holm(
        [
            None if cell.method == "head-only" else pair
            for cell, pair in zip(found, pairs, strict=True)
        ]
    )
    for (cell, runs), pair, p in zip(found.items(), pairs, adjusted, strict=True):
        own = cell.method == "head-only"
        rows.append(
            (
                f"{place(cell)}: {cell.name}",
                _finished(runs),
                over_seeds(values(runs, "learned").values()),
                over_seeds(values(runs, "acc").values()),
                f"{majority(heads[place(cell)]):.3f}",
                "" if own else paired_text(pair),
                "" if own else p,
                ratio_text(values(runs, "ratio").values()),
            )
        )
    columns = (
        "",
        "Seeds",
        "Just learned",
        "ACC at the end",
        "Majority",
        "ACC over head only",
        "p",
        "Perplexity",
    )
    notes = (f"Published protocol. {BALANCED} {INTERVAL} {PAIRED}",)
    return Table("Question 1: against head only", columns, tuple(rows), notes)


def collapse(found):
    """Question 2: LoRA by initialisation, scaling and learning rate."""
    sweep = {cell: runs for cell, runs in found.items() if cell.rate is not None}
    rates = sorted({cell.rate for cell in sweep})
    rows = []
    for init in ("authors", "usual"):
        for scaling in ("alpha", "alpha/r"):
            cells = {
                cell.rate: runs
                for cell, runs in sweep.items()
                if (cell.protocol.lora_init, cell.protocol.scaling) == (init, scaling)
            }
            for measure, text in (("learned", lambda v: over_seeds(v, 2)), ("ratio", ratio_text)):
                label = {"learned": "just learned", "ratio": "perplexity"}[measure]
                shown = [_sweep_cell(cells.get(rate, []), measure, text) for rate in rates]
                rows.append((f"{init} init, {scaling}: {label}", *shown))
    notes = (
        f"LoRA-{plan.RANK}, published protocol but for what is named; small GPT-2. {BALANCED} "
        f"{INTERVAL} Perplexity: after over before, geometric mean over seeds. "
        "Diverged: a loss was not finite.",
    )
    columns = ("", *(f"{rate:g}" for rate in rates))
    return Table("Question 2: LoRA by learning rate", columns, tuple(rows), notes)


def _sweep_cell(runs, measure, text):
    if not runs:
        return "–"
    lost = sum(run.status != "finished" for run in runs)
    found = values(runs, measure).values()
    shown = text(found) if found else ""
    return shown + (f" {lost} of {len(runs)} diverged" if lost else "")


def sentiment(found):
    """Question 3: Sentiment140 as published (all negative) and on balanced rows."""
    rows = [("Always “negative”", "", "1.000", "0.500", "100 / 0 / 0")]
    for cell, runs in found.items():
        done = [run for run in runs if run.status == "finished"]
        last = [run.stages[-1]["scores"] for run in done]
        if not last or metrics.BALANCED not in last[0]:
            continue
        answers = [s[metrics.BALANCED]["predicted"] for s in last]
        total = sum(map(sum, answers))
        shares = [100 * sum(a[k] for a in answers) / total for k in range(len(answers[0]))]
        rows.append(
            (
                f"{place(cell)}: {cell.name}",
                _finished(runs),
                over_seeds(s["sentiment140"]["accuracy"] for s in last),
                over_seeds(s[metrics.BALANCED]["accuracy"] for s in last),
                " / ".join(f"{share:.0f}" for share in shares),
            )
        )
    notes = (
        f"Accuracy after Sentiment140's own stage. {INTERVAL} Answers: on the balanced rows, all "
        "seeds together. The published labels never use the third class.",
    )
    columns = (
        "",
        "Seeds",
        "First rows, all negative (published)",
        "Balanced rows",
        "Answers, %: negative / positive / third",
    )
    return Table("Question 3: Sentiment140 as published, and balanced", columns, tuple(rows), notes)


def schedule(found):
    """Question 4: the rates that are really applied at the paper's own sizes."""
    rows = []
    for table, name in (("table1", "mistral-7b"), ("table2", "gpt2-large")):
        sizes = profiles.profile_named(name).tables[table]
        for task in sizes.tasks:
            steps = task.epochs * -(-task.train_rows // sizes.batch)
            cells = [f"{paper.MODELS[table]}: {task.name}", str(steps)]
            for kind in ("records", "steps"):
                rates = [training.rate(i, steps, task.peak, kind) for i in range(steps)]
                cells += [f"{100 * max(rates):.0f} %", f"{100 * statistics.fmean(rates):.0f} %"]
            rows.append(tuple(cells))
    notes = (
        "Computed from the schedules, at the paper's sizes (§6.2-6.3 and the author's code); of "
        "the nominal rate. Published: 500 warm-up steps, more than are taken. Proper: 10 % of the "
        "steps warm up, then half a cosine to zero.",
    )
    columns = (
        "",
        "Steps",
        "Highest rate, published",
        "Mean, published",
        "Highest, proper",
        "Mean, proper",
    )
    return Table("Question 4: learning rates really applied", columns, tuple(rows), notes)


def schedule_effect(found):
    """Question 4: what a proper schedule changes."""
    by = {(cell.method, cell.protocol.schedule): (cell, runs) for cell, runs in found.items()}
    rows = []
    for method in profiles.METHODS:
        if (method, "steps") not in by or (method, "records") not in by:
            continue
        (cell, after), (_, before) = by[method, "steps"], by[method, "records"]
        shown = [
            paired_text(difference(after, before, m))
            for m in ("learned", "acc", "forgetting", "nats")
        ]
        rows.append((cell.name, _finished(after), *shown))
    columns = ("", "Seeds", "Just learned", "ACC", "Forgetting", "Perplexity, nats")
    notes = (f"Small GPT-2, proper less published schedule. {BALANCED} {INTERVAL}",)
    return Table("Question 4: what a proper schedule changes", columns, tuple(rows), notes)


GEOMETRY = ("C", "R", "rank_C", "rank_R", "U", "update", "bound", "shift")


def geometry_of(record, name, stage=-1):
    """Mean over projections of one figure of `geometry.geometry`; norms relative to ||W||_F."""
    found = record.stages[stage]["geometry"].values()
    relative = name in ("C", "R", "update", "bound")
    return statistics.fmean(g[name] / (g["weight"] if relative else 1) for g in found)


def selection(found):
    """Question 5: rows and columns drawn by eight rules."""
    first = next(iter(found.values()))
    pairs = [None, *(difference(runs, first, "acc") for runs in list(found.values())[1:])]
    rows = []
    for (cell, runs), pair, p in zip(found.items(), pairs, _holm(pairs), strict=True):
        done = [run for run in runs if run.status == "finished"]
        shown = (
            [f"{statistics.fmean(geometry_of(r, g) for r in done):.3g}" for g in GEOMETRY]
            if done
            else ["–"] * len(GEOMETRY)
        )
        rows.append(
            (
                selection_label(cell.protocol),
                _finished(runs),
                *shown,
                over_seeds(values(runs, "acc").values()),
                "" if pair is None else paired_text(pair),
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


def selection_label(protocol):
    """`inverted (Eq. 4)`, `smoothed, may repeat (the code's)`, …"""
    name = {"inverted": "inverted (Eq. 4)", "importance": "importance (Eq. 3)"}.get(
        protocol.weighting, protocol.weighting
    )
    return f"{name}, {'may repeat' if protocol.replacement else 'no repeats'}"


def movement_sweeps(found):
    """method as named in tables -> {rate -> records}, of question 6; head only left out."""
    sweeps = {}
    for cell, runs in found.items():
        if cell.method != "head-only":
            sweeps.setdefault(cell.name, {})[cell.rate] = runs
    return sweeps


def gains(found):
    """Three levels of `learned` at which methods are compared: a quarter, a half and three quarters
    of the way from head only to the highest mean that any method reaches."""
    head = next(mean(runs, "learned") for cell, runs in found.items() if cell.method == "head-only")
    reached = [mean(runs, "learned") for runs in found.values()]
    best = max(value for value in reached if value is not None)
    return [head + share * (best - head) for share in (0.25, 0.5, 0.75)]


def movement(found):
    """Question 6: what each method pays for the same accuracy on the task just learned."""
    levels, rows = gains(found), []
    for name, sweep in movement_sweeps(found).items():
        cells = []
        for level in levels:
            for measure in ("nats", "forgetting"):
                paid = at_equal_gain(sweep, level, measure)
                seeds = {run.spec["seed"] for runs in sweep.values() for run in runs}
                reached = f" [{len(paid)} of {len(seeds)}]" if len(paid) < len(seeds) else ""
                cells.append(over_seeds(paid.values()) + reached)
        means = {rate: mean(runs, "learned") for rate, runs in sweep.items()}
        most = max((v for v in means.values() if v is not None), default=None)
        rows.append((name, "–" if most is None else f"{most:.3f}", *cells))
    head = next(runs for cell, runs in found.items() if cell.method == "head-only")
    columns = ["", "Most learned"]
    for level in levels:
        columns += [f"At {level:.3f}: nats", f"At {level:.3f}: forgetting"]
    notes = (
        "Corrected protocol, small GPT-2, six learning rates over three decades a method. Learned: "
        "accuracy on each task right after its stage, mean over the three; head only: "
        f"{over_seeds(values(head, 'learned').values())}, majority {majority(head):.3f}. "
        "Perplexity in nats per token gained, and forgetting, where a seed's sweep first learns as "
        "much (linear between rates that rise through it). [k of n]: in so many seeds they do; one "
        "that begins above it is not among them. One rate trains adapter and head: part of what is "
        f"learned is the head's. {INTERVAL}",
    )
    return Table("Question 6: at equal plasticity", tuple(columns), tuple(rows), notes)


def factors(found):
    """Question 7: one switch at a time, from published to corrected."""
    rows, base = [], {}
    for cell, runs in found.items():
        base.setdefault(cell.method, runs)  # published comes first
        switch = switch_label(cell.protocol)
        if runs is base[cell.method]:
            shown = [over_seeds(values(runs, m).values()) for m in ("acc", "forgetting", "nats")]
        else:
            shown = [
                paired_text(difference(runs, base[cell.method], m))
                for m in ("acc", "forgetting", "nats")
            ]
        rows.append(
            (f"{profiles.method_label(cell.method, cell.rank)}: {switch}", _finished(runs), *shown)
        )
    columns = ("", "Seeds", "ACC", "Forgetting", "Perplexity, nats")
    notes = (
        "Small GPT-2. First row of each method: its values under the published protocol; below, "
        "what each switch alone changes, pair by pair. Scores only: the switch changes what is "
        "scored, not what is trained; so balanced rows change nothing here, since these count in "
        f"every row. {BALANCED} {INTERVAL}",
    )
    return Table("Question 7: one factor at a time", columns, tuple(rows), notes)


def switch_label(protocol):
    """What differs from published, or `published`, or `corrected`."""
    if protocol == Protocol.corrected():
        return "corrected (all of them)"
    said = protocol.name().removeprefix("published, ")
    return said + (" (scores only)" if said.split("=")[0] in plan.SCORED else "")


def compute(found):
    """What the audit's runs took: by model and data, runs, seeds, hours and device."""
    by = {}
    for cells in found.values():
        for cell, runs in cells.items():
            by.setdefault(place(cell), {}).update({(cell, r.spec["seed"]): r for r in runs})
    rows = []
    for where, runs in by.items():
        records = list(runs.values())
        seeds = sorted({r.spec["seed"] for r in records})
        rows.append(
            (
                where,
                str(len(records)),
                ", ".join(map(str, seeds)),
                str(sum(r.status == "diverged" for r in records)),
                f"{sum(r.seconds for r in records) / 3600:.1f}",
                ", ".join(sorted({r.provenance["device"] for r in records})),
                ", ".join(sorted({str(r.provenance["commit"])[:10] for r in records})),
            )
        )
    columns = ("", "Runs", "Seeds", "Diverged", "Hours, summed over runs", "Device", "Commit")
    notes = ("Hours: of one process each, others beside it; they can be longer than alone.",)
    return Table("What the audit took", columns, tuple(rows), notes, left=(0, 2, 5, 6))


ALL = {
    "head-only": {"head_only": head_only},
    "collapse": {"collapse": collapse},
    "sentiment": {"sentiment": sentiment},
    "schedule": {"schedule": schedule, "schedule_effect": schedule_effect},
    "selection": {"selection": selection},
    "movement": {"movement": movement},
    "factors": {"factors": factors},
}


def has_results(question, found):
    """Whether runs of these Conditions finished; head only among them where it is compared with."""
    done = {cell.method for cell, runs in found.items() if any(map(measures, runs))}
    return bool(done) and (question not in ("head-only", "movement") or "head-only" in done)
