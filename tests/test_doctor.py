"""`make doctor`: what it says of a machine made up here."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from curlora_lite.replication import doctor, hub, memory, models, profiles

ROOT = Path(__file__).parent.parent


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight gigabytes, no GPU, an empty cache, a hub that cannot be reached, a token."""
    monkeypatch.setenv("CURLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CURLORA_MIRROR", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(models, "default_device", lambda: "cpu")
    monkeypatch.setattr(memory, "installed", lambda: 8e9)
    monkeypatch.setattr(doctor, "hub_status", lambda: "not reachable")


def line_of(text, name):
    return next(line for line in text.splitlines() if line.startswith(name + " "))


def test_what_can_run_and_why_not(machine):
    text = doctor.report()
    assert line_of(text, "embedded").endswith("yes")
    assert "neither the mirror nor the cache has nyu-mll/glue" in line_of(text, "smollm2")
    assert "needs about 39 GB, the machine has 8 GB" in line_of(text, "mistral-7b")
    assert "the cache lacks nyu-mll/glue" in line_of(text, "mirror")
    assert line_of(text, "token").endswith("there is one")
    assert "hf_secret" not in text


def test_the_hub_is_asked_whatever_the_profile():
    shown = subprocess.run(["make", "-n", "doctor"], capture_output=True, text=True, cwd=ROOT)
    assert "curlora_lite doctor" in shown.stdout and "HF_HUB_OFFLINE" not in shown.stdout


def committed(profile, spec):
    path = f"HEAD:results/{profile}/runs/{spec.key}.json"
    shown = subprocess.run(["git", "-C", str(ROOT), "show", path], capture_output=True)
    if shown.returncode:
        pytest.skip(f"no {path} in a commit")
    return json.loads(shown.stdout)


@pytest.mark.parametrize("profile", ["embedded", "smollm2"])
def test_estimates_are_near_what_was_measured(profile):
    """Of the committed records, computed on two cores, two at a time: within a factor of three."""
    tables = profiles.PROFILES[profile].tables
    specs = [s for table in tables for s in profiles.grid(profile, table, fast="bf16")]
    seconds = sum(committed(profile, spec)["seconds"] for spec in specs) / 2
    estimate = sum(spec.cost() for spec in specs) * doctor.SECONDS["cpu"]
    assert seconds / 3 < estimate < 3 * seconds


def test_a_complete_mirror_is_enough(machine, monkeypatch, tmp_path):
    for repository in hub.DATASETS:
        for pattern in repository.files:
            path = tmp_path / repository.name / pattern.replace("*", "0")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    monkeypatch.setenv("CURLORA_MIRROR", str(tmp_path))
    profile = profiles.PROFILES["smollm2"]
    assert doctor.obstacles(profile, profiles.grid("smollm2", "table1"), "cpu") == []
    # with a mirror set, what it lacks is not fetched, however near the hub is
    path.unlink()
    monkeypatch.setattr(doctor, "hub_status", lambda: "reachable")
    (reason,) = doctor.obstacles(profile, profiles.grid("smollm2", "table1"), "cpu")
    assert reason == f"the mirror does not have {repository.name}, and is asked alone"


def test_a_disk_too_small(machine, monkeypatch):
    usage = dataclasses.make_dataclass("Usage", ["free"])(1e9)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(doctor, "hub_status", lambda: "reachable")
    specs = profiles.grid("gpt2-large", "table2", precision="bf16", checkpointing=True)
    reasons = doctor.obstacles(profiles.PROFILES["gpt2-large"], specs, "cpu")
    assert reasons == ["its files do not fit on the disk (1 GB free)"]
