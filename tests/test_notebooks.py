"""The notebooks as they stand in git, and one executed through papermill."""

import ast
import re
import subprocess
from pathlib import Path

import nbformat
import papermill
import pytest

from curlora_lite.replication import (
    grids,
    models,
    notebooks,
    pages,
    profiles,
    provenance,
    records,
    source_tables,
)
from curlora_lite.replication.tables import Table

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def parameters_cell(path):
    return next(c for c in code_cells(path) if "parameters" in c.metadata.get("tags", []))


def test_all_are_there():
    assert [path.stem for path in BOOKS] == sorted([*notebooks.of_profile("embedded"), "audit"])
    assert notebooks.of_profile("gpt2-large") == ["table2_gpt2"]


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_stripped_short_and_without_definitions(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    assert book.cells[0].cell_type == "markdown"  # the claim comes first
    assert book.cells[1] == parameters_cell(path)
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 15
        nodes = ast.walk(ast.parse(cell.source))
        assert not any(isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.Lambda)) for n in nodes)


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_every_parameter_is_used(path):
    """papermill only logs a parameter that nothing reads."""
    declared = {
        target.id
        for node in ast.parse(parameters_cell(path).source).body
        for target in node.targets
    }
    assert declared == set(papermill.inspect_notebook(str(path)))
    rest = [cell.source for cell in code_cells(path) if cell != parameters_cell(path)]
    read = {
        node.id
        for node in ast.walk(ast.parse("\n".join(rest)))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assert declared <= read


def one_cell_book(path, source):
    cells = [
        nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source),
    ]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(book, path)
    return path


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CURLORA_CACHE", str(tmp_path / "cache"))


def test_execution_passes_parameters_and_is_not_repeated(cache, tmp_path):
    source = one_cell_book(tmp_path / "in.ipynb", "print(x + 1)")
    target = tmp_path / "out" / "in.ipynb"
    assert notebooks.execute("in", {"x": 41}, source, target)
    assert nbformat.read(target, 4).cells[-1].outputs[0].text == "42\n"
    assert not notebooks.execute("in", {"x": 41}, source, target)
    assert notebooks.execute("in", {"x": 5}, source, target)


def test_execution_anew_is_repeated_in_any_case(cache, tmp_path):
    """What it writes may have been deleted."""
    source = one_cell_book(tmp_path / "in.ipynb", f"open({str(tmp_path / 'made')!r}, 'w').close()")
    arguments = ("in", {}, source, tmp_path / "out.ipynb")
    assert notebooks.execute(*arguments)
    (tmp_path / "made").unlink()
    assert not notebooks.execute(*arguments)
    assert notebooks.execute(*arguments, anew=True) and (tmp_path / "made").exists()


@pytest.mark.parametrize("profile", ["embedded", "gpt2-large"])
def test_the_stand_in_is_looked_at_only_where_it_stands_in(profile, monkeypatch, capsys, tmp_path):
    """On the paper's own model it would be fetched and trained for nothing."""
    asked = []
    monkeypatch.setattr(models, "stand_in_report", lambda: asked.append(1) or {})
    monkeypatch.setattr(source_tables, "stand_in_table", lambda report: Table("", (), ()))
    book = nbformat.read(ROOT / "notebooks" / "table2_gpt2.ipynb", 4)
    (cell,) = [cell.source for cell in book.cells if "stand_in_report" in cell.source]
    made = provenance.Source([], [], [], "make reproduce")
    specs = profiles.grid(profile, "table2")
    exec(cell, {"specs": specs, "folder": tmp_path, "made": made, "provenance": provenance})
    assert len(asked) == (profile == "embedded")
    assert ("Nothing stands in for gpt2-large" in capsys.readouterr().out) != bool(asked)


def test_execution_is_repeated_when_a_record_of_any_profile_shown_changes(
    cache, tmp_path, monkeypatch
):
    monkeypatch.setattr(records, "runs_folder", lambda profile: tmp_path / profile)
    source, target = one_cell_book(tmp_path / "in.ipynb", "print(x)"), tmp_path / "out.ipynb"
    arguments = ("in", {"profile": "embedded"}, source, target, ("smollm2",))
    assert notebooks.execute(*arguments)
    for profile in ("embedded", "smollm2"):
        assert not notebooks.execute(*arguments)
        (tmp_path / profile).mkdir()
        (tmp_path / profile / "run.json").write_text("{}")
        assert notebooks.execute(*arguments)


def test_a_notebook_that_fails_leaves_nothing(cache, tmp_path):
    source = one_cell_book(tmp_path / "in.ipynb", "raise RuntimeError(x)")
    target = tmp_path / "out" / "in.ipynb"
    with pytest.raises(papermill.PapermillExecutionError):
        notebooks.execute("in", {}, source, target)
    assert not list(target.parent.iterdir())


def test_unknown_parameter(cache, tmp_path):
    source = one_cell_book(tmp_path / "in.ipynb", "print(x)")
    with pytest.raises(ValueError, match="notebook parameter 'rnak': in has no such one; it has x"):
        notebooks.execute("in", {"rnak": 3}, source, tmp_path / "out.ipynb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "embeded"], "profile: got 'embeded', expected one of embedded"),
        (["--ranks", "0"], "ranks: got 0"),
        (["--methods", "dora"], "methods: got 'dora'"),
        (["--methods", "lora,vera"], "methods: got 'vera'"),  # the audit's: it has no table here
    ],
)
def test_the_command_line_refuses_before_it_fetches(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(cli, "fetch_all", None)
    assert cli.main(["reproduce", *arguments]) == 1
    assert message in capsys.readouterr().err


def committed(path):
    """A file as the last commit has it; tables computed anew here are not meant."""
    shown = subprocess.run(["git", "-C", str(ROOT), "show", f"HEAD:{path}"], capture_output=True)
    if shown.returncode:
        pytest.skip(f"no {path} in a commit")
    return shown.stdout.decode()


PAGES = {
    "README.md": {"embedded", "smollm2"},
    "results/smollm2/README.md": {"smollm2"},
    "results/audit/README.md": {"audit"},
    "results/benchmarks/README.md": {"benchmarks"},
    "results/reliability/README.md": {"reliability"},
}


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_show_the_committed_tables(page):
    """Whoever changes the results runs `make readme`."""
    text = (ROOT / page).read_text()
    names = re.findall(r"<!-- ([\w-]+/\w+) -->", text)
    profiles_shown = {name.split("/")[0] for name in names}
    assert profiles_shown >= PAGES[page]
    content = lambda profile, name: committed(pages.table_path(profile, name))  # noqa: E731
    assert pages.filled(text, content) == text


def test_an_audit_of_other_seeds_does_not_replace_the_audits_pages(
    cache, tmp_path, monkeypatch, capsys
):
    executed = []

    def execute(name, parameters, target, beside):
        executed.append((parameters["seeds"], target, beside))
        target.parent.mkdir(parents=True)
        (target.parent.parent / "claims.md").write_text("claims")

    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setattr(cli, "fetch_all", lambda options: None)
    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(grids, "reusable", lambda spec, **how: spec)
    monkeypatch.setattr(grids, "run_grid", lambda *_, **how: None)
    page = tmp_path / "results" / "audit" / "README.md"
    page.parent.mkdir(parents=True)
    page.write_text("<!-- audit/claims --><!-- /audit/claims -->")
    assert cli.main(["audit", "--seeds", "7,8"]) == 0
    folder = page.parent / "selections" / "seeds-7-8"
    assert executed == [([7, 8], folder / "notebooks" / "audit.ipynb", ("smollm2",))]
    assert page.read_text() == "<!-- audit/claims --><!-- /audit/claims -->"
    assert cli.main(["audit", "--seeds", "0,1,2,3,4"]) == 0
    assert executed[1][1] == page.parent / "notebooks" / "audit.ipynb"
    assert "claims<!--" in page.read_text()


def test_other_choices_do_not_replace_the_profiles_tables(tmp_path):
    nothing = {"ranks": None, "seeds": None, "protocol": None, "checkpointing": False}
    assert records.outputs("embedded", tmp_path, **nothing) == tmp_path / "embedded"
    chosen = {**nothing, "ranks": [8, 16], "protocol": "published,readout=last-token"}
    name = "ranks-8-16_protocol-published-readout-last-token"
    assert records.outputs("embedded", tmp_path, **chosen) == (
        tmp_path / "embedded" / "selections" / name
    )
