"""A grid of runs: which are missing, computed one by one or side by side, kept as they come."""

import functools
import multiprocessing
import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import connection

import torch
from tqdm.auto import tqdm

from ..checks import whole
from . import environment, first_contact, inputs, machine, profiles, records, run_queue, sequence
from .memory import default_workers

_POLL = 0.5  # seconds until it is asked again whether another process is done
_BAR = "{desc} |{bar:20}| {percentage:3.0f} %, {elapsed} gone, {remaining} left"


class RunFailedError(RuntimeError):
    """A run ended with an error that is not a result; others of its grid are kept."""


def plan(profile, table, **chosen):
    """The grid of one table in the precision that this machine is fast in (see `profiles.grid`)."""
    return profiles.grid(profile, table, fast=machine.fast_precision(), **chosen)


def run_grid(specs, results=None, own=False, workers=None, retry=True, threads=None):
    """A record for every spec, found or computed; computed ones are saved as they come.

    own: reuse only what would come out the same here and now (see `reusable`). workers: processes
    that compute at once; None for `memory.default_workers`. retry: try runs again that ran out of
    memory. threads: of each run; None for the cores divided among workers.
    Shows a progress bar when there is something to compute; an interrupted or killed grid goes on
    with the next missing run. Grids at once on one folder share the runs out among them (see
    `run_queue.Queue`).
    Returns the records in the order of `specs`. RunFailedError if a run ends with an error other
    than a ValueError or OSError, which come as they are; runs beside it are finished and kept.
    CannotWriteError where the results folder is full or read-only; what is in it stays.
    """
    how = {"results": results, "own": own, "known": {}}
    how["statuses"] = records.RESULTS if retry else records.STATUSES
    find = functools.partial(reusable, **how)
    missing = [spec for spec in specs if find(spec) is None]
    if missing:
        records.workspace()  # named before several processes would each do it
        workers = default_workers(missing) if workers is None else workers
        whole("workers", workers, 1)
        with progress_bar(missing) as bar:
            shown = Shown(bar, len(missing))
            compute = _one_by_one if workers == 1 and threads is None else _side_by_side
            with run_queue.Queue(missing, results, find, shown.found) as queue:
                kept = functools.partial(_checkpoint, results=results)
                for spec, record in compute(queue, shown, workers, threads, kept):
                    path = records.runs_folder(spec.profile, results) / f"{spec.key}.json"
                    records.save(record, path)
                    if record.status in records.RESULTS:
                        kept(spec).unlink(missing_ok=True)
                    queue.done(spec)
                    shown.done += 1
            bar.set_description_str(f"{len(missing)} of {len(missing)} runs done")
    return [records.find(spec, results, statuses=records.STATUSES) for spec in specs]


def reusable(spec, results=None, own=False, statuses=records.RESULTS, known=None):
    """The record of a spec that needs not be computed again, or None.

    own False: any of an equal spec, for looking at it. own: only one that this working copy has
    computed by this version of the numbers, from the very model and rows that are there now, by
    their sha256; "anybody": or any other has; one that went on by `BASE_CHECK=0` only where that is
    given again. known: keeps these hashes from one call to the next.
    FetchError if model or data are not there and cannot be had.
    """
    record = records.find(spec, results, statuses)
    if record is None or not own:
        return record
    if record.version != sequence.VERSION or not first_contact.accepted(record):
        return None
    if own != "anybody" and not records.computed_here(record):
        return None
    known = {} if known is None else known
    read = (spec.model.name, spec.tasks, spec.protocol, spec.source, spec.tune)
    if read not in known:
        known[read] = inputs.digests(spec)
    model, rows = known[read]
    same = all(rows.get(name) == parts for name, parts in record.data.items())
    return record if same and record.model_sha256 == model else None


def _checkpoint(spec, results=None):
    """Where a run keeps its state between two tasks, until its record is saved."""
    folder = records.runs_folder(spec.profile, results).parent / ".checkpoints"
    return folder / f"{spec.key}.safetensors"


def _one_by_one(queue, shown, workers, threads, kept):
    while queue.left:
        spec = queue.take()
        if spec is None:
            shown.wait(queue.left)
            continue
        try:
            record = sequence.run(spec, _progress(shown, spec), kept(spec))
        except Exception as error:
            _fail(spec, error)
        yield spec, record


def _side_by_side(queue, shown, workers, threads, kept):
    context = multiprocessing.get_context("spawn")
    news = context.SimpleQueue()  # (worker, what it does now, how far that moves the bar)
    start = (threads or max(1, machine.cores() // workers), news)
    threading.Thread(target=_follow, args=(news, shown), daemon=True).start()
    running, failed = {}, None
    with ProcessPoolExecutor(workers, context, _start_worker, start) as pool:
        try:
            while running or (queue.left and not failed):
                # no more than workers can take, so that nothing waits when the user interrupts
                while not failed and len(running) < workers and (spec := queue.take()):
                    running[pool.submit(_run_in_worker, spec, kept(spec))] = spec
                if not running:
                    shown.wait(queue.left)
                timeout = _POLL if queue.left and len(running) < workers else None
                for future in wait(running, timeout, FIRST_COMPLETED).done:
                    spec, error = running.pop(future), future.exception()
                    if error is None:
                        yield spec, future.result()
                    else:  # the runs beside it are finished and kept before it is raised
                        failed = failed or (spec, error)
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            news.put(None)
    if failed:
        _fail(*failed)


def _fail(spec, error):
    if isinstance(error, (ValueError, OSError)):
        raise error  # says what is wrong by itself
    raise RunFailedError(f"{spec.key}: {type(error).__name__}: {error}") from error


def _follow(news, shown):
    while (message := news.get()) is not None:
        shown(*message)


def progress_bar(specs):
    """A bar that is full when all these runs are done."""
    total, by_mean_rate = sum(spec.cost() for spec in specs), {"smoothing": 0, "mininterval": 1}
    return tqdm(total=total, bar_format=_BAR, **by_mean_rate)


class Shown:
    """What the bar says: how many runs of how many are done, and what each worker does now."""

    def __init__(self, bar, runs):
        self.bar, self.done, self.runs, self.now = bar, 0, runs, {}

    def __call__(self, worker, what, cost):
        self.now[worker] = what
        self.say(f"now {' + '.join(self.now.values())}")
        self.bar.update(cost)

    def say(self, what):
        said = f"{self.done} of {self.runs} runs done, {what}{machine.busy()}"
        self.bar.set_description_str(said, refresh=False)

    def found(self, spec):
        """Another process has computed this run meanwhile."""
        self.done += 1
        self.bar.update(spec.cost())

    def wait(self, specs):
        """Nothing to do at this moment: other processes compute what is left, `specs`."""
        if specs:
            self.say(f"waiting for {len(specs)} that another process computes")
            self.bar.refresh()
            time.sleep(_POLL)


def _start_worker(threads, news):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    environment.quiet()
    _run_in_worker.news = news


def _end_with_parent():
    """A worker whose grid was killed would compute for nobody, and then wait for ever."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run_in_worker(spec, checkpoint):
    show = _progress(lambda *message: _run_in_worker.news.put(message), spec)
    return sequence.run(spec, show, checkpoint)


def _progress(show, spec):
    """Tells `show` what a run does now, and how far that moves a bar in units of `RunSpec.cost`."""

    def tell(what, examples=0):
        cost = 0
        if examples:  # of `training TASK`, `scoring TASK` or `scoring TASK, which rows`
            action, task = what.split(",")[0].split(" ", 1)
            cost = examples * (spec.training_cost if action == "training" else 1)
            cost *= spec.row_cost(task)
        show(os.getpid(), f"{spec.table} {spec.label} seed {spec.seed}, {what}", cost)

    return tell
