"""The benchmark: contenders are one function, rounds and bytes counted right, verdicts follow."""

import copy
import io
import shutil
import types
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
def test_three_ways_to_write_curlora_are_one(kind):
    model = one(kind)
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, 10, dtype=torch.float64)
    results = []
    for name in ("CURLoRA", "dense", "factored"):
        made = contenders.build(name, model, ("proj",), 4)
        made.proj.alpha = 1.7
        (U,) = contenders.trained(made)
        y = made(x)
        results.append((y, *torch.autograd.grad(y, (x, U), upstream)))
    assert not torch.allclose(results[0][0], model(x))  # the adapter does something
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not any(adapter_layers(model))


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_pefts_lora_adds_x_a_b(kind):
    """With no factor beside: alpha is the rank."""
    model = one(kind)
    made = contenders.build("PEFT LoRA", model, ("proj",), 4)
    A, B = (parameter.double() for parameter in contenders.trained(made))  # (4, 6), (10, 4)
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(made(x), model(x) + x @ A.T @ B.T, rtol=1e-5, atol=1e-5)
    assert (B != 0).all()


def test_kept_bytes_by_hand():
    x, w = torch.randn(3, 5), torch.randn(5, 7, requires_grad=True)
    assert benchmark.kept_bytes(lambda: x @ w, [w]) == 3 * 5 * 4  # x, for the gradient of w
    assert benchmark.kept_bytes(lambda: (x @ w) + (x[1:] @ w).sum(), [w]) == 3 * 5 * 4  # once
    assert benchmark.kept_bytes(lambda: x @ w, [x, w]) == 0
    both = 3 * 5 * 4 + 3 * 7 * 4
    assert benchmark.kept_bytes(lambda: (x @ w).exp(), [w]) == both  # and its output


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
    _, sizes = benchmark.case(made, subject, "fp32", "cpu")
    trained = {"frozen": 0, "PEFT LoRA": 4 * (6 + 10)}.get(contender, 4 * 4)
    assert sizes == {"tokens": 12, "trained": trained, "kept_bytes": expected}


def apply(model, x):
    return model(x)


def test_rounds_are_interleaved_and_shuffled(monkeypatch):
    """By a timer that says 1, 2, 3, … seconds."""
    asked = []

    def timer(stmt, globals, num_threads):
        def blocked_autorange(min_run_time):
            asked.append(globals["step"])
            return types.SimpleNamespace(median=float(len(asked)))

        return types.SimpleNamespace(blocked_autorange=blocked_autorange)

    monkeypatch.setattr(benchmark, "Timer", timer)
    steps = {name: name for name in ("frozen", "a", "b")}
    times = benchmark.rounds(steps, 0.0, (7, 9))
    assert [len(spent) for spent in times.values()] == [7, 7, 7]
    in_order = [asked[i : i + 3] for i in range(0, 21, 3)]
    assert all(sorted(names) == ["a", "b", "frozen"] for names in in_order)
    assert len(set(map(tuple, in_order))) > 1
    assert all(asked[int(second) - 1] == name for name, s in times.items() for second in s)
    assert len(benchmark.rounds(steps, 60.0, (1, 4))["frozen"]) == 4


def made_up(*given):
    """Times: (subject, contender, rank, seconds of the rounds) each."""
    rows = [
        {"subject": subject, "contender": contender, "rank": rank, "round": i, "seconds": s}
        for subject, contender, rank, seconds in given
        for i, s in enumerate(seconds)
    ]
    where = {"device": "cpu", "precision": "fp32", "pass": "training"}
    return pd.DataFrame(rows).astype({"rank": "Int64"}).assign(**where)


def test_ratios_are_of_the_same_round_and_rank():
    times = made_up(
        ("a", "frozen", None, [1.0, 2.0]),
        ("a", "CURLoRA", 8, [1.5, 4.0]),
        ("a", "CURLoRA", 16, [2.5, 8.0]),
        ("a", "dense", 16, [5.0, 80.0]),
    )
    assert benchmark.ratios(times, "CURLoRA", "frozen").tolist() == [2.0, 3.0]
    shuffled = times.sample(frac=1, random_state=0)
    found = benchmark.ratios(shuffled, "CURLoRA", "dense")
    assert found.sort_index().tolist() == [0.5, 0.1]  # of rank 16 alone


def test_the_interval_of_the_median_by_hand():
    """Of eight: fewer than two heads in eight tosses, twice (1 + 8) / 256, is below 10 %."""
    for n, expected in ((8, (2, 7)), (5, (1, 5))):  # of five: twice 1 / 32
        times = made_up(("a", "frozen", None, [1.0] * n), ("a", "CURLoRA", 8, range(1, n + 1)))
        found = benchmark.summary(benchmark.ratios(times, "CURLoRA", "frozen"))
        found = found[["rounds", "median", "low", "high"]].values.tolist()
        assert found == [[n, (n + 1) / 2, *expected]]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([0.9, 0.8, 1.0, 0.7, 0.95], "met"),  # at most: the bound itself is met
        ([0.9, 0.8, 1.01, 0.7, 0.95], "undecided"),
        ([1.01, 1.2, 1.3, 1.1, 1.4], "missed"),
        ([1.0, 1.2, 1.3, 1.1, 1.4], "undecided"),
        ([0.9, 0.8, 0.9, 0.7], "undecided"),  # four rounds, whatever they say
    ],
)
def test_verdicts(seconds, expected, tmp_path):
    """From a CSV written by hand; five rounds: the interval is the range."""
    double = [2 * s for s in seconds]
    times = made_up(
        ("SmolLM2-135M", "frozen", None, [s / 1.05 for s in double]),  # 1.05, in each round
        ("SmolLM2-135M", "CURLoRA", 8, double),
        ("Mistral q_proj", "CURLoRA", 8, seconds),
        ("Mistral q_proj", "PEFT LoRA", 8, [1.0] * len(seconds)),
        ("Mistral q_proj", "dense", 8, [2.0] * len(seconds)),
    )
    found = benchmark.verdicts(times).set_index(["other", "subject"])
    assert found.loc[("PEFT LoRA", "Mistral q_proj"), "verdict"] == expected
    assert found.loc[("dense", "Mistral q_proj"), "verdict"] == expected
    assert len(found) == 3  # SmolLM2 has no LoRA here
    assert found.loc["frozen", "bound"].item() == 1.05


def tiny_subjects(llama):
    """A language model, a block and a projection, under the names that the targets are set for."""
    to = {"fp32": torch.float32, "bf16": torch.bfloat16}
    llama.requires_grad_(False)
    block = partial(contenders.block, "GPT-2 Large", n_embd=32, n_head=4)
    hidden, loss = contenders.last_hidden_state, contenders.next_token_loss
    projection = partial(contenders.projection, width=24)

    def whole(precision, _):
        return copy.deepcopy(llama).to(to[precision])

    return [
        contenders.Subject(name, build, call, targets, width, {"cpu": (2, 3)}, 0.0)
        for name, build, call, targets, width in (
            ("SmolLM2-135M", whole, loss, QKV, 32),
            ("GPT-2 Large block", block, hidden, ("c_attn",), 32),
            ("Mistral q_proj", projection, apply, ("q_proj",), 24),
        )
    ]


def test_everything_is_measured(monkeypatch, tmp_path, llama):
    monkeypatch.setattr(benchmark, "BLOCK", 0.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    times = benchmark.measure(tiny_subjects(llama), quick=True)
    assert torch.get_num_threads() == threads
    cells = ["subject", "precision", "contender"]
    assert len(times) == 3 * 2 * 6 == len(times.drop_duplicates(cells))
    assert (times.seconds > 0).all() and (times.tokens == 6).all() and (times["round"] == 0).all()
    assert set(times.contender) == set(contenders.BUILD) and times.peft.notna().all()
    verdicts = benchmark.verdicts(times)
    assert len(verdicts) == 2 * (1 + 3 + 1) and set(verdicts.verdict) == {"undecided"}
    benchmark.save(times, tmp_path)
    again = benchmark.load(tmp_path)
    pd.testing.assert_frame_equal(again, times, check_dtype=False, rtol=1e-5)


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
    assert sentences.count("**") == 2 * 4  # four conclusions
