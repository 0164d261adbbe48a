"""Made-up texts, a tokenizer and cut-down specs: runs that take a fraction of a second."""

import dataclasses
import re

import torch
import transformers
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import curlora_lite as cl
from curlora_lite.replication import data, fused, machine, models, profiles

METHODS = {"curlora": cl.CURLoRAConfig, "lora": cl.LoRAConfig}
IDS = torch.tensor([[1, 5, 9, 3, 7, 2], [2, 2, 8, 60, 4, 11]])


def tiny_llama():
    """A two-layer Llama with grouped-query attention, as SmolLM2 and Mistral have it."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()


def tiny_gpt2():
    """A two-layer GPT-2, whose fused `c_attn` is a Conv1D."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    return GPT2LMHeadModel(config).eval()


def tiny(name, **values):
    """A two-layer model of the class `name` of transformers; weights are three times the usual, so
    that each part matters."""
    kind = re.match("GPT2|T5|DistilBert|Mamba|Llama|Bert|Roberta|ViT", name)[0]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "d_model": 32}
    sizes |= {"d_kv": 8, "d_ff": 48, "num_layers": 2, "hidden_dim": 48, "n_positions": 64}
    sizes |= {"num_attention_heads": 4, "vocab_size": 64, "pad_token_id": 0, "eos_token_id": 1}
    sizes |= {"image_size": 4, "patch_size": 2, "num_channels": 1}
    sizes |= {"num_heads": 8, "state_size": 8, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Config")(**sizes | values)
    model = getattr(transformers, name)(made).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def moved(model, scale=1.0, seed=0):
    """Stands for training: every trainable parameter gets seeded noise. Returns the model."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = scale * torch.randn(parameter.shape, generator=generator)
            parameter.data += noise.to(parameter.dtype)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def relative(found, expected):
    """The largest difference, as a share of the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def close(found, expected):
    """To fp32 rounding of some layers, as a share of the norm."""
    return (found - expected).norm() < 1e-4 * expected.norm()


def stand_in(put):
    """Tiny models and texts in place of the embedded ones. put: `setattr` or pytest's."""
    made = {"smollm2-135m": tiny_llama(), "smollm2-135m-fused": fused.fuse(tiny_llama())}
    loaded = {
        name: models.Loaded(model, WordTokenizer(), "s" * 64, {}) for name, model in made.items()
    }
    put(models, "load", lambda name, precision, device: loaded[name])
    put(models, "sha256", lambda name: loaded[name].sha256)
    put(machine, "default_device", lambda: "cpu")
    put(machine, "fast_precision", lambda: "fp32")
    put(data, "load_task", fake_task)
    put(data, "load_text", lambda part, source: "the news of the day " * 20)


class WordTokenizer:
    """One id per word, by the sum of its letters."""

    eos_token_id = pad_token_id = 0

    def __call__(self, text, return_tensors=None, verbose=True):
        ids = [1 + sum(map(ord, word)) % 63 for word in text.split()]
        return {"input_ids": torch.tensor([ids]) if return_tensors else ids}


def fake_task(task, part, rows, protocol=None, source=None):
    rows = rows or 10
    words = ["good", "bad", "so", "very", "film", "phone", "news"]
    classes = 3 if task == "sentiment140" else 2
    texts = [" ".join(words[(i * k) % 7] for k in range(1, 4 + i % 5)) for i in range(rows)]
    labels = [i % classes for i in range(rows)]
    pairs = [f"{part} {t}" for t in texts] if task == "mrpc" else [None] * rows
    return Dataset.from_dict({"text": texts, "pair": pairs, "label": labels})


def small(spec, **changes):
    """The same spec, cut to a few rows."""
    tasks = tuple(dataclasses.replace(t, train_rows=12, eval_rows=10, epochs=1) for t in spec.tasks)
    changes = {"text_tokens": 60, "text_window": 20, "batch": 4, **changes}
    return dataclasses.replace(spec, tasks=tasks, **changes)


def small_grid(table="table1", **chosen):
    chosen = {"ranks": [4], "seeds": [3], **chosen}
    return [small(spec) for spec in profiles.grid("embedded", table, **chosen)]
