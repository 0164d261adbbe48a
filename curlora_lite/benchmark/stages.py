"""The stages of `make reproduce`, embedded profile: what each cost as first written, and now.

One thread, as each of the runs side by side has; the same rows and models both ways, interleaved.
"""

import dataclasses
import statistics
import time

import torch
from torch.nn import functional as F
from torch.utils.benchmark import Timer
from transformers.activations import ACT2FN

from .. import continual, data, models, profiles, training
from ..adapters import add_adapters, remove_adapters
from ..tables import Table

ROWS = {"table1": 16, "table2": 64}  # of SST-2's stand-in, trained on in a round
SCORED = 64
ROUNDS, QUICK_ROUNDS = 7, 1
# multiplied weights of SmolLM2's blocks: q, k, v and o, and the three of the MLP
WEIGHTS = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
PRODUCT = (256, 576, 1536)  # tokens, in, out: an MLP product of a packed group


def measure(quick=False):
    """Seconds of every stage before and after, interleaved, and of one matrix product.

    Returns {"stages": [{stage, before, after, seconds: {"before": […], "after": […]}}],
    "product": {"shape", "precision", "seconds": […]}}.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        stages = [_timed(*stage, QUICK_ROUNDS if quick else ROUNDS) for stage in _stages()]
        return {"stages": stages, "product": _product()}
    finally:
        torch.set_num_threads(threads)


def _timed(name, before, after, make, rounds):
    ways = {"before": before, "after": after}
    work = {way: make(way) for way in ways}
    seconds = {way: [] for way in ways}
    for step in work.values():
        step()
    for _ in range(rounds):
        for way, step in work.items():
            start = time.perf_counter()  # a Timer would warm up each time, for seconds
            step()
            seconds[way].append(time.perf_counter() - start)
    return {"stage": name, **ways, "seconds": seconds}


def _product():
    tokens, n_in, n_out = PRODUCT
    precision = models.fast_precision()
    x = torch.ones(tokens, n_in, dtype=models.DTYPES[precision])
    w = torch.ones(n_out, n_in, dtype=x.dtype)
    timer = Timer("F.linear(x, w)", globals={"F": F, "x": x, "w": w}, num_threads=1)
    found = timer.blocked_autorange(min_run_time=1)
    return {"shape": PRODUCT, "precision": precision, "seconds": found.times}


def _stages():
    fast = models.fast_precision()
    return [
        (
            "Table 1, training CURLoRA-16: weights",
            "fp32",
            fast,
            lambda way: _training("table1", fast if way == "after" else "fp32"),
        ),
        (
            "Table 1, training CURLoRA-16: rows",
            "padded to the longest of eight",
            "laid end to end",
            lambda way: _training("table1", fast, packed=way == "after"),
        ),
        (
            "Table 1, scoring",
            "in the file's order",
            "by length",
            lambda way: _scoring(fast, by_length=way == "after"),
        ),
        (
            "Table 2, training LoRA-16: weights and GELU",
            "fp32, GELU in seven operations",
            f"{fast}, GELU in one",
            lambda way: _small(fast, after=way == "after"),
        ),
    ]


def _loaded(name, precision):
    models.forget()  # a copy of its own for each way
    return models.load(name, precision, "cpu")


def _batches(table, precision, method):
    (spec,) = profiles.grid("embedded", table, ranks=[16], methods=[method], precision=precision)
    loaded = _loaded(spec.model.name, precision)
    rows = data.load_task("sst2", "train", ROWS[table])
    encoded = training.encode(rows, loaded.tokenizer, spec.max_length)
    add_adapters(loaded.model, continual.adapter_config(spec))
    return spec, loaded, encoded


def _training(table, precision, packed=True):
    spec, loaded, encoded = _batches(table, precision, "curlora")
    head = continual.new_head(loaded.model, 2, 0)
    body, pad_id = loaded.model.base_model, loaded.tokenizer.pad_token_id

    def step():
        for start in range(0, len(encoded.ids), spec.batch):
            rows = encoded.ids[start : start + spec.batch]
            if packed:
                read = training.packed_features(body, rows, head.weight.device)
            else:
                read = training.features(body, *training.pad(rows, pad_id, head.weight.device))
            F.cross_entropy(head(read), encoded.labels[start : start + spec.batch]).backward()

    return step


def _small(fast, after):
    spec, loaded, encoded = _batches("table2", fast if after else "fp32", "lora")
    if not after:
        for block in loaded.model.transformer.h:
            block.mlp.act = ACT2FN["gelu_new"]
    head = continual.new_head(loaded.model, 2, 0)
    task = dataclasses.replace(spec.tasks[1], train_rows=len(encoded.ids), epochs=1)
    body, pad_id = loaded.model.base_model, loaded.tokenizer.pad_token_id
    return lambda: training.train_task(body, head, task, encoded, spec, pad_id)


def _scoring(fast, by_length):
    loaded = _loaded("smollm2-135m", fast)
    remove_adapters(loaded.model)
    rows = data.load_task("sst2", "tune", SCORED)
    ids = training.encode(rows, loaded.tokenizer, 64).ids
    if by_length:
        ids = sorted(ids, key=len)
    pad_id, body = loaded.tokenizer.pad_token_id, loaded.model.base_model

    @torch.inference_mode()
    def step():
        for start in range(0, len(ids), 16):
            training.features(body, *training.pad(ids[start : start + 16], pad_id, "cpu"))

    return step


def operations(records):
    """Floating-point operations of the blocks' products in training, of records on SmolLM2.

    Forward and, where an adapter is trained, the gradient towards the input: 2 or 4 a weight and
    token; the frozen weights need no gradient. Scoring and attention come on top.
    """
    total = 0
    for record in records:
        if record.spec["model"]["name"] == "smollm2-135m":
            tokens = sum(stage["training"]["tokens"] for stage in record.stages)
            epochs = record.spec["tasks"][0]["epochs"]
            frozen = record.spec["method"] == "head-only"
            total += tokens * WEIGHTS * (2 / epochs if frozen else 4)
    return total


def table(result, records):
    """The stages before and after; below, what bounds the command, from the records of the profile.

    result: of `measure`. records: RunRecords of the embedded profile; [] leaves their notes out.
    """
    rows = []
    for stage in result["stages"]:
        before, after = (stage["seconds"][way] for way in ("before", "after"))
        ratios = [b / a for b, a in zip(before, after, strict=True)]
        rows.append(
            (
                stage["stage"],
                f"{stage['before']}: {statistics.median(before):.2f} s",
                f"{stage['after']}: {statistics.median(after):.2f} s",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            )
        )
    rounds = len(result["stages"][0]["seconds"]["after"])
    notes = [
        f"One thread, the same rows and models both ways, {rounds} interleaved rounds: medians, "
        "and the median and range of the ratios within a round."
    ]
    return Table(
        "Stages of `make reproduce`, as first written and now",
        ("Stage", "As first written", "Now", "Times as fast"),
        tuple(rows),
        (*notes, *_bounds(result["product"], records)),
        left=(0, 1, 2),
    )


def _bounds(product, records):
    """What the products alone take at the speed of one that is measured, and what was taken."""
    if not records:
        return []
    tokens, n_in, n_out = product["shape"]
    speed = 2 * tokens * n_in * n_out / statistics.median(product["seconds"])
    work = operations(records)
    first = [r for r in records if r.spec["table"] == "table1"]
    spent = {
        "training": sum(s["training"]["seconds"] for r in first for s in r.stages),
        "scoring": sum(s["scoring_seconds"] for r in first for s in r.stages),
    }
    other = sum(r.seconds for r in first) - sum(spent.values())
    second = sum(r.seconds for r in records if r.spec["table"] == "table2")
    return [
        f"One product of {tokens} tokens by a weight of {n_in} × {n_out} runs at "
        f"{speed / 1e9:.0f} GFLOP/s in {product['precision']} on one thread. Training Table 1's "
        f"{len(first)} runs is {work / 1e12:.0f} TFLOP in such products: {work / speed / 60:.1f} "
        f"minutes of one core at that speed with nothing else; {spent['training'] / 60:.1f} were "
        f"taken. Scoring took {spent['scoring'] / 60:.1f}, perplexity and loading "
        f"{other / 60:.1f}, all of Table 2 {second / 60:.1f} minutes of one core; two run side "
        "by side."
    ]
