"""The table notebooks on committed records: their sentences hold, and they say what they write."""

import shutil

import nbformat
import pytest
from made_records import committed_sentences

from curlora_lite.replication import conclusions, machine, notebooks, records

ROOT = records.ROOT
WRITTEN = ["{}.csv", "{}.md", "{}.tex", "{}_course.pdf", "{}_course.png", "{}_parameters.csv",
           "{}_parameters.md", "{}_parameters.tex", "{}_perplexity.pdf", "{}_perplexity.png",
           "{}_summary.csv", "{}_summary.md", "{}_summary.tex"]  # fmt: skip


def code_of(table):
    book = nbformat.read(ROOT / "notebooks" / f"{notebooks.TABLES[table]}.ipynb", 4)
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture
def execute(committed, monkeypatch, tmp_path):
    """Run a table's notebook on a profile's committed records; returns what its sentences said."""

    def run(profile, table, **chosen):
        shutil.copytree(committed / profile / "runs", tmp_path / "results" / profile / "runs")
        said, names = [], {}
        monkeypatch.setattr(records, "ROOT", tmp_path)
        monkeypatch.setattr(machine, "fast_precision", lambda: "bf16")
        monkeypatch.setattr(conclusions, "display", lambda shown: said.append(shown.data))
        parameters, *cells = code_of(table)
        exec(parameters, names)
        assert set(chosen) < set(names)
        names |= {"profile": profile, **chosen}
        for cell in cells:
            exec(cell, names)
        return said

    return run


@pytest.mark.parametrize(
    ("profile", "table"), [("smollm2", "table1"), ("embedded", "table1"), ("embedded", "table2")]
)
def test_the_sentences_hold_for_the_committed_records(execute, committed, tmp_path, profile, table):
    """And say what they say in the executed copy; the tables come out as they are committed."""
    said = execute(profile, table)
    assert len(said) > 5
    assert [text for text in said if conclusions.CONTRADICTED in text] == []
    assert said == committed_sentences(committed, profile, notebooks.TABLES[table])
    folder = tmp_path / "results" / profile
    found = sorted(p.name for p in folder.glob("*/*.*") if p.parent.name in ("tables", "figures"))
    assert found == sorted(name.format(table) for name in WRITTEN)
    for name in (f"{table}.md", f"{table}_summary.md", f"{table}_parameters.csv"):
        made = (folder / "tables" / name).read_text()
        assert made == (committed / profile / "tables" / name).read_text()
    assert (folder / "runs.csv").exists()


def test_another_choice_is_shown_beside_the_sentences(execute, tmp_path):
    """LoRA at rank 8 alone: what compares it with others cannot be said, and nothing fails."""
    said = execute("embedded", "table1", ranks=[8], methods=["lora"])
    assert any(conclusions.CONTRADICTED in text for text in said)
    folder = tmp_path / "results" / "embedded"
    assert (folder / "selections" / "ranks-8_methods-lora" / "tables" / "table1.md").exists()
    assert not (folder / "tables").exists() and not (folder / "runs.csv").exists()
