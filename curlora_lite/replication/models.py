"""Base models and their tokenizers, frozen, ready for adapters; and the paper's real shapes."""

import functools
import shutil
from dataclasses import dataclass, field

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from ..checks import known
from . import fetch, first_contact, fused, hub, machine

# two forms of one model: the second has its projections fused (see `fused`)
EMBEDDED = ("smollm2-135m", "smollm2-135m-fused")
NAMES = (*EMBEDDED, *hub.MODELS)

# The paper's models as their published configurations have them: type and shapes.
_GPT2_LARGE = {"n_embd": 1280, "n_layer": 36, "n_head": 20}
_MISTRAL = {"vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336}
_MISTRAL |= {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
REAL_CONFIGS = {"Mistral-7B-v0.3": ("mistral", _MISTRAL, ("q_proj", "k_proj", "v_proj"))}
REAL_CONFIGS |= {"GPT-2 Large": ("gpt2", _GPT2_LARGE, ("c_attn",))}


@dataclass
class Loaded:
    """A frozen base model with its tokenizer.

    origin: where it came from, for a record. memo: what is the same for every run on it.
    """

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
    known("precision", precision, machine.DTYPES)
    folder = prepare(name)
    # Eager attention: at these lengths its backward pass is faster on a CPU than the fused one's.
    attention = "eager" if device == "cpu" else "sdpa"
    how = {"dtype": machine.DTYPES[precision], "attn_implementation": attention}
    model = AutoModelForCausalLM.from_pretrained(folder, **how)
    model.requires_grad_(False).eval().to(device)
    if name.endswith("-fused"):
        model = fused.fuse(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    mended = name in hub.MODELS and first_contact.check_tokenizer(name, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # as the author does
    loaded = Loaded(model, tokenizer, sha256(name), {})
    if name in hub.MODELS:
        loaded.origin = hub.origin(hub.MODELS[name]) | ({"tokenizer": "mended"} if mended else {})
    return loaded


def sha256(name):
    """One sha256 for the weights that `load` reads, without loading them."""
    patterns = hub.MODELS[name].files if name in hub.MODELS else ("*.safetensors",)
    return hub.weights_sha256(prepare(name), patterns)


def prepare(name):
    """Folder of the model as safetensors, fetched and converted if it is not in the cache."""
    if name in hub.MODELS:
        return hub.folder(hub.MODELS[name])
    folder = fetch.cache_dir() / "models" / EMBEDDED[0]
    if not (folder / "model.safetensors").exists():
        with fetch.alone(folder):
            if not (folder / "model.safetensors").exists():
                shutil.rmtree(folder, ignore_errors=True)
                with fetch.aside(folder) as part:
                    part.mkdir()
                    _convert_gguf(fetch.fetch(EMBEDDED[0]), part)
    return folder


def _convert_gguf(gguf, folder):
    """Dequantise a GGUF file to fp32 safetensors, once: loading it takes 20 s, this 1 s."""
    source = {"gguf_file": gguf.name}
    how = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, **how, **source)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(folder)


def meta_model(name):
    """One of the paper's models on the meta device: real shapes, no weights.

    Returns (model, names of the projections that take adapters).
    """
    kind, sizes, targets = REAL_CONFIGS[name]
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)), targets
