"""What the benchmark measures on: one projection, blocks of the paper's models, a whole model."""

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModel

from .. import models

MISTRAL, GPT2 = "Mistral-7B-v0.3", "GPT-2 Large"


@dataclass(frozen=True)
class Subject:
    """What the contenders are put on.

    build: (precision, device) -> frozen model; call: (model, x) -> a loss, or an output that gets
    random gradients. targets: names of its projections. tokens: device -> (rows, tokens of each).
    seconds: that timing takes in training at each precision; forward takes half of it. thorough:
    whether the other ways to write CURLoRA are timed at every rank, or at the middle one only.
    layers: how many such blocks the model has that it is a block of.
    """

    name: str
    label: str
    build: object
    call: object
    targets: tuple
    tokens: dict
    seconds: float
    thorough: bool = False
    layers: int = 1


class Projection(torch.nn.Module):
    """One projection by its name, (in, out) wide, no bias, random weights."""

    def __init__(self, name, n_in, n_out):
        super().__init__()
        self.name = name
        setattr(self, name, torch.nn.Linear(n_in, n_out, bias=False))

    def forward(self, x):
        return getattr(self, self.name)(x)


def _projection(precision, device):
    torch.manual_seed(0)
    return _frozen(Projection("q_proj", 4096, 4096), precision, device)


def block(name, precision, device, **changes):
    """One block of a model in `models.REAL_CONFIGS`, with the norm that ends it; random weights."""
    kind, sizes, _ = models.REAL_CONFIGS[name]
    depth = "n_layer" if "n_layer" in sizes else "num_hidden_layers"
    special = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": 8}  # embeddings are not used
    config = AutoConfig.for_model(kind, **{**sizes, depth: 1, **special, **changes})
    torch.manual_seed(0)
    attention = "eager" if device == "cpu" else "sdpa"  # as in models.load
    model = AutoModel.from_config(config, attn_implementation=attention)
    return _frozen(model, precision, device)


def _frozen(model, precision, device):
    return model.requires_grad_(False).eval().to(device, models.DTYPES[precision])


def call_block(model, x):
    return model(inputs_embeds=x, use_cache=False).last_hidden_state


def call_language_model(model, x):
    """The next-token loss: every id is right once in a while, which one does not matter here."""
    rows, tokens, _ = x.shape
    labels = torch.arange(rows * tokens, device=x.device).view(rows, tokens)
    return model(inputs_embeds=x, labels=labels % model.config.vocab_size, use_cache=False).loss


def subjects():
    """The four: a projection and a block of the paper's models, a whole model, and a block."""
    mistral, gpt2 = models.REAL_CONFIGS[MISTRAL], models.REAL_CONFIGS[GPT2]
    return [
        Subject(
            "model", "SmolLM2-135M, whole",
            lambda precision, device: models.load("smollm2-135m", precision, device).model,
            call_language_model, ("q_proj", "k_proj", "v_proj"),
            {"cpu": (4, 64), "cuda": (16, 128)}, 100.0,
        ),
        Subject(
            "projection", "q_proj of Mistral-7B, 4096 → 4096", _projection,
            lambda model, x: model(x), ("q_proj",),
            {"cpu": (4, 64), "cuda": (16, 512)}, 20.0, thorough=True,
        ),
        Subject(
            "mistral", "block of Mistral-7B", lambda *at: block(MISTRAL, *at),
            call_block, mistral[2],
            {"cpu": (2, 32), "cuda": (8, 256)}, 45.0, layers=32,
        ),
        Subject(
            "gpt2", "block of GPT-2 Large", lambda *at: block(GPT2, *at),
            call_block, gpt2[2],
            {"cpu": (4, 64), "cuda": (16, 256)}, 20.0, layers=gpt2[1]["n_layer"],
        ),
    ]  # fmt: skip
