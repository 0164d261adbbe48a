"""Profiles, specs, and the whole sequence of §6.4 on tiny models and made-up texts."""

import dataclasses
from pathlib import Path

import pytest
import torch
from small_runs import small_grid

from curlora_lite.replication import grids, models, paper, profiles, records, sequence

TASKS = ("mrpc", "sst2", "sentiment140")


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_the_sequence_of_section_6_4(tiny, table):
    """Which tasks when; and that the loaded model, which the next run has too, is as it was."""
    for spec in small_grid(table):
        model = models.load(spec.model.name, "fp32", "cpu").model
        before = {name: value.clone() for name, value in model.state_dict().items()}
        record = sequence.run(dataclasses.replace(spec, learning_rate=0.05))
        assert record.status == "finished"
        assert [stage["task"] for stage in record.stages] == list(TASKS)
        assert [tuple(stage["scores"]) for stage in record.stages] == [TASKS[:i] for i in (1, 2, 3)]
        heads = {"head mrpc": 66, "head sst2": 66, "head sentiment140": 99}  # 32 and a bias
        adapter = {"head-only": None, "lora": 4 * 2 * (64 + 48 + 48), "curlora": 6 * 16}
        if table == "table2":  # one projection a layer, 32 to 64
            adapter |= {"lora": 4 * 2 * 96, "curlora": 2 * 16}
        assert record.trainable.pop("adapter", None) == adapter[spec.method]
        assert record.trainable == heads
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_diverged_run_is_a_result(tiny):
    """Taken again, too: what it read is compared, and not what it never came to."""
    spec = dataclasses.replace(small_grid(methods=["lora"])[0], learning_rate=1e30)
    (record,) = grids.run_grid([spec], tiny, own=True, workers=1)
    assert record.status == "diverged" and "sentiment140" not in record.data
    assert grids.reusable(spec, tiny, own=True) == record
    assert "loss nan" in record.message or "loss inf" in record.message
    assert "final" not in record.perplexity and len(record.stages) < 3


def test_every_part_of_a_spec_is_in_its_key():
    spec = profiles.grid("embedded", "table1")[1]
    task = dataclasses.replace(spec.tasks[0], epochs=2)
    other_model = dataclasses.replace(spec.model, target_modules=("q_proj",))
    others = [{"seed": 5}, {"learning_rate": 1.0}, {"precision": "bf16"}, {"tune": True}]
    others += [{"head_rate": 0.5}, {"protocol": dataclasses.replace(spec.protocol, shuffle=True)}]
    others += [{"tasks": (task, *spec.tasks[1:])}, {"model": other_model}]
    keys = {dataclasses.replace(spec, **change).key for change in others}
    assert len(keys | {spec.key}) == 1 + len(others)


@pytest.mark.parametrize("profile", ["audit", "embedded", "smollm2", "smollm2-tune"])
def test_the_cost_of_a_run_is_of_all_rows_that_it_trained_on_and_scored(committed, profile):
    for path in (committed / profile / "runs").glob("*.json"):
        record = records.load(path)
        spec, rows = profiles.RunSpec.from_dict(record.spec), []
        for stage, task in zip(record.stages, spec.tasks, strict=True):
            rows.append((task.name, spec.training_cost * task.train_rows * task.epochs))
            rows += [(name.split(",")[0], s["n"]) for name, s in stage["scores"].items()]
        assert sum(n * spec.row_cost(name) for name, n in rows) == spec.cost(), path


LARGEST = [("smollm2", "table1", 192), ("gpt2-large", "table2", 1280), ("embedded", "table2", 576)]


@pytest.mark.parametrize(("profile", "table", "largest"), LARGEST)
def test_the_largest_rank_is_checked_before_anything_is_loaded(profile, table, largest):
    """SmolLM2's k_proj is 576 to 192, fused 576 to 960; GPT-2 Large's c_attn 1280 to 3840."""
    assert profiles.grid(profile, table, ranks=[largest])
    with pytest.raises(ValueError, match=f"expected at most {largest} for "):
        profiles.grid(profile, table, ranks=[largest + 1])


def test_a_grid_is_every_cell_once_head_only_without_a_rank():
    """However its lists are given: as `papermill -p ranks 8,16` and the Makefile pass them too."""
    cells = ["Head only", "LoRA-8", "CURLoRA-8", "LoRA-16", "CURLoRA-16"]
    for ranks, seeds in ([8, 16, 8], [3, 5]), ("8,16,8", "3, 5"):
        specs = profiles.grid("embedded", "table1", ranks=ranks, seeds=seeds)
        assert [s.label for s in specs if s.seed == 3] == cells
        assert [s.seed for s in specs] == [3] * 5 + [5] * 5


def test_published_numbers():
    """The paper's tables, typed a second time as they stand there: LoRA and CURLoRA by rank."""
    lines = [line.split() for line in Path(__file__).with_name("published.txt").open()]
    rows = [(task or "-", str(stage)) for task, stage in paper.ROWS]
    assert [tuple(line[:2]) for line in lines] == rows
    cells = [(method, rank) for rank in (8, 16, 24) for method in ("lora", "curlora")]
    for table, first in (("table1", 2), ("table2", 8)):
        assert paper.PUBLISHED[table].keys() == set(cells)
        for i, cell in enumerate(cells, first):
            assert list(paper.PUBLISHED[table][cell]) == [float(line[i]) for line in lines]
    assert paper.MAJORITY == {"mrpc": 279 / 408, "sst2": 444 / 872, "sentiment140": 1.0}
