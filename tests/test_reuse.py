"""A record is reused only for equal settings, model, data and numerical code; none is lost."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest
from small_runs import fake_task, small_grid

from curlora_lite.replication import (
    data,
    findings,
    grids,
    models,
    numerics,
    records,
    tables,
)

PACKAGE = Path(numerics.__file__).parent
SOURCE = '''
"""A module."""
RATE = 0.5  # of something

class Layer:
    """A class."""
    scale = 2.0

    def forward(self, x):
        """A method."""
        return self.scale * x + RATE
'''


def test_every_module_is_numerical_or_exempt_and_not_both():
    listed = {name.split(".")[0] for name in numerics.NUMERICAL}
    there = {path.stem for path in PACKAGE.glob("*.py")}
    there |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    partly = {name.split(".")[0] for name in numerics.NUMERICAL if "." in name}
    assert listed | set(numerics.EXEMPT) == there
    assert not listed & set(numerics.EXEMPT)
    assert partly == {"models", "profiles"}


def test_what_nothing_numerical_imports_is_not_listed_and_what_it_imports_is():
    """Whatever a whole numerical module imports of the package is listed or exempt by a reason
    that holds for imported code: checked by sha256, in the spec, or it computes nothing."""
    fine = set(numerics.EXEMPT) - {"tables", "figures", "findings", "metrics", "doctor"}
    for name in (n for n in numerics.NUMERICAL if "." not in n):
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                used = [node.module] if node.module else [alias.name for alias in node.names]
                known = {n.split(".")[0] for n in numerics.NUMERICAL} | fine
                assert set(used) <= known, name


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (("# of something", "# of another"), False),
        (('"""A module."""', ""), False),
        (('"""A method."""\n', '"""Said\n        otherwise."""\n'), False),
        (("self.scale * x", "(self.scale  *  x)"), False),
        (("0.5", "0.25"), True),
        (("self.scale * x", "self.scale / x"), True),
        (("scale = 2.0", "scale = 2"), True),
        (("forward", "backward"), True),
        (("RATE = 0.5", "RATE = None"), True),
    ],
)
def test_only_what_runs_counts(change, counts):
    changed = SOURCE.replace(*change)
    assert changed != SOURCE
    assert (numerics.tree(changed) != numerics.tree(SOURCE)) == counts


def test_a_single_definition():
    assert numerics.tree(SOURCE, "RATE") == numerics.tree("RATE = 0.5", "RATE")
    assert numerics.tree(SOURCE, "Layer") != numerics.tree(SOURCE, "RATE")
    with pytest.raises(ValueError, match="no 'Head' at the top"):
        numerics.tree(SOURCE, "Head")


@pytest.fixture
def computed(tiny):
    """A finished run of this working copy: (spec, results folder, its file)."""
    spec = small_grid(methods=["head-only"])[0]
    grids.run_grid([spec], tiny, workers=1)
    return spec, tiny, records.runs_folder("embedded", tiny) / f"{spec.key}.json"


def test_nothing_changed_is_reused(computed):
    spec, results, path = computed
    before = path.read_bytes()
    grids.run_grid([spec], results, own=True, workers=1)
    assert path.read_bytes() == before and not (path.parent / "superseded").exists()


@pytest.mark.parametrize(
    "what", ["code", "packages", "model", "rows", "text", "no code in the record"]
)
def test_a_change_recomputes_and_keeps_the_old_one_aside(computed, monkeypatch, what):
    spec, results, path = computed
    if what == "code":
        monkeypatch.setattr(numerics, "version", lambda: "another")
    elif what == "packages":
        monkeypatch.setattr(records, "packages", lambda: {"torch": "another"})
    elif what == "model":
        monkeypatch.setattr(models, "sha256", lambda name: "c" * 64)
    elif what == "rows":

        def other(*args, **named):
            rows = fake_task(*args, **named).to_list()
            return data.Dataset.from_list([{**rows[0], "text": "other words"}, *rows[1:]])

        monkeypatch.setattr(data, "load_task", other)
    elif what == "text":
        monkeypatch.setattr(data, "load_text", lambda part, source: "other words " * 60)
    else:
        content = json.loads(path.read_text())
        del content["provenance"]["code"]
        path.write_text(json.dumps(content))
    before = path.read_bytes()
    assert grids.reusable(spec, results) is not None  # still shown
    assert grids.reusable(spec, results, own=True) is None
    grids.run_grid([spec], results, own=True, workers=1)
    (aside,) = (path.parent / "superseded").iterdir()
    assert aside.read_bytes() == before and path.read_bytes() != before
    assert records.load(path).provenance["code"] == numerics.version()
    assert [p for p in path.parent.glob("*.json")] == [path]  # what is aside is not counted


def test_a_diverged_run_is_reused_too(tiny):
    """It read only some of its data: what it read is what is compared."""
    spec = dataclasses.replace(small_grid(methods=["lora"])[0], learning_rate=1e30)
    (record,) = grids.run_grid([spec], tiny, own=True, workers=1)
    assert record.status == "diverged" and "sentiment140" not in record.data
    assert grids.reusable(spec, tiny, own=True) == record


def test_tables_say_when_records_are_of_several_versions_of_the_code(tiny):
    runs = grids.run_grid(small_grid(), tiny, workers=1)
    made = (tables.results_table, tables.summary_table, findings.findings_table)
    assert not any("versions of the numerical code" in make(runs).markdown() for make in made)
    runs[0].provenance["code"] = "0" * 16
    said = f"2 versions of the numerical code: {'0' * 16}, {numerics.version()}"
    assert all(said in make(runs).markdown() for make in made)
    del runs[0].provenance["code"]
    assert all("one not recorded" in make(runs).latex() for make in made)
