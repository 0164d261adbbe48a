"""Grids side by side, interrupted or with a run that fails: real processes, made-up runs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curlora_lite.replication import profiles, records

SCRIPT = """
import sys, time
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
        grids.run_grid(specs, sys.argv[1], workers=2)
    except grids.RunFailedError as error:
        sys.exit(f"failed: {error}")
"""
LONG = 120  # seconds that a busy machine may take to start three processes
MANY = ",".join(map(str, range(20, 50)))


@pytest.fixture
def grid(tmp_path):
    """Starts a grid of these ranks in a process group of its own; its output is in `log`."""
    (tmp_path / "grid.py").write_text(SCRIPT)
    started = []

    def start(ranks):
        command = [sys.executable, tmp_path / "grid.py", tmp_path / "results", ranks]
        environment = {**os.environ, "PYTHONPATH": str(records.ROOT)}
        with open(tmp_path / "log", "w") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=environment,
                # a shell's background jobs ignore interrupts, and so would what they start
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def records_of(tmp_path):
    return sorted(path.name for path in (tmp_path / "results").glob("*/runs/*.json"))


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def alive(group):
    """Processes of a group that run still: those that wait to be collected are dead (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(path.parent.name)
    return found


# the first as by Ctrl-C
ENDS = {"interrupted": (os.killpg, signal.SIGINT), "killed": (os.kill, signal.SIGKILL)}


@pytest.mark.parametrize("how", ENDS)
def test_a_grid_that_is_ended_keeps_what_is_done_and_leaves_no_worker(grid, tmp_path, how):
    """Workers that went on would compute for nobody."""
    process = grid(MANY)
    assert until(lambda: records_of(tmp_path), LONG)
    send, what = ENDS[how]
    send(process.pid, what)
    assert process.wait(timeout=10) != 0  # 30 runs of a second would take 15
    assert until(lambda: not alive(process.pid), 10)
    done = records_of(tmp_path)
    assert 1 <= len(done) < 15
    time.sleep(1.5)
    assert records_of(tmp_path) == done


def test_runs_beside_one_that_fails_are_kept(grid, tmp_path):
    process = grid("13,14,15,16,17,18,19,20")
    assert process.wait(timeout=LONG) == 1
    failed, beside = profiles.grid("embedded", "table1", ranks=[13, 14], methods=["lora"])
    assert f"failed: {failed.key}: RuntimeError: a fault" in (tmp_path / "log").read_text()
    assert f"{beside.key}.json" in records_of(tmp_path)
    assert len(records_of(tmp_path)) < 7
