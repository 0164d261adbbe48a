"""One run: the whole sequence of §6.4, from a RunSpec to a RunRecord; and a grid of them."""

import dataclasses
import multiprocessing
import os
import resource
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

import torch
import transformers
from tqdm.auto import tqdm

from . import cur, data, memory, models, profiles, records, scoring, training
from .adapters import (
    CURLoRAConfig,
    LoRAConfig,
    adapter_layers,
    add_adapters,
    count_trainable,
    remove_adapters,
)
from .checks import whole


class RunFailedError(RuntimeError):
    """A run ended with an error that is not a result; others of its grid are kept."""


HEAD_SEED = 1311  # the author's, set just before each task's head is made


def plan(profile, table, **chosen):
    """The grid of one table in the precision that this machine is fast in (see `profiles.grid`)."""
    return profiles.grid(profile, table, fast=models.fast_precision(), **chosen)


def run_grid(specs, results=None, own=False, workers=None, retry=True):
    """A record for every spec, found or computed; computed ones are saved as they come.

    own: reuse only records that this working copy computed. workers: processes that compute at
    once; None for `default_workers`. retry: try runs again that ran out of memory. Shows a progress
    bar when there is something to compute; an interrupted grid goes on with the next missing run.
    Returns the records in the order of `specs`. RunFailedError if a run ends with an error other
    than a ValueError or OSError, which come as they are; runs beside it are finished and kept.
    """
    statuses = records.RESULTS if retry else records.STATUSES
    missing = [spec for spec in specs if records.find(spec, results, own, statuses) is None]
    if missing:
        records.workspace()  # named before several processes would each do it
        workers = default_workers(missing) if workers is None else workers
        whole("workers", workers, 1)
        with tqdm(total=sum(s.cost() for s in missing), bar_format=_BAR, **_SMOOTH) as bar:
            compute = _one_by_one if workers == 1 else _side_by_side
            for spec, record in compute(missing, bar, workers):
                path = records.runs_folder(spec.profile, results) / f"{spec.key}.json"
                records.save(record, path)
            bar.set_description_str(f"{len(missing)} of {len(missing)} runs done")
    return [records.find(spec, results, statuses=records.STATUSES) for spec in specs]


def default_workers(specs):
    """One process a core on a CPU, as far as memory allows and there are runs; one on a GPU.

    Single runs here are too small to keep two cores busy: side by side they take less time.
    """
    if models.default_device() != "cpu":
        return 1
    each = max(memory.estimate(spec) for spec in specs)
    return max(1, min(memory.cores(), int(0.8 * memory.installed() / each), len(specs)))


def _one_by_one(specs, bar, _):
    for i, spec in enumerate(specs, 1):
        try:
            record = run(spec, _Progress(_Shown(bar, i - 1, len(specs)), spec))
        except Exception as error:
            raise _failure(spec, error) from error
        yield spec, record


def _side_by_side(specs, bar, workers):
    context = multiprocessing.get_context("spawn")
    news = context.SimpleQueue()  # (worker, what it does now, how far that moves the bar)
    start = (max(1, memory.cores() // workers), news)
    shown = _Shown(bar, 0, len(specs))
    threading.Thread(target=_follow, args=(news, shown), daemon=True).start()
    left, running, failed = list(specs), {}, None
    with ProcessPoolExecutor(workers, context, _start_worker, start) as pool:
        try:
            while running or (left and not failed):
                # no more than workers can take, so that nothing waits when the user interrupts
                while left and not failed and len(running) < workers:
                    spec = left.pop(0)
                    running[pool.submit(_run_in_worker, spec)] = spec
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    spec, error = running.pop(future), future.exception()
                    if error is None:
                        shown.done += 1
                        yield spec, future.result()
                    else:  # the runs beside it are finished and kept before it is raised
                        failed = failed or (spec, error)
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            news.put(None)
    if failed:
        raise _failure(*failed) from failed[1]


def _failure(spec, error):
    if isinstance(error, (ValueError, OSError)):
        return error  # says what is wrong by itself
    return RunFailedError(f"{spec.key}: {type(error).__name__}: {error}")


def _follow(news, shown):
    while (message := news.get()) is not None:
        shown(*message)


class _Shown:
    """What the bar says: how many runs of how many are done, and what each worker does now."""

    def __init__(self, bar, done, runs):
        self.bar, self.done, self.runs, self.now = bar, done, runs, {}

    def __call__(self, worker, what, cost):
        self.now[worker] = what
        said = f"{self.done} of {self.runs} runs done, now {' + '.join(self.now.values())}"
        self.bar.set_description_str(said, refresh=False)
        self.bar.update(cost)


def _start_worker(threads, news):
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    _run_in_worker.news = news


def _run_in_worker(spec):
    return run(spec, _Progress(lambda *message: _run_in_worker.news.put(message), spec))


def run(spec, progress=lambda what, examples=0: None):
    """The sequence of §6.4 for one spec; returns its RunRecord.

    Perplexity; then for each task: a fresh head, training, and the accuracy of this and every
    earlier task; perplexity again. Adapters carry over from task to task; each task keeps its head.
    A loss that is not finite ends the run with status `diverged`, too little memory with
    `out of memory`; what was measured stays.
    Source: §6.4.
    """
    start = time.perf_counter()
    device = models.default_device()
    memory.check(spec, device)
    torch.backends.cuda.matmul.allow_tf32 = spec.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = spec.precision == "tf32"
    progress("loading the model")
    record = records.RunRecord(spec.to_dict(), provenance=records.provenance(device))
    loaded = None
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        try:
            loaded = models.load(spec.model.name, spec.precision, device)
            record.model_sha256 = loaded.sha256
            record.sources = {"model": loaded.origin, "data": data.origins(spec.source)}
            _sequence(spec, loaded, record, progress)
        except training.DivergedError as error:
            record.status, record.message = "diverged", str(error)
        except torch.OutOfMemoryError as error:
            record.status, record.message = "out of memory", str(error).split("\n")[0]
        finally:
            if loaded:
                loaded.model.eval()
                remove_adapters(loaded.model)
            if device == "cuda":
                torch.cuda.empty_cache()
    record.seconds = time.perf_counter() - start
    return record


def _sequence(spec, loaded, record, progress):
    model, pad_id = loaded.model.requires_grad_(False), loaded.tokenizer.pad_token_id
    progress("perplexity")
    part = "tune" if spec.tune else "eval"
    record.data["text"] = {part: data.digest_of_text(data.load_text(part, spec.source))}
    record.perplexity["initial"] = _base_perplexity(spec, loaded)
    if spec.method != "head-only":
        add_adapters(model, adapter_config(spec))
        record.trainable["adapter"] = count_trainable(model)
    heads, scored = {}, {}
    for task in spec.tasks:
        examples = _examples(spec, task)
        record.data[task.name] = {part: data.digest(rows) for part, rows in examples.items()}
        encoded = {
            part: training.encode(rows, loaded.tokenizer, spec.max_length, spec.protocol.separator)
            for part, rows in examples.items()
        }
        head = new_head(model, task.classes, spec.seed)
        for part in encoded:
            if part != "train":
                name = task.name if part == "eval" else f"{task.name}, {part}"
                heads[name], scored[name] = head, encoded[part]
        record.trainable[f"head {task.name}"] = sum(p.numel() for p in head.parameters())
        progress(f"training {task.name}")
        trained = training.train_task(
            model.base_model,
            head,
            task,
            encoded["train"],
            spec,
            pad_id,
            on_step=lambda rows, name=task.name: progress(f"training {name}", rows),
        )
        record.stages.append(_stage(task.name, trained, model))
        _score(record.stages[-1], spec, model, heads, scored, pad_id, progress)
    progress("perplexity")
    if spec.method == "head-only":  # the language model is the base model still
        record.perplexity["final"] = dict(record.perplexity["initial"])
    else:
        record.perplexity["final"] = _perplexity(spec, loaded)


def _examples(spec, task):
    """part -> Dataset. Sentiment140 has further parts that are scored beside its evaluation rows:

    `balanced` (as many negative as positive rows) where these are the first ones, all negative, and
    `three classes` (rows kept out of training) where they are balanced and three labels trained.
    """
    protocol = spec.protocol
    wanted = {"train": ("train", task.train_rows, protocol)}
    wanted["eval"] = ("tune" if spec.tune else "eval", task.eval_rows, protocol)
    if task.name == "sentiment140" and protocol.sentiment_eval == "first":
        balanced = dataclasses.replace(protocol, sentiment_eval="balanced")
        wanted["balanced"] = ("eval", task.eval_rows // 2 * 2, balanced)
    three = protocol.sentiment_eval == "balanced" and protocol.labels == "three"
    if task.name == "sentiment140" and three:
        wanted["three classes"] = ("held-out", None, protocol)
    return {
        name: data.load_task(task.name, part, rows, protocol=chosen, source=spec.source)
        for name, (part, rows, chosen) in wanted.items()
    }


def adapter_config(spec):
    """The adapter configuration that a spec and its protocol ask for."""
    protocol = spec.protocol
    alpha = spec.alpha / spec.rank if protocol.scaling == "alpha/r" else spec.alpha
    common = {"rank": spec.rank, "alpha": alpha, "seed": spec.seed}
    common["target_modules"] = spec.model.target_modules
    if spec.method == "lora":
        return LoRAConfig(init=protocol.lora_init, **common)
    selection = cur.Selection(protocol.weighting, protocol.replacement)
    return CURLoRAConfig(selection=selection, **common)


def new_head(model, classes, seed):
    """A fresh fp32 `Linear(hidden, classes)` with bias, seeded with 1311 + seed.

    Source: the author's code, `torch.manual_seed(1311)` just before; seed 0 is that.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(HEAD_SEED + seed)
        return torch.nn.Linear(model.config.hidden_size, classes).to(device)


def _stage(name, trained, model):
    # on a CPU the process's highest so far, whichever stage or run that was in
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "darwin":
        peak /= 1024  # bytes there
    norms = {n: layer.update_norm() / layer.weight_norm() for n, layer in adapter_layers(model)}
    rate = trained["tokens"] / trained["seconds"]
    return {
        "task": name,
        "training": trained,
        "tokens_per_second": rate,
        "peak_memory_mib": peak,
        "norms": norms,
        "scores": {},
    }


def _score(stage, spec, model, heads, scored, pad_id, progress):
    start = time.perf_counter()
    padded = spec.protocol.readout == "last-position" and spec.model.padding_side == "right"
    for name, head in heads.items():
        progress(f"scoring {name}")
        encoded = scored[name]
        # the author's code pads in this one task's evaluation
        last_position = padded and name.startswith("sentiment140")
        stage["scores"][name] = scoring.score_task(
            model.base_model, head, encoded, pad_id, last_position
        )
        progress(f"scoring {name}", len(encoded.ids))
    stage["scoring_seconds"] = time.perf_counter() - start


def _perplexity(spec, loaded):
    text = data.load_text("tune" if spec.tune else "eval", spec.source)
    ids = loaded.tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][0]
    if spec.protocol.perplexity == "whole-text":
        context = loaded.model.config.max_position_embeddings
        return scoring.perplexity(loaded.model, ids, context, stride=context // 2)
    if len(ids) < spec.text_tokens:
        raise ValueError(
            f"text_tokens: got {spec.text_tokens}, expected at most {len(ids)}, all there are"
        )
    return scoring.perplexity(loaded.model, ids[: spec.text_tokens], spec.text_window)


def _base_perplexity(spec, loaded):
    """Perplexity before anything is trained: the same for all runs on a model, so computed once."""
    key = (spec.source, spec.protocol.perplexity, spec.text_tokens, spec.text_window, spec.tune)
    if key not in loaded.memo:
        loaded.memo[key] = _perplexity(spec, loaded)
    return dict(loaded.memo[key])


_SMOOTH = {"smoothing": 0, "mininterval": 1}  # the time left by the mean rate
_BAR = "{desc} |{bar:20}| {percentage:3.0f} %, {elapsed} gone, {remaining} left"


class _Progress:
    """Tells `show` what a run does now, and how far that moves a bar in units of `RunSpec.cost`."""

    def __init__(self, show, spec):
        self.show, self.spec = show, spec

    def __call__(self, what, examples=0):
        name = f"{self.spec.table} {self.spec.label} seed {self.spec.seed}, {what}"
        cost = 0
        if examples:  # of `training TASK`, `scoring TASK` or `scoring TASK, which rows`
            action, task = what.split(",")[0].split(" ", 1)
            each = self.spec.training_cost if action == "training" else 1
            cost = examples * each * self.spec.row_cost(task)
        self.show(os.getpid(), name, cost)
