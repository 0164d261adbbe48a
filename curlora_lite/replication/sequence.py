"""One run: the whole sequence of §6.4, from a RunSpec to a RunRecord."""

import contextlib
import dataclasses
import functools
import os
import time
from pathlib import Path

import torch

from .. import cur, scoring, training
from ..adapter_files import save_adapter
from ..adapters import adapter_layers, add_adapters, count_trainable, remove_adapters
from ..configs import CURLoRAConfig, LoRAConfig
from . import checkpoints, data, first_contact, inputs, llama, machine, memory, models, records
from .accuracy import Accuracy
from .baselines import LoRAXSConfig
from .fetch import writing

# Of the numbers: raised by hand whenever a change moves any of them (tests/stored_run.json tells).
# A record is reused under the same one only.
VERSION = 2
HEAD_SEED = 1311  # the author's, set just before each task's head is made
# Of PROFILE=smollm2, CURLoRA-16, seed 0: the runs whose trained adapter is kept for others to load
KEPT = {"published": 2.5e-4, "corrected, perplexity=halves": 1e-3}  # protocol -> learning rate


def run(spec, progress=lambda what, examples=0: None, checkpoint=None):
    """The sequence of §6.4 for one spec; returns its RunRecord.

    Perplexity; then for each task: a fresh head, training, and the accuracy of this and every
    earlier task; perplexity again. Adapters carry over from task to task; each task keeps its head.
    A loss that is not finite ends the run with status `diverged`, too little memory with
    `out of memory`; what was measured stays.
    checkpoint: a path; the state after each task is kept there, and a run that finds its own there
    goes on from it, to the same numbers (see `checkpoints`). Of the runs in `KEPT` the
    adapter as it is at the end, without the tasks' heads, goes into `adapters/<record's name>`
    beside the checkpoint's folder.
    Source: §6.4.
    """
    start = time.perf_counter()
    device = machine.default_device()
    memory.check(spec, device)
    torch.backends.cuda.matmul.allow_tf32 = spec.precision == "tf32"
    progress("loading the model")
    rows = "packed" if packs(spec, device) else "padded"
    record = records.RunRecord(spec.to_dict(), VERSION, provenance=records.provenance(device, rows))
    loaded = None
    with torch.random.fork_rng(), _deterministic(device):
        torch.manual_seed(spec.seed)
        try:
            loaded = models.load(spec.model.name, spec.precision, device)
            record.model_sha256 = loaded.sha256
            record.sources = {"model": loaded.origin, "data": data.origins(spec.source)}
            _sequence(spec, loaded, record, progress, checkpoint, start)
            if checkpoint and _kept(spec):
                folder = Path(checkpoint).parents[1] / "adapters" / spec.key
                with writing(folder):
                    save_adapter(loaded.model, folder)
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
    record.seconds += time.perf_counter() - start
    return record


def _kept(spec):
    what = (spec.profile, spec.method, spec.rank, spec.seed) == ("smollm2", "curlora", 16, 0)
    return what and KEPT.get(spec.protocol.name()) == spec.learning_rate


@contextlib.contextmanager
def _deterministic(device):
    """On a GPU: only operations that give the same bits each time; one that cannot is an error.

    What runs on a CPU here gives the same bits anyway, for the same number of threads.
    """
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    torch.use_deterministic_algorithms(before or device == "cuda")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _sequence(spec, loaded, record, progress, checkpoint, start):
    model, pad_id = loaded.model.requires_grad_(False), loaded.tokenizer.pad_token_id
    tensors = _resume(spec, record, checkpoint)
    if not tensors:
        progress("perplexity")
        record.data["text"] = inputs.text_digest(spec)
        record.perplexity["initial"] = _base_perplexity(spec, loaded)
    first_contact.check_perplexity(spec, loaded, record)
    if spec.method != "head-only":
        add_adapters(model, adapter_config(spec))
        record.trainable["adapter"] = count_trainable(model)
    packed = record.provenance["rows"] == "packed"
    read = functools.partial(llama.features, model.base_model) if packed else None
    heads, scored = {}, {}  # task -> head; name of rows -> (their head, the rows)
    for i, task in enumerate(spec.tasks):
        train, beside = inputs.encoded(spec, task, loaded, record.data)
        head = heads[task.name] = new_head(model, task.classes, spec.seed)
        scored |= {name: (head, rows) for name, rows in beside.items()}
        record.trainable[f"head {task.name}"] = sum(p.numel() for p in head.parameters())
        said = f"training {task.name}"
        if i < len(record.stages):  # the checkpoint's
            if i + 1 == len(record.stages):
                checkpoints.restore(tensors, model, heads)
            progress(said, len(train.ids) * task.epochs)
            continue
        progress(said)
        passed = (model.base_model, head, train, recipe(spec, task), pad_id)
        step = functools.partial(progress, said)
        trained = training.train_task(*passed, on_step=step, read=read)
        norms = {n: layer.update_norm() / layer.weight_norm() for n, layer in adapter_layers(model)}
        stage = {"task": task.name, "training": trained, "norms": norms, "scores": {}}
        _score(stage, (record.stages or [None])[-1], spec, model, scored, progress, pad_id, read)
        record.stages.append(stage)
        if checkpoint:
            seconds = record.seconds + time.perf_counter() - start
            so_far = dataclasses.replace(record, seconds=seconds)
            checkpoints.save(checkpoint, so_far, model, heads)
    progress("perplexity")
    if spec.method == "head-only":  # the language model is the base model still
        record.perplexity["final"] = dict(record.perplexity["initial"])
    else:
        record.perplexity["final"] = _perplexity(spec, loaded)


def _resume(spec, record, checkpoint):
    """Tensors of this very run's checkpoint, its numbers put into `record`; None if there is none.

    Nor if a row that it has read is another now.
    """
    found = checkpoints.load(checkpoint, record) if checkpoint else None
    if found is None:
        return None
    kept, tensors = found
    _, read = inputs.digests(spec)
    if any(read.get(name) != parts for name, parts in kept["data"].items()):
        return None
    for name in ("stages", "perplexity", "trainable", "data", "seconds"):
        setattr(record, name, kept[name])
    return tensors


def _reads_padding(spec):
    """Whether class logits are read at a padding position, as the published code does for GPT-2."""
    return spec.protocol.readout == "last-position" and spec.model.padding_side == "right"


def packs(spec, device):
    """Whether this run's rows are laid end to end (see `llama`): on a CPU that is faster."""
    return device == "cpu" and spec.model.name == models.EMBEDDED[0] and not spec.checkpointing


def recipe(spec, task):
    """How a spec and its protocol train one task, as a `training.Recipe`."""
    same = ("schedule", "shuffle", "optimiser", "dropout")
    how = {name: getattr(spec.protocol, name) for name in same}
    how |= {name: getattr(spec, name) for name in ("learning_rate", "head_rate", "batch", "seed")}
    how |= {"epochs": task.epochs, "peak": task.peak, "checkpointing": spec.checkpointing}
    return training.Recipe(**how, last_position=_reads_padding(spec))


def adapter_config(spec):
    """The adapter configuration that a spec and its protocol ask for."""
    protocol = spec.protocol
    alpha = spec.alpha / spec.rank if protocol.scaling == "alpha/r" else spec.alpha
    common = {"rank": spec.rank, "alpha": alpha, "seed": spec.seed}
    common["target_modules"] = spec.model.target_modules
    if spec.method == "lora":
        return LoRAConfig(init=protocol.lora_init, **common)
    if spec.method == "lora-xs":
        return LoRAXSConfig(**common)
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


def _score(stage, before, spec, model, scored, progress, pad_id, read):
    """Put the scores of all rows so far into a stage; a frozen model keeps earlier ones."""
    kept = before["scores"] if spec.method == "head-only" and before else {}
    for name, (head, encoded) in scored.items():
        progress(f"scoring {name}")
        # the author's code pads in this one task's evaluation
        last_position = _reads_padding(spec) and name.startswith("sentiment140")
        given = (model.base_model, head, encoded, pad_id, last_position, read)
        stage["scores"][name] = kept.get(name) or score(*given)
        progress(f"scoring {name}", len(encoded.ids))


def score(backbone, head, encoded, pad_id, last_position=False, read=None):
    """`Accuracy` of `head` on a task's encoded rows, as a dict (see `scoring.predict`).

    `answers`: the predicted class of each row, one digit a row, so that two runs can be compared
    row by row later.
    """
    answers = scoring.predict(backbone, head, encoded.ids, pad_id, last_position, read)
    metric, references = Accuracy(keep_in_memory=True), encoded.labels.tolist()
    found = metric.compute(predictions=answers, references=references, classes=head.out_features)
    return {**found, "answers": "".join(map(str, answers))}


def _perplexity(spec, loaded):
    ids = inputs.text_ids(spec, loaded)
    if spec.protocol.perplexity == "whole-text":
        context = loaded.model.config.max_position_embeddings
        return scoring.perplexity(loaded.model, ids, context, stride=context // 2)
    if len(ids) < spec.text_tokens:
        most = f"expected at most {len(ids)}, all there are"
        raise ValueError(f"text_tokens: got {spec.text_tokens}, {most}")
    stride = spec.text_window // 2 if spec.protocol.perplexity == "halves" else None
    return scoring.perplexity(loaded.model, ids[: spec.text_tokens], spec.text_window, stride)


def _base_perplexity(spec, loaded):
    """Perplexity before anything is trained: the same for all runs on a model, so computed once."""
    key = (spec.source, spec.protocol.perplexity, spec.text_tokens, spec.text_window, spec.tune)
    if key not in loaded.memo:
        loaded.memo[key] = _perplexity(spec, loaded)
    return dict(loaded.memo[key])
