"""The benchmark: contenders are one function, rounds and bytes counted right, verdicts follow."""

import io
import shutil
import time
from functools import partial

import nbformat
import pandas as pd
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from curlora_lite import adapter_layers
from curlora_lite.replication import benchmark, conclusions, contenders, notebooks

QKV = ("q_proj", "k_proj", "v_proj")


def one(kind):
    """One projection called `proj`, 6 -> 10, in fp64."""
    torch.manual_seed(0)
    proj = Conv1D(10, 6) if kind == "conv1d" else nn.Linear(6, 10, bias=kind == "linear")
    nn.init.normal_(proj.weight)
    model = nn.Sequential()
    model.add_module("proj", proj)
    return model.double().requires_grad_(False)


@pytest.mark.parametrize("kind", ["linear", "no bias", "conv1d"])
def test_two_ways_to_write_curlora_are_one(kind):
    model = one(kind)
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, 10, dtype=torch.float64)
    results = []
    for name in ("CURLoRA", "dense"):
        made = contenders.build(name, model, ("proj",), 4)
        made.proj.alpha = 1.7
        (U,) = contenders.trained(made)
        y = made(x)
        results.append((y, *torch.autograd.grad(y, (x, U), upstream)))
    assert not torch.allclose(results[0][0], model(x))  # the adapter does something
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not any(adapter_layers(model))


def test_kept_bytes_by_hand():
    x, w = torch.randn(3, 5), torch.randn(5, 7, requires_grad=True)
    assert contenders.kept_bytes(lambda: x @ w, [w]) == 3 * 5 * 4  # x, for the gradient of w
    assert contenders.kept_bytes(lambda: (x @ w) + (x[1:] @ w).sum(), [w]) == 3 * 5 * 4  # once
    assert contenders.kept_bytes(lambda: x @ w, [x, w]) == 0
    both = 3 * 5 * 4 + 3 * 7 * 4
    assert contenders.kept_bytes(lambda: (x @ w).exp(), [w]) == both  # and its output


@pytest.mark.parametrize(
    ("contender", "expected"),
    [
        ("frozen", 0),
        ("CURLoRA", 12 * 4 * 4),  # r numbers a token
        ("PEFT LoRA", 12 * 6 * 4 + 12 * 4 * 4),  # the input, and r numbers
        ("dense", 12 * 6 * 4 + 10 * 6 * 4),  # the input and C U R; C and R are frozen
    ],
)
def test_what_contenders_keep_of_12_tokens(contender, expected):
    model = one("linear").float()
    made = contenders.build(contender, model, ("proj",), 4)
    subject = contenders.Subject("", None, apply, ("proj",), 6, {"cpu": (3, 4)}, 1.0)
    step, kept = subject.step(made, "fp32", "cpu")
    assert kept == expected
    assert [g.shape for g in step()[1:]] == [p.shape for p in contenders.trained(made)]


def apply(model, x):
    return model(x)


def by_hand(monkeypatch, seconds_of):
    """Rounds by a timer that says what `seconds_of` does; returns who was asked, in order."""
    asked = []

    def once(step, times=1):
        asked.append(step)
        return seconds_of(step, len(asked))

    monkeypatch.setattr(benchmark, "once", once)
    return asked


def test_a_step_takes_the_mean_of_its_calls_and_no_call_is_left_out():
    calls = []

    def step():
        calls.append(1)
        time.sleep(0.01 * len(calls))

    assert 0.02 <= benchmark.once(step, 3) < 0.04 and len(calls) == 3  # 10, 20 and 30 ms


def test_rounds_are_interleaved_and_shuffled(monkeypatch):
    """By a timer that says 1, 2, 3, … seconds, whose ratios are never narrow."""
    asked = by_hand(monkeypatch, lambda name, count: float(count))
    steps = {name: name for name in ("frozen", "a", "b")}
    times = benchmark.rounds(steps, [("a", "b", 1.0)], 0.0, (7, 9))
    assert [len(spent) for spent in times.values()] == [7, 7, 7]
    in_order = [asked[i : i + 3] for i in range(6, 27, 3)]  # after two of each to warm up
    assert all(sorted(names) == ["a", "b", "frozen"] for names in in_order)
    assert len(set(map(tuple, in_order))) > 1
    assert all(abs(names.index("a") - names.index("b")) == 1 for names in in_order)  # compared
    assert all(asked[int(second) - 1] == name for name, s in times.items() for second in s)
    assert len(benchmark.rounds(steps, [("a", "b", 1.0)], 60.0, (1, 9))["frozen"]) == 9


def test_rounds_end_when_every_ratio_is_within_one_per_cent(monkeypatch):
    """b takes 1.04 seconds in every other round, which is narrow for nobody; a does not."""
    by_hand(monkeypatch, lambda name, count: 1.04 if name == "b" and count % 6 < 3 else 1.0)
    steps = {name: name for name in ("frozen", "a", "b")}
    for ours, expected in (("a", 9), ("b", 20)):
        times = benchmark.rounds(steps, [(ours, "frozen", 1.0)], 60.0, (9, 20))
        assert len(times["a"]) == expected, ours


def test_the_interval_of_the_median_by_hand():
    """Of eight: fewer than two heads in eight tosses, twice (1 + 8) / 256, is below 10 %."""
    assert benchmark.interval(pd.Series(range(1, 9))) == (2, 4.5, 7)
    assert benchmark.interval(pd.Series([5, 4, 3, 1, 2])) == (1, 3, 5)  # twice 1 / 32
    assert benchmark.narrow(0.99, 1.0, 1.01) and not benchmark.narrow(0.98, 1.0, 1.0)


def made_up(subject="Mistral q_proj", **given):
    """Times: contender -> seconds of the rounds, these out of order."""
    rows = [
        {"contender": contender, "round": i, "seconds": s}
        for contender, seconds in given.items()
        for i, s in enumerate(seconds)
    ]
    where = {"device": "cpu", "precision": "fp32", "amx": False, "subject": subject}
    return pd.DataFrame(rows).assign(**where).sample(frac=1, random_state=0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([0.9, 0.8, 1.0, 0.7, 0.95], "met"),  # at most: the bound itself is met
        ([0.9, 0.8, 1.01, 0.7, 0.95], "undecided"),
        ([1.01, 1.2, 1.3, 1.1, 1.4], "missed"),
        ([1.0, 1.2, 1.3, 1.1, 1.4], "undecided"),
        ([0.995, 0.996, 0.997, 0.998, 1.001], "met"),  # narrow: the median decides
        ([0.995, 0.999, 1.001, 1.001, 1.001], "missed"),
        ([0.9, 0.8, 0.9, 0.7], "undecided"),  # four rounds, whatever they say
    ],
)
def test_verdicts(seconds, expected):
    """Each beside LoRA of its own rank in its own round; five rounds: the interval is the range."""
    n = range(1, len(seconds) + 1)
    given = {
        "CURLoRA-8": [i * s for i, s in zip(n, seconds, strict=True)],
        "PEFT LoRA-8": n,
        "PEFT LoRA-16": [0.001 for _ in n],
        "dense-16": [0.001 for _ in n],
    }
    found = benchmark.verdicts(made_up(**given))
    assert found[["ours", "other", "bound", "verdict"]].values.tolist() == [
        ["CURLoRA-8", "PEFT LoRA-8", 1.0, expected]
    ]


def test_seconds_have_no_other_and_a_runs_bound_depends_on_the_processor():
    life = made_up("Mistral-7B's adapter", saving=[0.5] * 5, loading=[1.5] * 5)
    found = benchmark.verdicts(life).set_index("ours")
    assert found["median"].to_dict() == {"saving": 0.5, "loading": 1.5}
    assert found.verdict.to_dict() == {"saving": "met", "loading": "missed"}
    given = {"training step": [2.0] * 5, "its products": [1.0] * 5}
    run = made_up("a run of Table 1", **given)
    for amx, verdict in ((False, "missed"), (True, "met")):
        assert benchmark.verdicts(run.assign(amx=amx)).verdict.tolist() == [verdict]


def test_everything_is_measured(monkeypatch):
    monkeypatch.setattr(benchmark, "SHORTEST", 0.0)
    build, given = partial(contenders.projection, width=24), ("q_proj",)
    subject = contenders.Subject("Mistral q_proj", build, apply, given, 24, {"cpu": (2, 3)}, 0.0)
    times = pd.concat(
        benchmark.timed(subject.name, name, *subject.steps(name, "cpu", (16,)), quick=True)
        for name in benchmark.PRECISIONS
    )
    assert len(times) == 2 * 4 and (times.seconds > 0).all() and (times["round"] == 0).all()
    assert ((times.kept_bytes > 0) == (times.contender != "frozen")).all()
    assert times.peft.notna().all() and (times.device == "cpu").all()
    verdicts = benchmark.verdicts(times)
    assert verdicts.other.tolist() == 2 * ["PEFT LoRA-16", "dense-16"]
    assert set(verdicts.verdict) == {"undecided"}  # one round decides nothing


def test_the_notebook_on_the_committed_times(committed, tmp_path):
    """Times measured here may say something else."""
    kept = committed / "benchmarks"
    shutil.copy(kept / "benchmarks.csv", tmp_path)
    target = tmp_path / "notebooks" / "benchmark.ipynb"
    given = {"measure": False, "folder": str(tmp_path)}
    assert notebooks.execute("benchmark", given, target=target)
    assert conclusions.CONTRADICTED not in target.read_text()
    table = (tmp_path / "tables" / "targets.md").read_text()
    assert table == (kept / "tables" / "targets.md").read_text()
    assert table in (kept / "README.md").read_text()
    shown = pd.read_csv(io.StringIO((tmp_path / "tables" / "targets.csv").read_text()))
    assert len(shown) <= 10 and (tmp_path / "figures" / "training.pdf").stat().st_size
    sentences = str([cell.get("outputs") for cell in nbformat.read(target, 4).cells])
    assert sentences.count("**") == 2 * 6  # six conclusions
