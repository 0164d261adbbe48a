"""The benchmark: contenders are one function, rounds and bytes counted right, verdicts follow."""

import io
import itertools
import shutil
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
    """A projection called `proj`, 6 -> 10, in fp64."""
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
    assert contenders.kept_bytes(lambda: (x @ w).exp(), [w]) == 3 * (5 + 7) * 4  # and its output


# r numbers a token; PEFT's LoRA the input too; dense the input and C U R, of frozen C and R
KEPT = [("frozen", 0), ("CURLoRA", 12 * 4 * 4)]
KEPT += [("PEFT LoRA", 12 * 6 * 4 + 12 * 4 * 4), ("dense", 12 * 6 * 4 + 10 * 6 * 4)]


@pytest.mark.parametrize(("contender", "expected"), KEPT)
def test_what_contenders_keep_of_12_tokens(contender, expected):
    model = one("linear").float()
    made = contenders.build(contender, model, ("proj",), 4)
    subject = contenders.Subject("", None, nn.Module.__call__, ("proj",), 6, {"cpu": (3, 4)})
    step, kept = subject.step(made, "fp32", "cpu")
    assert kept == expected
    assert [g.shape for g in step()[1:]] == [p.shape for p in contenders.trained(made)]


def by_hand(monkeypatch, seconds_of):
    """`compared` by a timer that says what `seconds_of` does; returns who was timed, how often."""
    asked = []

    def once(step, times=1):
        asked.append((step, times))
        return seconds_of(step, len(asked))

    monkeypatch.setattr(benchmark, "once", once)
    return asked


def test_a_step_takes_the_mean_of_its_calls_and_no_call_is_left_out(monkeypatch):
    calls = []
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: float(len(calls) ** 2))
    assert benchmark.once(lambda: calls.append(1), 3) == 3.0  # three calls in nine seconds


def test_two_steps_in_turn_each_of_ours_beside_its_two_neighbours(monkeypatch):
    """By a timer that says 1, 4, 9, … seconds; a short step is repeated within its turn."""
    asked = by_hand(monkeypatch, lambda name, count: float(count**2))
    monkeypatch.setattr(benchmark, "SHORTEST", 40.0)
    times = benchmark.compared("a", "b", 0.0, (7, 9))
    turns = [*7 * [("b", 1 + 2), ("a", 1 + 10)], ("b", 1 + 2)]  # the second ones took 4 and 16
    assert asked == [("a", 1), ("a", 1), ("b", 1), ("b", 1), *turns]
    assert times.ours_seconds.tolist() == [n**2 for n in range(6, 20, 2)]
    assert times.other_seconds.tolist() == [n**2 + 1 for n in range(6, 20, 2)]  # of n - 1, n + 1
    assert times.index.tolist() == list(range(7)) and times.index.name == "round"
    assert len(benchmark.compared("a", "b", 60.0, (1, 4))) == 4  # too few for an interval
    assert (benchmark.compared("a", None, 0.0, (5, 9)).other_seconds == 1).all()


def test_rounds_end_when_the_ratio_is_within_one_per_cent(monkeypatch):
    """b takes 1.1 seconds in every fourth of its turns, which is narrow for nobody."""
    for odd, expected in ((1.0, 9), (1.1, 20)):
        by_hand(monkeypatch, lambda name, n, odd=odd: odd if name == "b" and n % 8 < 3 else 1.0)
        assert len(benchmark.compared("a", "b", 60.0, (9, 20))) == expected, odd


def test_the_interval_of_the_median_by_hand():
    """Of eight: fewer than two heads in eight tosses, twice (1 + 8) / 256, is below 10 %."""
    assert benchmark.interval(pd.Series(range(1, 9))) == (2, 4.5, 7)
    assert benchmark.interval(pd.Series([5, 4, 3, 1, 2])) == (1, 3, 5)  # twice 1 / 32
    assert benchmark.narrow(0.99, 1.0, 1.01) and not benchmark.narrow(0.98, 1.0, 1.0)


def made_up(subject, ours, other, seconds, its=1.0):
    """Times of one comparison, a round each, of a processor without matrix units."""
    where = {"device": "cpu", "precision": "fp32", "amx": False, "subject": subject}
    given = {"ours": ours, "other": other, "ours_seconds": seconds, "other_seconds": its}
    return pd.DataFrame({**given, **where})


# at most: the bound itself is met; narrow: the median decides; four rounds say nothing
TIMES = [([0.9, 0.8, 1.0, 0.7, 0.95], "met"), ([0.9, 0.8, 1.01, 0.7, 0.95], "undecided")]
TIMES += [([1.01, 1.2, 1.3, 1.1, 1.4], "missed"), ([1.0, 1.2, 1.3, 1.1, 1.4], "undecided")]
TIMES += [([0.995, 0.996, 0.997, 0.998, 1.001], "met"), ([0.9, 0.8, 0.9, 0.7], "undecided")]
TIMES += [([0.995, 0.999, 1.001, 1.001, 1.001], "missed")]


@pytest.mark.parametrize(("seconds", "expected"), TIMES)
def test_verdicts(seconds, expected):
    """Each beside LoRA's time in its own round; of five rounds the interval is the range."""
    n = range(1, 1 + len(seconds))
    ours = [i * s for i, s in zip(n, seconds, strict=True)]
    lora = made_up("Mistral q_proj", "CURLoRA-8", "PEFT LoRA-8", ours, list(n))
    other = made_up("Mistral q_proj", "CURLoRA-16", "dense-16", [0.5] * 5)
    found = benchmark.verdicts(pd.concat([other, lora]).sample(frac=1, random_state=0))
    assert sorted(found[["ours", "other", "bound", "verdict"]].values.tolist()) == [
        ["CURLoRA-16", "dense-16", 0.5, "met"],
        ["CURLoRA-8", "PEFT LoRA-8", 1.0, expected],
    ]


def test_seconds_have_no_other_and_a_runs_bound_depends_on_the_processor():
    each, spent = ["saving", "loading"] * 5, [0.5, 1.5] * 5
    life = made_up("Mistral-7B's adapter", each, benchmark.SECOND, spent)
    found = benchmark.verdicts(life).set_index("ours")
    assert found["median"].to_dict() == {"saving": 0.5, "loading": 1.5}
    assert found.verdict.to_dict() == {"saving": "met", "loading": "missed"}
    run = made_up("a run of Table 1", "training step", "its products", [2.0] * 5)
    for amx, precision in itertools.product((False, True), benchmark.PRECISIONS):
        (verdict,) = benchmark.verdicts(run.assign(amx=amx, precision=precision)).verdict
        assert verdict == ("met" if amx and precision == "bf16" else "missed")


def test_everything_is_measured(monkeypatch):
    monkeypatch.setattr(benchmark, "SHORTEST", 0.0)
    build, call, given = partial(contenders.projection, width=24), nn.Module.__call__, ("q_proj",)
    subject = contenders.Subject("Mistral q_proj", build, call, given, 24, {"cpu": (2, 3)})
    for precision in benchmark.PRECISIONS:
        steps, kept = subject.steps(precision, "cpu", (16,))
        assert kept.keys() == {"frozen", "dense-16", "CURLoRA-16", "PEFT LoRA-16"}
        assert all((n > 0) == (name != "frozen") for name, n in kept.items())
        times = benchmark.timed(subject.name, precision, steps, quick=True)
        assert times.ours.tolist() == 2 * ["CURLoRA-16"] and times.peft.notna().all()
        assert times.other.tolist() == ["PEFT LoRA-16", "dense-16"]
        assert (times[["ours_seconds", "other_seconds"]] > 0).all(axis=None)
        assert (times.device == "cpu").all() and (times.precision == precision).all()
        assert set(benchmark.verdicts(times).verdict) == {"undecided"}  # by one round
    life = benchmark.timed("Mistral-7B's adapter", "bf16", {"saving": lambda: None}, seconds=0.0)
    assert life.other_seconds.tolist() == [1.0] * benchmark.ROUNDS[0]  # seconds


def test_the_notebook_on_the_committed_times(committed, tmp_path):
    """Times measured here may say something else."""
    kept = committed / "benchmarks"
    for name in ("benchmarks.csv", "kept.csv"):
        shutil.copy(kept / name, tmp_path)
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
