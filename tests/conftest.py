"""Shared fixtures: tiny seeded models, and no network for any test."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from small_runs import WordTokenizer, fake_task
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from curlora_lite import data, models


@pytest.fixture
def llama():
    """A two-layer Llama with grouped-query attention, as SmolLM2 and Mistral have it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def gpt2():
    """A two-layer GPT-2, whose fused `c_attn` is a Conv1D."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def tiny(monkeypatch, tmp_path, llama, gpt2):
    """Tiny models and texts in place of the embedded ones; its own cache and results folders."""
    monkeypatch.setenv("CURLORA_CACHE", str(tmp_path / "cache"))
    loaded = {
        "smollm2-135m": models.Loaded("smollm2-135m", llama, WordTokenizer(), "a" * 64, {}),
        "small-gpt2": models.Loaded("small-gpt2", gpt2, WordTokenizer(), "b" * 64, {}),
    }
    monkeypatch.setattr(models, "load", lambda name, precision, device: loaded[name])
    monkeypatch.setattr(models, "default_device", lambda: "cpu")
    monkeypatch.setattr(data, "load_task", fake_task)
    monkeypatch.setattr(data, "load_text", lambda part, source: "the news of the day " * 20)
    return tmp_path / "results"
