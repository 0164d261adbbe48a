"""How far one run's numbers move where a machine is another: measured, and the tolerances from it.

A few runs (`RUNS`) under conditions that stand for other machines. Two kinds of them:

- `rounding`: the same weights and draws, sums in another order: threads, vector instructions,
  MKL's code paths, and products in bf16 without the processor's instructions for them.
- `machine`: besides, dropout drawn by another routine (torch takes MKL's on Intel processors), or
  the stand-in trained anew in the other precision, as on a machine with or without fast bf16.

**Tolerance** of a kind of number, for a model in a precision: `FACTOR` times the largest deviation
from the first condition that any number of the kind showed in any run under any condition of this
kind, and of the milder kind too. Of k conditions drawn alike, one more exceeds the largest seen
with probability 1 / (k + 1); twice the largest is to leave room for that and for other ranks and
seeds. Accuracies and answers may always differ by one row of the smallest evaluation. A kind of
number that no condition has measured has no tolerance.
"""

import contextlib
import json
import math
import multiprocessing
import os
import shutil
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import torch

from . import continual, fetch, memory, models, profiles, records
from .tables import Table

FACTOR = 2.0
KINDS = ("exact", "accuracy", "answers", "perplexity", "loss", "norm", "geometry")
_RELATIVE = ("perplexity", "norm", "geometry")
_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
_NONE = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
# name -> (kind, threads, environment, what else is another); the longest first of those that run
# side by side
CONDITIONS = {
    "stand-in trained anew": ("machine", 1, {}, "model"),
    "AVX2, no bf16 instructions": ("rounding", 1, _AVX2, None),
    "one thread": (None, 1, {}, None),
    "dropout drawn otherwise": ("machine", 1, {}, "dropout"),
    "no vector instructions": ("rounding", 1, _NONE, None),
    "two threads": ("rounding", 2, {}, None),
}
_BASE, _TWO, _DROPOUT = "one thread", "two threads", "dropout drawn otherwise"
_ANEW, _SLOW = "stand-in trained anew", "AVX2, no bf16 instructions"
# ((profile, table, method, precision), conditions), each at rank 8: the sizes of the committed
# records, but for SmolLM2, which has no dropout and the same weights everywhere
RUNS = (
    (("audit", "table2", "lora", "fp32"), tuple(CONDITIONS)),
    (("audit", "table2", "curlora", "fp32"), tuple(CONDITIONS)),
    (("embedded", "table2", "lora", "bf16"), (_BASE, _TWO, _SLOW, _DROPOUT, _ANEW)),
    (("embedded", "table2", "curlora", "bf16"), (_BASE, _TWO, _DROPOUT, _ANEW)),
    (("embedded-quick", "table1", "lora", "bf16"), (_BASE, _TWO, _SLOW)),
)
_spawning = threading.Lock()


def path():
    """Where the measured spread is kept."""
    return records.ROOT / "results" / "reliability" / "spread.json"


def load():
    """The measured spreads: model and precision -> {"runs", "rows", "machine", "conditions"}."""
    return json.loads(path().read_text()) if path().exists() else {}


def tolerances(measured, kind, rows):
    """kind of number -> largest deviation that is allowed, from the conditions of `kind`.

    rows: of the smallest evaluation. Kinds that were not measured are not in it.
    """
    kinds = ("rounding",) if kind == "rounding" else ("rounding", "machine")
    seen = [c["deviations"] for c in measured["conditions"].values() if c["kind"] in kinds]
    allowed = {"accuracy": 1 / rows, "answers": 1 / rows}
    for name in KINDS:
        found = [FACTOR * deviations[name] for deviations in seen if name in deviations]
        if found:
            allowed[name] = max(*found, allowed.get(name, 0.0))
    return allowed | {"exact": 0.0}


def smallest(record):
    """Rows of the smallest evaluation of a record; 1 if nothing was scored."""
    sizes = (s["n"] for stage in record.stages for s in stage["scores"].values())
    return min(sizes, default=1)


def numbers(record):
    """name -> (kind, value) of every number of a record, times and memory apart.

    Kinds: `exact`, `accuracy`, `answers` (a digit a row), `perplexity`, `loss`, `norm`, `geometry`.
    """
    found = {"status": ("exact", record.status)}
    found |= {f"trainable {name}": ("exact", n) for name, n in record.trainable.items()}
    found |= {f"data {name}": ("exact", parts) for name, parts in record.data.items()}
    for when, part in record.perplexity.items():
        found[f"{when} perplexity"] = ("perplexity", part["perplexity"])
        found[f"{when} tokens"] = ("exact", [part["tokens"], part["window"]])
    for stage in record.stages:
        task, trained = stage["task"], stage["training"]
        exact = [trained["steps"], trained["tokens"], trained["last_rate"]]
        found[f"{task} training"] = ("exact", exact)
        for step, loss in enumerate(trained["losses"]):
            found[f"{task} loss {step}"] = ("loss", loss)
        for name, norm in stage["norms"].items():
            found[f"{task} norm {name}"] = ("norm", norm)
        for name, sizes in stage.get("geometry", {}).items():
            found |= {f"{task} {key} {name}": ("geometry", size) for key, size in sizes.items()}
        for name, score in stage["scores"].items():
            found[f"{task} {name} accuracy"] = ("accuracy", score["accuracy"])
            found[f"{task} {name} answers"] = ("answers", score["answers"])
            found[f"{task} {name} rows"] = ("exact", [score["n"], score["majority"]])
    return found


def deviations(old, new):
    """kind of number -> the largest deviation of `new` from `old` (see `numbers`).

    Accuracy and loss: absolute. Perplexity, norm and geometry: relative to the old one. Answers:
    the share of rows that are answered otherwise. Exact: 0, or infinite. A number that one side
    lacks, or that is not finite on one side, is infinitely far.
    """
    largest = {}
    for name in [*old, *(name for name in new if name not in old)]:
        kind = (old.get(name) or new[name])[0]
        both = name in old and name in new
        off = _distance(kind, old[name][1], new[name][1]) if both else math.inf
        largest[kind] = max(largest.get(kind, 0.0), off)
    return largest


def _distance(kind, old, new):
    if old == new:
        return 0.0
    if kind == "exact" or (kind == "answers" and len(old) != len(new)):
        return math.inf
    if kind == "answers":
        return sum(a != b for a, b in zip(old, new, strict=True)) / len(old)
    if kind in _RELATIVE and old != 0:
        old, new = 1.0, new / old
    return abs(new - old) if math.isfinite(new - old) else math.inf


def measure():
    """Make the `RUNS` under their conditions and write `path()`; returns its content.

    As many processes at once as there are cores; some ten minutes on two idle ones, the training of
    the stand-in among them.
    """
    specs = {at: _spec(*at) for at, _ in RUNS}
    found, cores = {}, memory.cores()
    for threads in sorted({condition[1] for condition in CONDITIONS.values()}):
        names = [name for name, condition in CONDITIONS.items() if condition[1] == threads]
        wanted = [[specs[at] for at, under in RUNS if name in under] for name in names]
        with ThreadPoolExecutor(max(1, cores // threads)) as side_by_side:
            made = side_by_side.map(_under, wanted, names)
            for name, asked, runs in zip(names, wanted, made, strict=True):
                found[name] = dict(zip((spec.key for spec in asked), runs, strict=True))
                print(f"measured: {name}, {len(runs)} runs", flush=True)
    content = summary(found)
    with fetch.aside(path()) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")
    return content


def summary(found):
    """What `load` gives, from condition -> key of a run -> RunRecord.

    The largest deviation of each kind of number over the runs on a model in a precision.
    """
    content, base = {}, found[_BASE]
    for key, run in base.items():
        model = f"{run.spec['model']['name']} {run.spec['precision']}"
        kept = ("device", "platform", "python", "packages", "code", "commit", "dirty")
        machine = {k: v for k, v in run.provenance.items() if k in kept}
        empty = {"runs": [], "rows": smallest(run), "machine": machine, "conditions": {}}
        one = content.setdefault(model, empty)
        one["runs"].append(key)
        one["rows"] = min(one["rows"], smallest(run))
        for name, runs in found.items():
            if key not in runs:
                continue
            kind, threads, environment, _ = CONDITIONS[name]
            at = {"kind": kind, "threads": threads, "environment": environment}
            at |= {"model_sha256": runs[key].model_sha256, "deviations": {}}
            seen = one["conditions"].setdefault(name, at)["deviations"]
            for what, off in deviations(numbers(run), numbers(runs[key])).items():
                seen[what] = max(seen.get(what, 0.0), off)
    return content


def _spec(profile, table, method, precision):
    grid = profiles.grid(profile, table, ranks=[8], methods=[method], precision=precision)
    return grid[0]


def table(measured):
    """The largest deviations under each condition, and the tolerances that follow from them."""
    rows = []
    for model, found in measured.items():
        for name, one in found["conditions"].items():
            if one["kind"]:
                seen = one["deviations"]
                shown = [f"{seen[kind]:.2g}" if kind in seen else "" for kind in KINDS[1:]]
                rows.append((model, name, one["kind"], *shown))
        for kind in ("rounding", "machine"):
            allowed = tolerances(found, kind, found["rows"])
            shown = [f"{allowed[name]:.2g}" if name in allowed else "none" for name in KINDS[1:]]
            rows.append((model, f"tolerance, {kind}", kind, *shown))
    runs = ", ".join(run for found in measured.values() for run in found["runs"])
    where = ", ".join({found["machine"]["device"] for found in measured.values()})
    return Table(
        "How far numbers move from those of one thread",
        ("Model", "Condition", "Kind", *KINDS[1:]),
        tuple(rows),
        (
            f"Largest deviation of any number of the kind, runs {runs}, on {where}. Accuracy and "
            "answers: share of rows; perplexity, norm and geometry: relative; loss: nats, of any "
            "one step.",
            f"Tolerance: {FACTOR:g} times the largest of its kind (machine: of rounding too), for "
            "accuracy and answers at least one row of the smallest evaluation.",
        ),
        left=(0, 1, 2),
    )


def _under(specs, condition):
    """The specs' records, computed in a process of their own under a condition."""
    _, threads, environment, other = CONDITIONS[condition]
    with contextlib.ExitStack() as stack:
        if other == "model":
            cache = stack.enter_context(tempfile.TemporaryDirectory())
            environment = {**environment, "CURLORA_CACHE": cache}
            _other_precision(Path(cache))
        pool = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        with _spawning, _environment(environment):  # a process has what was there when it began
            made = pool.submit(_run, specs, threads, other == "dropout")
        return made.result()


@contextlib.contextmanager
def _environment(values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _other_precision(cache):
    """A cache with the corpus, and with the answer that this machine does not give on bf16."""
    corpus = fetch.fetch("icwsm2014")
    (cache / "files").mkdir()
    shutil.copy(corpus, cache / "files" / corpus.name)
    other = {"bf16": "fp32", "fp32": "bf16"}[models.fast_precision()]
    kept = json.loads((fetch.cache_dir() / "precision.json").read_text())
    (cache / "precision.json").write_text(json.dumps(kept | {"precision": other}))


def _run(specs, threads, moved):
    """moved: torch's global generator, which draws dropout and nothing else, is moved on."""
    torch.set_num_threads(threads)
    return [_run_one(spec, moved) for spec in specs]


def _run_one(spec, moved):
    begun = []

    def progress(what, examples=0):
        if moved and what == "perplexity" and not begun:
            begun.append(torch.rand(1000))

    return continual.run(spec, progress)
