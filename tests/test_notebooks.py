"""The notebooks as they stand in git, how they are executed, and, slow, what they say."""

import ast
import atexit
import json
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from curlora_lite.replication import __main__, conclusions, fetch, notebooks, records

FOLDER = Path(__file__).parent.parent / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
LINES = 15  # of a cell, at most


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def parameters_cells(path):
    return [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]


def test_all_are_there():
    tables = ["table1_mistral", "table2_gpt2"]
    steps = ["00_quickstart", "01_cur_layer", "02_one_run", "finetune_causal_lm"]
    assert {path.stem for path in BOOKS} == {*steps, *tables, "audit", "benchmark"}
    assert notebooks.of_profile("embedded") == tables
    assert notebooks.of_profile("embedded", steps=True) == [*steps, *tables]
    assert notebooks.of_profile("embedded-quick", steps=True) == [*steps[:3], *tables]
    assert notebooks.of_profile("gpt2-large", steps=True) == tables[1:]


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_stripped_and_short(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    assert (book.nbformat, len({cell.id for cell in book.cells})) == (4, len(book.cells))
    assert book.cells[0].cell_type == "markdown"  # what it is about comes first
    assert parameters_cells(path) == [book.cells[1]]
    for cell in code_cells(path):
        assert (cell.outputs, cell.execution_count) == ([], None)
        assert len(cell.source.splitlines()) <= LINES, cell.source


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_every_parameter_is_used(path):
    """papermill only logs a parameter that nothing reads."""
    (cell,) = parameters_cells(path)
    assigned = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    declared = {target.id for node in assigned for target in node.targets}
    assert declared == set(papermill.inspect_notebook(str(path)))
    rest = "\n".join(c.source for c in code_cells(path) if c != cell)
    names = [node for node in ast.walk(ast.parse(rest)) if isinstance(node, ast.Name)]
    assert declared <= {node.id for node in names if isinstance(node.ctx, ast.Load)}


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_what_a_notebook_imports_is_there(path):
    """A module or a name that was renamed or deleted would show only when it is executed."""
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(ast.unparse(node), {})


def test_conclusions_are_followed_by_what_holds_them():
    """Each notebook says something, and a cell below asserts it."""
    for path in BOOKS:
        said = [i for i, cell in enumerate(code_cells(path)) if "say(" in cell.source]
        held = [i for i, cell in enumerate(code_cells(path)) if "with holds():" in cell.source]
        assert said or path.stem not in notebooks.STEPS
        assert all(any(i <= h <= i + 1 for h in held) for i in said), path.stem


def one_cell_book(path, source):
    first = nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]})
    cells = [first, nbformat.v4.new_code_cell(source)]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(book, path)
    return path


def test_execution_is_repeated_where_anything_shown_has_changed(tmp_path, monkeypatch):
    """A parameter (it is passed), a record of its profile, the package; what it wrote is gone."""
    monkeypatch.setattr(records, "runs_folder", lambda profile: tmp_path / profile)
    figure, target = tmp_path / "figures" / "a.png", tmp_path / "notebooks" / "out.ipynb"
    fetch.write(other := figure.with_name("of another.png"), "")
    writes = f"import pathlib; pathlib.Path({str(figure)!r}).touch()\nprint(x + 1)"
    source = one_cell_book(tmp_path / "audit.ipynb", writes)  # shows the paper's data too

    def executed(x, **how):
        given = {"x": x, "ranks": [8], "profile": "embedded"}
        return notebooks.execute("in", given, target, source=source, **how)

    assert executed(41) == "there was no whole out.ipynb"
    assert nbformat.read(target, 4).cells[-1].outputs[0].text == "42\n"
    figure.unlink()
    other.unlink()
    assert executed(41) == "there was no figures/a.png" and figure.exists()
    assert not executed(41) and executed(41, anew=True)
    for profile, due in (("embedded", True), ("smollm2", True), ("mistral-7b", False)):
        (tmp_path / profile).mkdir()
        (tmp_path / profile / "run.json").write_text("{}")
        assert bool(executed(41)) == due and not executed(41)
    target.write_text("{", "utf-8")
    assert executed(41) == "there was no whole out.ipynb" and executed(5)
    monkeypatch.setattr(records, "code_sha256", lambda: "another")
    assert executed(5) == "what it shows has changed"


def test_the_kernel_is_this_interpreter(tmp_path, monkeypatch):
    """JUPYTER_PATH comes before the environment's own kernels, and knows a `python3` too."""
    other = tmp_path / "share" / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = f"import sys; assert sys.executable == {sys.executable!r}"
    source = one_cell_book(tmp_path / "in.ipynb", found)
    assert notebooks.execute("in", {}, tmp_path / "out.ipynb", source=source)
    notebooks.check()
    monkeypatch.setattr(atexit, "register", print)  # of what was not started
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(notebooks.KernelError, match="Kernel died"):
        notebooks.check()
    assert notebooks.KernelError.__name__ in __main__.FAILURES  # one sentence, no traceback


def test_a_notebook_that_fails_leaves_nothing(tmp_path):
    source = one_cell_book(tmp_path / "in.ipynb", "raise RuntimeError(x)")
    target = tmp_path / "out" / "in.ipynb"
    with pytest.raises(papermill.PapermillExecutionError):
        notebooks.execute("in", {}, target, source=source)
    assert not list(target.parent.iterdir())


def test_one_page_of_several(tmp_path):
    """Cells of two notebooks with equal ids, and formulas; nothing is asked of the network."""
    paths = [one_cell_book(tmp_path / f"{name}.ipynb", f"# is <{name}>") for name in "ab"]
    notebooks.one_page(paths, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.index("is &lt;a&gt;") < page.index("is &lt;b&gt;")
    assert '<script src="http' not in page


SMALL = {"00_quickstart": {}, "01_cur_layer": {}, "finetune_causal_lm": {}}
SMALL["02_one_run"] = {"profile": "embedded-quick", "rank": 8}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_says_what_it_finds(name, tmp_path):
    """Executed on the embedded model: no sentence in it is contradicted by its numbers."""
    target = tmp_path / f"{name}.ipynb"
    assert notebooks.execute(name, SMALL[name], target=target)
    shown = target.read_text()
    assert "**" in shown
    assert conclusions.CONTRADICTED not in shown
