"""Grids side by side, interrupted or with a run that fails: real processes, made-up runs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curlora_lite.replication import profiles

SCRIPT = """
import os, sys, time
from curlora_lite.replication import grids, profiles, records, sequence

def run(spec, progress, checkpoint):
    time.sleep(1.0)
    if spec.rank == 13:
        raise RuntimeError("a fault")
    return records.RunRecord(spec.to_dict())

sequence.run = run  # in the worker processes too: they read this file

if __name__ == "__main__":
    ranks = [int(rank) for rank in sys.argv[2].split(",")]
    specs = profiles.grid("embedded", "table1", ranks=ranks, methods=["lora"])
    try:
        grids.run_grid(specs, sys.argv[1], workers=int(sys.argv[3]))
    except grids.RunFailedError as error:
        sys.exit(f"failed: {error}")
"""


@pytest.fixture
def grid(tmp_path):
    """Starts a grid of these ranks in a process group of its own; its output is in `log`."""
    (tmp_path / "grid.py").write_text(SCRIPT)
    started = []

    def start(ranks, workers=2):
        with open(tmp_path / "log", "w") as log:
            command = [
                sys.executable,
                tmp_path / "grid.py",
                tmp_path / "results",
                ranks,
                str(workers),
            ]
            environment = {**os.environ, "CURLORA_CACHE": str(tmp_path / "cache")}
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
                # a shell's background jobs ignore interrupts, and so would what they start
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def records_of(tmp_path):
    return sorted(path.name for path in (tmp_path / "results").glob("*/runs/*.json"))


@pytest.mark.parametrize("whom", ["the group", "the first process"])
def test_an_interrupted_grid_stops_at_once_and_keeps_what_is_done(grid, tmp_path, whom):
    process = grid(",".join(map(str, range(20, 50))))
    deadline = time.monotonic() + 60
    while not records_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    group = process.pid
    send = os.killpg if whom == "the group" else os.kill
    send(group, signal.SIGINT)
    assert process.wait(timeout=10) != 0  # 30 runs of a second would take 15
    done = records_of(tmp_path)
    assert 1 <= len(done) < 10
    until = time.monotonic() + 10
    while alive(group) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(group)  # no worker goes on
    assert records_of(tmp_path) == done


def alive(group):
    """Processes of a group that run still: those that wait to be collected are dead (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(path.parent.name)
    return found


def test_workers_of_a_killed_grid_end_too(grid, tmp_path):
    """They would compute for nobody; their runs are missing, and computed by the next grid."""
    process = grid(",".join(map(str, range(20, 50))))
    deadline = time.monotonic() + 60
    while not records_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    until = time.monotonic() + 10
    while alive(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(process.pid)
    assert 1 <= len(records_of(tmp_path)) < 30


def test_one_after_the_other_a_failure_is_named_too(grid, tmp_path):
    process = grid("14,13,15", workers=1)
    assert process.wait(timeout=60) == 1
    before, failed, _ = profiles.grid("embedded", "table1", ranks=[14, 13, 15], methods=["lora"])
    assert f"failed: {failed.key}: RuntimeError: a fault" in (tmp_path / "log").read_text()
    assert records_of(tmp_path) == [f"{before.key}.json"]


def test_runs_beside_one_that_fails_are_kept(grid, tmp_path):
    process = grid("13,14,15,16,17,18,19,20")
    assert process.wait(timeout=60) == 1
    failed, beside = profiles.grid("embedded", "table1", ranks=[13, 14], methods=["lora"])
    assert f"failed: {failed.key}: RuntimeError: a fault" in (tmp_path / "log").read_text()
    assert f"{beside.key}.json" in records_of(tmp_path)
    assert len(records_of(tmp_path)) < 7
