"""What the benchmark compares, and on what.

Contenders: the frozen model, ours, CURLoRA written otherwise, PEFT's adapters; all stand on copies
of one model that share its frozen weights. Subjects: a whole model, and parts of the paper's
models in their true shapes. Shapes as in `layers`.
"""

import copy
import itertools
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers.pytorch_utils import Conv1D

from ..adapters import CURLoRAConfig, adapter_layers, add_adapters, projections
from . import machine, models


class ProductCURLoRA(nn.Module):
    """A `CURLoRALinear`'s base and update, the update by products with C, U and R, no gather.

    dense: y = x W + alpha x (C U R), a matrix as large as W formed in every forward pass and
    multiplied by x, as the author's code does. Else y = x W + alpha ((x R^T) U^T) C^T (Conv1D:
    ((x C) U) R), three thin products. Source: Eq. 8.
    """

    def __init__(self, layer, dense):
        super().__init__()
        self.base, self.U, self.alpha = layer.base, layer.U, layer.alpha
        self.transposed, self.dense = layer.transposed, dense
        self.register_buffer("C", layer.C.clone())  # (a, r) of the stored W (a, b)
        self.register_buffer("R", layer.R.clone())  # (r, b)

    def forward(self, x):
        if self.dense:
            update = self.C @ self.U.to(self.C.dtype) @ self.R  # (a, b)
            return self.base(x) + self.alpha * F.linear(x, update if self.transposed else update.T)
        factors = (self.C, self.U, self.R)
        first, middle, last = (m.T for m in factors[::-1]) if self.transposed else factors
        z = (x @ first).to(self.U.dtype) @ middle  # (B..., r)
        return self.base(x) + self.alpha * (z.to(x.dtype) @ last)


def _curlora(model, targets, rank):
    add_adapters(model, CURLoRAConfig(rank=rank, target_modules=targets))
    return model


def _products(model, targets, rank, dense):
    for name, layer in list(adapter_layers(_curlora(model, targets, rank))):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, ProductCURLoRA(layer, dense))
    return model


def _peft(model, targets, rank, kind, **options):
    """PEFT's, at its defaults but for what is given; it sees by itself what a Conv1D is."""
    import peft

    config = getattr(peft, kind)(r=rank, target_modules=list(targets), **options)
    return peft.get_peft_model(model, config)


BUILD = {  # name -> (model, targets, rank) -> model
    "frozen": lambda model, *_: model.requires_grad_(False),  # gradients still flow to its inputs
    "CURLoRA": _curlora,
    "factored": lambda *given: _products(*given, dense=False),
    "dense": lambda *given: _products(*given, dense=True),
    "PEFT LoRA": lambda *given: _peft(*given, "LoraConfig", lora_alpha=given[-1]),
    "PEFT VeRA": lambda *given: _peft(*given, "VeraConfig"),
}


def plan(model, targets, ranks):
    """(contender, its rank): ours and LoRA at each rank, the other formulas at the middle one.

    VeRA has the rank that makes it train about as much as ours of the largest, at least 1: it
    trains out + rank numbers a projection, ours rank^2.
    """
    outs = [m.weight.shape[isinstance(m, Conv1D)] for m in projections(model, targets).values()]
    vera = max(1, ranks[-1] ** 2 - round(sum(outs) / len(outs)))
    middle = ranks[len(ranks) // 2]
    chosen = [("frozen", None), *itertools.product(("CURLoRA", "PEFT LoRA"), ranks)]
    return [*chosen, ("factored", middle), ("dense", middle), ("PEFT VeRA", vera)]


def build(contender, model, targets, rank):
    """A contender over the weights of `model`, which stays as it is.

    What it trains is moved off its start at random, so that nothing is multiplied by zeros.
    """
    shared = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    made = BUILD[contender](copy.deepcopy(model, shared), targets, rank)
    generator = torch.Generator().manual_seed(0)
    for parameter in trained(made):
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.01 * noise.to(parameter.device, parameter.dtype)
    return made


def trained(model):
    """The parameters that receive gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@dataclass(frozen=True)
class Subject:
    """What the contenders are put on.

    build: (precision, device) -> frozen model; call: (model, x) -> a loss, or an output that gets
    random gradients. targets: names of its projections; width: of its inputs. tokens: device ->
    (rows, tokens of each). seconds: that timing takes in training at each precision.
    """

    name: str
    build: object
    call: object
    targets: tuple
    width: int
    tokens: dict
    seconds: float


def projection(precision, device, width=4096):
    """One square projection called `q_proj`, no bias, random weights."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("q_proj", nn.Linear(width, width, bias=False))
    return _frozen(model, precision, device)


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
    return model.requires_grad_(False).eval().to(device, machine.DTYPES[precision])


def last_hidden_state(model, x):
    return model(inputs_embeds=x, use_cache=False).last_hidden_state


def next_token_loss(model, x):
    """The loss of made-up ids, all of the vocabulary in turn."""
    rows, tokens, _ = x.shape
    labels = torch.arange(rows * tokens, device=x.device).view(rows, tokens)
    return model(inputs_embeds=x, labels=labels % model.config.vocab_size, use_cache=False).loss


def whole(precision, device):
    """SmolLM2-135M."""
    return models.load("smollm2-135m", precision, device).model


SUBJECTS = (
    Subject(
        "SmolLM2-135M", whole, next_token_loss, ("q_proj", "k_proj", "v_proj"),
        576, {"cpu": (4, 64), "cuda": (16, 128)}, 100.0,
    ),
    Subject(
        "Mistral q_proj", projection, lambda model, x: model(x), ("q_proj",),
        4096, {"cpu": (4, 64), "cuda": (16, 512)}, 20.0,
    ),
    Subject(
        "Mistral block", partial(block, "Mistral-7B-v0.3"), last_hidden_state,
        ("q_proj", "k_proj", "v_proj"), 4096, {"cpu": (2, 32), "cuda": (8, 256)}, 45.0,
    ),
    Subject(
        "GPT-2 Large block", partial(block, "GPT-2 Large"), last_hidden_state,
        ("c_attn",), 1280, {"cpu": (4, 64), "cuda": (16, 256)}, 20.0,
    ),
)  # fmt: skip
