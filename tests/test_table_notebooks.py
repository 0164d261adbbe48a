"""The table notebooks on committed records: their sentences hold, and they say what they write."""

import shutil

import pytest
from made_records import committed_sentences, sentences

from curlora_lite.replication import conclusions, data, grids, machine, notebooks, profiles, records

TEXTS, DRAWN = ("csv", "md", "tex"), ("pdf", "png")
WRITTEN = [f"{{}}{part}.{kind}" for part in ("", "_parameters", "_summary") for kind in TEXTS]
WRITTEN += [f"{{}}_{p}.{kind}" for p in ("course", "perplexity") for kind in DRAWN]


@pytest.fixture
def execute(committed, monkeypatch, tmp_path):
    """Run a table's notebook on a profile's committed records; returns what its sentences said."""

    def run(profile, table, **chosen):
        shutil.copytree(committed / profile / "runs", tmp_path / "results" / profile / "runs")
        monkeypatch.setattr(records, "ROOT", tmp_path)
        monkeypatch.setattr(machine, "fast_precision", lambda: "bf16")
        return sentences(monkeypatch, notebooks.TABLES[table], profile=profile, **chosen)

    return run


COMMITTED = [("smollm2", "table1"), ("embedded", "table1"), ("embedded", "table2")]


@pytest.mark.parametrize(("profile", "table"), COMMITTED)
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


def test_another_choice_is_shown_beside_the_sentences(execute, tmp_path, monkeypatch):
    """LoRA at rank 8 alone, typed as by `papermill -p ranks 8 -p methods lora` in any folder: what
    compares it with others cannot be said, and nothing fails."""
    monkeypatch.chdir(tmp_path)
    said = execute("embedded", "table1", ranks=8, methods="lora")
    assert any(conclusions.CONTRADICTED in text for text in said)
    folder = tmp_path / "results" / "embedded"
    assert (folder / "selections" / "ranks-8_methods-lora" / "tables" / "table1.md").exists()
    assert not (folder / "tables").exists() and not (folder / "runs.csv").exists()


def test_one_run_walked_in_the_open_is_bit_for_bit_the_run_itself(tiny, monkeypatch):
    """On tiny models, by the cells of `02_one_run`, beside its record."""
    monkeypatch.setenv("CURLORA_RESULTS", str(tiny))
    monkeypatch.setattr(data, "load_text", lambda part, source: "the news of the day " * 300)
    chosen = {"methods": ["curlora"], "ranks": [8], "seeds": [0]}
    grids.run_grid(profiles.grid("embedded-quick", "table1", **chosen), workers=1)
    (said,) = sentences(monkeypatch, "02_one_run", profile="embedded-quick", rank=8)
    assert "compared with its record: bit for bit" in said
