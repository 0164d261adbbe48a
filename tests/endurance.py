"""What a grid survives: killed at random moments, several at once. Real processes, made-up runs.

The tests of survival use it, and those of Slurm in `.ci/slurm`.
"""

import contextlib
import hashlib
import os
import random
import signal
import threading
import time
from pathlib import Path

from curlora_lite.replication import grids, profiles, records, sequence, verify


def made_up_grid(runs):
    """The specs of a grid of so many runs."""
    ranks = list(range(1, runs + 1))
    return profiles.grid("embedded", "table1", ranks=ranks, methods=["lora"])


def made_up(spec, progress, checkpoint):
    """A run in some milliseconds: numbers from the spec alone, a record of usual size."""
    chance = random.Random(int(hashlib.sha256(spec.key.encode()).hexdigest()[:8], 16))
    progress("loading the model")
    time.sleep(chance.uniform(0.0, 0.004))
    losses = [chance.random() for _ in range(1500)]
    return records.RunRecord(spec.to_dict(), stages=[{"task": "mrpc", "losses": losses}])


def started(specs, folder, run=made_up, log=None):
    """The number of a new process that runs the grid; each run's key goes to the file `log`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)  # the progress bar
        # the bar's own lock is shared with forked processes, and one killed would keep it
        grids.tqdm.set_lock(threading.RLock())
        sequence.run = lambda *told: _logged(run, log, *told)
        grids.run_grid(specs, folder, workers=1)
        os._exit(0)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
        os._exit(1)


def _logged(run, log, spec, *told):
    if log:
        with open(log, "a") as file:  # one write of one short line: whole, whoever else writes
            file.write(f"{spec.key}\n")
    return run(spec, *told)


def ended(pid):
    """Wait for a process; True if it ended well, False if it was killed. Another end raises."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the grid's process ended with status {status}")
    return status == 0


def numbers(specs, folder):
    """key -> every number of its record, times and memory left out."""
    found = {spec.key: records.find(spec, folder) for spec in specs}
    return {key: verify.plain(record) for key, record in found.items() if record}


def survive_kills(specs, folder, kills, seed, longest=0.15, run=made_up):
    """Kill -9 a grid at random moments until it has been killed so often; what came of it.

    A grid that gets to its end is compared with an undisturbed one and another begins, in a folder
    of its own. longest: seconds from the start of a process to its kill, at most. `stopped` counts
    the kills that left a part of a record beside the whole ones.
    """
    chance, folder = random.Random(seed), Path(folder)
    assert ended(started(specs, folder / "undisturbed", run))
    expected = numbers(specs, folder / "undisturbed")
    came = dict.fromkeys(("kills", "stopped", "lost", "half-written", "grids", "equal"), 0)
    while came["kills"] < kills:
        came["grids"] += 1
        here, done, parts, complete = folder / f"grid{came['grids']}", set(), set(), False
        while not complete:
            pid = started(specs, here, run)
            if came["kills"] < kills:
                time.sleep(chance.uniform(0, longest))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            complete = ended(pid)
            came["kills"] += not complete
            left = set(here.glob("*/runs/.*.part"))
            came["stopped"] += bool(left - parts)
            parts |= left
            files = list(here.glob("*/runs/*.json"))
            came["half-written"] += sum(not _whole(path) for path in files)
            came["lost"] += len(done - {path.stem for path in files})
            done = {path.stem for path in files}
        came["equal"] += numbers(specs, here) == expected and len(done) == len(specs)
    return came


def _whole(path):
    try:
        return bool(records.load(path))
    except ValueError:
        return False


def share(specs, folder, processes, killed=0):
    """Several grids at once on one folder, the first `killed` of them killed half-way.

    Returns how often each run was begun, key -> count, and the numbers that came out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pids = [started(specs, folder, log=folder / "begun") for _ in range(processes)]
    while killed and len(list(folder.glob("*/runs/*.json"))) < len(specs) / 2:
        time.sleep(0.001)
    for pid in pids[:killed]:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        ended(pid)
    begun = (folder / "begun").read_text().split()
    return {key: begun.count(key) for key in begun}, numbers(specs, folder)
