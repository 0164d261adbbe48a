"""The audit's sentences: the committed records bear them out, and others would not."""

import json
import linecache
import shutil
from pathlib import Path

import nbformat
import pytest
from made_records import committed_sentences

from curlora_lite.replication import conclusions, records

BOOK = records.ROOT / "notebooks" / "audit.ipynb"


@pytest.fixture
def results(committed, tmp_path):
    for profile in ("audit", "smollm2"):
        runs = Path("results", profile, "runs")
        shutil.copytree(committed / profile / "runs", tmp_path / runs)
    return tmp_path / "results"


def said(monkeypatch, **parameters):
    """What the notebook's sentences and assertions show, its cells run here with parameters."""
    shown, scope = [], {}
    monkeypatch.setattr(conclusions, "display", lambda text: shown.append(text.data))
    for cell in nbformat.read(BOOK, 4).cells:
        if cell.cell_type == "code":
            # `holds` shows the source of the line that failed
            linecache.cache[cell.id] = (0, None, cell.source.splitlines(), cell.id)
            exec(compile(cell.source, cell.id, "exec"), scope)
            scope |= parameters if "parameters" in cell.metadata.get("tags", []) else {}
    return shown


def contradicted(shown):
    return [text for text in shown if conclusions.CONTRADICTED in text]


def altered(results, change, **wanted):
    """Change the record that a spec's `wanted` values name."""
    for path in (results / "audit" / "runs").glob("*.json"):
        record = json.loads(path.read_text())
        values = record["spec"] | record["spec"]["protocol"]
        if all(values[name] == value for name, value in wanted.items()):
            change(record)
            path.write_text(json.dumps(record))


def test_the_committed_records_bear_every_sentence_out(committed, results, monkeypatch):
    """And say what they say in the executed copy; the tables come out as they are committed."""
    shown = said(monkeypatch, results=results)
    assert not contradicted(shown)
    assert shown == committed_sentences(committed, "audit", "audit") and len(shown) > 10
    for kept in (committed / "audit" / "tables").glob("*.md"):
        assert (results / "audit" / "tables" / kept.name).read_text() == kept.read_text()
    drawn = {path.stem for path in (results / "audit" / "figures").iterdir()}
    assert drawn == {path.stem for path in (committed / "audit" / "figures").iterdir()}


def test_a_record_that_contradicts_a_sentence_shows_beside_it(results, monkeypatch):
    """One run of LoRA with its usual initialisation that ends ten times as perplexed."""

    def worse(record):
        record["perplexity"]["final"]["perplexity"] *= 10

    altered(results, worse, method="lora", seed=2, lora_init="usual", shuffle=False)
    shown = said(monkeypatch, results=results)
    assert [text for text in contradicted(shown) if "saved_there.verdict" in text]
    assert not [text for text in contradicted(shown) if "gains[" in text]  # accuracy stands


@pytest.mark.parametrize("seeds", [[0, 1], [3]])
def test_other_seeds_run_through(results, monkeypatch, seeds):
    """What they do not bear out is shown, and the notebook goes on to its end."""
    shown = said(monkeypatch, results=results, seeds=seeds)
    assert [text for text in contradicted(shown) if "published.verdict" in text]
    assert not [text for text in contradicted(shown) if "ours.verdict" in text]  # the paper's data
    name = "-".join(map(str, seeds))
    assert (results / "audit" / "selections" / f"seeds-{name}" / "tables" / "verdicts.md").exists()
