"""What the runs of one table say of the paper's claims; and every number of them, unrounded."""

import math

from . import metrics, paper
from .records import by_cell
from .tables import Table, shared_spec

VALUES = "profile, table, method, rank, seed, measure, after stage, n, value, low, high, majority"
SAME = 0.01  # perplexity within 1 % counts as unchanged
Z = 1.96  # 95 %


def findings_table(records):
    """The paper's claims, one a row: its own figures, ours by rank, and at which ranks they hold.

    Differences of accuracy count where they exceed the half-width of their 95 % interval for the
    choice of evaluation rows (normal approximation, the two accuracies taken as independent).
    Means over seeds. Runs that did not finish are left out.
    Source of the claims: abstract and §7; their figures: Tables 1 and 2.
    """
    shared = shared_spec([record.spec for record in records])
    done = by_cell([record for record in records if record.status == "finished"])
    theirs = paper.PUBLISHED[shared["table"]]
    ranks = [rank for method, rank in done if method == "curlora"]
    rows = []
    for claim, method, measure, said in CLAIMS:
        ours, verdicts, published = [], {}, []
        for rank in ranks:
            if (method, rank) not in done:
                continue
            value, margin = measure(done[method, rank], done)
            ours.append(_signed(value, measure))
            verdict = _verdict(value, margin, said, measure)
            verdicts.setdefault(verdict, []).append(str(rank))
            if (method, rank) in theirs and measure is not _above_head:
                published.append(_signed(_of_paper(theirs, method, rank, measure), measure))
        if ours:
            held = "; ".join(f"{v}: {', '.join(at)}" for v, at in verdicts.items())
            answer = next(iter(verdicts)) if len(verdicts) == 1 else held
            rows.append((claim, ", ".join(published) or "not tested", ", ".join(ours), answer))
    listed = ", ".join(map(str, ranks))
    return Table(
        f"Table {shared['table'][-1]}'s claims, {shared['profile']} profile",
        ("", f"Published (ranks {listed})", f"Here (ranks {listed})", "Does it hold here?"),
        tuple(rows),
        (
            "Perplexity: after over before; changed means by more than 1 %. Lost: forgetting (best "
            "earlier less last accuracy, mean over the earlier tasks). Above: difference of "
            "accuracies, mean over the tasks.",
            "A difference of accuracies counts where it exceeds its 95 % interval for the choice "
            "of evaluation rows, the two taken as independent; what seeds change comes on top. "
            "“Undecided”: the interval includes zero.",
        ),
        left=(0, 1, 2, 3),
    )


def _ratio(runs, _):
    values = [r.final_perplexity() / r.initial_perplexity() for r in runs]
    return metrics.mean_and_spread(values)[0], SAME


def _lost(runs, _):
    R = [metrics.score_matrix(run) for run in runs]
    earlier = [stage["task"] for stage in runs[0].stages[:-1]]
    best = {task: max(r.accuracy(task, 1 + i) for r in runs) for i, task in enumerate(earlier)}
    variance = sum(2 * _variance(runs[0], task, best[task]) for task in earlier)
    value = metrics.mean_and_spread(map(metrics.forgetting, R))[0]
    return value, Z * math.sqrt(variance) / len(earlier)


def _above_head(runs, cells):
    """Accuracy of each task right after its own stage, over head only's."""
    return _difference(
        runs, cells.get(("head-only", None)), lambda R: [R[i][i] for i in range(len(R))]
    )


def _above_lora(runs, cells):
    """Accuracy of each task at the end, over that of LoRA of the same rank."""
    return _difference(runs, cells.get(("lora", runs[0].spec["rank"])), lambda R: R[-1])


def _difference(runs, others, accuracies):
    """(mean difference, its margin); NaN where there is nothing to compare with.

    accuracies: score matrix -> one accuracy a task, of which the mean over tasks is compared.
    """
    if not others:
        return math.nan, math.nan
    tasks = [stage["task"] for stage in runs[0].stages]
    means, variance = [], 0.0
    for side in (runs, others):
        columns = zip(*(accuracies(metrics.score_matrix(run)) for run in side), strict=True)
        values = [metrics.mean_and_spread(column)[0] for column in columns]
        means.append(metrics.mean_and_spread(values)[0])
        variance += sum(_variance(side[0], t, v) for t, v in zip(tasks, values, strict=True))
    return means[0] - means[1], Z * math.sqrt(variance) / len(tasks)


def _variance(record, task, accuracy):
    n = record.score(task, len(record.stages))["n"]
    return accuracy * (1 - accuracy) / n


_HEAD = "learns more than a head on the frozen model: above it"
# claim, whose, measure, what it says of the value
CLAIMS = (
    ("CURLoRA leaves perplexity unchanged", "curlora", _ratio, "same"),
    ("LoRA raises perplexity", "lora", _ratio, "more"),
    ("CURLoRA keeps earlier tasks: lost", "curlora", _lost, "none"),
    ("LoRA forgets earlier tasks: lost", "lora", _lost, "more"),
    ("CURLoRA ends more accurate than LoRA: above it", "curlora", _above_lora, "more"),
    (f"CURLoRA {_HEAD}", "curlora", _above_head, "more"),
    (f"LoRA {_HEAD}", "lora", _above_head, "more"),
)


def _verdict(value, margin, said, measure):
    if math.isnan(value):
        return "no run to compare with"
    excess = value - 1 if measure is _ratio else value
    if said == "same":
        return "yes" if abs(excess) <= margin else "no"
    if said == "none":
        return "yes, none seen" if excess <= margin else "no"
    if excess > margin:
        return "yes"
    return "no" if measure is _ratio or excess < -margin else "undecided"


def _of_paper(published, method, rank, measure):
    """The same measure of a column of the paper's table."""
    first, mrpc1, sst2, mrpc2, last_task, mrpc3, sst3, final = published[method, rank]
    R = [[mrpc1], [mrpc2, sst2], [mrpc3, sst3, last_task]]
    if measure is _ratio:
        return final / first
    if measure is _lost:
        return metrics.forgetting(R)
    other = published["lora", rank]
    return metrics.average_accuracy(R) - (other[4] + other[5] + other[6]) / 3


def _signed(value, measure):
    if math.isnan(value):
        return "none"
    if measure is _ratio:
        return f"×{value:,.0f}" if value >= 100 else f"×{value:.2f}"
    return f"{round(value, 2) + 0.0:+.2f}"


def values_table(records):
    """Every accuracy and perplexity of the records, one a row, unrounded: for other software."""
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
