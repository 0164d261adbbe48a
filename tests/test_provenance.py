"""What each committed table and figure came from; and that nothing is mixed without saying so."""

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from small_runs import small_grid

from curlora_lite import fetch, figures, findings, grids, provenance, records, tables
from curlora_lite.protocol import Protocol
from curlora_lite.tables import Table

TABLE = Table("A table", ("", "n"), (("one", "1"),))
SOURCE = provenance.Source(("p/runs/b.json", "p/runs/a.json"), ("c" * 40,), ("12ab",), "make it")


def committed():
    """Tables and figures in git, as paths."""
    listed = subprocess.run(
        ["git", "-C", str(records.ROOT), "ls-files", "results"], capture_output=True, text=True
    )
    places = [Path(line) for line in listed.stdout.splitlines()]
    return [p for p in places if p.parent.name in provenance.BELOW or p.stem == "claims"]


def test_every_committed_table_and_figure_has_its_provenance():
    found = committed()
    if not found:
        pytest.skip("not in git")
    for place in found:
        path = records.ROOT / place
        folder = provenance.folder_of(path)
        entry = provenance.load(folder)[path.relative_to(folder).with_suffix("").as_posix()]
        assert entry["files"][path.suffix] == fetch.sha256_of(path), place
        assert set(entry) == {"files", "from", "commits", "code", "again"}
        assert entry["commits"] and entry["code"]
        kept = [records.ROOT / "results" / name for name in entry["from"]]
        runs = [records.load(path) for path in kept if path.parent.name == "runs"]
        for run in runs:  # each exists, is its own spec's, and is of these commits and versions
            assert provenance.of_runs([run], "").files[0] in entry["from"]
            assert run.provenance["commit"] in [commit[:40] for commit in entry["commits"]]
            assert run.provenance.get("code", "not recorded") in entry["code"]
        assert all(path.exists() for path in kept)


def test_every_entry_can_be_made_again():
    """The command is one of the Makefile's, or executes a notebook that is there."""
    targets = re.findall(r"^([a-z-]+):.*##", (records.ROOT / "Makefile").read_text(), re.M)
    for folder in (records.ROOT / "results").iterdir():
        for name, entry in provenance.load(folder).items():
            tool, what, *_ = entry["again"].split()
            if tool == "papermill":
                assert (records.ROOT / what).exists()
            else:
                assert (tool, what in targets) == ("make", True), name
            assert {(folder / (name + suffix)).exists() for suffix in entry["files"]} == {True}


def test_a_table_by_hand(tmp_path):
    folder = tmp_path / "profile"
    TABLE.save(folder / "tables" / "one", SOURCE)
    assert provenance.load(folder) == {
        "tables/one": {
            "files": {
                suffix: fetch.sha256_of(folder / "tables" / f"one{suffix}")
                for suffix in (".md", ".csv", ".tex")
            },
            "from": ["p/runs/a.json", "p/runs/b.json"],
            "commits": ["c" * 40],
            "code": ["12ab"],
            "again": "make it",
        }
    }
    said = "From 2 files of results/p/runs, computed at commit cccccccccc; again: make it"
    assert (folder / "tables" / "one.tex").read_text().startswith(f"% {said}\n")
    assert "again" not in (folder / "tables" / "one.md").read_text()  # READMEs hold a copy


def test_a_figure_says_it_too(tmp_path):
    figure, _ = figures.new()
    paths = figures.save(figure, tmp_path / "figures" / "one", SOURCE)
    assert plt.imread(paths[0]).size
    for path in paths:
        assert b"computed at commit cccccccccc; again: make it" in path.read_bytes()
    first = [path.read_bytes() for path in paths]
    kept = (tmp_path / provenance.NAME).read_bytes()
    figures.save(figure, tmp_path / "figures" / "one", SOURCE)
    assert [path.read_bytes() for path in paths] == first
    assert (tmp_path / provenance.NAME).read_bytes() == kept


def test_what_is_gone_is_taken_out_and_the_rest_stays(tmp_path):
    for name in ("one", "two", "three"):
        TABLE.save(tmp_path / name, SOURCE)
    for path in tmp_path.glob("two.*"):
        path.unlink()
    TABLE.save(tmp_path / "one", dataclasses.replace(SOURCE, again="make another"))
    entries = provenance.load(tmp_path)
    assert {name: entry["again"] for name, entry in entries.items()} == {
        "one": "make another",
        "three": "make it",
    }


def test_suffixes_saved_apart_are_one_entry(tmp_path):
    TABLE.save(tmp_path / "one", SOURCE, [".md"])
    dataclasses.replace(TABLE, caption="b").save(tmp_path / "one", SOURCE, [".csv"])
    assert list(provenance.load(tmp_path)["one"]["files"]) == [".md", ".csv"]
    (tmp_path / "one.md").unlink()
    TABLE.save(tmp_path / "one", SOURCE, [".csv"])
    assert list(provenance.load(tmp_path)["one"]["files"]) == [".csv"]


def test_computed_without_records_the_commit_is_the_first_that_gave_it(tmp_path, monkeypatch):
    """Later commits that compute the same leave the entry alone; another content takes theirs."""
    at = lambda digit: {"commit": digit * 40, "dirty": digit == "3"}  # noqa: E731
    for digit, caption, kept in (
        ("1", "a", "1" * 40),
        ("2", "a", "1" * 40),
        ("3", "b", f"{'3' * 40} with changes"),
    ):
        monkeypatch.setattr(records, "commit", lambda digit=digit: at(digit))
        table = dataclasses.replace(TABLE, caption=caption)
        table.save(tmp_path / "one", provenance.of_code("make it"))
        assert provenance.load(tmp_path)["one"]["commits"] == [kept]


def test_commands():
    made = provenance.command("reproduce", "embedded-quick", ranks=[8, 16], checkpointing=True)
    assert made == "make reproduce PROFILE=embedded QUICK=1 RANKS=8,16 CHECKPOINTING=1"
    nothing = {"ranks": None, "protocol": None, "checkpointing": False}
    assert provenance.command("reproduce", "smollm2", **nothing) == "make reproduce PROFILE=smollm2"
    assert provenance.command("audit", "audit-quick") == "make audit QUICK=1"
    book = provenance.notebook("one", profile="embedded", rank=None, seed=0)
    assert book == "papermill notebooks/one.ipynb OUT.ipynb -p profile embedded -p seed 0"


def test_joined():
    other = provenance.Source(("q.json",), ("d" * 40, "c" * 40), ("not recorded",), "make that")
    both = SOURCE.joined(other)
    assert both.files == ("p/runs/a.json", "p/runs/b.json", "q.json")
    assert both.commits == ("c" * 40, "d" * 40)
    assert (both.code, both.again) == (("12ab", "not recorded"), "make it")
    with pytest.raises(ValueError, match="runs: got none"):
        provenance.of_runs([], "make it")


@pytest.fixture
def runs(tiny):
    return grids.run_grid(small_grid(methods=["head-only"], seeds=[0, 1]), tiny, workers=1)


SHOWN = (
    tables.results_table,
    tables.summary_table,
    findings.findings_table,
    findings.values_table,
    *figures.ALL.values(),
)


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("protocol", dataclasses.asdict(Protocol.parse("corrected"))),
        ("profile", "smollm2"),
        ("precision", "fp16"),
        ("table", "table2"),
    ],
)
def test_nothing_mixes_what_cannot_be_compared(runs, key, other):
    runs[1].spec[key] = other
    for show in SHOWN:
        with pytest.raises(ValueError, match=f"records: {key} is .* in one and .* in another"):
            show(runs)


def test_several_versions_of_the_code_are_said(runs):
    runs[1].provenance["code"] = "another"
    for show in (tables.results_table, tables.summary_table, findings.findings_table):
        assert "2 versions of the numerical code" in show(runs).markdown()
    assert set(provenance.of_runs(runs, "make it").code) == {
        "another",
        runs[0].provenance["code"],
    }
