"""A record is reused only for equal settings, version, packages, model and data; none is lost."""

import json

import pytest
from small_runs import fake_task, small_grid

from curlora_lite.replication import data, grids, models, records, sequence


@pytest.fixture
def computed(tiny):
    """A finished run of this working copy: (spec, results folder, its file)."""
    spec = small_grid(methods=["head-only"], seeds=[3])[0]
    grids.run_grid([spec], tiny, workers=1)
    return spec, tiny, records.runs_folder("embedded", tiny) / f"{spec.key}.json"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_code_that_was_moved_or_reformatted_computes_nothing_anew(computed):
    """All that a record knows of the code is its version, and the commit, which is only said."""
    spec, results, path = computed
    edit(path, lambda content: content["provenance"].update(commit="another", dirty=True))
    before = path.read_bytes()
    assert grids.reusable(spec, results, own=True) == records.load(path)
    grids.run_grid([spec], results, own=True, workers=1)
    assert path.read_bytes() == before and not (path.parent / "superseded").exists()
    known = {"workspace", "date", "python", "packages", "platform", "device"}
    known |= {"rows", "threads", "cores", "commit", "dirty"}
    assert records.load(path).provenance.keys() == known


def other_label(*args, **named):
    first, *rest = fake_task(*args, **named).to_list()
    return data.Dataset.from_list([{**first, "label": 1 - first["label"]}, *rest])


CHANGES = {
    "version": (sequence, "VERSION", sequence.VERSION + 1),
    "packages": (records, "packages", lambda: {"torch": "another"}),
    "working copy": (records, "workspace", lambda: "another"),
    "model": (models, "sha256", lambda name: "c" * 64),
    "label": (data, "load_task", other_label),
    "text": (data, "load_text", lambda part, source: "other words " * 60),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_recomputes_and_keeps_the_old_one_aside(computed, monkeypatch, change):
    spec, results, path = computed
    monkeypatch.setattr(*CHANGES[change])
    before = path.read_bytes()
    assert grids.reusable(spec, results) is not None  # still shown
    assert grids.reusable(spec, results, own=True) is None
    (again,) = grids.run_grid([spec], results, own=True, workers=1)
    assert again.version == sequence.VERSION
    (aside,) = (path.parent / "superseded").iterdir()
    assert aside.read_bytes() == before and path.read_bytes() != before
    assert list(path.parent.glob("*.json")) == [path]  # what is aside is not counted


def test_a_record_under_another_specs_name_is_not_its_record(computed):
    spec, results, path = computed
    edit(path, lambda content: content["spec"].update(seed=4))
    assert records.find(spec, results) is None


@pytest.mark.parametrize("status", ["diverged", "out of memory"])
def test_a_diverged_run_is_a_result_and_one_without_memory_is_tried_again(computed, status):
    spec, results, path = computed
    edit(path, lambda content: content.update(status=status))
    kept = status == "diverged"
    assert (grids.reusable(spec, results, own=True) is not None) == kept
    grids.run_grid([spec], results, own=True, workers=1, retry=False)
    assert records.load(path).status == status
    grids.run_grid([spec], results, own=True, workers=1)
    assert (records.load(path).status == "diverged") == kept
