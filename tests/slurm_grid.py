"""A grid on a real Slurm of this machine: a node killed mid-way, and what scheduling costs a run.

The runs are real ones on tiny models, made to last some seconds. `make reliability SLURM=1`
measures and writes `results/reliability/slurm.json` and its table.
"""

import contextlib
import json
import os
import sys
import tempfile
import threading
import time

import endurance
import pandas as pd
import safetensors
import slurm_cluster
import small_runs
import torch

from curlora_lite.replication import checkpoints, cluster, fetch, grids, records

FOLDER = records.ROOT / "results" / "reliability"
RANKS = (4, 8, 16, 24)
# what `measure` counts: these are as many
RUNS = "runs of the grid, on two nodes"
EQUAL = ("records equal to those of a grid without Slurm", "the same with no node killed")


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
                    record = json.loads(file.metadata()[checkpoints.RECORD])
                found[spec.key] = record["stages"][0]["training"]["seconds"]
    return found


def overheads(grid, folder):
    """Seconds of each run, in an undisturbed grid of jobs, that are not the run itself.

    From when its node was free (the run before it there has ended, or the grid was submitted) to
    when its record is saved, without the record's own seconds. `before`: until the job's function
    begins, which is Slurm's part, and Python's and its libraries' start; `added`: all of it.
    """
    jobs = cluster.Jobs(cluster.folder(folder), cluster.needs(grid))
    submitted = time.time()
    found = cluster.run_grid(grid, folder, own=True, jobs=jobs)
    done = [(job.result(), record) for job, record in zip(jobs.submitted, found, strict=True)]
    free, each = {}, []
    for times, record in sorted(done, key=lambda pair: pair[0]["ended"]):
        start = free.get(times["node"], submitted)
        added = times["ended"] - start - record.seconds
        each.append({"before": times["began"] - start, "added": added})
        free[times["node"]] = times["ended"]
    return pd.DataFrame(each)


def measure():
    """What comes of both grids, counted, and the version of Slurm."""
    endurance.tiny_jobs(setattr, os.environ.__setitem__)
    grid = specs(RANKS)
    with tempfile.TemporaryDirectory() as name, slurm_cluster.cluster() as here:
        expected = undisturbed(grid, f"{name}/here")
        seconds = overheads(grid, f"{name}/overhead").median().round(2)
        found, what = killed(grid, f"{name}/killed", here)
        version = here.ask("sinfo", "--version").split()[-1]
        calm = endurance.numbers(grid, f"{name}/overhead")
    equal = [sum(n.get(key) == expected[key] for key in expected) for n in (found, calm)]
    return {
        RUNS: len(grid),
        "tasks whose process was killed (`kill -9`)": what["processes of tasks"],
        "nodes of which every process was": 1,
        "runs in the middle of which these were": what["runs killed"],
        "of these gone on from their checkpoint": what["of these gone on from their checkpoint"],
        **dict(zip(EQUAL, equal, strict=True)),
        "seconds that Slurm adds to a run, median": seconds.added,
        "of these until its Python has loaded its libraries": seconds.before,
    }, version


def main():
    """Measure and write; the exit status tells whether every record came out equal."""
    try:
        measured, version = measure()
    except slurm_cluster.NoSlurmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    where = records.provenance("cpu", None)
    where = {name: where[name] for name in ("device", "cores", "python", "date", "commit")}
    made = pd.Series(measured, name="Count").astype(str).to_markdown() + "\n"
    whole = json.dumps({**measured, "slurm": version, **where}, indent=1) + "\n"
    for name, text in (("slurm.json", whole), ("tables/slurm.md", made)):
        with fetch.aside(FOLDER / name) as part:
            part.write_text(text)
    print(f"\n{made}written: {FOLDER.relative_to(records.ROOT)}/")
    return int(any(measured[name] != measured[RUNS] for name in EQUAL))


if __name__ == "__main__":
    sys.exit(main())
