"""What each table and figure came from: `provenance.json` in its folder of results, and in words.

An entry a table or figure, by its place without the suffix: `files` (suffix -> sha256), `from` (the
records, or whatever else below `results/`, that it was read from), `commits` and `code` (see
`numerics`) that those were computed by, and the command that makes it `again`. No dates: it changes
with the content only.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import filelock

from . import fetch, numerics, records
from .profiles import RunSpec

NAME = "provenance.json"
BELOW = ("tables", "figures")  # folders whose provenance is one above


@dataclass(frozen=True)
class Source:
    """Where the numbers of a table or figure come from (see the module).

    files: paths below `results/`; none for what the code computes without any.
    """

    files: tuple
    commits: tuple
    code: tuple
    again: str

    def __post_init__(self):
        for name in ("files", "commits", "code"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))

    def joined(self, other):
        """Of what is made from both, by the command of this one."""
        both = (getattr(self, n) + getattr(other, n) for n in ("files", "commits", "code"))
        return Source(*both, self.again)

    def text(self):
        """One line, for the files themselves: it is the same until the content is another."""
        if not self.files:
            return f"Computed by: {self.again}"
        what = self.files[0] if len(self.files) == 1 else f"{len(self.files)} files"
        folders = sorted({str(Path(file).parent) for file in self.files})
        if len(self.files) > 1:
            what += f" of results/{', results/'.join(folders)}"
        commits = ", ".join(_short(commit) for commit in self.commits)
        return f"From {what}, computed at commit {commits}; again: {self.again}"


def _short(commit):
    return commit[:10] + commit[40:]


def of_runs(runs, again):
    """The Source of what is read from RunRecords. ValueError if there are none."""
    if not runs:
        raise ValueError("runs: got none, expected those of at least one table")
    names = [f"{run.spec['profile']}/runs/{RunSpec.from_dict(run.spec).key}.json" for run in runs]
    return of_file(names, [run.provenance for run in runs], again)


def of_file(names, computed, again):
    """The Source of what is read from files below `results/`.

    computed: the `records.provenance` of each computation whose numbers are in them.
    """
    commits = [_commit(one) for one in computed]
    return Source(names, commits, [one.get("code", "not recorded") for one in computed], again)


def of_code(again, names=()):
    """The Source of what this code computes as it is now, beside what is in files."""
    return Source(names, [_commit(records.commit())], [numerics.version()], again)


def _commit(computed):
    changed = " with changes" if computed.get("dirty") else ""
    return str(computed["commit"]) + changed


def command(target, profile, **chosen):
    """`make reproduce PROFILE=… RANKS=…`: what a user types for these choices (see `cli`)."""
    whole = profile.removesuffix("-quick")
    words = [] if whole == target else [f"PROFILE={whole}"]
    words += ["QUICK=1"] if whole != profile else []
    for name, value in chosen.items():
        if value:
            shown = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            words.append(f"{name.upper()}={int(shown) if shown is True else shown}")
    return " ".join(["make", target, *words])


def notebook(name, **parameters):
    """`papermill …`: what a user types to execute a notebook with these parameters."""
    given = [f"-p {key} {value}" for key, value in parameters.items() if value is not None]
    return " ".join(["papermill", f"notebooks/{name}.ipynb", "OUT.ipynb", *given])


def keep(paths, source):
    """Enter files of one table or figure, which differ in their suffix, where it is looked up.

    Others of it that were entered before stay. A commit that computed the same before stays: the
    content is no newer. Files that are gone are taken out. Two processes may do this at once.
    """
    folder = folder_of(paths[0])
    made = {path.suffix: fetch.sha256_of(path) for path in paths}
    entry = {"files": made, "from": list(source.files), "commits": list(source.commits)}
    entry |= {"code": list(source.code), "again": source.again}
    name = paths[0].relative_to(folder).with_suffix("").as_posix()
    with _alone(folder):
        entries = {}
        for other, kept in load(folder).items():
            there = {s: sha for s, sha in kept["files"].items() if (folder / (other + s)).exists()}
            if there:
                entries[other] = {**kept, "files": there}
        old = entries.get(name, {})
        entry["files"] = {**old.get("files", {}), **made}
        if not source.files and {**entry, "commits": old.get("commits")} == old:
            return
        entries[name] = entry
        with fetch.aside(folder / NAME) as part:
            part.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")


def load(folder):
    """place -> entry, of a folder of results; empty if nothing was kept there."""
    path = folder / NAME
    return json.loads(path.read_text()) if path.exists() else {}


def folder_of(path):
    """The folder whose `provenance.json` has the entry of a table or figure."""
    return path.parent.parent if path.parent.name in BELOW else path.parent


def _alone(folder):
    path = folder / ".claims" / "provenance.lock"  # git passes this folder over
    with fetch.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(path, fallback_to_soft=False)
