"""The audit's sentences: the committed records bear them out, and others would not."""

import shutil
from pathlib import Path

import pytest
from made_records import committed_sentences, sentences

from curlora_lite.replication import conclusions


@pytest.fixture
def results(committed, tmp_path):
    for profile in ("audit", "smollm2"):
        runs = Path("results", profile, "runs")
        shutil.copytree(committed / profile / "runs", tmp_path / runs)
    return tmp_path / "results"


def contradicted(shown):
    return [text for text in shown if conclusions.CONTRADICTED in text]


def test_the_committed_records_bear_every_sentence_out(committed, results, monkeypatch):
    """And say what they say in the executed copy; the tables come out as they are committed."""
    shown = sentences(monkeypatch, "audit", results=results)
    assert not contradicted(shown)
    assert shown == committed_sentences(committed, "audit", "audit") and len(shown) > 10
    for kept in (committed / "audit" / "tables").glob("*.md"):
        assert (results / "audit" / "tables" / kept.name).read_text() == kept.read_text()
    drawn = {path.stem for path in (results / "audit" / "figures").iterdir()}
    assert drawn == {path.stem for path in (committed / "audit" / "figures").iterdir()}


@pytest.mark.parametrize("seeds", [[0, 1], [3]])
def test_other_seeds_run_through(results, monkeypatch, seeds):
    """What they do not bear out is shown, and the notebook goes on to its end."""
    shown = sentences(monkeypatch, "audit", results=results, seeds=seeds)
    assert [text for text in contradicted(shown) if "published.verdict" in text]
    assert not [text for text in contradicted(shown) if "ours.verdict" in text]  # the paper's data
    name = "-".join(map(str, seeds))
    assert (results / "audit" / "selections" / f"seeds-{name}" / "tables" / "verdicts.md").exists()
