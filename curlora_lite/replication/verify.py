"""Compute records again and compare: bit for bit on one machine, elsewhere what the tables state.

Another processor adds up in another order, or has no bf16, or draws dropout otherwise, and training
carries that on. So of another place the numbers of the tables are compared, and differ as far as
the same runs did between kinds of processor (`results/reliability/tolerances.py`).
"""

import dataclasses
import hashlib
import json
import math
import tempfile

import pandas as pd

from . import grids, machine, memory, profiles, records, runs, tables
from .specs import RunSpec

TOLERANCES = records.ROOT / "results" / "reliability" / "tolerances.json"
STATED = ("accuracy", "perplexity", "norm")  # of `runs.frame`; norm: the mean over projections
LEAST = 0.01  # what two decimals do not show: of an accuracy, of a perplexity ratio
PASSING = ("provenance", "sources", "version", "message")  # and times and memory:
PASSING += ("seconds", "tokens_per_second", "peak_memory_mib", "scoring_seconds")
# where all of these agree, and the version of the numbers, equal numbers are due
PLACE = ("device", "platform", "python", "packages", "threads", "rows")
HELD, BROKEN, UNJUDGED = "yes", "no", "not judged"
MEANING = {
    HELD: "equal, or as near as the same runs came to each other on several kinds of processor (in "
    "brackets: twice the farthest of them); the tables are read as they stand.",
    BROKEN: "a number of a table would be read differently. On the machine and versions of the "
    "record any difference counts; elsewhere look at weights, data and versions first.",
    UNJUDGED: "numbers differ, and these runs were not yet computed on a second kind of processor.",
}


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

    In fp32 where this machine has no products in a record's bf16. Columns: see `compare`.
    """
    measured, rows = json.loads(TOLERANCES.read_text("utf-8")), {}
    own = {} if machine.fast_precision() == "bf16" else {"precision": "fp32"}
    by_threads = {}  # each with those that the record's run had: they decide the order of sums
    for key, record in kept.items():
        by_threads.setdefault(record.provenance["threads"], []).append(key)
    for threads, keys in by_threads.items():
        specs, at = [RunSpec.from_dict(kept[key].spec | own) for key in keys], {}
        if machine.default_device() == "cpu":
            most = min(machine.cores() // threads, memory.default_workers(specs))
            at = {"workers": max(1, most), "threads": threads}
        with tempfile.TemporaryDirectory() as folder:
            for key, again in zip(keys, grids.run_grid(specs, folder, **at), strict=True):
                rows[key] = {"record": key, **compare(kept[key], again, measured)}
    return pd.DataFrame([rows[key] for key in kept])


def compare(record, again, measured):
    """A record beside the same run computed again: what is shown of it, by column.

    `compared`: `bit for bit`, as is due where place, precision and version agree with the record's,
    or `as tables state it`: the largest deviation of each of their measures, with what is allowed
    (measured: what `TOLERANCES` holds), and beside them `answers`, the largest share of rows
    answered otherwise. `holds`: `yes`, `no` or `not judged` (see `MEANING`). Other weights, rows or
    settings never hold.
    """
    off, allowed = deviations(record, again), tolerances(measured, record)
    how, held = "bit for bit", HELD if plain(record) == plain(again) else BROKEN
    if held == BROKEN and _place(record) != _place(again):
        how, beyond = "as tables state it", any(off[kind] > allowed[kind] for kind in allowed)
        held = BROKEN if beyond or not same(record, again) else HELD if allowed else UNJUDGED
    most = {kind: f" ({by:.2g})" for kind, by in allowed.items()}
    shown = {kind: f"{by:.2g}{most.get(kind, '')}" for kind, by in off.items()}
    return {"compared": how, **shown, "holds": held}


def _place(record):
    named = (record.provenance.get(name) for name in PLACE)
    return [*named, record.version, record.spec["precision"]]


def plain(record):
    """All of a record that must come out again on the same machine."""
    text = json.dumps(dataclasses.asdict(record))
    return json.loads(text, object_hook=lambda part: {k: part[k] for k in {*part} - {*PASSING}})


def same(record, again):
    """Whether both are of one spec, but for precision, of one model, and read the same."""
    one, other = ({**run.spec, "precision": None} for run in (record, again))
    read = all(again.data.get(name) == parts for name, parts in record.data.items())
    ended = [(run.status, run.model_sha256) for run in (record, again)]
    return one == other and read and ended[0] == ended[1]


def tolerances(measured, record):
    """Measure -> largest deviation allowed, of the record's model and method; {} if not measured.

    At least what two decimals do not show, and of accuracies one row of the smallest evaluation.
    """
    known = measured.get(f"{record.spec['model']['name']} {record.spec['method']}", {})
    row = 1 / min((s["n"] for stage in record.stages for s in stage["scores"].values()), default=1)
    least = {"accuracy": max(row, LEAST)}
    return {kind: max(known[kind], least.get(kind, LEAST)) for kind in STATED if kind in known}


def deviations(record, again):
    """Measure -> its largest deviation; `answers`: the largest share of rows answered otherwise.

    Accuracy: absolute. Perplexity and norm: relative to the record's. A number that one side lacks,
    or that is not finite on one side, is infinitely far. Old records did not keep answers.
    """
    old, new = (_stated(run) for run in (record, again))
    both = old.join(new, how="outer", rsuffix=" again")
    off = (both["value again"] - both.value).abs()
    off = off.where(both.index.get_level_values("measure") == "accuracy", off / both.value.abs())
    off = off.where(both["value again"] != both.value, 0.0).fillna(math.inf)
    largest = off.groupby("measure").max()
    answers = both[["answers", "answers again"]].dropna()
    shares = [sum(map(str.__ne__, *pair)) / len(pair[0]) for pair in answers.to_numpy()]
    stated = {kind: largest.get(kind, 0.0) for kind in STATED}
    return stated | {"answers": max(shares, default=math.nan)}


def _stated(record):
    rows = runs.tidy({"": record})
    return rows[rows.measure.isin(STATED)].set_index(["measure", "stage", "task", "n"])


def save(profile, found, folder):
    """Write what `verify` found as the table `verify_<profile>`; returns it as Markdown."""
    here = records.provenance(machine.default_device(), None)
    versions = ", ".join(f"{name} {version}" for name, version in here["packages"].items())
    note = f"Computed {here['date']} at commit {here['commit']} on {here['device']}; {versions}."
    meant = [f"{held}: {MEANING[held]}" for held in MEANING if held in set(found.holds)]
    stem = folder / "tables" / f"verify_{profile.replace('-', '_')}"
    return tables.save(found.set_index("record"), stem, "Records computed again", [*meant, note])
