"""RunRecord: what one run gave and where it came from; written whole or not at all."""

import dataclasses
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from .. import __version__
from . import fetch, machine

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ("finished", "diverged")
STATUSES = (*RESULTS, "out of memory")  # the last is tried again
PACKAGES = ("torch", "transformers", "datasets", "evaluate", "tokenizers", "numpy")


@dataclass
class RunRecord:
    """One run.

    spec: the RunSpec as plain data. version: of the code that computed the numbers (see
    `sequence.VERSION`). status: `finished`, `diverged` (a result too) or
    `out of memory` (none: the next call tries again).
    stages: one dict per task trained, in order: `task`, `training` (losses per step, steps, tokens,
    seconds, last learning rate), `scores` (task -> accuracy, n, majority, how often each class was
    predicted, the answer to each row), `norms`
    (projection -> ||update||_F / ||W||_F).
    perplexity: `initial` and `final`, each with its scored tokens; `published`, where `initial`
    was to be that of the paper, and whether it was.
    trainable: parameters of the adapter and of each head. data: sha256 of every part used.
    sources: where `model` and `data` came from: hub, mirror or embedded, with revision.
    """

    spec: dict
    version: int = 0
    status: str = "finished"
    message: str = ""
    stages: list = field(default_factory=list)
    perplexity: dict = field(default_factory=dict)
    trainable: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    sources: dict = field(default_factory=dict)
    model_sha256: str = ""
    seconds: float = 0.0
    provenance: dict = field(default_factory=dict)


def results_folder(given=None):
    """The checkout's `results`, or the folder that a caller or `RESULTS=DIR` names."""
    return Path(given or os.environ.get("CURLORA_RESULTS") or ROOT / "results")


def runs_folder(profile, results=None):
    """`results/<profile>/runs`."""
    return results_folder(results) / profile / "runs"


def outputs(profile, results=None, **chosen):
    """The folder for tables, figures and notebooks of a grid.

    `results/<profile>` for the profile's own grid; for any other choice of ranks, seeds and so on a
    folder of its own below `selections`, so that it does not replace the profile's tables.
    """
    folder = results_folder(results) / profile
    given = {n: value for n, value in chosen.items() if value or type(value) is int}  # seed 0
    named = [f"{n}-{re.sub('[^A-Za-z0-9-]+', '-', str(v)).strip('-')}" for n, v in given.items()]
    return folder / "selections" / "_".join(named) if named else folder


def save(record, path):
    """Write a record to `path`: aside first, then moved there, so that it is whole or absent.

    What was there is kept in the folder `superseded` beside it, never counted (and not in git,
    whose history has the committed ones): its name ends in digits of its sha256.
    """
    if path.exists():
        old = f"{path.stem}-{fetch.sha256_of(path)[:10]}.json"
        with fetch.aside(path.parent / "superseded" / old) as part:
            shutil.copy2(path, part)
    with fetch.aside(path) as part, open(part, "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(record), file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def load(path):
    """Read a record; ValueError, naming the file, for one that is not whole."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        empty = vars(RunRecord({}))
        if set(content) != set(empty):
            raise ValueError(f"fields {sorted(set(content) ^ set(empty))} are missing or unknown")
        for name, value in empty.items():
            if not isinstance(content[name], type(value)):
                raise ValueError(f"{name} is not a {type(value).__name__}")
        return RunRecord(**content)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a whole run record ({error})") from error


def find(spec, results=None, statuses=RESULTS):
    """The record of a spec equal to this one, or None: whoever's (see `grids.reusable`).

    statuses: which records count. A damaged file counts as absent.
    """
    path = runs_folder(spec.profile, results) / f"{spec.key}.json"
    try:
        record = load(path)
    except (FileNotFoundError, ValueError):
        return None
    return record if record.spec == spec.to_dict() and record.status in statuses else None


def computed_here(record):
    """Whether this working copy computed it, with the packages as they are now.

    Records that came with a clone are somebody else's.
    """
    here = {"workspace": workspace(), "packages": packages()}
    return all(record.provenance.get(name) == value for name, value in here.items())


def workspace():
    """A random name for this working copy, made once and kept in the cache folder.

    In a cache that several share, a name for each.
    """
    path = fetch.cache_dir() / "workspace"
    if path.parent != ROOT / "cache":
        path = path.with_name(f"workspace-{hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:10]}")
    if not path.exists():
        with fetch.alone(path):
            if not path.exists():
                fetch.write(path, uuid.uuid4().hex[:12])
    return path.read_text("utf-8").strip()


def provenance(device, rows):
    """Versions, machine and commit, as plain data; rows: `packed` or `padded` in training."""
    return {
        "workspace": workspace(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "packages": packages(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if device == "cuda" else machine.cpu_name(),
        "rows": rows,
        "threads": torch.get_num_threads(),
        "cores": machine.cores(),
        **commit(),
    }


def packages():
    """The versions installed of what computes the numbers."""
    return {name: _version(name) for name in PACKAGES}


_version = functools.cache(metadata.version)


@functools.cache
def commit():
    """The checkout's `commit` and whether code differs from it (`dirty`).

    Where it is no repository itself, as unpacked from an archive, or git is not there: the release
    and the code's sha256; nothing differs from that.
    """
    try:
        head = _git("rev-parse", "HEAD")
        # results are what runs write: they do not make the code another
        return {"commit": head, "dirty": bool(_git("status", "--porcelain", "--", ":!results"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": f"release {__version__}, code {code_sha256()[:10]}", "dirty": False}


def code_sha256():
    """Of the package's files, one after the other in the order of their names."""
    there = (p for p in (ROOT / "curlora_lite").rglob("*") if p.suffix in (".py", ".toml", ".txt"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(there))).hexdigest()


def short(commit):
    """A `commit` as tables say it: ten digits of it, or the release as it is."""
    known = commit if isinstance(commit, str) else "not known"
    return re.sub("^([0-9a-f]{10})[0-9a-f]*", r"\1", known)


def _git(*arguments):
    """Of this repository alone: git would also find one around it, or one that a hook is of."""
    command = ["git", "--no-optional-locks", "-C", str(ROOT), "--git-dir=.git", "--work-tree=."]
    done = subprocess.run([*command, *arguments], check=True, capture_output=True)
    return done.stdout.decode(errors="replace").strip()
