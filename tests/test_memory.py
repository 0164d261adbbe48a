"""Too little memory: said before loading, and recorded when it happens in a run."""

import dataclasses

import pytest
import torch
from small_runs import small_grid

from curlora_lite.replication import grids, machine, memory, models, profiles, records, sequence

FITS = [("bf16", r"PRECISION=bf16 \(\d+ GB\)"), ("fp32", "nothing of this model")]


@pytest.mark.parametrize(("fast", "fits"), FITS)
def test_a_device_too_small_is_refused_before_loading(monkeypatch, fast, fits):
    """What would take days is not named as a way out."""
    monkeypatch.setattr(machine, "fast_precision", lambda: fast)
    monkeypatch.setattr(machine, "installed_memory", lambda: 30e9)
    loaded = []
    monkeypatch.setattr(models, "load", lambda *arguments: loaded.append(arguments))
    monkeypatch.setattr(machine, "default_device", lambda: "cpu")
    spec = profiles.grid("mistral-7b", "table1")[-1]
    said = rf"mistral-7b in fp32 needs about \d+ GB, .* What would fit: {fits}"
    with pytest.raises(ValueError, match=said):
        sequence.run(spec)
    assert not loaded
    frugal, half = {"checkpointing": True}, {"precision": "bf16"}
    frugal, half = (memory.estimate(dataclasses.replace(spec, **one)) for one in (frugal, half))
    weights = 4 * memory.SHAPES["mistral-7b"][0]
    assert weights / 2 < half < 24e9 < weights < frugal < memory.estimate(spec) < 40e9


REAL = [("GPT-2 Large", "gpt2-large"), ("Mistral-7B-v0.3", "mistral-7b")]


@pytest.mark.parametrize(("name", "key"), REAL)
def test_shapes_are_those_of_the_real_configurations(name, key):
    model, _ = models.meta_model(name)
    config = model.config
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    expected = (model.num_parameters(), config.num_hidden_layers, config.hidden_size, inner)
    assert memory.SHAPES[key][:4] == expected


def test_out_of_memory_is_recorded_and_the_grid_goes_on(tiny, monkeypatch):
    specs = small_grid()
    train, calls = sequence.training.train_task, []

    def fails(*given, **named):
        """In the fifth training of the grid: LoRA's second task, after head only's three."""
        calls.append(1)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return train(*given, **named)

    monkeypatch.setattr(sequence.training, "train_task", fails)
    runs = grids.run_grid(specs, tiny, workers=1)
    assert [run.status for run in runs] == ["finished", "out of memory", "finished"]
    assert runs[1].message == "CUDA out of memory. Tried to allocate 2 GiB"
    assert len(runs[1].stages) == 1  # what was measured stays
    folder = records.runs_folder("embedded", tiny).parent / ".checkpoints"
    assert (folder / f"{specs[1].key}.safetensors").exists()
    monkeypatch.setattr(sequence.training, "train_task", train)
    assert [r.status for r in grids.run_grid(specs, tiny, workers=1)] == 3 * ["finished"]


def test_a_containers_limits_count(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    there, cores = machine.installed_memory(), machine.cores()  # no such files: no container
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert (machine.installed_memory(), machine.cores()) == (there, cores)
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")  # one and a half
    assert (machine.installed_memory(), machine.cores()) == (1_000_000_000, 1)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.cores() == 1
