"""A grid is killed, shares its folder with others, or cannot write: nothing is lost or doubled."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import endurance
import pytest

from curlora_lite.replication import grids, machine, records, sequence

KILLS = """
import json, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import endurance, small_runs
from curlora_lite.replication import sequence
print(json.dumps(endurance.survive_kills(endurance.made_up_grid(20), {folder!r} + "/1", 50, 1)))
small_runs.stand_in(setattr)
grid, run = small_runs.small_grid(seeds=[3]), sequence.run
print(json.dumps(endurance.survive_kills(grid, {folder!r} + "/2", 8, 1, 0.6, run)))
"""


def test_kills_at_random_moments_lose_nothing(tmp_path):
    """Of runs that are made up, in the midst of saving; and of whole ones, between two tasks.

    In a process of its own: it forks, and forks after products in several threads may hang.
    """
    script = KILLS.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=records.ROOT, timeout=400)
    assert done.returncode == 0, done.stderr
    made_up, whole = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    for came, kills in ((made_up, 50), (whole, 8)):
        assert came["kills"] == kills
        assert came["lost"] == came["half-written"] == 0
        assert came["equal"] == came["grids"] >= 1
    assert made_up["stopped"] > 0  # the moments were such as could have done harm


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"


@pytest.mark.parametrize("killed", [0, 2])
def test_grids_at_once_compute_each_run_once(folder, killed):
    """And take over those of grids that are killed: at most what these had begun comes twice."""
    specs = endurance.made_up_grid(30)
    begun, found = endurance.share(specs, folder, processes=4, killed=killed)
    assert len(found) == len(begun) == 30
    assert sum(begun.values()) <= 30 + killed


def test_a_run_that_another_process_computes_is_waited_for(folder, monkeypatch, capsys):
    """Another holds the first run's claim until the second is done here. The line says so, and
    that the machine is busy, where more than its cores' number computes."""
    first, second = endurance.made_up_grid(2)
    runs = records.runs_folder("embedded", folder)
    theirs = grids.run_queue._lock(runs, first.key)

    def run(spec, progress, checkpoint):
        assert spec == second
        return records.RunRecord(spec.to_dict())

    def finish(seconds):
        records.save(records.RunRecord(first.to_dict()), runs / f"{first.key}.json")
        theirs.release()

    monkeypatch.setattr(sequence, "run", run)
    monkeypatch.setattr(grids, "time", types.SimpleNamespace(sleep=finish))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (4.2, 1.0, 1.0))
    found = grids.run_grid([first, second], folder, workers=1)
    assert [record.spec["rank"] for record in found] == [1, 2]
    said = "waiting for 1 that another process computes, the machine is busy (load 4, 2 cores)"
    assert said in capsys.readouterr().err
    monkeypatch.setattr(os, "getloadavg", lambda: (2.6, 9.0, 9.0))
    assert machine.busy() == ""


def whole_grid(folder, monkeypatch):
    specs = endurance.made_up_grid(3)
    monkeypatch.setattr(sequence, "run", endurance.made_up)
    grids.run_grid(specs[:1], folder, workers=1)
    path = records.runs_folder("embedded", folder) / f"{specs[0].key}.json"
    return specs, path, path.read_bytes()


def in_a_child(work):
    """What `work` returns or raises in a forked process, as text."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with open(read) as file:
        said = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return said


def test_a_limit_on_file_sizes(folder, monkeypatch):
    """A real refusal of the system: EFBIG, which stands for quotas and full disks too."""
    specs, path, before = whole_grid(folder, monkeypatch)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        grids.run_grid(specs, folder, workers=1)

    said = in_a_child(work)
    assert said.startswith(f"CannotWriteError: {path.parent}: cannot be written (File too large)")
    assert "\n" not in said and path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert len(grids.run_grid(specs, folder, workers=1)) == 3


def test_a_read_only_results_folder(monkeypatch):
    """By a user without root's rights, whom the folder's mode binds. Before any run is begun."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("CURLORA_CACHE", f"{name}/cache")
        base = Path(name)
        specs, path, before = whole_grid(base / "results", monkeypatch)
        locked = [base / "results" / "embedded", path.parent, path.parent.parent / ".claims"]
        for place in (base, *locked):
            place.chmod(0o755 if place == base else 0o555)

        def work():
            if os.getuid() == 0:
                os.setuid(65534)
            sequence.run = lambda *_: pytest.fail("a run was begun")
            grids.run_grid(specs, base / "results", workers=1)

        said = in_a_child(work)
        for place in locked:
            place.chmod(0o755)
        assert said.startswith(f"CannotWriteError: {locked[2]}: cannot be written (Permission")
        assert path.read_bytes() == before
