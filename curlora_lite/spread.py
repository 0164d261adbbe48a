"""How far one run's numbers move where a machine is another: measured, and the tolerances from it.

One run of Table 2's small GPT-2 (LoRA, the method whose numbers move most), under conditions that
stand for other machines. Two kinds of them:

- `rounding`: the same weights and draws, sums in another order: threads, vector instructions,
  MKL's code paths.
- `machine`: besides, dropout drawn by another routine (torch takes MKL's on Intel processors), or
  the stand-in trained anew in the other precision, as on a machine with or without fast bf16.

**Tolerance** of a kind of number: `FACTOR` times the largest deviation from the first condition
that any number of the kind showed under any condition of this kind, and of the milder kind too. Of
k conditions drawn alike, one more exceeds the largest seen with probability 1 / (k + 1); twice the
largest is to leave room for that and for other ranks, methods and seeds. Accuracies and answers may
always differ by one row in a hundred and fifty, the smallest evaluation there is.
"""

import contextlib
import json
import math
import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from . import continual, fetch, models, profiles, records
from .tables import Table

FACTOR = 2.0
ONE_ROW = 1 / 150
KINDS = ("exact", "accuracy", "answers", "perplexity", "loss", "norm")
# name -> (kind, threads, environment, what else is another)
CONDITIONS = {
    "one thread": (None, 1, {}, None),
    "two threads": ("rounding", 2, {}, None),
    "AVX2": ("rounding", 1, {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}, None),
    "no vector instructions": (
        "rounding",
        1,
        {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
        None,
    ),
    "dropout drawn otherwise": ("machine", 1, {}, "dropout"),
    "stand-in trained anew": ("machine", 1, {}, "model"),
}


def path():
    """Where the measured spread is kept."""
    return records.ROOT / "results" / "reliability" / "spread.json"


def load():
    """The measured spreads: model and precision -> {"run", "machine", "conditions"}."""
    return json.loads(path().read_text()) if path().exists() else {}


def tolerances(measured, kind):
    """kind of number -> largest deviation that is allowed, from the conditions of `kind`."""
    kinds = ("rounding",) if kind == "rounding" else ("rounding", "machine")
    seen = [c["deviations"] for c in measured["conditions"].values() if c["kind"] in kinds]
    allowed = {name: FACTOR * max(c.get(name, 0.0) for c in seen) for name in KINDS}
    for name in ("accuracy", "answers"):
        allowed[name] = max(allowed[name], ONE_ROW)
    return allowed | {"exact": 0.0}


def numbers(record):
    """name -> (kind, value) of every number of a record, times and memory apart.

    Kinds: `exact`, `accuracy`, `answers` (a digit a row), `perplexity`, `loss`, `norm`.
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
        for name, score in stage["scores"].items():
            found[f"{task} {name} accuracy"] = ("accuracy", score["accuracy"])
            found[f"{task} {name} answers"] = ("answers", score["answers"])
            found[f"{task} {name} rows"] = ("exact", [score["n"], score["majority"]])
    return found


def deviations(old, new):
    """kind of number -> the largest deviation of `new` from `old` (see `numbers`).

    Accuracy and loss: absolute. Perplexity and norm: relative to the old one. Answers: the share of
    rows that are answered otherwise. Exact: 0, or infinite. A number that one side lacks, or that
    is not finite on one side, is infinitely far.
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
    if kind in ("perplexity", "norm") and old != 0:
        old, new = 1.0, new / old
    return abs(new - old) if math.isfinite(new - old) else math.inf


def measure(names=tuple(CONDITIONS)):
    """Run under each condition, one after the other, and write `path()`; returns its content.

    Some eight runs of a minute on one core, and the stand-in's training.
    """
    (spec,) = profiles.grid("embedded", "table2", ranks=[8], methods=["lora"])
    found = {}
    for name in names:
        kind, threads, environment, other = CONDITIONS[name]
        record = _under(spec, threads, environment, other)
        if not found:
            base = numbers(record)
        off = deviations(base, numbers(record))
        found[name] = {"kind": kind, "threads": threads, "environment": environment}
        found[name] |= {"model_sha256": record.model_sha256, "deviations": off}
        print(f"{name}: {off}", flush=True)
    kept = ("device", "platform", "python", "packages", "code", "commit")
    machine = {k: v for k, v in record.provenance.items() if k in kept}
    content = load() | {
        f"{spec.model.name} {spec.precision}": {
            "run": spec.key,
            "machine": machine,
            "conditions": found,
        }
    }
    with fetch.aside(path()) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")
    return content


def table(measured):
    """The largest deviations under each condition, and the tolerances that follow from them."""
    rows = []
    for model, found in measured.items():
        for name, one in found["conditions"].items():
            if one["kind"]:
                shown = [f"{one['deviations'].get(kind, 0.0):.2g}" for kind in KINDS[1:]]
                rows.append((model, name, one["kind"], *shown))
        for kind in ("rounding", "machine"):
            allowed = tolerances(found, kind)
            shown = [f"{allowed[name]:.2g}" for name in KINDS[1:]]
            rows.append((model, f"tolerance, {kind}", kind, *shown))
    runs = ", ".join(found["run"] for found in measured.values())
    where = ", ".join({found["machine"]["device"] for found in measured.values()})
    return Table(
        "How far one run's numbers move from those of one thread",
        ("Model", "Condition", "Kind", *KINDS[1:]),
        tuple(rows),
        (
            f"Largest deviation of any number of the kind, run {runs}, on {where}. Accuracy and "
            "answers: share of rows; perplexity and norm: relative; loss: nats, of any one step.",
            f"Tolerance: {FACTOR:g} times the largest of its kind (machine: of rounding too), for "
            "accuracy and answers at least one row of the smallest evaluation.",
        ),
        left=(0, 1, 2),
    )


def _under(spec, threads, environment, other):
    """The spec's record, computed in a process of its own under these conditions."""
    with contextlib.ExitStack() as stack:
        if other == "model":
            cache = stack.enter_context(tempfile.TemporaryDirectory())
            environment = {**environment, "CURLORA_CACHE": cache}
            _other_precision(Path(cache))
        stack.enter_context(_environment(environment))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(_run, spec, threads, other == "dropout").result()


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


def _run(spec, threads, moved):
    """moved: torch's global generator, which draws dropout and nothing else, is moved on."""
    torch.set_num_threads(threads)
    begun = []

    def progress(what, examples=0):
        if moved and what == "perplexity" and not begun:
            begun.append(torch.rand(1000))

    return continual.run(spec, progress)
