"""Which process computes which run: claims, so that grids at once on one folder do none twice."""

import shutil

import filelock

from . import fetch, records


class Queue:
    """The missing runs of a grid, given out one by one to whoever computes them first.

    A claim on a run is a lock of the operating system (`flock`) on the empty file
    `results/<profile>/.claims/<key>.lock`. It ends with its process, however that ends, so that
    nothing is left to be cleared after `kill -9`; the file itself says nothing and stays.
    It holds between the processes of a machine and, as far as the file system passes locks on,
    between machines that share the folder (NFS does by its lock daemon or version 4, Lustre if
    mounted with `flock`). One that has no locks at all is an OSError, not a silent second run.

    find: spec -> its record or None, asked again once a run is claimed. found: called with each
    spec that another process has computed meanwhile.
    """

    def __init__(self, specs, results, find, found=lambda spec: None):
        self.left, self.results, self.find, self.found = list(specs), results, find, found
        self.held = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for spec in list(self.held):
            self.done(spec)

    def take(self):
        """The next run that nobody computes, claimed; None if there is none at this moment.

        Those still in `left` are then being computed by other processes: ask again later.
        """
        for spec in list(self.left):
            if (lock := _lock(records.runs_folder(spec.profile, self.results), spec.key)) is None:
                continue
            self.left.remove(spec)
            self.held[spec] = lock
            if self.find(spec) is None:
                return spec
            self.done(spec)
            self.found(spec)
        return None

    def done(self, spec):
        """Give the claim on a run back: its record is saved, or will not be."""
        self.held.pop(spec).release()


def _lock(runs, key):
    """The lock of a run, taken; None if another process has it."""
    path = runs.parent / ".claims" / f"{key}.lock"
    with fetch.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # never the library's stand-in for systems without locks: that one outlives its process
        lock = filelock.FileLock(path, blocking=False, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            return None
    for left in runs.parent.glob(f"*/.{key}.*.part"):  # of a process killed while writing
        shutil.rmtree(left, ignore_errors=True)
    return lock
