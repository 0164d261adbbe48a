"""One run: the whole sequence of §6.4, from a RunSpec to a RunRecord; and a grid of them."""

import resource
import sys
import time

import torch
from tqdm.auto import tqdm

from . import cur, data, models, profiles, records, scoring, training
from .adapters import (
    CURLoRAConfig,
    LoRAConfig,
    adapter_layers,
    add_adapters,
    count_trainable,
    remove_adapters,
)

HEAD_SEED = 1311  # the author's, set just before each task's head is made


def plan(profile, table, ranks=None, seeds=None, methods=None):
    """The grid of one table in the precision that this machine is fast in (see `profiles.grid`)."""
    chosen = {"ranks": ranks, "seeds": seeds, "methods": methods}
    return profiles.grid(profile, table, precision=models.fast_precision(), **chosen)


def run_grid(specs, results=None, own=False):
    """A record for every spec, found or computed; computed ones are saved as they come.

    own: reuse only records that this working copy computed. Shows a progress bar when there is
    something to compute. Returns the records in the order of `specs`.
    """
    missing = [spec for spec in specs if records.find(spec, results, own) is None]
    if missing:
        with tqdm(total=sum(s.cost() for s in missing), bar_format=_BAR, mininterval=1) as bar:
            for i, spec in enumerate(missing, 1):
                name = f"run {i} of {len(missing)}: {spec.table} {spec.label} seed {spec.seed}"
                record = run(spec, _Progress(bar, name, spec))
                path = records.runs_folder(spec.profile, results) / f"{spec.key}.json"
                records.save(record, path)
            bar.set_description_str(f"{len(missing)} of {len(missing)} runs done")
    return [records.find(spec, results) for spec in specs]


def run(spec, progress=lambda what, examples=0: None):
    """The sequence of §6.4 for one spec; returns its RunRecord.

    Perplexity; then for each task: a fresh head, training, and the accuracy of this and every
    earlier task; perplexity again. Adapters carry over from task to task; each task keeps its head.
    A loss that is not finite ends the run with status `diverged`; what was measured stays.
    Source: §6.4.
    """
    start = time.perf_counter()
    device = models.default_device()
    progress("loading the model")
    loaded = models.load(spec.model.name, spec.precision, device)
    record = records.RunRecord(spec.to_dict(), model_sha256=loaded.sha256)
    record.provenance = records.provenance(device)
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        try:
            _sequence(spec, loaded, record, progress)
        except training.DivergedError as error:
            record.status, record.message = "diverged", str(error)
        finally:
            loaded.model.eval()
            remove_adapters(loaded.model)
    record.seconds = time.perf_counter() - start
    return record


def _sequence(spec, loaded, record, progress):
    model, pad_id = loaded.model.requires_grad_(False), loaded.tokenizer.pad_token_id
    progress("perplexity")
    record.perplexity["initial"] = _base_perplexity(spec, loaded)
    if spec.method != "head-only":
        add_adapters(model, adapter_config(spec))
        record.trainable["adapter"] = count_trainable(model)
    heads, scored = {}, {}
    for task in spec.tasks:
        examples = {
            part: data.load_task(task.name, source, rows)
            for part, source, rows in (
                ("train", "train", task.train_rows),
                ("eval", "tune" if spec.tune else "eval", task.eval_rows),
            )
        }
        record.data[task.name] = {part: data.digest(rows) for part, rows in examples.items()}
        encoded = {
            part: training.encode(rows, loaded.tokenizer, spec.max_length, spec.protocol.separator)
            for part, rows in examples.items()
        }
        head = new_head(model, task.classes, spec.seed)
        heads[task.name], scored[task.name] = head, encoded["eval"]
        record.trainable[f"head {task.name}"] = sum(p.numel() for p in head.parameters())
        progress(f"training {task.name}")
        trained = training.train_task(
            model.base_model,
            head,
            task,
            encoded["train"],
            spec,
            pad_id,
            on_step=lambda rows, name=task.name: progress(f"training {name}", 4 * rows),
        )
        record.stages.append(_stage(task.name, trained, model))
        _score(record.stages[-1], model, heads, scored, pad_id, progress)
    progress("perplexity")
    if spec.method == "head-only":  # the language model is the base model still
        record.perplexity["final"] = dict(record.perplexity["initial"])
    else:
        record.perplexity["final"] = _perplexity(spec, loaded)


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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
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


def _score(stage, model, heads, scored, pad_id, progress):
    start = time.perf_counter()
    for name, head in heads.items():
        progress(f"scoring {name}")
        encoded = scored[name]
        stage["scores"][name] = scoring.score_task(model.base_model, head, encoded, pad_id)
        progress(f"scoring {name}", len(encoded.ids))
    stage["scoring_seconds"] = time.perf_counter() - start


def _perplexity(spec, loaded):
    text = data.load_text("tune" if spec.tune else "eval")
    ids = loaded.tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][0]
    if len(ids) < spec.text_tokens:
        raise ValueError(
            f"text_tokens: got {spec.text_tokens}, expected at most {len(ids)}, all there are"
        )
    return scoring.perplexity(loaded.model, ids[: spec.text_tokens], spec.text_window)


def _base_perplexity(spec, loaded):
    """Perplexity before anything is trained: the same for all runs on a model, so computed once."""
    key = (spec.text_tokens, spec.text_window, spec.tune)
    if key not in loaded.memo:
        loaded.memo[key] = _perplexity(spec, loaded)
    return dict(loaded.memo[key])


_BAR = "{desc} |{bar:20}| {percentage:3.0f} %, {elapsed} gone, {remaining} left"


class _Progress:
    """Names what runs now on a bar, and moves it on by examples weighted as `RunSpec.cost` does."""

    def __init__(self, bar, name, spec):
        self.bar, self.name, self.weight = bar, name, spec.weight
        self.trained = spec.method != "head-only"

    def __call__(self, what, examples=0):
        self.bar.set_description_str(f"{self.name}, {what}", refresh=False)
        if examples and (self.trained or not what.startswith("training")):
            self.bar.update(examples * self.weight)
