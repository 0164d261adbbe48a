"""Shared fixtures: tiny seeded models, no network, and a cache folder of its own for each test."""

import io
import os
import subprocess
import tarfile
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", f"{tempfile.gettempdir()}/hypothesis")
os.environ.pop("CURLORA_RESULTS", None)

import pytest
import torch

from curlora_lite.replication import environment, fetch, machine, records, runs

environment.settle(f"{tempfile.gettempdir()}/curlora_lite-{os.getuid()}")

from made_records import two_seeds
from small_runs import stand_in, tiny_gpt2, tiny_llama


@pytest.fixture(scope="session")
def slow_cache(tmp_path_factory):
    """A cache of the session's own that has the embedded model and corpus where there are any."""
    folder = tmp_path_factory.mktemp("cache")
    for name in ("models", "files", "downloads"):
        if (fetch.cache_dir() / name).exists():
            (folder / name).symlink_to((fetch.cache_dir() / name).resolve())
    return folder


@pytest.fixture(autouse=True)
def own_place(request, monkeypatch, tmp_path):
    """A cache folder of its own, a processor of which nothing is known, one thread.

    Slow tests share a cache, and have the machine as it is.
    """
    if request.node.get_closest_marker("slow"):
        monkeypatch.setenv("CURLORA_CACHE", str(request.getfixturevalue("slow_cache")))
        yield
        return
    monkeypatch.setenv("CURLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "processor", dict)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def checkout_as_it_was(request):
    """No test writes into the checkout's cache; none but a slow one into its results."""
    slow = any(item.get_closest_marker("slow") for item in request.session.items)
    places = [records.ROOT / name for name in ("cache", "results")[: 1 if slow else 2]]
    before = {path for place in places for path in place.rglob("*")}
    yield
    assert {path for place in places for path in place.rglob("*")} == before


@pytest.fixture(scope="session")
def committed(tmp_path_factory):
    """The folder `results` as it is committed, whatever has been computed here since."""
    archive = ["git", f"--git-dir={records.ROOT}/.git", "archive", "HEAD", "results"]
    kept = subprocess.run(archive, capture_output=True)
    if kept.returncode:
        pytest.skip("not a git checkout: which results are the committed ones is not known")
    folder = tmp_path_factory.mktemp("committed")
    with tarfile.open(fileobj=io.BytesIO(kept.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder / "results"


@pytest.fixture
def frame():
    """The tidy frame of made-up runs, see `made_records`."""
    return runs.of_grid(two_seeds())


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
    """Tiny models and texts in place of the embedded ones; its own results folder."""
    stand_in(monkeypatch.setattr)
    return tmp_path / "results"
