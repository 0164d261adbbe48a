"""The house: sizes, which way imports point, what the library needs."""

import ast
import dataclasses
import importlib
import json
import re
import subprocess
import sys

import pytest
import size

# dotted name -> path, of every module of the package
MODULES = {
    ".".join(path.relative_to(size.ROOT).with_suffix("").parts): path
    for part in ("library", "replication")
    for path in size.PARTS[part][0]
}
UPPER = "curlora_lite.replication"
# what the replication brings, some of which transformers takes where it is there
BLOCKED = "datasets evaluate pandas papermill matplotlib peft accelerate pyarrow gguf IPython rich"


@pytest.mark.parametrize("part", size.PARTS)
def test_the_package_stays_thin(part):
    files, most = size.PARTS[part]
    assert size.count(files) < most


def test_no_module_is_longer_than_one_reads():
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: n for name, n in lines.items() if n > size.LONGEST} == {}


def imported(text, name="__main__"):
    """Names of the package's modules that the source of module `name` imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found & MODULES.keys()


IMPORTS = {name: imported(path.read_text(), name) for name, path in MODULES.items()}


def test_the_library_imports_nothing_of_the_replication():
    library = {name: found for name, found in IMPORTS.items() if not name.startswith(UPPER)}
    assert len(library) > 8
    assert not [name for name, found in library.items() if any(n.startswith(UPPER) for n in found)]


def test_no_arrow_points_upwards():
    """Whatever imports only modules that are taken away is taken away, until nothing more is."""
    left = dict(IMPORTS)
    while free := {name for name, needs in left.items() if not (needs - {name}) & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, f"a cycle among {sorted(left)}"


def test_every_module_is_imported_by_something():
    """By another module or a notebook; a test does not count."""
    used = set().union(*(found - {name} for name, found in IMPORTS.items()))
    for path in (size.ROOT / "notebooks").glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        for cell in cells:
            used |= imported(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", "".join(cell["source"])))
    entered = {name for name in MODULES if name.endswith(("__init__", "__main__"))}
    assert sorted(MODULES.keys() - used - entered) == []


def test_the_library_needs_torch_and_transformers_alone():
    """In a process where what the replication brings is not to be had."""
    names = [name for name in MODULES if not name.startswith(UPPER)]
    lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in BLOCKED.split())]
    script = "\n".join([*lines, *(f"import {name}" for name in names), "print('all')"])
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=size.ROOT)
    assert done.stdout == "all\n", done.stderr


def test_every_fault_written_by_hand_can_be_planted(monkeypatch):
    """Text that is no longer there would be a fault that `make mutants` never plants."""
    monkeypatch.syspath_prepend(size.ROOT / "results" / "reliability")
    mutants, faults = (importlib.import_module(name) for name in ("mutants", "faults"))
    assert len(mutants.by_hand()) == len(faults.FAULTS) >= 100
    named = {name for tests in faults.TESTS.values() for name in tests}
    assert not [name for name in named if not (size.ROOT / "tests" / f"{name}.py").exists()]
    gone = dataclasses.replace(faults.FAULTS[0], old="no such text")
    monkeypatch.setattr(faults, "FAULTS", [gone])
    with pytest.raises(ValueError, match="0 times 'no such text', expected once"):
        mutants.by_hand()
