"""The table of claims on made-up records whose answers are worked out by hand."""

import csv
import io
import math

import pytest

from curlora_lite import findings, profiles, records, tables

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


def test_claims_by_hand():
    rows = {row[0]: row[1:] for row in findings.findings_table(RUNS).rows}
    assert rows["CURLoRA leaves perplexity unchanged"] == (
        "×1.00, ×1.00",
        "×1.00, ×0.90",
        "yes: 8; no: 16",
    )
    # published: 53,896.68 / 5.44 and 65,055.02 / 5.44
    assert rows["LoRA raises perplexity"] == ("×9,907, ×11,959", "×3.00, ×1.00", "yes: 8; no: 16")
    # published LoRA-8: ((0.68 - 0.32) + (0.51 - 0.49)) / 2; ours ((0.9 - 0.4) + (0.9 - 0.5)) / 2
    published, ours, answer = rows["LoRA forgets earlier tasks: lost"]
    assert (published, ours) == ("+0.19, +0.18", "+0.45, +0.00")
    assert answer == "yes: 8; undecided: 16"
    # ACC of LoRA-8: (0.4 + 0.5 + 0.9) / 3 = 0.6 against 0.7
    assert rows["CURLoRA ends more accurate than LoRA: above it"][1:] == (
        "+0.10, +0.00",
        "yes: 8; undecided: 16",
    )
    name = "learns more than a head on the frozen model: above it"
    assert rows[f"LoRA {name}"] == ("not tested", "+0.20, +0.00", "yes: 8; undecided: 16")


def test_margins_are_those_of_two_proportions():
    """1.96 times the root of the summed p (1 - p) / n, over the number of tasks; by hand."""
    at_the_end = (3 * 0.7 * 0.3 + 0.4 * 0.6 + 0.5 * 0.5 + 0.9 * 0.1) / ROWS
    value, margin = findings._above_lora([RUNS[2]], {("lora", 8): [RUNS[1]]})
    assert value == pytest.approx(0.7 - (0.4 + 0.5 + 0.9) / 3)
    assert margin == pytest.approx(1.96 * math.sqrt(at_the_end) / 3)
    when_learned = (3 * 0.7 * 0.3 + 3 * 0.9 * 0.1) / ROWS
    value, margin = findings._above_head([RUNS[1]], {("head-only", None): [RUNS[0]]})
    assert value == pytest.approx(0.2)
    assert margin == pytest.approx(1.96 * math.sqrt(when_learned) / 3)
    # two earlier tasks, best 0.9 each
    _, margin = findings._lost([RUNS[1]], {})
    assert margin == pytest.approx(1.96 * math.sqrt(2 * 2 * 0.9 * 0.1 / ROWS) / 2)


def test_constant_answers_are_marked():
    constant = record("curlora", 8, STEADY, 1.0)
    constant.stages[0]["scores"]["mrpc"]["predicted"] = [4, 96]
    table = tables.results_table([RUNS[0], constant])
    marked = {row[0]: row[-1] for row in table.rows}
    assert marked["MRPC after MRPC"] == "0.70†"
    assert marked["MRPC after SST-2"] == "0.70"
    assert "† at least 95 % of the answers are one class." in table.notes


def test_a_run_that_diverged_is_no_evidence():
    runs = [*RUNS[:2], record("curlora", 8, STEADY[:1], 1.0, status="diverged")]
    claims = [row[0] for row in findings.findings_table(runs).rows]
    assert not claims or all("CURLoRA" not in claim for claim in claims)


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
