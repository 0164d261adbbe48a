"""The table of claims on made-up records whose answers are worked out by hand."""

import csv
import io
import math

import pytest

from curlora_lite import findings, metrics, profiles, records, tables

# ||W|| and the like are not read here; of n = 100 rows each
ROWS = 100


def record(method, rank, R, ratio, seed=0, status="finished"):
    """A record of three tasks with accuracies R (lower triangular) and this perplexity ratio."""
    spec = profiles.grid(
        "smollm2", "table1", ranks=[rank or 8], methods=[method], seeds=[seed], fast="bf16"
    )[0]
    tasks = [task.name for task in spec.tasks]
    stages = [
        {
            "task": tasks[i],
            "scores": {
                task: {
                    "accuracy": accuracy,
                    "n": ROWS,
                    "majority": 0.5,
                    "predicted": [round(99 * accuracy), ROWS - round(99 * accuracy)],
                }
                for task, accuracy in zip(tasks, row, strict=False)
            },
        }
        for i, row in enumerate(R)
    ]
    perplexity = {"initial": {"perplexity": 20.0, "tokens": 8191}}
    perplexity["final"] = {"perplexity": 20.0 * ratio, "tokens": 8191}
    return records.RunRecord(
        spec.to_dict(),
        status=status,
        stages=stages,
        perplexity=perplexity,
        provenance={"commit": "c" * 40, "device": "a CPU"},
    )


STEADY = [[0.7], [0.7, 0.7], [0.7, 0.7, 0.7]]
LEARNS_AND_FORGETS = [[0.9], [0.6, 0.9], [0.4, 0.5, 0.9]]
RUNS = [
    record("head-only", None, STEADY, 1.0),
    record("lora", 8, LEARNS_AND_FORGETS, 3.0),
    record("curlora", 8, STEADY, 1.005),
    record("lora", 16, STEADY, 1.0),
    record("curlora", 16, STEADY, 0.9),
]


def rows_of(runs):
    return {row[0]: row[1:] for row in findings.findings_table(runs).rows}


def test_claims_by_hand():
    rows = rows_of(RUNS)
    assert rows["CURLoRA leaves perplexity unchanged"] == (
        "×1.00, ×1.00",
        "×1.00, ×0.90",
        "yes: 8; no: 16",
    )
    # published: 53,896.68 / 5.44 and 65,055.02 / 5.44
    assert rows["LoRA raises perplexity"] == ("×9,907, ×11,959", "×3.00, ×1.00", "yes: 8; no: 16")
    # published LoRA-8: ((0.68 - 0.32) + (0.51 - 0.49)) / 2; ours ((0.9 - 0.4) + (0.9 - 0.5)) / 2;
    # margins 1.96 sqrt(.09 + .24 + .09 + .25) / 10 / 2 and 1.96 sqrt(4 x .21) / 10 / 2
    assert rows["LoRA forgets earlier tasks: lost"] == (
        "+0.19, +0.18",
        "+0.45 ± 0.08, +0.00 ± 0.09",
        "yes: 8; undecided: 16",
    )
    assert rows["CURLoRA keeps earlier tasks: lost"][1:] == (
        "+0.00 ± 0.09, +0.00 ± 0.09",
        "no loss seen",
    )
    # ACC of LoRA-8: (0.4 + 0.5 + 0.9) / 3 = 0.6 against 0.7
    assert rows["CURLoRA ends more accurate than LoRA: above it"][1:] == (
        "+0.10 ± 0.07, +0.00 ± 0.07",
        "yes: 8; undecided: 16",
    )
    name = "learns more than a head on the frozen model (our question): above it"
    assert rows[f"LoRA {name}"] == ("–, –", "+0.20 ± 0.06, +0.00 ± 0.07", "yes: 8; undecided: 16")


def test_forgetting_counts_from_the_best_score():
    """0.6, then 0.9 after the next task, then 0.5: lost 0.4 of it, as `metrics.forgetting` has."""
    R = [[0.6], [0.9, 0.7], [0.5, 0.7, 0.7]]
    found = findings._lost([record("lora", 8, R, 1.0)], {})
    assert found.value == pytest.approx((0.4 + 0.0) / 2) == pytest.approx(metrics.forgetting(R))
    assert found.margin == pytest.approx(1.96 * math.sqrt((0.09 + 0.25 + 2 * 0.21) / ROWS) / 2)


def with_balanced(run, accuracy, predicted):
    own = run.stages[-1]["scores"]["sentiment140"]
    score = {**own, "accuracy": accuracy, "predicted": predicted}
    run.stages[-1]["scores"]["sentiment140, balanced"] = score
    return run


def test_sentiment140_counts_by_its_balanced_rows():
    """On rows that are all negative the two are equal; on balanced ones LoRA is 0.3 ahead."""
    lora = with_balanced(record("lora", 8, STEADY, 1.0), 0.8, [50, 50])
    curlora = with_balanced(record("curlora", 8, STEADY, 1.0), 0.5, [50, 50])
    name = "CURLoRA ends more accurate than LoRA: above it"
    assert rows_of([lora, curlora])[name][1:] == ("-0.10 ± 0.07", "no")


def test_a_comparison_with_constant_answers_is_marked():
    lora = with_balanced(record("lora", 8, STEADY, 1.0), 0.5, [100, 0])
    curlora = with_balanced(record("curlora", 8, STEADY, 1.0), 0.5, [50, 50])
    table = findings.findings_table([lora, curlora])
    marked = {row[0]: row[2] for row in table.rows}
    assert marked["CURLoRA ends more accurate than LoRA: above it"].endswith("†")
    assert not marked["CURLoRA keeps earlier tasks: lost"].endswith("†")
    assert any(note.startswith("†") for note in table.notes)


def test_constant_answers_are_marked():
    constant = record("curlora", 8, STEADY, 1.0)
    constant.stages[0]["scores"]["mrpc"]["predicted"] = [4, 96]
    table = tables.results_table([RUNS[0], constant])
    marked = {row[0]: row[-1] for row in table.rows}
    assert marked["MRPC after MRPC"] == "0.70†"
    assert marked["MRPC after SST-2"] == "0.70"
    assert "† at least 95 % of the answers are one class." in table.notes


def test_runs_that_diverged_or_are_missing_keep_their_place():
    runs = [
        RUNS[0],
        record("lora", 8, LEARNS_AND_FORGETS[:1], 1.0, status="diverged"),
        record("lora", 12, LEARNS_AND_FORGETS, 3.0),
        record("curlora", 8, STEADY, 1.0),
    ]
    rows = rows_of(runs)
    assert rows["LoRA raises perplexity"] == ("×9,907, –", "not finished, ×3.00", "yes")
    assert rows["CURLoRA leaves perplexity unchanged"] == ("×1.00, –", "×1.00, not run", "yes")
    above = rows["CURLoRA ends more accurate than LoRA: above it"]
    assert above[1:] == ("nothing to compare with, not run", "not known")


def test_every_value_is_listed_unrounded():
    table = findings.values_table(RUNS)
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    # two perplexities and 1 + 2 + 3 accuracies a run
    assert len(rows) == len(RUNS) * (2 + 6)
    one = next(r for r in rows if r["method"] == "lora" and r["measure"] == "accuracy sst2")
    assert (one["n"], one["value"], one["after stage"]) == ("100", "0.9", "2")
    # Wilson for 90 of 100, as tabulated
    assert float(one["low"]) == pytest.approx(0.8256, abs=1e-4)
    assert float(one["high"]) == pytest.approx(0.9448, abs=1e-4)
