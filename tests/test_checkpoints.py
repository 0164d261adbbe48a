"""A run killed at any stage goes on from its checkpoint to the numbers of an undisturbed one."""

import dataclasses
import os

import pytest
import torch
from small_runs import small_grid

from curlora_lite.replication import data, grids, records, sequence, verify


class KilledError(Exception):
    """Stands for a process that ends."""


def killed_at(place):
    """A progress that ends the run when it comes to `place`, the n-th time that it is said."""
    what, times = place
    seen = []

    def progress(said, examples=0):
        if said == what and not examples:
            seen.append(said)
            if len(seen) == times:
                raise KilledError

    return progress


def trained(spec, checkpoint, killed=None):
    """(the record, how many rows each task was trained on) of a run that may end early."""
    rows = {}

    def progress(said, examples=0):
        if said.startswith("training"):
            rows[said] = rows.get(said, 0) + examples
        if killed:
            killed(said, examples)

    record = sequence.run(spec, progress, checkpoint)
    return record, rows


PLACES = {
    "in the first task": ("training mrpc", 1),
    "in the second": ("training sst2", 1),
    "while scoring the second": ("scoring mrpc", 2),
    "in the third": ("training sentiment140", 1),
    "after the third": ("perplexity", 2),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", ["head-only", "lora", "curlora", "full"])
def test_a_killed_run_goes_on_to_the_same_numbers(tiny, place, method):
    spec = small_grid("table2", methods=["lora"])[0]
    if method != "lora":
        spec = dataclasses.replace(spec, method=method, rank=None if method == "head-only" else 4)
    spec = dataclasses.replace(spec, learning_rate=0.01)
    assert spec.protocol.dropout  # draws on the random generator's state
    undisturbed = sequence.run(spec)
    checkpoint = tiny / "state.safetensors"
    with pytest.raises(KilledError):
        trained(spec, checkpoint, killed_at(PLACES[place]))
    assert checkpoint.exists() == (place not in list(PLACES)[:1])
    torch.manual_seed(17)  # another process's
    kept = records.RunRecord(spec.to_dict(), model_sha256="s" * 64)
    kept.provenance = records.provenance("cpu")
    done = len(
        sequence.checkpoints.load(checkpoint, kept)[0]["stages"] if checkpoint.exists() else []
    )
    again = sequence.run(spec, checkpoint=checkpoint)
    assert verify.plain(again) == verify.plain(undisturbed)
    assert done == {"in the first task": 0, "in the third": 2, "after the third": 3}.get(place, 1)


def test_finished_tasks_are_not_trained_again(tiny, monkeypatch):
    spec = small_grid(methods=["curlora"])[0]
    checkpoint = tiny / "state.safetensors"
    with pytest.raises(KilledError):
        trained(spec, checkpoint, killed_at(PLACES["in the third"]))
    calls = []
    train = sequence.training.train_task

    def counted(backbone, head, task, *rest, **named):
        calls.append(task.name)
        return train(backbone, head, task, *rest, **named)

    monkeypatch.setattr(sequence.training, "train_task", counted)
    _, rows = trained(spec, checkpoint)
    assert calls == ["sentiment140"]
    assert rows == {f"training {task.name}": 12 for task in spec.tasks}  # the bar moves as far


OTHERS = {
    "another seed": lambda spec, patch: dataclasses.replace(spec, seed=1),
    "another rate": lambda spec, patch: dataclasses.replace(spec, learning_rate=0.5),
    "other code": lambda spec, patch: patch.setattr(records.numerics, "version", lambda: "other"),
    "other rows": lambda spec, patch: patch.setattr(data, "digest", lambda rows: "other"),
}


@pytest.mark.parametrize("other", [*OTHERS, "a damaged file"])
def test_what_another_run_left_is_not_gone_on_with(tiny, monkeypatch, other):
    spec = small_grid(methods=["curlora"])[0]
    checkpoint = tiny / "state.safetensors"
    with pytest.raises(KilledError):
        trained(spec, checkpoint, killed_at(PLACES["in the third"]))
    if other in OTHERS:
        spec = OTHERS[other](spec, monkeypatch) or spec
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-7])
    fresh = sequence.run(spec)
    monkeypatch.setattr(sequence.checkpoints, "restore", None)  # not called
    assert verify.plain(sequence.run(spec, checkpoint=checkpoint)) == verify.plain(fresh)


def test_a_grid_keeps_checkpoints_while_it_computes_and_none_afterwards(tiny, monkeypatch):
    specs = small_grid(methods=["curlora"])[:1]
    folder = records.runs_folder("embedded", tiny).parent / ".checkpoints"
    run = sequence.run

    def killed(spec, _, checkpoint):
        return run(spec, killed_at(PLACES["in the third"]), checkpoint)

    monkeypatch.setattr(continual, "run", killed)
    with pytest.raises(grids.RunFailedError):
        grids.run_grid(specs, tiny, workers=1)
    assert [path.stem for path in folder.iterdir()] == [specs[0].key]
    monkeypatch.setattr(continual, "run", run)
    found = grids.run_grid(specs, tiny, workers=1)
    assert list(folder.iterdir()) == []
    assert verify.plain(found[0]) == verify.plain(run(specs[0]))


def test_on_a_gpu_only_repeatable_operations_are_allowed_and_the_setting_ends_with_the_run(tiny):
    """No GPU here: the setting itself, and that a run's operations are none that it refuses."""
    spec = small_grid("table2", methods=["curlora"])[0]
    usual = sequence.run(spec)
    with sequence._deterministic("cpu"):
        assert not torch.are_deterministic_algorithms_enabled()
    with sequence._deterministic("cuda"):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert verify.plain(sequence.run(spec)) == verify.plain(usual)
    assert not torch.are_deterministic_algorithms_enabled()
