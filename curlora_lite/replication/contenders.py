"""What the benchmark compares, and on what.

Contenders: the frozen model, ours, CURLoRA written otherwise, PEFT's adapters; all stand on copies
of one model that share its frozen weights. Subjects: a whole model, and parts of the paper's
models in their true shapes. Shapes as in `layers`.
"""

import copy
import itertools
from collections import namedtuple
from functools import partial

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.pytorch_utils import Conv1D

from ..adapters import adapter_layers, add_adapters, projections
from ..configs import CURLoRAConfig
from . import machine, models


def _dense(layer, x):
    """y = x W + alpha x (C U R), with a matrix as large as W formed in every forward pass.

    So the author's code does it. Source: Eq. 8.
    """
    middle = layer.U.T if layer.transposed else layer.U
    update = layer.first @ middle.to(x.dtype) @ layer.last  # (in, out)
    return layer.base(x) + layer.alpha * (x @ update)


def _factored(layer, x):
    """y = x W + alpha ((x R^T) U^T) C^T (Conv1D: ((x C) U) R), three thin products."""
    middle = layer.U.T if layer.transposed else layer.U
    z = (x @ layer.first).to(middle.dtype) @ middle  # (B..., r)
    return layer.base(x) + layer.alpha * (z.to(x.dtype) @ layer.last)


def _curlora(model, targets, rank, forward=None):
    """Ours, or the same function of x by another `forward`, over copies of C and R: no gather."""
    add_adapters(model, CURLoRAConfig(rank=rank, target_modules=targets))
    for _, layer in adapter_layers(model) if forward else ():
        first, last = (layer.R.T, layer.C.T) if layer.transposed else (layer.C, layer.R)
        layer.register_buffer("first", first.clone())  # (in, r)
        layer.register_buffer("last", last.clone())  # (r, out)
        layer.forward = partial(forward, layer)
    return model


def _peft(model, targets, rank, kind, **options):
    """PEFT's, at its defaults but for what is given; it sees by itself what a Conv1D is."""
    import peft

    config = getattr(peft, kind)(r=rank, target_modules=list(targets), **options)
    return peft.get_peft_model(model, config)


BUILD = {  # name -> (model, targets, rank) -> model
    "frozen": lambda model, *_: model.requires_grad_(False),  # gradients still flow to its inputs
    "CURLoRA": _curlora,
    "factored": partial(_curlora, forward=_factored),
    "dense": partial(_curlora, forward=_dense),
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


# What the contenders are put on. build: (precision, device) -> frozen model; call: (model, x) -> a
# loss, or an output that gets random gradients. targets: names of its projections; width: of its
# inputs. tokens: device -> (rows, tokens of each). seconds: that timing takes in training at each
# precision.
Subject = namedtuple("Subject", "name build call targets width tokens seconds")


def projection(precision, device, width=4096):
    """One square projection called `q_proj`, no bias, random weights."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("q_proj", nn.Linear(width, width, bias=False))
    return _frozen(model, precision, device)


def block(name, precision, device, **changes):
    """One block of a model in `models.REAL_CONFIGS`, with the norm that ends it; random weights."""
    kind, sizes, _ = models.REAL_CONFIGS[name]
    special = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": 8}  # embeddings are not used
    config = AutoConfig.for_model(kind, **sizes | special | changes)
    config.num_hidden_layers = 1
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


QKV = ("q_proj", "k_proj", "v_proj")
SUBJECTS = (
    Subject("SmolLM2-135M", lambda *how: models.load("smollm2-135m", *how).model, next_token_loss,
            QKV, 576, {"cpu": (4, 64), "cuda": (16, 128)}, 100.0),
    Subject("Mistral q_proj", projection, lambda model, x: model(x), ("q_proj",), 4096,
            {"cpu": (4, 64), "cuda": (16, 512)}, 20.0),
    Subject("Mistral block", partial(block, "Mistral-7B-v0.3"), last_hidden_state, QKV, 4096,
            {"cpu": (2, 32), "cuda": (8, 256)}, 45.0),
    Subject("GPT-2 Large block", partial(block, "GPT-2 Large"), last_hidden_state, ("c_attn",),
            1280, {"cpu": (4, 64), "cuda": (16, 256)}, 20.0),
)  # fmt: skip
