"""A grid on a Slurm cluster: its missing runs as one job array, followed from one terminal.

submitit writes each call to a file in `results/.slurm`, pickled, and the node reads it there; what
is pickled is `Task`, by its name, and plain data. Nothing else is exchanged: a node claims its run
in the shared results folder (see `run_queue`) and saves the record there.
"""

import functools
import math
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..checks import whole
from . import cells, doctor, environment, fetch, grids, records
from .memory import estimate
from .specs import RunSpec

NAME = "curlora_lite"  # of the jobs
RESUBMISSIONS = 3  # of one run
GPU_FROM = 3600  # seconds of a run on a CPU from which on a GPU is asked for
SLACK = 3  # times the estimate of the time, which is good to that factor (see tests)
START = 15  # minutes for libraries, model and perplexity, which the estimate leaves out
POLL = 10  # seconds from one question to the controller to the next
SETTLE = 60  # seconds until a record on a network file system is seen by everybody

QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
RUNNING = {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}
RUNNING |= {"STAGE_OUT"}
# what would come again if the run were submitted again as it is
LASTING = {"CANCELLED": "by somebody", "OUT_OF_MEMORY": "ask for more with MEMORY"}
WELL = {"COMPLETED", "GONE"}  # Slurm's, ours


# What is asked of Slurm for one run. memory: GB of main memory. cpus: threads of the run too; one
# without a GPU, as where cores are shared out here. partition: None for its own default.
Needs = namedtuple("Needs", "gpus memory minutes cpus partition")


def needs(specs, *, gpus=None, memory=None, minutes=None, partition=None):
    """The Needs of a grid's runs: those of its largest, and what is given instead.

    Memory from `memory.estimate` and a quarter, time from `RunSpec.cost`, a GPU where the longest
    run would take an hour or more without. ValueError for what is no whole number above zero.
    """
    if gpus is None:
        gpus = int(max(doctor.seconds(spec, "cpu") for spec in specs) >= GPU_FROM)
    if memory is None:
        memory = math.ceil(1.25 * max(map(estimate, specs)) / 1e9)
    if minutes is None:
        longest = max(doctor.seconds(spec, "cuda" if gpus else "cpu") for spec in specs)
        minutes = START + math.ceil(SLACK * longest / 60)
    for name, value, least in ("GPUS", gpus, 0), ("MEMORY", memory, 1), ("MINUTES", minutes, 1):
        whole(name, value, least)
    return Needs(gpus, memory, minutes, 4 if gpus else 1, partition)


def run_grid(specs, results=None, own=False, at_once=None, jobs=None, **given):
    """A record for every spec, found or computed by jobs on a Slurm cluster.

    own: see `grids.run_grid`. at_once: tasks that run at the same time, at most; None for as many
    as Slurm lets. given: see `needs`. jobs: where to submit (`Jobs` if None).
    A task that fails, is preempted or loses its node is submitted again, RESUBMISSIONS times at
    most, unless it raises the same error twice. An interrupt leaves jobs running; the same call
    follows those that are still there.
    RunFailedError, when all others are done, for runs that gave no result; ValueError if submitit
    or Slurm is not there, or Slurm refuses the jobs.
    """
    find = functools.partial(grids.reusable, results=results, own=own, known={})
    missing = [spec for spec in specs if find(spec) is None]
    if missing:
        records.workspace()  # named before several nodes would each do it
        whole("WORKERS", 1 if at_once is None else at_once, 1)
        jobs = jobs or Jobs(folder(results), needs(missing, **given), at_once)
        if lost := _follow(missing, find, jobs, Task(results, own, jobs.threads)):
            said = "; ".join(f"{spec.key}: {reason}" for spec, reason in lost.items())
            raise grids.RunFailedError(f"{len(lost)} of {len(specs)} runs gave no result: {said}")
    return [records.find(spec, results) for spec in specs]


def folder(results=None):
    """Where jobs have their files: in the results folder, which the nodes share."""
    return records.results_folder(results).absolute() / ".slurm"


class Task:
    """What a node does for one run, given as plain data (see `RunSpec.to_dict`)."""

    def __init__(self, results, own, threads):
        self.results = results and str(Path(results).absolute())
        self.own, self.threads = own, threads

    def __call__(self, values):
        """Claim the run, compute it unless its record is there, save the record."""
        torch.set_num_threads(self.threads)
        environment.quiet()
        spec = RunSpec.from_dict(values)
        if self.own == "anybody":  # on the paper's data: this node may be of another kind
            cells.check_machine([spec], self.results)
        grids.run_grid([spec], self.results, own=self.own, workers=1)

    def checkpoint(self, values):
        """submitit's question when time is over or another job comes first: the same call again,
        which goes on from the run's own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, values)


class Jobs:
    """Jobs submitted through submitit, and what Slurm says of them."""

    def __init__(self, folder, needs, at_once=None):
        self.folder, self.threads, submitit = folder, needs.cpus, checked()
        fetch.need(folder)
        self.executor = submitit.AutoExecutor(folder, cluster="slurm")
        given = {"name": NAME, "timeout_min": needs.minutes, "mem_gb": needs.memory}
        given |= {"cpus_per_task": needs.cpus, "gpus_per_node": needs.gpus}
        given |= {"slurm_partition": needs.partition, "slurm_array_parallelism": at_once}
        # a dead node's and a preempted job are queued again even with nobody at the terminal;
        # Python takes the package from where it is started, so that all run the same code
        given["slurm_additional_parameters"] = {"requeue": True, "chdir": str(records.ROOT)}
        self.executor.update_parameters(**{name: value for name, value in given.items() if value})

    def submit(self, task, specs):
        """One job a spec, in one array. ValueError with Slurm's reason if it refuses."""
        from submitit.core import utils

        try:
            made = self.executor.map_array(task, [spec.to_dict() for spec in specs])
        except (utils.FailedJobError, utils.FailedSubmissionError) as error:
            raise ValueError(f"EXECUTOR: Slurm refuses the jobs: {_last(str(error))}") from error
        for spec, job in zip(specs, made, strict=True):
            fetch.write(self.folder / f"{spec.key}.job", job.job_id)
        return made

    def earlier(self, spec, states):
        """The job that an earlier call submitted for a spec, if it waits or runs still."""
        path = self.folder / f"{spec.key}.job"
        number = path.read_text("utf-8").strip() if path.exists() else None
        alive = states.get(number) in QUEUED | RUNNING
        return self.executor.job_class(self.folder, number) if alive else None

    def states(self):
        """job number -> state, of all jobs there are; None where Slurm does not answer just now.

        From squeue, which works without Slurm's accounting; submitit's own answers need that.
        """
        command = ["squeue", "--me", "--name", NAME, "--noheader", "--array", "--states=all"]
        done = subprocess.run([*command, "--format=%i %T"], capture_output=True, encoding="utf-8")
        return None if done.returncode else dict(map(str.split, done.stdout.splitlines()))


def checked():
    """The module submitit; ValueError, saying what to do, if it or Slurm's commands are absent."""
    try:
        import submitit
    except ImportError:
        get = "`pip install submitit==1.5.4` (of this package's extra `replication`)"
        said = f"EXECUTOR: slurm needs submitit, which is not here: `make setup`, or {get}"
        raise ValueError(said) from None
    if not all(map(shutil.which, ("sbatch", "squeue", "srun"))):
        do = "start the command where jobs are submitted from, or take EXECUTOR=local WORKERS=n"
        raise ValueError(f"EXECUTOR: slurm needs sbatch, squeue and srun, which are not here: {do}")
    return submitit


@dataclass
class _Attempt:
    """One run's job. before: jobs that it had before. error: what the last of them raised. since:
    when this one was first seen to have ended well, without its record."""

    job: object
    before: int = 0
    error: str | None = None
    since: float | None = None

    def failure(self, state):
        """(Why a job failed that has ended and left no record, whether another may do better).

        The reason is None as long as the record may still come to be seen.
        """
        again = self.before < RESUBMISSIONS
        if self.job.paths.result_pickle.exists() and (error := self.job.exception()):
            said = _last(str(error).split("-" * 22)[1])  # of the function's traceback
            again, self.error = again and said != self.error, said
            return said, again
        if state not in WELL:
            return f"{state} {LASTING.get(state, '')}".strip(), again and state not in LASTING
        self.since = self.since or time.monotonic()
        late = time.monotonic() - self.since > SETTLE
        return "ended without a record" if late else None, again


def _follow(missing, find, jobs, task):
    """Submit what nobody computes, wait for all; spec -> reason of those that gave no result."""
    left, lost = {}, {}
    with grids.progress_bar(missing) as bar:
        shown = grids.Shown(bar, len(missing))
        try:
            if (states := jobs.states()) is None:
                raise ValueError("EXECUTOR: Slurm does not answer here (squeue fails)")
            left = {spec: _Attempt(job) for spec in missing if (job := jobs.earlier(spec, states))}
            if new := [spec for spec in missing if spec not in left]:
                left |= zip(new, map(_Attempt, jobs.submit(task, new)), strict=True)
            while left:
                states = jobs.states()
                if states is not None and (again := _settle(left, lost, states, find, shown)):
                    for spec, job in zip(again, jobs.submit(task, again), strict=True):
                        left[spec] = _Attempt(job, left[spec].before + 1, left[spec].error)
                _say(shown, left, lost, states)
                if left:
                    time.sleep(POLL)
        except KeyboardInterrupt:
            numbers = sorted({attempt.job.job_id.split("_")[0] for attempt in left.values()})
            said = "the jobs go on; the same command follows them again. To end them: scancel"
            tqdm.write(f"{said} {' '.join(numbers)}", file=sys.stderr)
            raise
    return lost


def _settle(left, lost, states, find, shown):
    """Take out of `left` what is done or lost; returns the specs that are to be tried again."""
    again = []
    for spec, attempt in list(left.items()):
        state = states.get(attempt.job.job_id, "GONE")
        if state in QUEUED:
            continue
        if find(spec):
            shown.found(spec)
        elif state in WELL and (record := find(spec, statuses=records.STATUSES)):
            lost[spec] = f"{record.status}: {record.message}"
        elif state in RUNNING:
            continue
        else:
            reason, more = attempt.failure(state)
            if reason is None:
                continue
            times = f"{attempt.before + 1} of at most {RESUBMISSIONS} times"
            said = f"{spec.key}: {reason}" + (f"; submitted again ({times})" if more else "")
            tqdm.write(f"{said}; log: {attempt.job.paths.stderr}", file=sys.stderr)
            if more:
                again.append(spec)
                continue
            lost[spec] = reason
        del left[spec]
    return again


def _say(shown, left, lost, states):
    if states is None:
        return shown.say("Slurm does not answer, it is asked again")
    now = [states.get(attempt.job.job_id) for attempt in left.values()]
    waiting, running = (sum(state in kind for state in now) for kind in (QUEUED, RUNNING))
    said = f"{running} running, {waiting} waiting in Slurm's queue"
    shown.say(said + (f", {len(lost)} failed" if lost else ""))
    shown.bar.refresh()


def _last(text):
    """The last line of a text that says something."""
    return (text.strip() or "no reason given").splitlines()[-1].strip()
