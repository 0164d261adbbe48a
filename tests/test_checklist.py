"""The report's appendix from records by hand; and that no secret gets into anything written."""

import papermill
import pytest
from small_runs import small_grid
from test_notebooks import one_cell_book

from curlora_lite import checklist, grids, notebooks, provenance, records, tables


@pytest.fixture
def runs(tiny):
    return grids.run_grid(small_grid(methods=["head-only"], seeds=[0, 1]), tiny, workers=1)


def test_answers_come_from_the_records(runs):
    runs[0].seconds, runs[1].seconds = 1800.0, 5400.0
    runs[1].status = "diverged"
    answers = dict(checklist.appendix(runs, "make report").rows)
    assert answers["Runs"] == "2: 1 diverged, 1 finished"
    assert answers["Seeds"] == "0, 1"
    assert answers["Compute"] == "2.00 hours summed over runs, the longest 90 minutes"
    assert answers["Models and their licences"] == "SmolLM2-135M-Instruct (Apache-2.0)"
    assert answers["Data and their licences"].endswith("vaderSentiment==2.5 (MIT)")
    assert answers["Evaluation rows"] == "table1: mrpc 10, sentiment140 10, sst2 10"
    assert answers["Learning rate, batch, epochs"] == "table1: 0.003, 4, 1/1/1"
    assert answers["To make it again"] == "`make report`"
    assert runs[0].provenance["code"] in answers["Code"]


def test_the_papers_data_by_their_repositories(runs):
    runs[0].sources["data"] = [{"source": "hub", "repository": "nyu-mll/glue", "revision": "x"}]
    answers = dict(checklist.appendix(runs[:1], "make report").rows)
    assert answers["Data and their licences"] == "nyu-mll/glue (other (GLUE))"
    with pytest.raises(ValueError, match="runs: got none"):
        checklist.appendix([], "make report")


def test_no_secret_gets_into_records_logs_or_notebooks(tiny, tmp_path, monkeypatch, capfd):
    """A canary for the hub's token; the refusals of the hub itself are tested beside the hub."""
    canary = "hf_canary0123456789"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_TOKEN"):
        monkeypatch.setenv(name, canary)
    found = grids.run_grid(small_grid(methods=["head-only"]), tiny, workers=1)
    tables.results_table(found).save(tiny / "table", provenance.of_runs(found, "make reproduce"))
    (tiny / "appendix.md").write_text(checklist.appendix(found, "make report").markdown())
    fine = one_cell_book(tmp_path / "fine.ipynb", "print(x)")
    broken = one_cell_book(tmp_path / "broken.ipynb", "raise RuntimeError(x)")
    notebooks.execute("fine", {"x": 1}, fine, tiny / "fine.ipynb")
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        notebooks.execute("broken", {"x": 1}, broken, tiny / "broken.ipynb")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 7
    assert not [path for path in written if canary.encode() in path.read_bytes()]
    said = capfd.readouterr()
    assert canary not in said.out + said.err + str(caught.value)
    assert records.provenance("cpu")["workspace"] != canary
