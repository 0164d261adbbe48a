"""Worker scaling: overheads and makespans by hand, operations of a run by hand, equal numbers."""

import dataclasses
import json

import pytest
from small_runs import small_grid

from curlora_lite import cli, fetch, grids, memory, profiles, records, scaling

CONTENT = {
    "grid": "a grid",
    "load": 0.1,
    "provenance": {"device": "a machine", "cores": 2},
    "measured": [
        {"workers": 1, "round": 0, "wall": 12.0, "seconds": [4.0, 3.0, 3.0]},
        {"workers": 2, "round": 0, "wall": 8.0, "seconds": [4.0, 4.0, 4.0]},
        {"workers": 1, "round": 1, "wall": 13.0, "seconds": [4.0, 3.0, 3.0]},
        {"workers": 2, "round": 1, "wall": 6.5, "seconds": [4.0, 4.0, 4.0]},
    ],
}


def test_overhead_by_hand():
    """One worker: (12 - 10) / 3; two: (16 - 12) / 3, the idle one's time among it."""
    assert scaling.overhead(CONTENT["measured"][0]) == pytest.approx(2 / 3)
    assert scaling.overhead(CONTENT["measured"][1]) == pytest.approx(4 / 3)


def test_the_table_compares_within_a_round():
    one, two = scaling.table(CONTENT).rows
    assert one[1:4] == ("12.5 (12.0 to 13.0)", "1.00 (1.00 to 1.00)", "1.00")
    # 12 / 8 and 13 / 6.5; three runs of four seconds on two workers: eight, for twelve alone
    assert two[1:4] == ("7.2 (6.5 to 8.0)", "1.75 (1.50 to 2.00)", "1.50")
    assert two[4:] == ("12.0 (12.0 to 12.0)", "0.83 (0.33 to 1.33)")


@pytest.mark.parametrize(
    ("seconds", "workers", "end"),
    [
        ([3, 3, 2, 2, 2], 1, 12),
        ([3, 3, 2, 2, 2], 2, 7),  # 3 + 2 + 2 and 3 + 2; the best is 6
        ([3, 3, 2, 2, 2], 64, 3),
        ([5, 5, 4, 4, 3, 3, 3], 3, 11),  # Graham's worst case: 11 for 9
    ],
)
def test_the_longest_first_by_hand(seconds, workers, end):
    assert scaling.makespan(seconds, workers) == end


def test_operations_by_hand(monkeypatch):
    """A model of 10 parameters, 2 layers 3 wide; tasks of 4 and 5 rows trained twice, 7 scored."""
    monkeypatch.setitem(memory.SHAPES, "mistral-7b", (10, 2, 3, 0, 0, 0))
    monkeypatch.setitem(profiles.TOKENS, "paper", {"mrpc": 6, "sentiment140": 8})
    (head, _, adapter) = profiles.grid("mistral-7b", "table1", ranks=[8])
    tasks = (
        profiles.TaskSpec("mrpc", 2, 4, 7, 2, None),
        profiles.TaskSpec("sentiment140", 3, 5, 7, 2, None),
    )
    sizes = {"tasks": tasks, "text_tokens": 100, "text_window": 50}
    # trained: 8 and 10 rows of 6 and 8 tokens; scored: 7 rows of the first, 14 of the second
    read = 100 * (2 * 10 + 4 * 50 * 3 * 2)
    of_head = 10 * (2 * (8 * 6 + 10 * 8) + 2 * (7 * 6 + 14 * 8)) + read
    assert scaling.operations(dataclasses.replace(head, **sizes)) == of_head
    # four for two in training; the first task scored twice; the text read twice
    of_adapter = 10 * (4 * (8 * 6 + 10 * 8) + 2 * (14 * 6 + 14 * 8)) + 2 * read
    assert scaling.operations(dataclasses.replace(adapter, **sizes)) == of_adapter


def benchmarks():
    return json.loads((records.ROOT / "results" / "benchmarks" / "benchmarks.json").read_text())


def test_the_measured_rate_by_hand():
    """Mistral's block: q and o 4096 x 4096, k and v a quarter, three of 4096 x 14336."""
    weights = 4096 * (4096 + 4096 + 1024 + 1024 + 3 * 14336)
    at = {"subject": "mistral", "contender": "curlora", "pass": "training", "tokens": 64}
    rows = [{**at, "median_seconds": 2.0}, {**at, "median_seconds": 0.5}]
    rows.append({**at, "contender": "limit", "median_seconds": 0.1})
    rate, row = scaling.measured_rate(rows)
    assert rate == pytest.approx(4 * weights * 64 / 0.5)
    assert row is rows[1]


def test_the_estimate_says_what_it_is():
    table = scaling.estimate_table(benchmarks())
    assert [row[0].split(", ")[1] for row in table.rows] == ["measured", *["assumed"] * 4]
    assert table.columns[2:] == ("1 GPU", "8 GPUs", "64 GPUs")
    text = table.markdown()
    assert "An estimate: no 7B model was run. 35 runs" in text
    assert all(row[1] == row[4] for row in table.rows)  # 35 runs on 64 GPUs: the longest


def test_any_other_number_is_refused(tiny, monkeypatch):
    """With a real grid of tiny runs; a second worker's loss is changed in the last round."""
    monkeypatch.setattr(scaling, "path", lambda: tiny / "scaling.json")
    monkeypatch.setattr(scaling.models, "prepare", lambda name: None)
    specs = small_grid("table2", methods=["head-only", "lora"])
    calls = []

    def alone(specs, folder, workers, threads):  # worker processes would not have tiny models
        calls.append((workers, threads))
        runs = grids.run_grid(specs, folder, workers=1)
        if len(calls) == 8:
            runs[1].stages[0]["training"]["losses"][0] += 1e-12
        return runs

    content = scaling.measure(specs, rounds=2, run_grid=alone)
    assert calls == [(1, 1), (2, 1)] * 2
    assert [one["workers"] for one in content["measured"]] == [1, 2, 1, 2]
    assert content == scaling.load() and "workspace" not in content["provenance"]
    assert all(scaling.overhead(one) > 0 for one in content["measured"][::2])
    before = fetch.sha256_of(tiny / "scaling.json")
    with pytest.raises(ValueError, match="2 workers, round 1: other numbers than at first"):
        scaling.measure(specs, rounds=2, run_grid=alone)
    assert fetch.sha256_of(tiny / "scaling.json") == before


def test_without_a_measurement(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scaling, "path", lambda: tmp_path / "none.json")
    assert cli.main(["scaling", "--tables"]) == 1
    assert "no measurement; run `make scaling`" in capsys.readouterr().err
