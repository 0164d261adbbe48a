"""A grid on a real Slurm of this machine: a node killed mid-way, and what scheduling costs a run.

The runs are real ones on tiny models, made to last some seconds.
"""

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path

import safetensors
import torch

from curlora_lite.replication import cluster, grids, records, sequence

HERE = Path(__file__).parent
sys.path.insert(0, str(records.ROOT / "tests"))

import endurance
import small_runs


class TinyTask(cluster.Task):
    """A job of a real run on a tiny model, that lasts some seconds."""

    def __call__(self, values):
        _tiny_and_slow(setattr)
        return super().__call__(values)


def tiny_jobs(put, put_environment):
    """Tiny models here and in the jobs that are submitted from here."""
    _tiny_and_slow(put)
    put(cluster, "Task", TinyTask)
    put(cluster, "POLL", 1)
    found = [str(HERE), str(records.ROOT), os.environ.get("PYTHONPATH", "")]
    put_environment("PYTHONPATH", os.pathsep.join(filter(None, found)))  # jobs inherit it


def _tiny_and_slow(put):
    """A run can be killed between two of its tasks: each takes two seconds."""
    small_runs.stand_in(put)
    train = sequence.training.train_task

    def slowly(*given, **named):
        time.sleep(2)
        return train(*given, **named)

    put(sequence.training, "train_task", slowly)


def specs(ranks):
    """Table 2 at these ranks, cut to a few rows."""
    return small_runs.small_grid("table2", ranks=list(ranks))


def undisturbed(grid, folder):
    """The numbers of a grid computed here, one run after the other, with a node's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    grids.run_grid(grid, folder, own=True, workers=1)
    torch.set_num_threads(threads)
    return endurance.numbers(grid, folder)


def killed(grid, folder, here):
    """The grid as jobs: one node's task is killed, then all of another node; what came of it.

    Each once its run has kept a first state between two tasks. Returns (the numbers, what was
    killed and how many of the killed runs went on from that state, not from the beginning).
    """
    what, kept = {}, {}

    def kill():
        kept.update(wait(kept_by, "n1", grid, folder, here))
        what["processes of tasks"] = here.kill_task("n1")
        kept.update(wait(kept_by, "n2", grid, folder, here))
        what["processes of a node"] = here.kill("n2")

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = cluster.run_grid(grid, folder, own=True)
    killer.join(timeout=1)
    what["runs killed"] = len(kept)
    what["of these gone on from their checkpoint"] = sum(
        record.stages[0]["training"]["seconds"] == kept.get(spec.key)
        for spec, record in zip(grid, found, strict=True)
    )
    return endurance.numbers(grid, folder), what


def wait(ask, *arguments):
    """What `ask` answers, as soon as that is something."""
    while not (answer := ask(*arguments)):
        time.sleep(0.1)
    return answer


def kept_by(node, grid, folder, here):
    """{key: seconds of its first training} of the run on a node that has kept its state.

    node: None for any.
    """
    logs, found = cluster.folder(folder), {}
    where = ["-w", node] if node else []
    numbers = here.ask("squeue", "-h", "-r", *where, "-t", "R", "-o", "%i").split()
    for spec in grid:
        path = grids._checkpoint(spec, folder)
        with contextlib.suppress(OSError, safetensors.SafetensorError):
            if (logs / f"{spec.key}.job").read_text() in numbers:
                with safetensors.safe_open(path, "pt") as file:
                    record = json.loads(file.metadata()["record"])
                found[spec.key] = record["stages"][0]["training"]["seconds"]
    return found
