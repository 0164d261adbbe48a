"""Profiles, specs, and the whole sequence of §6.4 on tiny models and made-up texts."""

import dataclasses

import pytest
import torch
from small_runs import small_grid

from curlora_lite.replication import models, paper, profiles, sequence

TASKS = ("mrpc", "sst2", "sentiment140")


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_the_sequence_of_section_6_4(tiny, table):
    for spec in small_grid(table, seeds=[3]):
        record = sequence.run(dataclasses.replace(spec, learning_rate=0.05))
        assert [stage["task"] for stage in record.stages] == list(TASKS)
        for i, stage in enumerate(record.stages):
            assert tuple(stage["scores"]) == TASKS[: i + 1]
            assert len(stage["training"]["losses"]) == 3
            for score in stage["scores"].values():
                assert score["n"] == sum(score["predicted"]) == len(score["answers"]) == 10
        assert record.perplexity["initial"]["tokens"] == 57  # 3 windows of 20
        moved = record.perplexity["final"] != record.perplexity["initial"]
        assert moved == (spec.method != "head-only")
        assert record.trainable["head mrpc"] == 32 * 2 + 2
        assert record.status == "finished"


def test_a_run_leaves_the_model_as_it_was_and_repeats(tiny):
    spec = small_grid(methods=["curlora"], seeds=[3])[0]
    model = models.load("smollm2-135m", "fp32", "cpu").model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = sequence.run(spec), sequence.run(spec)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert first.perplexity == second.perplexity
    for one, other in zip(first.stages, second.stages, strict=True):
        assert one["training"]["losses"] == other["training"]["losses"]
        assert one["scores"] == other["scores"] and one["norms"] == other["norms"]


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_norms_are_those_of_the_update_beside_the_frozen_weight(tiny, monkeypatch, table):
    """Read off dense matrices, after the last task, before the adapter is taken off."""
    spec = small_grid(table, methods=["lora"], seeds=[3])[0]
    found, remove = {}, sequence.remove_adapters

    def look(model):
        for name, layer in sequence.adapter_layers(model):
            update = spec.alpha * layer.A.double() @ layer.B.double()
            found[name] = (update.norm() / layer.base.weight.double().norm()).item()
        return remove(model)

    monkeypatch.setattr(sequence, "remove_adapters", look)
    record = sequence.run(dataclasses.replace(spec, learning_rate=0.05))
    assert found and record.stages[-1]["norms"] == pytest.approx(found, rel=1e-5)


def test_each_task_keeps_its_own_head(tiny, monkeypatch):
    """Every score is of the head made for its task, new at its start: 1311 + seed, three tasks."""
    spec, made, used = small_grid(methods=["lora"], seeds=[3])[0], {}, []
    train, score = sequence.training.train_task, sequence.score

    def trained(backbone, head, *rest, **named):
        torch.manual_seed(1311 + 3)
        fresh = torch.nn.Linear(32, head.out_features)
        assert torch.equal(head.weight, fresh.weight) and torch.equal(head.bias, fresh.bias)
        made[TASKS[len(made)]] = head
        return train(backbone, head, *rest, **named)

    def scored(backbone, head, *rest):
        used.append(next(task for task, own in made.items() if own is head))
        return score(backbone, head, *rest)

    monkeypatch.setattr(sequence.training, "train_task", trained)
    monkeypatch.setattr(sequence, "score", scored)
    record = sequence.run(spec)
    assert used == [task for stage in record.stages for task in stage["scores"]]
    assert len(used) == 6


def test_a_diverged_run_is_a_result(tiny):
    spec = small_grid(methods=["lora"])[0]
    record = sequence.run(dataclasses.replace(spec, learning_rate=1e30))
    assert record.status == "diverged"
    assert "loss nan" in record.message or "loss inf" in record.message
    assert "final" not in record.perplexity and len(record.stages) < 3


def test_head_only_scores_earlier_tasks_once(tiny, monkeypatch):
    """A frozen model under the same head answers the same: what is kept equals scoring again."""
    spec = small_grid(methods=["head-only"], seeds=[3])[0]
    calls, score = [], sequence.score
    monkeypatch.setattr(sequence, "score", lambda *given: calls.append(1) or score(*given))
    kept = sequence.run(spec)
    assert len(calls) == 3
    again = sequence.run(dataclasses.replace(spec, method="curlora", rank=4, learning_rate=1e-30))
    assert len(calls) == 3 + 6  # with an adapter, every task after every stage
    first, second, third = (stage["scores"]["mrpc"] for stage in kept.stages)
    assert first == second == third
    assert [list(s["scores"]) for s in kept.stages] == [list(s["scores"]) for s in again.stages]


def test_every_part_of_a_spec_is_in_its_key():
    spec = profiles.grid("embedded", "table1")[1]
    task = dataclasses.replace(spec.tasks[0], epochs=2)
    other_model = dataclasses.replace(spec.model, target_modules=("q_proj",))
    others = [
        {"seed": 5},
        {"learning_rate": 1.0},
        {"precision": "bf16"},
        {"protocol": dataclasses.replace(spec.protocol, shuffle=True)},
        {"tasks": (task, *spec.tasks[1:])},
        {"model": other_model},
        {"tune": True},
    ]
    keys = {dataclasses.replace(spec, **change).key for change in others}
    assert len(keys | {spec.key}) == 1 + len(others)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"profile": "embeded"}, "profile: got 'embeded', expected one of embedded"),
        ({"profile": "smollm2-quick"}, "QUICK: profile smollm2 has no quick variant"),
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


LARGEST = [("smollm2", "table1", 192), ("gpt2-large", "table2", 1280), ("embedded", "table2", 576)]


@pytest.mark.parametrize(("profile", "table", "largest"), LARGEST)
def test_the_largest_rank_is_checked_before_anything_is_loaded(profile, table, largest):
    """SmolLM2's k_proj is 576 to 192, fused 576 to 960; GPT-2 Large's c_attn 1280 to 3840."""
    assert profiles.grid(profile, table, ranks=[largest])
    with pytest.raises(ValueError, match=f"expected at most {largest} for "):
        profiles.grid(profile, table, ranks=[largest + 1])


def test_a_grid_is_every_cell_once_head_only_without_a_rank():
    specs = profiles.grid("embedded", "table1", ranks=[8, 16, 8], seeds=[3, 5])
    cells = [("head-only", None), ("lora", 8), ("curlora", 8), ("lora", 16), ("curlora", 16)]
    assert [(s.method, s.rank) for s in specs if s.seed == 3] == cells
    assert [s.seed for s in specs] == [3] * 5 + [5] * 5


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
