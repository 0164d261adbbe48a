"""Shared fixtures: tiny seeded models, and no network for any test."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from small_runs import stand_in, tiny_gpt2, tiny_llama


@pytest.fixture
def llama():
    """A two-layer Llama, see `small_runs`."""
    return tiny_llama()


@pytest.fixture
def gpt2():
    """A two-layer GPT-2, see `small_runs`."""
    return tiny_gpt2()


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Tiny models and texts in place of the embedded ones; its own cache and results folders."""
    monkeypatch.setenv("CURLORA_CACHE", str(tmp_path / "cache"))
    stand_in(monkeypatch.setattr)
    return tmp_path / "results"
