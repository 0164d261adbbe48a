"""What the runs of one table say of the paper's claims; and every number of them, unrounded."""

import math
from dataclasses import dataclass

from . import metrics, paper
from .records import by_cell
from .tables import CONSTANT, Table, mixed_code, shared_spec

VALUES = "profile, table, method, rank, seed, measure, after stage, n, value, low, high, majority"
SAME = 0.01  # perplexity within 1 % counts as unchanged
Z = 1.96  # 95 %


@dataclass(frozen=True)
class Measured:
    """A measure of one method and rank: its value, the half-width of its interval, and whether
    answers that it rests on are (nearly) all one class."""

    value: float
    margin: float
    constant: bool = False


def findings_table(records):
    """The paper's claims, one a row: its own figures, ours by rank, and whether they hold here.

    Differences of accuracies count where they exceed the half-width of their 95 % interval for the
    choice of evaluation rows: z sqrt(sum of p (1 - p) / n) / tasks, the accuracies taken as
    independent. Sentiment140 counts by its balanced rows where they were scored. Means over seeds.
    Source of the claims: abstract and §7; their figures: Tables 1 and 2. The last two are ours.
    """
    shared = shared_spec([record.spec for record in records])
    every = by_cell(records)
    done = by_cell([record for record in records if record.status == "finished"])
    ranks = sorted({rank for _, rank in every if rank is not None})
    rows = []
    for claim, method, measure, verdict in CLAIMS:
        published = [_published(shared["table"], method, rank, measure) for rank in ranks]
        ours, verdicts = [], {}
        for rank in ranks:
            if (method, rank) not in done:
                ours.append("not run" if (method, rank) not in every else "not finished")
                continue
            found = measure(done[method, rank], done)
            ours.append(_shown(found, measure))
            if found:
                verdicts.setdefault(verdict(found), []).append(str(rank))
        held = "; ".join(f"{v}: {', '.join(at)}" for v, at in verdicts.items())
        answer = next(iter(verdicts)) if len(verdicts) == 1 else held
        rows.append((claim, ", ".join(published), ", ".join(ours), answer or "not known"))
    by_rank = f"by rank ({', '.join(map(str, ranks))})"
    return Table(
        f"Table {shared['table'][-1]}'s claims, {shared['profile']} profile",
        ("", f"Published, {by_rank}", f"Here, {by_rank}", "Does it hold here?"),
        tuple(rows),
        _notes(records, rows),
        left=(0, 1, 2, 3),
    )


def _notes(records, rows):
    notes = [
        "Perplexity: after over before; changed means by more than 1 %. Lost: forgetting (best "
        "earlier less last accuracy, mean over the earlier tasks). Above: difference of the mean "
        "accuracies over the tasks, at the end (LoRA) or right after each task (head).",
        "±: 95 % interval for the choice of evaluation rows, accuracies taken as independent; what "
        "seeds change comes on top. Undecided, no loss seen: the interval includes zero.",
    ]
    if any(metrics.BALANCED in stage["scores"] for record in records for stage in record.stages):
        notes.append(
            "Here Sentiment140 counts by as many positive as negative rows; published, by rows "
            "that are all negative."
        )
    if any("†" in cell for row in rows for cell in row):
        notes.append(
            f"† at least {100 * CONSTANT:.0f} % of the answers to one task are one class, in this "
            "run or in what it is compared with."
        )
    return (*notes, *mixed_code(records))


def _score(record, task, stage):
    """The score of a task after a stage (from 1); Sentiment140's on balanced rows if any."""
    return (
        record.score(metrics.BALANCED, stage) if task == "sentiment140" else None
    ) or record.score(task, stage)


def _ratio(runs, _):
    values = [run.final_perplexity() / run.initial_perplexity() for run in runs]
    return Measured(metrics.mean_and_spread(values)[0], SAME)


def _lost(runs, _):
    """Forgetting of the earlier tasks, by the score that each was best at and the last one."""
    stages = len(runs[0].stages)
    earlier = [stage["task"] for stage in runs[0].stages[:-1]]
    lost, pairs = [], []
    for run in runs:
        for place, task in enumerate(earlier, 1):
            seen = [_score(run, task, stage) for stage in range(place, stages)]
            best = max(seen, key=lambda score: score["accuracy"])
            pairs.append((best, _score(run, task, stages)))
            lost.append(best["accuracy"] - pairs[-1][1]["accuracy"])
    used = [score for pair in pairs[: len(earlier)] for score in pair]
    return _measured(metrics.mean_and_spread(lost)[0], used, len(earlier))


def _above_head(runs, cells):
    """Accuracy of each task right after its own stage, over head only's."""
    return _difference(runs, cells.get(("head-only", None)), lambda place, stages: place)


def _above_lora(runs, cells):
    """Accuracy of each task at the end, over that of LoRA of the same rank."""
    others = cells.get(("lora", runs[0].spec["rank"]))
    return _difference(runs, others, lambda place, stages: stages)


def _difference(runs, others, stage_of):
    """Mean difference over the tasks; None where there is nothing to compare with."""
    if not others:
        return None
    tasks, stages = [stage["task"] for stage in runs[0].stages], len(runs[0].stages)
    means, used = [], []
    for side in (runs, others):
        scores = [
            [_score(run, task, stage_of(place, stages)) for place, task in enumerate(tasks, 1)]
            for run in side
        ]
        means.append(metrics.mean_and_spread(s["accuracy"] for run in scores for s in run)[0])
        used += scores[0]
    return _measured(means[0] - means[1], used, len(tasks))


def _measured(value, scores, tasks):
    """With the margin that the scores' sample sizes leave a mean over `tasks` tasks."""
    variance = sum(s["accuracy"] * (1 - s["accuracy"]) / s["n"] for s in scores)
    constant = any(max(s["predicted"]) >= CONSTANT * s["n"] for s in scores)
    return Measured(value, Z * math.sqrt(variance) / tasks, constant)


def _same(found):
    return "yes" if abs(found.value - 1) <= found.margin else "no"


def _raised(found):
    return "yes" if found.value - 1 > found.margin else "no"


def _kept(found):
    return "no loss seen" if found.value <= found.margin else "no"


def _more(found):
    if abs(found.value) <= found.margin:
        return "undecided"
    return "yes" if found.value > 0 else "no"


_HEAD = "learns more than a head on the frozen model (our question): above it"
# claim, whose, measure, verdict
CLAIMS = (
    ("CURLoRA leaves perplexity unchanged", "curlora", _ratio, _same),
    ("LoRA raises perplexity", "lora", _ratio, _raised),
    ("CURLoRA keeps earlier tasks: lost", "curlora", _lost, _kept),
    ("LoRA forgets earlier tasks: lost", "lora", _lost, _more),
    ("CURLoRA ends more accurate than LoRA: above it", "curlora", _above_lora, _more),
    (f"CURLoRA {_HEAD}", "curlora", _above_head, _more),
    (f"LoRA {_HEAD}", "lora", _above_head, _more),
)


def _published(table, method, rank, measure):
    """The same measure of a column of the paper's table, as text; a dash where it has none."""
    columns = paper.PUBLISHED[table]
    if measure is _above_head or (method, rank) not in columns:
        return "–"
    first, mrpc1, sst2, mrpc2, last_task, mrpc3, sst3, final = columns[method, rank]
    R = [[mrpc1], [mrpc2, sst2], [mrpc3, sst3, last_task]]
    if measure is _ratio:
        return _ratio_text(final / first)
    if measure is _lost:
        return _signed(metrics.forgetting(R))
    return _signed(metrics.average_accuracy(R) - sum(columns["lora", rank][4:7]) / 3)


def _shown(found, measure):
    if found is None:
        return "nothing to compare with"
    if measure is _ratio:
        return _ratio_text(found.value)
    return f"{_signed(found.value)} ± {found.margin:.2f}{'†' if found.constant else ''}"


def _ratio_text(value):
    return f"×{value:,.0f}" if value >= 100 else f"×{value:.2f}"


def _signed(value):
    return f"{round(value, 2) + 0.0:+.2f}"


def values_table(records):
    """Every accuracy and perplexity of the records, one a row, unrounded: for other software.

    ValueError if records of different profiles, tables, protocols or precisions are mixed.
    """
    shared_spec([record.spec for record in records])
    rows = []
    for record in records:
        spec = record.spec
        who = (spec["profile"], spec["table"], spec["method"], spec["rank"], spec["seed"])
        for stage in ("initial", "final"):
            if stage in record.perplexity:
                found = record.perplexity[stage]
                place = 0 if stage == "initial" else len(record.stages)
                value = (found["tokens"], found["perplexity"], None, None, None)
                rows.append((*who, "perplexity", place, *value))
        for place, stage in enumerate(record.stages, 1):
            for task, score in stage["scores"].items():
                interval = metrics.wilson_interval(score["accuracy"], score["n"])
                value = (score["n"], score["accuracy"], *interval, score["majority"])
                rows.append((*who, f"accuracy {task}", place, *value))
    return Table(
        "All values",
        tuple(VALUES.split(", ")),
        tuple(tuple("" if cell is None else str(cell) for cell in row) for row in rows),
        ("low, high: Wilson's 95 % interval for the choice of rows.",),
        left=(0, 1, 2, 5),
    )
