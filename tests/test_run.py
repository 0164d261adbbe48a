"""Profiles, records, the whole sequence, tables and figures, on tiny models and made-up texts."""

import dataclasses
import json
import math

import pytest
import torch
from small_runs import small, small_grid

from curlora_lite.replication import (
    grids,
    models,
    paper,
    profiles,
    records,
    sequence,
    tables,
)


@pytest.mark.parametrize("table", profiles.TABLES)
def test_the_sequence_of_section_6_4(tiny, table):
    for spec in small_grid(table, seeds=[0]):
        record = sequence.run(dataclasses.replace(spec, learning_rate=0.05))
        assert [stage["task"] for stage in record.stages] == ["mrpc", "sst2", "sentiment140"]
        for i, stage in enumerate(record.stages):
            assert list(stage["scores"]) == ["mrpc", "sst2", "sentiment140"][: i + 1]
            assert len(stage["training"]["losses"]) == 3
            for score in stage["scores"].values():
                assert score["n"] == sum(score["predicted"]) == 10
        assert record.perplexity["initial"]["tokens"] == 57  # 3 windows of 20
        moved = record.perplexity["final"] != record.perplexity["initial"]
        assert moved == (spec.method != "head-only")
        assert record.trainable["head mrpc"] == 32 * 2 + 2
        assert record.status == "finished"


def test_a_run_leaves_the_model_as_it_was_and_repeats(tiny):
    spec = small_grid(methods=["curlora"])[0]
    model = models.load("smollm2-135m", "fp32", "cpu").model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = sequence.run(spec), sequence.run(spec)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [s["training"]["losses"] for s in first.stages] == [
        s["training"]["losses"] for s in second.stages
    ]
    assert first.perplexity == second.perplexity


def test_head_only_equals_training_without_the_cache_of_features(tiny, monkeypatch):
    """Features are read once a batch there; dropout switches that off."""
    spec = small_grid(methods=["head-only"])[0]
    tasks = tuple(dataclasses.replace(t, epochs=3) for t in spec.tasks)
    spec = dataclasses.replace(spec, tasks=tasks)
    fast = sequence.run(spec)
    monkeypatch.setattr(sequence.training, "_has_dropout", lambda backbone: True)
    slow = sequence.run(spec)
    assert [s["training"]["losses"] for s in fast.stages] == [
        s["training"]["losses"] for s in slow.stages
    ]


def test_a_diverged_run_is_a_result(tiny):
    spec = small(profiles.grid("embedded", "table1", ranks=[4], methods=["lora"])[0])
    record = sequence.run(dataclasses.replace(spec, learning_rate=1e30))
    assert record.status == "diverged"
    assert "loss nan" in record.message or "loss inf" in record.message
    assert math.isnan(record.final_perplexity())
    assert "none (1 of 1 failed)" in tables.results_table([record]).markdown()


def test_grid_reuses_finished_records_and_nothing_else(tiny, monkeypatch):
    specs = small_grid()
    records_before = grids.run_grid(specs, tiny, workers=1)
    folder = records.runs_folder("embedded", tiny)
    assert sorted(p.stem for p in folder.iterdir()) == sorted(spec.key for spec in specs)
    (folder / f"{specs[0].key}.json").write_text('{"half": ')  # as if killed while writing
    computed = []
    run = sequence.run
    monkeypatch.setattr(
        continual, "run", lambda spec, *rest: computed.append(spec) or run(spec, *rest)
    )
    after = grids.run_grid(specs, tiny, workers=1)
    assert computed == specs[:1]
    assert after[0].perplexity == records_before[0].perplexity
    grids.run_grid(specs, tiny, own=True, workers=1)
    assert computed == specs[:1]


def test_records_of_another_working_copy_are_not_ones_own(tiny):
    spec = small_grid(methods=["head-only"])[0]
    grids.run_grid([spec], tiny, workers=1)
    path = records.runs_folder("embedded", tiny) / f"{spec.key}.json"
    content = json.loads(path.read_text())
    content["provenance"]["workspace"] = "somebody"
    path.write_text(json.dumps(content))
    assert records.find(spec, tiny) is not None
    assert records.find(spec, tiny, own=True) is None


def test_every_part_of_a_spec_is_in_its_key():
    spec = profiles.grid("embedded", "table1")[1]
    protocol = dataclasses.replace(spec.protocol, shuffle=True)
    others = [{"seed": 5}, {"learning_rate": 1.0}, {"precision": "bf16"}, {"protocol": protocol}]
    keys = {dataclasses.replace(spec, **change).key for change in others}
    assert len(keys | {spec.key}) == 5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"profile": "embeded"}, "profile: got 'embeded', expected one of embedded"),
        ({"table": "table3"}, "table: got 'table3', expected one of table1, table2"),
        ({"methods": ["dora"]}, "methods: got 'dora', expected one of head-only, lora, curlora"),
        ({"ranks": [0]}, "ranks: got 0, expected a whole number of 1 or more"),
        ({"ranks": []}, r"ranks: got \[\], expected a list"),
        ({"ranks": 8}, "ranks: got 8, expected a list"),
        ({"seeds": [-1]}, "seed: got -1, expected a whole number of 0 or more"),
    ],
)
def test_bad_grid(kwargs, message):
    with pytest.raises(ValueError, match=message):
        profiles.grid(**{"profile": "embedded", "table": "table1", **kwargs})


def test_the_largest_rank_is_checked_before_anything_is_loaded():
    """k_proj and v_proj of SmolLM2 are 576 to 192, c_attn of GPT-2 Large 1280 to 3840."""
    for profile, table, largest in (("smollm2", "table1", 192), ("gpt2-large", "table2", 1280)):
        assert profiles.grid(profile, table, ranks=[largest])
        with pytest.raises(ValueError, match=f"expected at most {largest} for {profile[:5]}"):
            profiles.grid(profile, table, ranks=[largest + 1])


def test_quick_is_for_the_embedded_profile():
    with pytest.raises(ValueError, match="QUICK: profile smollm2 has no quick variant"):
        profiles.profile_named("smollm2-quick")


def test_negative_size():
    with pytest.raises(ValueError, match="eval_rows: got -3, expected a whole number of 1 or more"):
        profiles.TaskSpec("mrpc", 2, 10, -3, 1, None)


def test_published_numbers():
    """Spot checks against the paper's tables, typed here a second time."""
    assert paper.PUBLISHED["table1"]["lora", 16][-1] == 65055.02
    assert paper.PUBLISHED["table1"]["curlora", 24][2] == 0.86
    assert paper.PUBLISHED["table2"]["lora", 24][1] == 0.83
    assert paper.PUBLISHED["table2"]["curlora", 16][-1] == 28.08
    assert all(len(v) == len(paper.ROWS) for t in paper.PUBLISHED.values() for v in t.values())


def test_head_only_scores_earlier_tasks_once(tiny, monkeypatch):
    """A frozen model under the same head answers the same: what is kept equals scoring again."""
    spec = small_grid(methods=["head-only"])[0]
    calls, score = [], sequence.scoring.score_task
    monkeypatch.setattr(
        sequence.scoring, "score_task", lambda *given: calls.append(1) or score(*given)
    )
    kept = sequence.run(spec)
    assert len(calls) == 3
    again = sequence.run(dataclasses.replace(spec, method="curlora", rank=4, learning_rate=1e-30))
    assert len(calls) == 3 + 6  # with an adapter, every task after every stage
    tasks = ("mrpc", "sst2", "sentiment140")
    first = [kept.score(task, 3)["predicted"] for task in tasks[:2]]
    assert first == [kept.score("mrpc", 1)["predicted"], kept.score("sst2", 2)["predicted"]]
    assert [len(s["scores"]) for s in kept.stages] == [len(s["scores"]) for s in again.stages]
