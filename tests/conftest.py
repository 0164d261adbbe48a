"""Shared fixtures: tiny seeded models, no network, and a cache folder of its own for each test."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", f"{tempfile.gettempdir()}/hypothesis")

import pytest
import torch
from small_runs import stand_in, tiny_gpt2, tiny_llama

from curlora_lite.replication import records


@pytest.fixture(autouse=True)
def own_place(request, monkeypatch, tmp_path):
    """A cache folder of its own and one thread, which is faster for what is tiny.

    Slow tests have the real cache, with the embedded model: `CURLORA_CACHE`, or the checkout's.
    """
    if request.node.get_closest_marker("slow"):
        yield
        return
    monkeypatch.setenv("CURLORA_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def checkout_as_it_was(request):
    """No test but a slow one writes into the checkout's cache or results."""
    before = _written()
    yield
    if not any(item.get_closest_marker("slow") for item in request.session.items):
        assert _written() == before


def _written():
    return {path for name in ("cache", "results") for path in (records.ROOT / name).rglob("*")}


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
