"""A run killed at any stage goes on from its checkpoint to the numbers of an undisturbed one."""

import dataclasses
import os

import pytest
import torch
from small_runs import small, small_grid

from curlora_lite import load_adapter
from curlora_lite.replication import checkpoints, data, grids, models, records, sequence, verify


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


# where -> (what is said there, the n-th time; how many tasks the checkpoint has by then)
PLACES = {
    "in the first task": ("training mrpc", 1, 0),
    "in the second": ("training sst2", 1, 1),
    "while scoring the second": ("scoring mrpc", 2, 1),
    "in the third": ("training sentiment140", 1, 2),
    "after the third": ("perplexity", 2, 3),
}


def killed(spec, checkpoint, where="in the third"):
    with pytest.raises(KilledError):
        sequence.run(spec, killed_at(PLACES[where][:2]), checkpoint)


def one(table="table1", method="curlora"):
    rank = None if method == "head-only" else 4
    spec = small_grid(table, methods=["lora"], seeds=[3])[0]
    return dataclasses.replace(spec, method=method, rank=rank, learning_rate=0.01)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("method", ["head-only", "lora", "curlora", "lora-xs"])
def test_a_killed_run_goes_on_to_the_same_numbers(tiny, monkeypatch, where, method):
    spec = one("table2", method)
    assert spec.protocol.dropout  # draws on the random generator's state
    undisturbed = sequence.run(spec)
    checkpoint = tiny / "state.safetensors"
    killed(spec, checkpoint, where)
    torch.manual_seed(17)  # another process's
    trained, train = [], sequence.training.train_task

    def counted(*given, **named):
        trained.append(1)
        return train(*given, **named)

    monkeypatch.setattr(sequence.training, "train_task", counted)
    again = sequence.run(spec, checkpoint=checkpoint)
    assert verify.plain(again) == verify.plain(undisturbed)
    assert len(trained) == 3 - PLACES[where][2]  # finished tasks are not trained again


def other_version(patch):
    patch.setattr(sequence, "VERSION", sequence.VERSION + 1)


def other_rows(patch):
    patch.setattr(data, "digest", lambda rows: "other")


def other_commit(patch):
    patch.setattr(records, "commit", lambda: {"commit": "other", "dirty": False})


def other_weights(patch):
    load = models.load
    patch.setattr(models, "load", lambda *it: dataclasses.replace(load(*it), sha256="other"))


OTHERS = [{"seed": 1}, {"learning_rate": 0.5}, other_version, other_rows, other_commit]
OTHERS += [other_weights, "bytes"]


@pytest.mark.parametrize("other", OTHERS)
def test_what_another_run_left_is_not_gone_on_with(tiny, monkeypatch, other):
    spec, checkpoint = one(), tiny / "state.safetensors"
    killed(spec, checkpoint)
    if other == "bytes":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-7])
    elif callable(other):
        other(monkeypatch)
    else:
        spec = dataclasses.replace(spec, **other)
    fresh = sequence.run(spec)
    monkeypatch.setattr(checkpoints, "restore", None)  # not called
    assert verify.plain(sequence.run(spec, checkpoint=checkpoint)) == verify.plain(fresh)


def test_a_grid_keeps_checkpoints_while_it_computes_and_none_afterwards(tiny, monkeypatch):
    specs = [one()]
    folder = records.runs_folder("embedded", tiny).parent / ".checkpoints"
    run, progress = sequence.run, killed_at(PLACES["in the third"][:2])
    monkeypatch.setattr(sequence, "run", lambda spec, _, kept: run(spec, progress, kept))
    with pytest.raises(grids.RunFailedError):
        grids.run_grid(specs, tiny, workers=1)
    assert [path.stem for path in folder.iterdir()] == [specs[0].key]
    monkeypatch.setattr(sequence, "run", run)
    found = grids.run_grid(specs, tiny, workers=1)
    assert list(folder.iterdir()) == []
    assert verify.plain(found[0]) == verify.plain(run(specs[0]))


def test_on_a_gpu_only_repeatable_operations_are_allowed_and_the_setting_ends_with_the_run(tiny):
    """No GPU here: the setting itself, and that a run's operations are none that it refuses."""
    spec = one("table2")
    usual = sequence.run(spec)
    with sequence._deterministic("cpu"):
        assert not torch.are_deterministic_algorithms_enabled()
    with sequence._deterministic("cuda"):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert verify.plain(sequence.run(spec)) == verify.plain(usual)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_kept_adapter_has_the_perplexity_of_its_record(tiny, monkeypatch):
    """Loaded onto the base as it was; of another seed none is kept."""
    monkeypatch.setattr(data, "origins", lambda source: [])
    chosen = {"methods": ["curlora"], "ranks": [16], "seeds": [0, 1], "precision": "fp32"}
    grid = grids.profiles.grid("smollm2", "table1", **chosen)
    specs = [small(spec, learning_rate=0.05) for spec in grid]
    monkeypatch.setattr(sequence, "KEPT", {"published": 0.05})
    record = grids.run_grid(specs, tiny, workers=1)[0]
    (folder,) = (tiny / "smollm2" / "adapters").iterdir()
    assert folder.name == specs[0].key
    loaded = sequence.models.load("smollm2-135m", "fp32", "cpu")
    assert sequence._perplexity(specs[0], loaded) == record.perplexity["initial"]
    load_adapter(loaded.model, folder, check_base="exact")
    assert sequence._perplexity(specs[0], loaded) == record.perplexity["final"]
    assert record.perplexity["final"] != record.perplexity["initial"]
