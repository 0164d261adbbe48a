"""A grid on a real Slurm of this machine: a node killed mid-way, and what scheduling costs a run.

The runs are real ones on tiny models, made to last some seconds. `make reliability SLURM=1`
measures and writes `results/reliability/slurm.json` and its table.
"""

import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import endurance
import pandas as pd
import safetensors
import slurm_cluster
import small_runs
import torch

from curlora_lite.replication import checkpoints, cluster, fetch, grids, records

FOLDER = records.ROOT / "results" / "reliability"
RANKS = (4, 8, 16, 24)


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


def killed(grid, folder, here, poll=1):
    """The grid as jobs: one node's task is killed, then all of another node; what came of it.

    Each once its run has kept a first state between two tasks. Returns (the numbers, what was
    killed and how many of the killed runs went on from that state, not from the beginning).
    """
    what, kept = {}, {}

    def kill():
        kept.update(wait(kept_by, "n1", grid, folder, here))
        what["processes of tasks"] = here.kill_task("n1")
        kept.update(wait(kept_by, "n2", grid, folder, here))
        what["at"], done = time.time(), list(Path(folder).glob("*/runs/*.json"))
        what["processes of a node"], what["runs done by then"] = here.kill("n2"), len(done)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with _polling(poll):
        found = cluster.run_grid(grid, folder, own=True)
    killer.join(timeout=1)
    what["seconds from then to the last record"] = round(time.time() - what.pop("at"), 1)
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


@contextlib.contextmanager
def _polling(seconds):
    before, cluster.POLL = cluster.POLL, seconds
    yield
    cluster.POLL = before


def overheads(grid, folder, poll=1):
    """Seconds of each run, in an undisturbed grid of jobs, that are not the run itself.

    From when its node was free (the run before it there has ended, or the grid was submitted) to
    when its record is saved, without the record's own seconds. `before`: until the job's function
    begins, which is Slurm's part, and Python's and its libraries' start; `around`: the rest.
    """
    jobs = cluster.Jobs(cluster.folder(folder), cluster.needs(grid))
    submitted = time.time()
    with _polling(poll):
        found = cluster.run_grid(grid, folder, own=True, jobs=jobs)
    wall = time.time() - submitted
    done = [(job.result(), record) for job, record in zip(jobs.submitted, found, strict=True)]
    done.sort(key=lambda pair: pair[0]["ended"])
    free, each = {}, []
    for times, record in done:
        start = free.get(times["node"], submitted)
        before = times["began"] - start
        around = times["ended"] - times["began"] - record.seconds
        each.append({"before": before, "around": around, "run": record.seconds})
        free[times["node"]] = times["ended"]
    return each, wall


def measure():
    """What `slurm.json` holds: numbers of both grids, and where they were measured."""
    endurance.tiny_jobs(setattr, os.environ.__setitem__)
    grid, load = specs(RANKS), round(os.getloadavg()[0], 1)
    where = records.provenance("cpu", None)
    with tempfile.TemporaryDirectory() as name, slurm_cluster.cluster() as here:
        expected = undisturbed(grid, f"{name}/here")
        each, wall = overheads(grid, f"{name}/overhead")
        found, what = killed(grid, f"{name}/killed", here)
        version = here.ask("sinfo", "--version").split()[-1]
        equal = endurance.numbers(grid, f"{name}/overhead")
    total = [one["before"] + one["around"] for one in each]
    return {
        "grid": f"tiny models, table2, ranks {', '.join(map(str, RANKS))}",
        "runs": len(grid),
        "nodes": len(here.nodes),
        "records equal to those of an undisturbed grid without Slurm": {
            "jobs undisturbed": sum(equal[key] == expected[key] for key in expected),
            "jobs, a node killed": sum(found.get(key) == expected[key] for key in expected),
        },
        "killed": what,
        "overhead": {
            "seconds a run, median": round(statistics.median(total), 2),
            "seconds a run, largest": round(max(total), 2),
            "of these until the run's function begins, median": round(
                statistics.median(one["before"] for one in each), 2
            ),
            "seconds of the run itself, median": round(
                statistics.median(one["run"] for one in each), 2
            ),
            "wall seconds of the grid": round(wall, 1),
            "each": [{name: round(value, 2) for name, value in one.items()} for one in each],
        },
        "load when it began": load,  # processes that wanted a core already
        "slurm": version,
        **{name: where[name] for name in ("device", "cores", "python", "date", "commit")},
    }


def table(measured):
    """The numbers of `slurm.json` that say something by themselves, as a Series."""
    equal = measured["records equal to those of an undisturbed grid without Slurm"]
    what, overhead = measured["killed"], measured["overhead"]
    return pd.Series(
        {
            "runs of the grid, on two nodes": measured["runs"],
            "tasks whose process was killed (`kill -9`)": what["processes of tasks"],
            "nodes of which every process was": 1,
            "runs in the middle of which these were": what["runs killed"],
            "of these gone on from their checkpoint elsewhere": what[
                "of these gone on from their checkpoint"
            ],
            "records equal to those of a grid without Slurm": equal["jobs, a node killed"],
            "the same with no node killed": equal["jobs undisturbed"],
            "seconds that Slurm adds to a run, median": overhead["seconds a run, median"],
            "of these until its Python has loaded its libraries": overhead[
                "of these until the run's function begins, median"
            ],
        },
        name="Count",
    ).astype(str)


def main():
    """Measure and write; the exit status tells whether every record came out equal."""
    try:
        measured = measure()
    except slurm_cluster.NoSlurmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with fetch.aside(FOLDER / "slurm.json") as part:
        part.write_text(json.dumps(measured, indent=1) + "\n")
    made = table(measured).to_markdown()
    with fetch.aside(FOLDER / "tables" / "slurm.md") as part:
        part.write_text(made + "\n")
    print(f"\n{made}\nwritten: {FOLDER.relative_to(records.ROOT)}/")
    equal = measured["records equal to those of an undisturbed grid without Slurm"]
    return int(set(equal.values()) != {measured["runs"]})


if __name__ == "__main__":
    sys.exit(main())
