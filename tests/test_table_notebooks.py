"""The table notebooks on committed records: their sentences hold, and they say what they write."""

import nbformat
import pytest
from made_records import committed

from curlora_lite.replication import conclusions, machine, notebooks, records

ROOT = records.ROOT
WRITTEN = ["{}.csv", "{}.md", "{}.tex", "{}_accuracy.pdf", "{}_accuracy.png", "{}_growth.pdf",
           "{}_growth.png", "{}_parameters.csv", "{}_parameters.md", "{}_parameters.tex",
           "{}_perplexity.pdf", "{}_perplexity.png", "{}_summary.csv", "{}_summary.md",
           "{}_summary.tex"]  # fmt: skip


def code_of(table):
    book = nbformat.read(ROOT / "notebooks" / f"{notebooks.TABLES[table]}.ipynb", 4)
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture
def execute(monkeypatch, tmp_path):
    """Run a table's notebook on a profile's committed records; returns what its sentences said."""

    def run(profile, table, **chosen):
        if committed(profile, table) is None:
            pytest.skip("not all records are the committed ones")
        folder = tmp_path / "results" / profile
        folder.mkdir(parents=True)
        (folder / "runs").symlink_to(records.runs_folder(profile))
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


@pytest.mark.parametrize("table", notebooks.TABLES)
def test_a_sentence_is_followed_by_what_holds_it(table):
    cells = code_of(table)
    spoken = [i for i, cell in enumerate(cells) if "say(" in cell]
    assert len(spoken) > 5
    for i in spoken:
        assert cells[i + 1].startswith("with holds():") and "assert" in cells[i + 1]


@pytest.mark.parametrize(
    ("profile", "table"), [("smollm2", "table1"), ("embedded", "table1"), ("embedded", "table2")]
)
def test_the_sentences_hold_for_the_committed_records(execute, tmp_path, profile, table):
    said = execute(profile, table)
    assert len(said) > 5
    assert [text for text in said if conclusions.CONTRADICTED in text] == []
    folder = tmp_path / "results" / profile
    found = sorted(p.name for p in folder.glob("*/*.*") if p.parent.name in ("tables", "figures"))
    assert found == sorted(name.format(table) for name in WRITTEN)
    assert (folder / "runs.csv").exists()


def test_another_choice_is_shown_beside_the_sentences(execute, tmp_path):
    """LoRA at rank 8 alone: what compares it with others cannot be said, and nothing fails."""
    said = execute("embedded", "table1", ranks=[8], methods=["lora"])
    assert any(conclusions.CONTRADICTED in text for text in said)
    folder = tmp_path / "results" / "embedded"
    assert (folder / "selections" / "ranks-8_methods-lora" / "tables" / "table1.md").exists()
    assert not (folder / "tables").exists() and not (folder / "runs.csv").exists()
