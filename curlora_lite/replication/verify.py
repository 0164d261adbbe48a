"""Compute records again and compare every number: bit for bit, or within the spread measured."""

import dataclasses
import hashlib
import json
import math
import tempfile
from dataclasses import dataclass

from . import grids, records, spread
from .specs import RunSpec, profile_named
from .tables import Table

CORE_SECONDS = 270  # what a choice by default may take: some three minutes on two cores
HELD, BROKEN, UNJUDGED = "yes", "no", "not judged"


@dataclass(frozen=True)
class Compared:
    """One record beside the same run computed now.

    how: `bit for bit`, or the class of tolerances. largest: kind of number -> (largest deviation,
    tolerance or None) where not bit for bit. held: `yes`, `no` or `not judged`.
    """

    key: str
    how: str
    numbers: int
    largest: dict
    held: str


def chosen(profile, keys=None, share=None, results=None):
    """Records of a profile to be computed again, the file's name -> RunRecord.

    keys: names of records, without `.json`. share: above 0, at most 1: that share of all, the same
    ones each time. Neither: one of each method, then one of each other model, with an adapter, the
    quickest each; and more, as far as time allows.
    ValueError for a key that is not there, or a profile without records.
    """
    profile_named(profile)
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
    return _quickest(found)


def _quickest(found):
    order = sorted(found, key=lambda key: found[key].seconds)
    quickest = {found[key].spec["method"]: key for key in reversed(order)}
    first = sorted(quickest.values(), key=order.index)
    # of each model: the adapter is what is to be verified
    adapted = [key for key in [*first, *order] if found[key].spec["method"] != "head-only"]
    others = {found[key].spec["model"]["name"]: key for key in reversed(adapted)}
    taken, seconds = {}, 0.0
    for key in dict.fromkeys([*first, *others.values(), *order]):
        if not taken or seconds + found[key].seconds <= CORE_SECONDS:
            taken[key] = found[key]
            seconds += found[key].seconds
    return taken


def verify(kept):
    """Compute the runs of these records again, in a folder that goes; a `Compared` of each."""
    again = {}
    with tempfile.TemporaryDirectory() as folder:
        # each with the threads that the record's run had: they decide the order of sums
        for threads in sorted({record.provenance["threads"] for record in kept.values()}):
            specs = {
                key: RunSpec.from_dict(record.spec)
                for key, record in kept.items()
                if record.provenance["threads"] == threads
            }
            workers, several = None, machine.default_device() == "cpu"
            if several:
                most = grids.default_workers(list(specs.values()))  # by memory too
                workers = max(1, min(machine.cores() // threads, most))
            found = grids.run_grid(
                list(specs.values()), folder, workers=workers, threads=threads if several else None
            )
            again.update(zip(specs, found, strict=True))
    measured = spread.load()
    return [compare(key, record, again[key], measured) for key, record in kept.items()]


def compare(key, record, again, measured):
    """A `Compared` of a record and of the same run computed again.

    Bit for bit where machine, versions, threads, model and data agree with the record's. Else
    within the tolerances of `spread`, where it has measured runs on this model in this precision;
    where it has not measured a kind of number, nothing but equality can be judged.
    """
    old, new = spread.numbers(record), spread.numbers(again)
    leaves = len(old)
    if plain(record) == plain(again):
        return Compared(key, "bit for bit", leaves, {}, HELD)
    if same_place(record, again):
        exact = dict.fromkeys(spread.KINDS, 0.0)
        return Compared(key, "bit for bit", leaves, _largest(old, new, exact), BROKEN)
    kind = "rounding" if same_model(record, again) else "machine"
    model = f"{record.spec['model']['name']} {record.spec['precision']}"
    if model not in measured:
        return Compared(key, "no spread measured", leaves, _largest(old, new, {}), UNJUDGED)
    tolerances = spread.tolerances(measured[model], kind, spread.smallest(record))
    largest = _largest(old, new, tolerances)
    return Compared(key, kind, leaves, largest, _held(largest.values()))


def _held(largest):
    if any(allowed is not None and off > allowed for off, allowed in largest):
        return BROKEN
    return UNJUDGED if any(allowed is None and off > 0 for off, allowed in largest) else HELD


def _largest(old, new, tolerances):
    """kind -> (largest deviation, tolerance or None), exact numbers among them."""
    return {kind: (off, tolerances.get(kind)) for kind, off in spread.deviations(old, new).items()}


PLACE = ("device", "platform", "python", "packages", "threads")


def same_place(record, other):
    """Whether equal numbers are due: equal machine, versions, threads, model and data."""
    place = all(record.provenance.get(name) == other.provenance.get(name) for name in PLACE)
    return place and record.model_sha256 == other.model_sha256 and record.data == other.data


def same_model(record, other):
    """Whether only rounding differs: the same weights, and the same kind of processor, on which
    the same routine draws dropout."""
    weights = record.model_sha256 == other.model_sha256
    return weights and record.provenance.get("device") == other.provenance.get("device")


def plain(record):
    """All of a record that must come out again: without provenance, sources, times and memory."""
    content = json.loads(json.dumps(dataclasses.asdict(record)))
    for name in ("provenance", "sources"):
        content.pop(name)
    return without_times(content)


TIMED = ("seconds", "tokens_per_second", "peak_memory_mib", "scoring_seconds")


def without_times(part):
    """Plain data without the fields that say how long something took or how much memory."""
    if isinstance(part, list):
        return [without_times(value) for value in part]
    if not isinstance(part, dict):
        return part
    return {key: without_times(value) for key, value in part.items() if key not in TIMED}


def table(profile, compared):
    """What came of it, one record a row."""
    rows = []
    for one in compared:
        off = ", ".join(
            f"{kind} {off:.2g} ({'none' if allowed is None else f'{allowed:.2g}'})"
            for kind, (off, allowed) in one.largest.items()
        )
        rows.append((one.key, one.how, f"{one.numbers:,}", off or "none", one.held))
    here = records.provenance(machine.default_device())
    versions = ", ".join(f"{name} {version}" for name, version in here["packages"].items())
    return Table(
        f"Records of the {profile} profile, computed again",
        ("Record", "Compared", "Numbers", "Largest deviation (tolerance)", "Holds"),
        tuple(rows),
        (
            "Bit for bit where machine, versions, threads, model and data agree with the record's; "
            "else within tolerances from results/reliability/spread.json: rounding alone (same "
            "weights and kind of processor), or another machine. Accuracy and answers: of rows; "
            "perplexity, norm and geometry: relative; loss: nats.",
            f"Computed by numerical code {here['code']} on {here['device']}; {versions}.",
        ),
        left=(0, 1, 3, 4),
    )
