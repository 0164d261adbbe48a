"""Compute records again and compare every number: bit for bit, or within what was measured.

Tolerances are for records of another place: `results/reliability/tolerances.py` measured them, on a
few runs of each model, under conditions that stand for other machines. Two kinds: `rounding`, the
same draws and sums in another order (threads, instructions, rows padded or packed); and `machine`,
dropout drawn by another routine besides. What was not measured is not judged.
"""

import dataclasses
import hashlib
import json
import math
import re
import tempfile

import pandas as pd

from . import fetch, grids, machine, profiles, records
from .specs import RunSpec

TOLERANCES = records.ROOT / "results" / "reliability" / "tolerances.json"
# what a number of a record is, by the name of what it is in; all others have to come out exactly
KINDS = {"accuracy": "accuracy", "answers": "answers", "losses": "loss", "norms": "norm"}
KINDS |= {"perplexity": "perplexity", "tokens": "exact", "window": "exact", "check": "exact"}
LATER = r"answers$|^data text"  # old records did not keep these
RELATIVE = ("perplexity", "norm")
LEFT_OUT = ("provenance", "sources", "version", "message")  # and times and memory:
LEFT_OUT += ("seconds", "tokens_per_second", "peak_memory_mib", "scoring_seconds")
LEFT_OUT += ("predicted",)  # counts the answers
# where all of these agree, and the version of the numbers, equal numbers are due
PLACE = ("device", "platform", "python", "packages", "threads", "rows")
HELD, BROKEN, UNJUDGED = "yes", "no", "not judged"


def chosen(profile, keys=None, share=None, results=None):
    """Records of a profile to be computed again, the file's name -> RunRecord.

    keys: names of records, without `.json`. share: above 0, at most 1: that share of all, the same
    ones each time. Neither: the quickest of each method on each model. ValueError for a key that is
    not there, or a profile without records.
    """
    profiles.profile_named(profile)
    folder = records.runs_folder(profile, results)
    found = {path.stem: records.load(path) for path in sorted(folder.glob("*.json"))}
    found = {key: record for key, record in found.items() if record.status in records.RESULTS}
    if not found:
        raise ValueError(f"profile: {profile} has no records in {folder}")
    if keys is not None:
        absent = [key for key in keys if key not in found]
        if absent or not keys:
            raise ValueError(f"VERIFY: no record {absent}; there are {', '.join(found)}")
        return {key: found[key] for key in keys}
    if share is not None:
        if not 0 < share <= 1:
            raise ValueError(f"SHARE: got {share}, expected a number above 0, at most 1")
        order = sorted(found, key=lambda key: hashlib.sha256(key.encode()).digest())
        return {key: found[key] for key in order[: math.ceil(share * len(found))]}
    quickest = {}
    for key in sorted(found, key=lambda key: found[key].seconds):
        quickest.setdefault((found[key].spec["model"]["name"], found[key].spec["method"]), key)
    return {key: found[key] for key in quickest.values()}


def verify(kept):
    """Compute the runs of these records again, in a folder that goes: a DataFrame, a record a row.

    Columns: see `compare`.
    """
    measured, rows = json.loads(TOLERANCES.read_text("utf-8")), {}
    by_threads = {}  # each with those that the record's run had: they decide the order of sums
    for key, record in kept.items():
        by_threads.setdefault(record.provenance["threads"], []).append(key)
    for threads, keys in by_threads.items():
        specs, at = [RunSpec.from_dict(kept[key].spec) for key in keys], {}
        if machine.default_device() == "cpu":
            most = min(machine.cores() // threads, grids.default_workers(specs))
            at = {"workers": max(1, most), "threads": threads}
        with tempfile.TemporaryDirectory() as folder:
            for key, again in zip(keys, grids.run_grid(specs, folder, **at), strict=True):
                rows[key] = {"record": key, **compare(kept[key], again, measured)}
    return pd.DataFrame([rows[key] for key in kept])


def compare(record, again, measured):
    """A record beside the same run computed again: what is shown of it, by column.

    `compared`: `bit for bit`, as is due where place and version agree with the record's; else the
    kind of tolerances, of its model and precision (measured: what `TOLERANCES` holds), or `not
    measured`. `numbers`: how many. `deviation`: the largest of each kind with its tolerance.
    `holds`: `yes`, `no` or `not judged`. Other weights or data never hold.
    """
    old, new = plain(record), plain(again)
    new = {name: n for name, n in new.items() if name in old or not re.search(LATER, name)}
    off = deviations(old, new)
    if not any(off.values()):
        return _shown("bit for bit", old, {}, HELD)
    model = f"{record.spec['model']['name']} {record.spec['precision']}"
    mine, theirs = ([run.provenance.get(name) for name in PLACE] for run in (again, record))
    if mine == theirs and again.version == record.version:
        how, allowed = "bit for bit", dict.fromkeys(off, 0.0)
    elif model not in measured:
        how, allowed = "not measured", {"exact": 0.0}
    else:
        how = "rounding" if mine[0] == theirs[0] else "machine"
        allowed = tolerances(measured[model][how], record)
    largest = {kind: (by, allowed.get(kind)) for kind, by in off.items()}
    held = UNJUDGED if any(by > 0 and most is None for by, most in largest.values()) else HELD
    if any(most is not None and by > most for by, most in largest.values()):
        held = BROKEN
    return _shown(how, old, largest, held)


def _shown(how, old, largest, held):
    off = [
        f"{kind} {by:.2g} ({'none' if most is None else f'{most:.2g}'})"
        for kind, (by, most) in largest.items()
    ]
    said = ", ".join(off) or "none"
    return {"compared": how, "numbers": len(old), "deviation": said, "holds": held}


def tolerances(measured, record):
    """kind of number -> largest deviation that is allowed; kinds not measured are not in it.

    As measured, of one kind of place; accuracies and answers may always differ by one row of the
    record's smallest evaluation.
    """
    row = 1 / min((s["n"] for stage in record.stages for s in stage["scores"].values()), default=1)
    at_least = {kind: max(row, measured.get(kind, 0.0)) for kind in ("accuracy", "answers")}
    return {**measured, **at_least, "exact": 0.0}


def deviations(old, new):
    """kind of number -> the largest deviation of `new` from `old` (see `plain`).

    Accuracy and loss: absolute. Perplexity and norm: relative to the old one. Answers: the share of
    rows that are answered otherwise. Exact: 0, or infinite. A number that one side lacks, or that
    is not finite on one side, is infinitely far.
    """
    largest = {}
    for name in old | new:
        (kind, before), (other, now) = (side.get(name, (None, None)) for side in (old, new))
        off = _distance(kind, before, now) if kind == other else math.inf
        largest[kind or other] = max(largest.get(kind or other, 0.0), off)
    return largest


def _distance(kind, old, new):
    if old == new:
        return 0.0
    if kind == "exact" or (kind == "answers" and len(old) != len(new)):
        return math.inf
    if kind == "answers":
        return sum(a != b for a, b in zip(old, new, strict=True)) / len(old)
    if kind in RELATIVE and old != 0:
        old, new = 1.0, new / old
    return abs(new - old) if math.isfinite(new - old) else math.inf


def plain(record):
    """All of a record that must come out again, name -> (kind, value); kinds: see `KINDS`."""
    content = json.loads(json.dumps(dataclasses.asdict(record)))
    return {"spec": ("exact", content.pop("spec")), **dict(_leaves(content, "", "exact"))}


def _leaves(part, name, kind):
    if not isinstance(part, (dict, list)):
        yield name, (kind, part)
        return
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if key not in LEFT_OUT:
            yield from _leaves(value, f"{name} {key}".lstrip(), KINDS.get(key, kind))


def save(profile, found, folder=TOLERANCES.parent / "tables"):
    """Write what `verify` found as `verify_<profile>.md` and `.csv`; returns the Markdown."""
    here = records.provenance(machine.default_device(), None)
    versions = ", ".join(f"{name} {version}" for name, version in here["packages"].items())
    note = f"Computed {here['date']} at commit {here['commit']} on {here['device']}; {versions}."
    text = f"{found.to_markdown(index=False)}\n\n{note}\n"
    for suffix, content in ((".md", text), (".csv", found.to_csv(index=False))):
        fetch.write(folder / f"verify_{profile.replace('-', '_')}{suffix}", content)
    return text
