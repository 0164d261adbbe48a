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
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModel

from ..adapters import adapter_layers, add_adapters
from ..configs import CURLoRAConfig
from . import machine, models


def _dense(layer, x):
    """y = x W + alpha x (C U R), with a matrix as large as W formed in every forward pass.

    So the author's code does it. Source: Eq. 8.
    """
    middle = layer.U.T if layer.transposed else layer.U
    update = layer.first @ middle.to(x.dtype) @ layer.last  # (in, out)
    return layer.base(x) + layer.alpha * (x @ update)


def _curlora(model, targets, rank, dense=False):
    """Ours, or the same function of x by `_dense`, over copies of C and R: no gather."""
    add_adapters(model, CURLoRAConfig(rank=rank, target_modules=targets))
    for _, layer in adapter_layers(model) if dense else ():
        first, last = (layer.R.T, layer.C.T) if layer.transposed else (layer.C, layer.R)
        layer.register_buffer("first", first.clone())  # (in, r)
        layer.register_buffer("last", last.clone())  # (r, out)
        layer.forward = partial(_dense, layer)
    return model


def _peft_lora(model, targets, rank):
    """PEFT's at its defaults, lora_alpha = r; it sees by itself what a Conv1D is."""
    import peft

    config = peft.LoraConfig(r=rank, target_modules=list(targets), lora_alpha=rank)
    return peft.get_peft_model(model, config)


BUILD = {  # name -> (model, targets, rank) -> model
    "frozen": lambda model, *_: model.requires_grad_(False),  # gradients still flow to its inputs
    "CURLoRA": _curlora,
    "PEFT LoRA": _peft_lora,
    "dense": partial(_curlora, dense=True),
}


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


def projection(precision, device, width=4096):
    """One square projection called `q_proj`, no bias, random weights."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("q_proj", nn.Linear(width, width, bias=False))
    return _frozen(model, precision, device)


def block(name, precision, device):
    """One block of a model in `models.REAL_CONFIGS`, with the norm that ends it; random weights."""
    kind, sizes, _ = models.REAL_CONFIGS[name]
    special = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": 8}  # embeddings are not used
    config = AutoConfig.for_model(kind, **sizes | special)
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


@dataclass(frozen=True)
class Subject:
    """What contenders stand on. build: (precision, device) -> frozen model.

    call: (model, x) -> a loss, or an output that gets random gradients. targets: names of its
    projections; width: of its inputs. tokens: device -> (rows, tokens of each).
    """

    name: str
    build: object
    call: object
    targets: tuple
    width: int
    tokens: dict

    def steps(self, precision, device, ranks):
        """contender -> its step; contender -> the bytes that it keeps. The dense formula: at 16."""
        model, steps, kept = self.build(precision, device), {}, {}
        plan = [("frozen", None), ("dense", 16)]
        plan += itertools.product(("CURLoRA", "PEFT LoRA"), ranks)
        for contender, rank in plan:
            name = f"{contender}-{rank}" if rank else contender
            made = build(contender, model, self.targets, rank)
            steps[name], kept[name] = self.step(made, precision, device)
        return steps, kept

    def step(self, model, precision, device):
        """One forward and backward pass, to be timed; and the bytes kept between them.

        Gradients of x and of all that is trained.
        """
        generator = torch.Generator().manual_seed(0)
        to = (device, machine.DTYPES[precision])
        x = torch.randn(*self.tokens[device], self.width, generator=generator).to(*to)
        x.requires_grad_(True)  # as if there were something to train below
        wanted, own = trained(model), [*model.parameters(), *model.buffers()]
        forward = partial(self.call, model, x)
        shape = forward().shape  # of a loss: ()
        upstream = torch.randn(shape, generator=generator).to(*to) if shape else None
        kept = kept_bytes(forward, own)
        return lambda: torch.autograd.grad(forward(), [x, *wanted], upstream), kept


def kept_bytes(forward, frozen):
    """Bytes of the storages that autograd saves in `forward`, each once, without those of `frozen`.

    Exact: no allocator, no noise. What a backward pass needs beside them is not in it.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in frozen}
    kept = {}

    def pack(tensor):  # gives nothing back: an output saved by its own node would never be freed
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # held, so that no other gets its address

    with saved_tensors_hooks(pack, lambda nothing: nothing):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def smollm2(precision, device):
    return models.load("smollm2-135m", precision, device).model


SUBJECTS = (
    Subject("SmolLM2-135M", smollm2, next_token_loss, QKV, 576,
            {"cpu": (4, 64), "cuda": (16, 128)}),
    Subject("Mistral q_proj", projection, lambda model, x: model(x), ("q_proj",), 4096,
            {"cpu": (4, 64), "cuda": (16, 512)}),
    Subject("Mistral block", partial(block, "Mistral-7B-v0.3"), last_hidden_state, QKV, 4096,
            {"cpu": (2, 32), "cuda": (8, 256)}),
    Subject("GPT-2 Large block", partial(block, "GPT-2 Large"), last_hidden_state, ("c_attn",),
            1280, {"cpu": (4, 64), "cuda": (16, 256)}),
)  # fmt: skip
