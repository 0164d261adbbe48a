"""The audit's tables: one or more a question, each from the records of its Conditions."""

import functools
import statistics

from .. import metrics, paper, profiles
from ..tables import Table
from . import movement, plan, selection
from .bootstrap import accuracy_interval
from .factors import MODELS, factors
from .measures import applied_rates, difference, done, lora_sweeps, measures, place, values
from .text import (
    BALANCED,
    INTERVAL,
    PAIRED,
    finished,
    interval_text,
    majority,
    over_seeds,
    p_texts,
    paired_text,
    ratio_text,
)


def head_only(found):
    """Question 1: what of CURLoRA's (and LoRA's) accuracy a frozen model with a head reaches."""
    heads = {place(cell): runs for cell, runs in found.items() if cell.method == "head-only"}
    pairs, lines = [], []
    for cell, runs in found.items():
        own = cell.method == "head-only"
        pairs.append(None if own else difference(runs, heads[place(cell)], "acc"))
    for (cell, runs), pair, p in zip(found.items(), pairs, p_texts(pairs), strict=True):
        head = heads[place(cell)]
        own = runs is head
        both = None if own else accuracy_interval(runs, head)
        lines.append(
            (
                f"{place(cell)}: {cell.name}",
                finished(runs),
                over_seeds(values(runs, "learned").values()),
                over_seeds(values(runs, "acc").values()),
                f"{majority(head):.3f}",
                "" if own else paired_text(pair),
                p,
                "" if own else "–" if both is None else interval_text(*both),
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
        "Interval, seeds and rows",
        "Perplexity",
    )
    notes = (
        f"Published protocol. {BALANCED} {INTERVAL} {PAIRED}",
        "Seeds and rows: 95 % bootstrap interval of the difference, seeds and evaluation rows both "
        "drawn anew, the same rows for both methods. With few seeds it understates their part: "
        "read it beside the other; where either includes zero, the difference is not shown. A "
        "dash: one seed alone, whose difference is a description.",
    )
    return Table("Question 1: against head only", columns, tuple(lines), notes)


def stability(found):
    """Question 1: what is lost of earlier tasks, and what is not learned of each."""
    best, lines = {}, []  # (place) -> the best mean of any method, task by task
    for cell, runs in found.items():
        learned = _learned(runs)
        if learned:
            means = [statistics.fmean(task) for task in zip(*learned, strict=True)]
            before = best.get(place(cell), means)
            best[place(cell)] = [max(pair) for pair in zip(before, means, strict=True)]
    for cell, runs in found.items():
        matrices = _matrices(runs)
        missed = [metrics.intransigence(R, best[place(cell)]) for R in matrices]
        measured = [values(runs, m).values() for m in ("forgetting", "bwt")]
        shown = [over_seeds(found) for found in (*measured, missed)]
        lines.append((f"{place(cell)}: {cell.name}", finished(runs), *shown))
    columns = ("", "Seeds", "Forgetting", "BWT", "Intransigence")
    notes = (
        "Published protocol. Forgetting: best earlier accuracy less the last, over the earlier "
        "tasks; BWT: last less right after the task's own stage (below zero: lost). "
        "Intransigence: what just-learned accuracy falls short of a reference, over all tasks "
        "(below zero: above it). No task was trained alone here, so the reference is, task by "
        "task, the best mean that any method of this table has on the same model and data. "
        f"{BALANCED} {INTERVAL}",
    )
    return Table("Question 1: what is lost, what is not learned", columns, tuple(lines), notes)


def _matrices(runs):
    return [metrics.score_matrix(run, balanced=True) for run in done(runs)]


def _learned(runs):
    return [[R[j][j] for j in range(len(R))] for R in _matrices(runs)]


def collapse(found):
    """Question 2: LoRA by initialisation, scaling and learning rate."""
    sweeps, rows = lora_sweeps(found), []
    rates = sorted({rate for sweep in sweeps.values() for rate in sweep})
    for (init, scaling), sweep in sweeps.items():
        for measure, text in (("learned", lambda v: over_seeds(v, 2)), ("ratio", ratio_text)):
            label = {"learned": "just learned", "ratio": "perplexity"}[measure]
            shown = [_sweep_cell(sweep.get(rate, []), measure, text) for rate in rates]
            rows.append((f"{plan.INITS[init]}, {scaling}: {label}", *shown))
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
        last = [run.stages[-1]["scores"] for run in done(runs)]
        if not last or metrics.BALANCED not in last[0]:
            continue
        answers = [s[metrics.BALANCED]["predicted"] for s in last]
        total = sum(map(sum, answers))
        shares = [100 * sum(a[k] for a in answers) / total for k in range(len(answers[0]))]
        rows.append(
            (
                f"{place(cell)}: {cell.name}",
                finished(runs),
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
            by_kind = [applied_rates(task, sizes.batch, kind) for kind in ("records", "steps")]
            cells = [f"{paper.MODELS[table]}: {task.name}", str(len(by_kind[0]))]
            for rates in by_kind:
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
        rows.append((cell.name, finished(after), *shown))
    columns = ("", "Seeds", "Just learned", "ACC", "Forgetting", "Perplexity, nats")
    notes = (f"Small GPT-2, proper less published schedule. {BALANCED} {INTERVAL}",)
    return Table("Question 4: what a proper schedule changes", columns, tuple(rows), notes)


ALL = {
    "head-only": {"head_only": head_only, "stability": stability},
    "collapse": {"collapse": collapse},
    "sentiment": {"sentiment": sentiment},
    "schedule": {"schedule": schedule, "schedule_effect": schedule_effect},
    "selection": {
        "selection": selection.selection,
        "selection_moved": selection.selection_moved,
        "selection_matched": selection.selection_matched,
    },
    "movement": {
        "movement_best": movement.movement_best,
        "movement_rates": movement.movement_rates,
        "movement": movement.movement,
        "movement_pairs": movement.movement_pairs,
    },
    "factors": {name: functools.partial(factors, where=where) for name, where in MODELS.items()},
}


def has_results(question, found):
    """Whether runs of these Conditions finished; those among them that others are held against."""
    there = [cell for cell, runs in found.items() if any(map(measures, runs))]
    if question in ("head-only", "movement"):
        places = {place(cell) for cell in there if cell.method == "head-only"}
        return bool(there) and places == {place(cell) for cell in found}
    if question == "selection":
        first = next((cell for cell in found if cell.rate is None), None)
        return first in there and first.protocol == plan.published(
            weighting=selection.EQ4, replacement=False
        )
    return bool(there)
