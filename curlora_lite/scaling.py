"""How a grid's time goes down with workers: measured here on a small one, on paper for Mistral-7B.

Measured: one grid of the small GPT-2 with one worker and with two, in turn, one thread a run, each
time into a folder of its own. Scheduling's overhead a run is what the workers' time holds beside
the runs' own: (wall time x workers - sum of the runs' seconds) / runs; the start of the processes
and idle workers at the end are in it.

On paper (`estimate_table`): floating-point operations of the profile's runs over an assumed rate.
"""

import heapq
import json
import os
import statistics
import tempfile
import time

from . import doctor, fetch, grids, memory, models, profiles, records, verify
from .tables import Table

WORKERS = (1, 2)
ROUNDS = 3
SEEDS = (0, 1)
PAPER_SEEDS, GPUS = (0, 1, 2, 3, 4), (1, 8, 64)
# FLOP/s that a GPU achieves in products, assumed: fp32 (the first two) and TF32 or bf16
ASSUMED = (1e13, 3e13, 1e14, 3e14)
BLOCK = "mistral"  # in results/benchmarks: one block of Mistral-7B's shapes


def path():
    """Where what was measured is kept."""
    return records.ROOT / "results" / "reliability" / "scaling.json"


def load():
    """What `measure` wrote; ValueError if there is nothing."""
    if not path().exists():
        raise ValueError(f"{path()}: no measurement; run `make scaling`")
    return json.loads(path().read_text())


def measured_specs():
    """The grid that is measured: Table 2 of embedded-quick."""
    return grids.plan("embedded-quick", "table2", seeds=list(SEEDS))


def measure(specs=None, rounds=ROUNDS, run_grid=grids.run_grid):
    """Compute the grid with each number of workers, in turn; write `path()`, return its content.

    Some five minutes on two idle cores. ValueError if any number of any run differs.
    """
    specs = specs or measured_specs()
    models.prepare(specs[0].model.name)
    load_before, found, first = os.getloadavg()[0], [], None
    for number in range(rounds):
        for workers in WORKERS:
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                runs = run_grid(specs, folder, workers=workers, threads=1)
                wall = time.perf_counter() - start
            seconds = [round(run.seconds, 3) for run in runs]
            one = {"workers": workers, "round": number, "wall": round(wall, 3), "seconds": seconds}
            found.append(one)
            numbers = [verify.plain(run) for run in runs]
            first = first or numbers
            if numbers != first:
                raise ValueError(f"{workers} workers, round {number}: other numbers than at first")
            print(f"{workers} workers, round {number + 1} of {rounds}: {wall:.1f} s", flush=True)
    content = {
        "grid": f"{specs[0].profile}, {specs[0].table}, {len(specs)} runs, {specs[0].precision}",
        "load": round(load_before, 2),
        "provenance": records.provenance(models.default_device()),
        "measured": found,
    }
    content["provenance"].pop("workspace")
    with fetch.aside(path()) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")
    return content


def overhead(one):
    """Seconds a run that the workers' time holds beside the runs' own (see the module)."""
    return (one["wall"] * one["workers"] - sum(one["seconds"])) / len(one["seconds"])


def table(content):
    """Wall time, its ratio to one worker's in the same round, and the overhead a run."""
    alone = {one["round"]: one["wall"] for one in content["measured"] if one["workers"] == 1}
    rows = []
    for workers in sorted({one["workers"] for one in content["measured"]}):
        here = [one for one in content["measured"] if one["workers"] == workers]
        times = [alone[one["round"]] / one["wall"] for one in here]
        possible = [sum(one["seconds"]) / makespan(one["seconds"], workers) for one in here]
        rows.append(
            (
                str(workers),
                _middle([one["wall"] for one in here], ".1f"),
                _middle(times, ".2f"),
                f"{statistics.median(possible):.2f}",
                _middle([sum(one["seconds"]) for one in here], ".1f"),
                _middle([overhead(one) for one in here], ".2f"),
            )
        )
    where, rounds = content["provenance"], len(alone)
    return Table(
        "A grid's wall time by workers",
        (
            "Workers",
            "Wall time, s",
            "Times as fast",
            "At most",
            "Sum of the runs' own, s",
            "Overhead a run, s",
        ),
        tuple(rows),
        (
            f"{content['grid']}, one thread each, on {where['device']} with {where['cores']} "
            f"cores, load {content['load']:.2f} before; {rounds} rounds in turn: median and range.",
            "Times as fast: as one worker in the same round. At most: if these runs, which cannot "
            "be divided, were shared out with no overhead, the longest first. Overhead: wall time "
            "× workers less the sum of the runs' own time, by run; the start of the processes "
            "(Python and its libraries) and a worker that is idle at the end are in it.",
            "All numbers of all runs came out equal, bit for bit, times and memory apart.",
        ),
    )


def _middle(values, form):
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def makespan(seconds, workers):
    """When the last of `workers` is done that take runs of these seconds, the longest first.

    At most 4/3 - 1/(3 workers) times the shortest there is. Source: Graham 1969 (the rule LPT).
    """
    busy = [0.0] * min(workers, len(seconds))
    for one in sorted(seconds, reverse=True):
        heapq.heapreplace(busy, busy[0] + one)
    return max(busy)


def operations(spec):
    """Floating-point operations of a run's products.

    N parameters: 2 N a token read. Training an adapter 4 N, forward and the gradient towards the
    input (the frozen weights need none); training a head alone 2 N. Every task is scored after its
    own stage and each later one, head only once; perplexity is read before and, where there is an
    adapter, after. In its long window attention counts too: 4 x window x width a layer and token.
    Tokens of a row: `profiles.TOKENS`.
    """
    size, layers, width, *_ = memory.SHAPES[spec.model.name]
    tokens, head_only = profiles.TOKENS[spec.source], spec.method == "head-only"
    total, last = 0, len(spec.tasks)
    for place, task in enumerate(spec.tasks):
        train = task.train_rows * task.epochs * (2 if head_only else 4)
        scored = task.eval_rows * (1 if head_only else last - place)
        if task.name == "sentiment140" and spec.protocol.sentiment_eval == "first":
            scored += task.eval_rows  # balanced rows beside them
        total += (train + 2 * scored) * tokens[task.name] * size
    read = spec.text_tokens * (1 if head_only else 2)
    return total + read * (2 * size + 4 * spec.text_window * width * layers)


def measured_rate(rows):
    """(FLOP/s, row) of training CURLoRA on one Mistral block, of results/benchmarks; the fastest.

    rows: of `benchmarks.json`. 4 operations a weight and token, as in `operations`.
    """
    _, _, width, inner, *_ = memory.SHAPES["mistral-7b"]
    weights = 2 * width * width + 2 * width * (width // 4) + 3 * width * inner
    found = [
        (4 * weights * row["tokens"] / row["median_seconds"], row)
        for row in rows
        if (row["subject"], row["contender"], row["pass"]) == (BLOCK, "curlora", "training")
    ]
    return max(found, key=lambda pair: pair[0])


def estimate_table(benchmarks):
    """What Table 1 of mistral-7b with five seeds needs, on paper: nothing of it was run.

    benchmarks: the content of results/benchmarks, for the one rate that was measured.
    """
    specs = profiles.grid("mistral-7b", "table1", seeds=PAPER_SEEDS)
    work = [operations(spec) for spec in specs]
    rate, row = measured_rate(benchmarks["rows"])
    where = benchmarks["provenance"][row["device"]]
    rates = [(f"{rate / 1e12:.2g}, measured", rate)]
    rates += [(f"{assumed / 1e12:g}, assumed", assumed) for assumed in ASSUMED]
    rows = []
    for label, achieved in rates:
        seconds = [one / achieved for one in work]
        spans = [makespan(seconds, count) for count in GPUS]
        rows.append((label, *map(doctor.duration, [max(seconds), *spans])))
    half = profiles.grid("mistral-7b", "table1", precision="bf16")
    needs = [max(memory.estimate(s) for s in grid) / 1e9 for grid in (specs, half)]
    rule = sum(spec.cost() for spec in specs) * doctor.SECONDS["cuda"]
    return Table(
        "On paper: Table 1 of mistral-7b with five seeds",
        ("TFLOP/s achieved", "Longest run", *(f"{n} GPU{'s' * (n > 1)}" for n in GPUS)),
        tuple(rows),
        (
            f"An estimate: no 7B model was run. {len(specs)} runs, {sum(work) / 1e15:,.0f} PFLOP: "
            "4 operations a parameter and token in training an adapter, 2 in training a head, in "
            "scoring and in perplexity, attention in the text's window added. Rows count as padded "
            "in eights, by SmolLM2's tokenizer; training lays them end to end, which is less. "
            "Loading and the start of processes are left out.",
            f"{GPUS[-1]} GPUs: one run cannot be divided, so {min(GPUS[-1], len(specs))} are used "
            "and the longest run is the time. Shared out the longest first.",
            f"Measured: {row['dtype']} on {where['cores']} cores of {where['device']}, CURLoRA on "
            "one block of these shapes (results/benchmarks). Assumed: what a GPU would have to "
            "achieve, 10 to 30 in fp32 as published, 100 to 300 in TF32 or bf16.",
            f"Memory of one run: {needs[0]:.0f} GB in fp32, {needs[1]:.0f} GB in bf16. "
            f"`make doctor`'s rule, not measured either, gives {doctor.duration(rule)} on one GPU.",
        ),
    )
