"""What the benchmark measured -> tables and figures, without measuring anything."""

import math
import statistics

import numpy as np

from ..tables import Table
from .contenders import KINDS

NEAR = 1.05  # forward and backward of a whole model, at most so many times the frozen model's
ENOUGH = 5  # rounds, to say met or missed
TIMES_DENSE = 2.0  # on a projection of Mistral's size, at least so many times as fast as dense
LABELS = {
    "model": "SmolLM2-135M",
    "projection": "Mistral q_proj",
    "mistral": "Mistral block",
    "gpt2": "GPT-2 L. block",
}
PASSES = {"training": "forward and backward", "forward": "forward alone"}


def middle(values):
    """Median and half the distance between the quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return float(median), float(high - low) / 2


def _label(kind, rank):
    return KINDS[kind].label + ("" if rank is None or kind == "vera" else f", rank {rank}")


def order(rows):
    """(kind, rank) in the order of `KINDS`; VeRA once, whatever its ranks."""
    keys = {(r["contender"], None if r["contender"] == "vera" else r["rank"]) for r in rows}
    return sorted(keys, key=lambda key: (list(KINDS).index(key[0]), key[1] or 0))


def _columns(rows):
    """(subject, dtype), in the order they were measured in."""
    return list(dict.fromkeys((row["subject"], row["dtype"]) for row in rows))


def one(rows, kind, rank, **where):
    """The only row of a contender there, or None; of VeRA whatever its rank."""
    found = [
        row
        for row in rows
        if row["contender"] == kind
        and (kind == "vera" or row["rank"] == rank)
        and all(row[key] == value for key, value in where.items())
    ]
    return found[0] if found else None


def by_device(rows):
    """(device, its rows) of each device that was measured."""
    for device in dict.fromkeys(row["device"] for row in rows):
        yield device, [row for row in rows if row["device"] == device]


def _matrix(rows, cell):
    """Rows of a table: a contender each, a column for every subject and dtype."""
    lines = []
    for device, here in by_device(rows):
        for kind, rank in order(here):
            cells = []
            for subject, dtype in _columns(rows):
                row = one(here, kind, rank, subject=subject, dtype=dtype)
                cells.append("–" if row is None else cell(row, here))
            lines.append((device, _label(kind, rank), *cells))
    return ("", "", *(f"{LABELS[s]}, {dtype}" for s, dtype in _columns(rows))), tuple(lines)


def steps(result, which):
    """Step times over the frozen model's: `which` is `training` or `forward`."""
    rows = [row for row in result["rows"] if row["pass"] == which]

    def cell(row, here):
        if row["contender"] == "limit":
            return f"{1000 * row['median_seconds']:.1f} ms"
        median, spread = middle(row["ratios"])
        return f"{median:.2f} ± {spread:.2f}"

    columns, lines = _matrix(rows, cell)
    rounds = [row["rounds"] for row in rows]
    notes = (
        "Time of a step over that of the frozen model in the same round: median over "
        f"{_from_to(rounds)} interleaved rounds, ± half the distance between the quartiles. First "
        "row: the frozen model's own time; in the backward pass gradients flow through all of it "
        "to its inputs, which every contender pays too.",
        _sizes_note(rows),
        "At one rank only (–: not measured) are, to keep the benchmark short, the factored and the "
        "dense formula on all but the projection; VeRA everywhere, at the rank that "
        "comes nearest to CURLoRA's largest in trained parameters (see the table of sizes).",
        _origin(result),
    )
    return Table(f"Step time, {PASSES[which]}", columns, lines, notes, left=(0, 1))


def _from_to(numbers):
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def _sizes_note(rows):
    said = [
        f"{device}: "
        + ", ".join(f"{LABELS[r['subject']]} {r['tokens']:,}" for r in _firsts(here, "subject"))
        for device, here in by_device(rows)
    ]
    return f"Tokens in a step, {'; '.join(said)}. SmolLM2 with its head and loss; blocks without."


def _firsts(rows, key):
    return list({row[key]: row for row in reversed(rows)}.values())[::-1]


def _origin(result):
    said = []
    for device, p in result["provenance"].items():
        where = f"{device}: {p['device']}"
        said.append(where + (f", {p['threads']} threads" if device == "cpu" else ""))
    one = next(iter(result["provenance"].values()))
    packages = ", ".join(f"{name} {one['packages'][name]}" for name in ("torch", "peft"))
    return (
        f"Measured by the code at commit {str(one['commit'])[:10]} on {'; '.join(said)}; "
        f"{packages}; PEFT at its defaults."
    )


def interval(values):
    """A 95 % interval of the median by order statistics: (low, high).

    Whatever the distribution, the median lies between the k-th smallest and the k-th largest value
    but for twice the chance of fewer than k heads in n tosses. Below six values: the whole range.
    """
    ordered, n = sorted(values), len(values)
    k, outside = 1, 2 / 2**n
    while outside + 2 * math.comb(n, k) / 2**n <= 0.05:
        outside += 2 * math.comb(n, k) / 2**n
        k += 1
    return ordered[k - 1], ordered[n - k]


def verdicts(result):
    """The targets, cell by cell: dicts with `target`, where, `value`, and `met`.

    `limit`: a whole model's training step within NEAR of the frozen model's. `lora`: no slower than
    LoRA of the same rank, everywhere. `dense`: TIMES_DENSE times as fast as dense on a projection.
    value: the median over rounds of the ratio within a round. met: None where its 95 % interval
    holds the bound, or with fewer than ENOUGH rounds.
    """
    rows = [row for row in result["rows"] if row["pass"] == "training"]
    found = []
    for row in (row for row in rows if row["contender"] == "curlora"):
        where = {key: row[key] for key in ("subject", "dtype", "device")}
        if row["subject"] == "model":
            found.append(_verdict("limit", row, where, row["ratios"], NEAR))
        lora, dense = (one(rows, kind, row["rank"], **where) for kind in ("lora", "dense"))
        if lora:
            ratios = [a / b for a, b in zip(row["seconds"], lora["seconds"], strict=True)]
            found.append(_verdict("lora", row, where, ratios, 1.0))
        if dense and row["subject"] == "projection":
            # turned round, so that less is better here too
            ratios = [a / b for a, b in zip(row["seconds"], dense["seconds"], strict=True)]
            found.append(_verdict("dense", row, where, ratios, 1 / TIMES_DENSE))
    return found


def _verdict(target, row, where, ratios, bound):
    low, high = interval(ratios)
    met = True if high <= bound else False if low > bound else None
    met = None if len(ratios) < ENOUGH else met
    found = {"target": target, **where, "rank": row["rank"], "met": met}
    return {**found, "value": statistics.median(ratios), "low": low, "high": high}


def targets(result):
    """The targets, met or missed in each cell."""
    found = verdicts(result)
    ranks = sorted({verdict["rank"] for verdict in found})
    asked = {
        "limit": f"CURLoRA / frozen model, at most {NEAR:.2f}",
        "lora": "CURLoRA / PEFT LoRA, at most 1",
        "dense": f"CURLoRA / dense Eq. 8, at most {1 / TIMES_DENSE:g}",
    }
    lines = []
    for target, label in asked.items():
        of_it = [verdict for verdict in found if verdict["target"] == target]
        for where in dict.fromkeys(map(_where, of_it)):
            here = {v["rank"]: _said(v) for v in of_it if _where(v) == where}
            cells = [here.get(rank, "–") for rank in ranks]
            lines.append((label, f"{LABELS[where[0]]}, {where[1]}, {where[2]}", *cells))
    count = {met: sum(verdict["met"] is met for verdict in found) for met in (True, None, False)}
    notes = (
        f"{count[True]} met, {count[None]} undecided, {count[False]} missed. Time of forward and "
        "backward over the other's in the same round: the median over rounds and its 95 % interval "
        "(order statistics; the whole range below six rounds). Undecided: the bound lies in it, or "
        f"there are fewer than {ENOUGH} rounds.",
    )
    columns = ("Target", "", *(f"rank {rank}" for rank in ranks))
    return Table("What was aimed at", columns, tuple(lines), notes, left=(0, 1))


def _where(verdict):
    return verdict["subject"], verdict["dtype"], verdict["device"]


def _said(verdict):
    """Of one cell: the median, its interval, and the verdict."""
    word = {True: "met", False: "missed", None: "undecided"}[verdict["met"]]
    return f"{verdict['value']:.3f} ({verdict['low']:.3f} to {verdict['high']:.3f}) {word}"


def kept(result):
    """Memory kept for the backward pass: bytes a token above the frozen model's."""

    def cell(row, here):
        at = {key: row[key] for key in ("subject", "dtype")}
        base = one(here, "limit", None, **at)["kept_bytes"]
        own = row["kept_bytes"] - (0 if row["contender"] == "limit" else base)
        sign = "" if row["contender"] == "limit" else "+"
        return f"{sign}{own / row['tokens']:,.0f}"

    columns, lines = _matrix(result["sizes"], cell)
    notes = (
        "Bytes a token in the storages that autograd saves in the forward pass, each counted once, "
        "parameters and frozen weights left out; an exact count, no measurement. First row: the "
        "frozen model's own; below, what the contender keeps beyond it.",
        "The dense formula keeps matrices as large as W, which do not depend on the tokens: they "
        "are divided by their number here.",
        _sizes_note(result["sizes"]),
    )
    return Table("Kept for the backward pass, bytes a token", columns, lines, notes, left=(0, 1))


def peak(result):
    """Peak memory of a training step on a GPU in MiB; None where there was none."""
    rows = [row for row in result["sizes"] if row["peak_bytes"] is not None]
    if not rows:
        return None
    columns, lines = _matrix(rows, lambda row, _: f"{row['peak_bytes'] / 2**20:,.1f}")
    notes = ("As the allocator counts it, beyond weights and inputs.", _sizes_note(rows))
    return Table("Peak of forward and backward on the GPU, MiB", columns, lines, notes, (0, 1))


def sizes(result):
    """What is trained, held by the optimiser, written to disk, and how long adding takes."""
    rows = [r for r in result["sizes"] if r["contender"] in ("curlora", "lora", "vera")]
    rows = [r for r in rows if r["device"] == "cpu" and r["dtype"] == "fp32"]
    lines = []
    for subject in dict.fromkeys(row["subject"] for row in rows):
        for kind, rank in order(rows):
            row = one(rows, kind, rank, subject=subject)
            if row is None:
                continue
            add, read = (statistics.median(row[key]) for key in ("add_seconds", "read_seconds"))
            lines.append((
                f"{LABELS[subject]} ({row['projections']})",
                _label(kind, row["rank"]) + (f", rank {row['rank']}" if kind == "vera" else ""),
                f"{row['trained']:,}",
                f"{row['optimiser_bytes']:,}",
                f"{row['disk_bytes']:,}",
                f"{add:.3f}",
                f"{add / read:.1f}",
            ))  # fmt: skip
    columns = ("Model (projections)", "", "Trained", "AdamW, bytes", "On disk, bytes")
    notes = (
        "AdamW: its state after a step. On disk: tensors and description as saved, ours by "
        f"save_adapter, PEFT's by save_pretrained. Adding: median of {len(rows[0]['add_seconds'])},"
        " in fp32 on the CPU; over the time to sum each wrapped weight once.",
        *_seven_b(rows),
    )
    return Table("What an adapter is", (*columns, "Adding, s", "/ reading W"),
                 tuple(lines), notes, left=(0, 1))  # fmt: skip


def _seven_b(rows):
    """Adding to all of Mistral-7B, from its one block."""
    block = [r for r in rows if r["subject"] == "mistral" and r["contender"] == "curlora"]
    if not block:
        return []
    row = block[-1]
    seconds = statistics.median(row["add_seconds"])
    return [
        f"Mistral-7B whole has 32 such blocks, {32 * row['projections']} projections: CURLoRA at "
        f"rank {row['rank']} would be added in {32 * seconds:.1f} s by this block's time "
        "(extrapolated, not measured)."
    ]


def tables(result):
    """name -> Table."""
    made = {
        "targets": targets(result),
        "training": steps(result, "training"),
        "forward": steps(result, "forward"),
        "kept": kept(result),
        "sizes": sizes(result),
        "peak": peak(result),
    }
    return {name: table for name, table in made.items() if table is not None}
