"""`make oracle AUTHOR=DIR MIRROR=DIR`: our runs beside the author's own code, step by step.

AUTHOR is a clone of the author's repository (MNoorFawi/curlora); `authors.py` runs its notebooks as
they are in an environment of their time, and says what that takes. Two small models with random
weights, of Mistral's type and of GPT-2's (dropout and all), go through the whole sequence of
Table 1 at rank 16 and of Table 2 at rank 8, on the paper's own rows, row counts, batches and
epochs, by LoRA and by CURLoRA: here by `sequence.run` under the published protocol, there by the
author's cells. (Here the first is a Llama, the same function, and read as our records of Table 1
are: see `llama`.) What is drawn at random is the same on both sides: indices and A are ours, and
after each head our generator is left where the author's is, so that dropout draws the same masks.

Writes `results/reliability/tables/oracle.md`, whose last column has one switch of the protocol set
otherwise, to show what a difference looks like; an exit status of 1 where something differs by more
than LIMITS. Ten minutes on a core.
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

os.environ["CURLORA_BASE_CHECK"] = "0"  # small models do not have the paper's perplexity

import pandas as pd
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

from curlora_lite import cur
from curlora_lite.adapters import adapter_layers
from curlora_lite.replication import fetch, hub, machine, memory, models, pages, profiles, records
from curlora_lite.replication import sequence

HERE = Path(__file__).parent
ADAMW = torch.optim.AdamW
VOCABULARY = 8000
SMALL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
MISTRAL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
MISTRAL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": None}
MISTRAL |= {"max_position_embeddings": 16384, "rms_norm_eps": 1e-6}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
# table -> (profile, rank, tokens of the text, the small model's configuration there)
TABLES = {
    "table1": ("smollm2", 16, 10_000, {"model_type": "mistral", **MISTRAL, **SMALL}),
    "table2": ("gpt2-large", 8, 256, {"model_type": "gpt2", **GPT2, **SMALL}),
}
SPLITS = {  # (data set, the author's name of a split) -> (our task, our part, rows handed over)
    ("mrpc", "train"): ("mrpc", "train", None),
    ("mrpc", "validation"): ("mrpc", "eval", None),
    ("sst2", "train"): ("sst2", "train", 6000),
    ("sst2", "validation"): ("sst2", "eval", None),
    ("sentiment140", "train"): ("sentiment140", "eval", 1024),
    ("sentiment140", "test"): ("sentiment140", "train", None),
    ("text", "test"): ("text", "eval", None),
}
CHANGED = "optimiser=torch"  # the switch that is set otherwise in the end
# what may differ at most: rounding of other kernels, rows padded on the other side
LIMITS = {"losses": 1e-5, "learning rates": 1e-12, "probabilities of the draw": 1e-6}
LIMITS |= {"U, A and B": 1e-5, "heads": 1e-5, "answers": 0, "accuracies": 0, "perplexity": 1e-5}


def prepare(folder):
    """Rows, a tokenizer for each type, weights, settings: what both sides read."""
    rows, texts = {}, []
    for (name, split), (task, part, most) in SPLITS.items():
        found, columns = hub._rows(task, part), hub.TABLES[task, part][2]
        kept = [list(values) for values in zip(*found[:most], strict=True)]
        whole = {"columns": dict(zip(columns, kept, strict=True)), "length": len(found)}
        rows.setdefault(name, {})[split] = whole
        texts += [text for values in kept for text in values if isinstance(text, str)]
    (folder / "rows.json").write_text(json.dumps(rows), "utf-8")
    tokenizer(folder, texts)
    settings, built = {}, {}
    for table, (profile, _, text_tokens, config) in TABLES.items():
        spec, side = profiles.grid(profile, table)[0], "left" if table == "table1" else "right"
        own = settings[table] = {"config": config, "padding_side": side}
        own |= {"text_tokens": text_tokens, "max_length": spec.max_length}
        own["tokenizer"] = f"{config['model_type']}.json"
        torch.manual_seed(0)
        here = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
        configured = transformers.AutoConfig.for_model(**config | {"model_type": here})
        model = transformers.AutoModelForCausalLM.from_config(
            configured, attn_implementation="eager"
        )
        for name, parameter in model.named_parameters():  # so that projections matter
            parameter.data.mul_(1 if "norm" in name or "ln_" in name else 4)
        tied = {"lm_head.weight"} if config["model_type"] == "gpt2" else set()
        weights = {n: t.clone() for n, t in model.state_dict().items() if n not in tied}
        save_file(weights, folder / f"{config['model_type']}.safetensors")
        built[table] = {"model": model.eval().requires_grad_(False)}
    (folder / "settings.json").write_text(json.dumps(settings), "utf-8")
    return {table: own | built[table] for table, own in settings.items()}


def tokenizer(folder, texts):
    """Bytes in pairs, learned from the texts; Mistral's form puts the begin token before a text."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    for kind in ("gpt2", "mistral"):
        if kind == "mistral":
            template = {"single": "<s> $A", "pair": "<s> $A <s> $B", "special_tokens": [("<s>", 1)]}
            made.post_processor = tokenizers.processors.TemplateProcessing(**template)
        content = json.loads(made.to_str())
        merges = content["model"]["merges"]  # as the author's time wrote them
        content["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in merges]
        (folder / f"{kind}.json").write_text(json.dumps(content), "utf-8")


def ours(run, folder, settings, protocol="published"):
    """Our run: what it drew at random is left in the folder; what it gave is returned."""
    table, method = run.split()
    profile, rank, tokens, _ = TABLES[table]
    chosen = {"ranks": [rank], "methods": [method], "protocol": protocol, "precision": "fp32"}
    (spec,) = profiles.grid(profile, table, **chosen)
    spec = dataclasses.replace(spec, text_tokens=tokens, text_window=tokens)
    model, given = settings["model"], {"indices": [], "A": []}
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / settings["tokenizer"]), eos_token="</s>", pad_token="</s>"
    )
    origin = {"source": "made", "repository": None, "revision": None}
    loaded = models.Loaded(model, made, "", {}, origin)
    found = {"rates": [], "heads": [], "adapters": [], "model": model}

    class Watched(ADAMW):
        def step(self, *args):
            found["rates"].append(self.param_groups[0]["lr"])
            return super().step(*args)

    def new_head(model, classes, seed):
        torch.manual_seed(sequence.HEAD_SEED + seed)  # restarts dropout too, as the author's does
        found["heads"].append(torch.nn.Linear(model.config.hidden_size, classes))
        return found["heads"][-1]

    def progress(what, examples=0):
        layers = list(adapter_layers(model))
        if what == "training mrpc" and not examples:
            for name, layer in layers:
                if method == "curlora":
                    given["indices"].append((name, layer.rows.clone(), layer.cols.clone()))
                else:
                    given["A"].append(layer.A.detach().clone())
        if what.startswith("scoring") and len(found["adapters"]) < len(found["heads"]):
            trained = [p for _, layer in layers for p in layer.parameters() if p.requires_grad]
            found["adapters"].append([p.detach().clone() for p in trained])

    torch.optim.AdamW, sequence.new_head = Watched, new_head
    models.load, memory.check = lambda *_: loaded, lambda *_: None
    machine.default_device = lambda: "cpu"
    record = sequence.run(spec, progress)
    assert record.status == "finished", record.message
    assert record.provenance["rows"] == {"table1": "packed", "table2": "padded"}[table]
    torch.save(given, folder / f"{run}.ours.pt")
    return {**found, "indices": given["indices"], "record": record}


def compare(ours, theirs):
    """what -> (how many numbers, their largest difference) of one run.

    Losses and perplexity: relative; weights: of the largest; rates and accuracies: absolute;
    answers: how many rows.
    """
    found, stages = {}, ours["record"].stages
    tasks = [stage["task"] for stage in stages]

    def put(what, pairs, how=torch.sub):
        pairs = [[torch.as_tensor(side).double().flatten() for side in pair] for pair in pairs]
        mine, other = (torch.cat(side) for side in zip(*pairs, strict=True))
        off = how(mine, other).double().abs()
        found[what] = (len(off), off.sum().item() if what == "answers" else off.max().item())

    def relative(mine, other):
        return mine / other - 1

    def of_largest(mine, other):
        return (mine - other) / other.abs().max()

    losses = [loss for stage in stages for loss in stage["training"]["losses"]]
    put("losses", [(losses, theirs["losses"])], relative)
    put("learning rates", [(ours["rates"], theirs["rates"])])
    if theirs["probabilities"]:
        weights = [ours["model"].get_submodule(name).weight for name, *_ in ours["indices"]]
        own = [cur.smoothed(cur.probabilities(W, dim)) for W in weights for dim in (1, 0)]
        put("probabilities of the draw", zip(own, theirs["probabilities"], strict=True))
    adapters, heads, answers, shares = [], [], [], []
    evaluations = iter(theirs["evaluations"])
    for i, stage in enumerate(stages):
        for task in (tasks[i], *tasks[:i]):  # the author scores the newest first
            other, score = next(evaluations), stage["scores"][task]
            assert other["task"] == task, (task, other["task"])
            adapters += zip(ours["adapters"][i], other["adapters"], strict=True)
            head = ours["heads"][tasks.index(task)]
            heads += zip((head.weight.detach(), head.bias.detach()), other["head"], strict=True)
            answers.append([[int(answer) for answer in side["answers"]] for side in (score, other)])
            shares.append([[side["accuracy"]] for side in (score, other)])
    assert next(evaluations, None) is None
    put("U, A and B", adapters, of_largest)
    put("heads", heads, of_largest)
    put("answers", answers, torch.ne)
    put("accuracies", shares)
    text = ours["record"].perplexity
    measured = [text[when]["perplexity"] for when in ("initial", "final")]
    put("perplexity", [(measured, theirs["perplexity"])], relative)
    return found


def write(found, changed, author, theirs):
    """`tables/oracle.md`: a row for each kind of number, a column for each run."""
    table = {}
    for run, kinds in [*found.items(), (f"the last with `{CHANGED}`", changed)]:
        for what, (numbers, off) in kinds.items():
            row = table.setdefault(what, {"compared": 0})
            row["compared"] += numbers if run in found else 0
            row[run] = f"{off:.0f}" if what == "answers" else f"{off:.1g}"
    shown = pd.DataFrame(table).T.fillna("–").rename_axis("largest difference")
    shown["compared"] = shown["compared"].map("{:,}".format)
    commit = ["git", "-C", author, "rev-parse", "HEAD"]
    commit = subprocess.run(commit, capture_output=True, encoding="utf-8").stdout.strip()
    here = records.commit()
    unclean = " and changes" if here["dirty"] else ""
    version = torch.__version__.split("+")[0]
    note = (
        f"Computed {datetime.now(UTC):%Y-%m-%d} at commit {records.short(here['commit'])}{unclean}; the "
        f"author's at {commit[:10] or 'no commit'}. torch {version} on both sides, "
        f"transformers {transformers.__version__} here, {theirs} there. Losses and perplexity "
        "relative, weights as shares of the largest, answers as a count of rows."
    )
    with fetch.aside(HERE / "tables" / "oracle.md") as part:
        part.write_text(f"{shown.to_markdown(disable_numparse=True)}\n\n{note}\n", "utf-8")
    pages.fill(HERE / "README.md")


def main():
    """`oracle.py AUTHOR PYTHON`: both sides, run by run; PYTHON is the author's time's."""
    author, python = map(Path, sys.argv[1:])
    if not (author / "code" / "utils.py").is_file():
        sys.exit(f"AUTHOR: {author} holds no code/utils.py; expected a clone of MNoorFawi/curlora")
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = prepare(folder)
        for table, method in itertools.product(TABLES, ("lora", "curlora")):
            run = f"{table} {method}"
            mine = ours(run, folder, settings[table])
            command = [python, "-W", "ignore", HERE / "authors.py", author / "code", folder, run]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            theirs = torch.load(folder / f"{run}.theirs.pt")
            found[run] = compare(mine, theirs)
            for what, (numbers, off) in found[run].items():
                print(f"{run}, {what}: {numbers:,} compared, {off:.1e} off at most", flush=True)
        changed = ours(run, folder, settings[table], f"published,{CHANGED}")
        changed = compare(changed, theirs)
    assert changed["losses"][1] > LIMITS["losses"]
    write(found, changed, author, theirs["transformers"])
    beyond = [
        f"{run}, {what}: {off:.1e} (at most {LIMITS[what]:g})"
        for run, kinds in found.items()
        for what, (_, off) in kinds.items()
        if not off <= LIMITS[what]
    ]
    sys.exit("\n".join(["beyond what rounding does:", *beyond]) if beyond else 0)


if __name__ == "__main__":
    main()
