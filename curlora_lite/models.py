"""Base models and their tokenizers, frozen, ready for adapters; and the paper's real shapes."""

import functools
import json
import shutil
import time
from dataclasses import dataclass, field

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from . import fetch, hub, small_gpt2
from .checks import known

EMBEDDED = ("smollm2-135m", "small-gpt2")
NAMES = (*EMBEDDED, *hub.MODELS)
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}

# The paper's models as their published configurations have them: type and shapes.
REAL_CONFIGS = {
    "Mistral-7B-v0.3": (
        "mistral",
        {
            "vocab_size": 32768,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": False,
        },
        ("q_proj", "k_proj", "v_proj"),
    ),
    "GPT-2 Large": ("gpt2", {"n_embd": 1280, "n_layer": 36, "n_head": 20}, ("c_attn",)),
}


@dataclass
class Loaded:
    """A frozen base model with its tokenizer.

    origin: where it came from, for a record. memo: what is the same for every run on it.
    """

    name: str
    model: torch.nn.Module
    tokenizer: object
    sha256: str
    memo: dict
    origin: dict = field(default_factory=lambda: {"source": "embedded"})


@functools.lru_cache(maxsize=1)
def load(name, precision="fp32", device="cpu"):
    """The model called `name` in this precision on this device; made first if not in the cache.

    The last one loaded is kept, so that a grid loads each model once: take adapters off again.
    ValueError for an unknown name or precision; FetchError if it has to be fetched and cannot be.
    """
    known("model", name, NAMES)
    known("precision", precision, DTYPES)
    folder = prepare(name)
    # Eager attention: at these lengths its backward pass is faster on a CPU than the fused one's.
    attention = "eager" if device == "cpu" else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=DTYPES[precision], attn_implementation=attention
    )
    model.requires_grad_(False).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # as the author does
    loaded = Loaded(name, model, tokenizer, sha256(name), {})
    if name in hub.MODELS:
        loaded.origin = hub.origin(hub.MODELS[name])
    return loaded


def forget():
    """Let go of the model that is kept: the next `load` reads it anew."""
    load.cache_clear()


def sha256(name):
    """One sha256 for the weights that `load` reads, without loading them."""
    patterns = hub.MODELS[name].files if name in hub.MODELS else ("*.safetensors",)
    return hub.weights_sha256(prepare(name), patterns)


def prepare(name):
    """Folder of the model as safetensors, fetched or trained into the cache if it is not there."""
    if name in hub.MODELS:
        return hub.folder(hub.MODELS[name])
    if name == "small-gpt2":
        # rebuilt whenever the code that makes it changes
        folder = fetch.cache_dir() / "models" / f"{name}-{fetch.sha256_of(small_gpt2.__file__)[:8]}"
    else:
        folder = fetch.cache_dir() / "models" / name
    if not (folder / "model.safetensors").exists():
        with fetch.alone(folder):
            if not (folder / "model.safetensors").exists():
                _make(name, folder)
    return folder


def _make(name, folder):
    shutil.rmtree(folder, ignore_errors=True)
    with fetch.aside(folder) as part:
        part.mkdir()
        if name == "small-gpt2":
            small_gpt2.build(part, bf16=fast_precision() == "bf16")
        else:
            _convert_gguf(fetch.fetch(name), part)


def stand_in_report():
    """What training the small GPT-2 gave: `training.json`, as a dict."""
    return json.loads((prepare("small-gpt2") / "training.json").read_text())


def _convert_gguf(gguf, folder):
    """Dequantise a GGUF file to fp32 safetensors, once: loading it takes 20 s, this 1 s."""
    from transformers import GgufConfig

    source = {"gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **source
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(folder)


def default_device():
    """`cuda` if there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache
def fast_precision():
    """`bf16` where products in it are at least 1.5 times as fast as in fp32, else `fp32`.

    Measured once a machine (a fifth of a second), then kept in the cache, so that a later call
    answers the same.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    kept = fetch.cache_dir() / "precision.json"
    machine = [torch.backends.cpu.get_cpu_capability(), torch.__version__]
    if kept.exists() and json.loads(kept.read_text())["machine"] == machine:
        return json.loads(kept.read_text())["precision"]
    seconds = {name: _product_seconds(dtype) for name, dtype in DTYPES.items()}
    answer = "bf16" if seconds["fp32"] > 1.5 * seconds["bf16"] else "fp32"
    with fetch.aside(kept) as part:
        part.write_text(json.dumps({"machine": machine, "precision": answer, "seconds": seconds}))
    return answer


def _product_seconds(dtype):
    x, w = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        torch.nn.functional.linear(x, w)
        times.append(time.perf_counter() - start)
    return sorted(times)[2]


def meta_model(name):
    """One of the paper's models on the meta device: real shapes, no weights.

    Returns (model, names of the projections that take adapters).
    """
    kind, sizes, targets = REAL_CONFIGS[name]
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)), targets
