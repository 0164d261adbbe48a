"""The benchmark: contenders compute the same, bytes are counted right, tables follow from rows."""

import copy
import json
from typing import ClassVar

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from curlora_lite import adapter_layers
from curlora_lite.replication import baselines, figures, records
from curlora_lite.replication.benchmark import contenders, measure, stages, subjects, tables

QKV = ("q_proj", "k_proj", "v_proj")


class One(nn.Module):
    """One projection called `proj`."""

    def __init__(self, proj):
        super().__init__()
        self.proj = proj

    def forward(self, x):
        return self.proj(x)


@pytest.mark.parametrize("kind", ["linear", "no bias", "conv1d"])
def test_three_ways_to_write_curlora_are_one(kind):
    torch.manual_seed(0)
    proj = Conv1D(10, 6) if kind == "conv1d" else nn.Linear(6, 10, bias=kind == "linear")
    nn.init.normal_(proj.weight)
    model = One(proj).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, 10, dtype=torch.float64)
    results = []
    for name in ("curlora", "dense", "factored"):
        made = contenders.build(name, model, ("proj",), 4)
        made.proj.alpha = 1.7
        contenders.start(made, torch.Generator().manual_seed(1))
        (U,) = contenders.trained(made)
        y = made(x)
        results.append((y, *torch.autograd.grad(y, (x, U), upstream)))
    assert not torch.allclose(results[0][0], proj(x))  # the adapter does something
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert type(model.proj) is type(proj) and not any(adapter_layers(model))


def test_copies_share_what_is_frozen(llama):
    made = contenders.build("curlora", llama, QKV, 4)
    shared = {id(p) for p in llama.parameters()}
    assert {n.rsplit(".", 1)[-1] for n, p in made.named_parameters() if id(p) not in shared} == {
        "U"
    }


def test_vera_at_a_comparable_count(llama, gpt2):
    """Llama: outputs of 32, 16 and 16, 64 in all, three projections; GPT-2: one of 96."""
    assert baselines.vera_rank(llama, QKV, 8) == round(8**2 - 64 / 3)
    assert baselines.vera_rank(gpt2, ("c_attn",), 10) == 4
    assert baselines.vera_rank(gpt2, ("c_attn",), 8) == 1  # 64 is less than VeRA's 96
    made = contenders.build("vera", gpt2, ("c_attn",), 4)
    assert sum(p.numel() for p in contenders.trained(made)) == 2 * 10**2


def test_kept_bytes_by_hand():
    x, w = torch.randn(3, 5), torch.randn(5, 7, requires_grad=True)
    assert measure.kept_bytes(lambda: x @ w, [w]) == 3 * 5 * 4  # x, for the gradient of w
    assert measure.kept_bytes(lambda: (x @ w) + (x[1:] @ w).sum(), [w]) == 3 * 5 * 4  # once
    assert measure.kept_bytes(lambda: x @ w, [x, w]) == 0
    assert measure.kept_bytes(lambda: (x @ w).exp(), [w]) == 3 * 5 * 4 + 3 * 7 * 4  # and its output
    v = torch.randn(3, 5, requires_grad=True)
    assert measure.kept_bytes(lambda: v @ w.detach(), [w]) == 0  # a frozen projection keeps nothing


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("limit", 0),
        ("curlora", 12 * 4 * 4),  # r numbers a token
        ("lora", 12 * 6 * 4 + 12 * 4 * 4),  # the input, and r numbers
        ("dense", 12 * 6 * 4 + 10 * 6 * 4),  # the input and C U R; C and R are frozen
    ],
)
def test_what_contenders_keep_of_12_tokens(kind, expected):
    model = One(nn.Linear(6, 10)).requires_grad_(False)
    made = contenders.build(kind, model, ("proj",), 4)
    case = measure.Case(made, lambda m, x: m(x), (3, 4, 6), "fp32", "cpu")
    assert case.kept_bytes() == expected


def test_what_adamw_holds(llama):
    """Two moments a number and one step count a parameter: six layers of U (4, 4)."""
    made = contenders.build("curlora", llama, QKV, 4)
    assert contenders.optimiser_bytes(made) == 6 * (2 * 16 * 4 + 4)
    assert contenders.optimiser_bytes(contenders.build("limit", llama, QKV, None)) == 0


def test_what_is_on_disk(llama, tmp_path):
    """U, rows, columns; and LoRA's A, B of every projection. Names and descriptions come on top."""
    sizes = {}
    for kind in ("curlora", "lora", "dense"):
        made = contenders.build(kind, llama, QKV, 4)
        sizes[kind] = contenders.disk_bytes(kind, made, tmp_path / kind)
    numbers = {"curlora": 6 * (16 + 8), "lora": 2 * 4 * (3 * 32 + 64)}
    assert sizes.pop("dense") is None
    for kind, bytes_ in sizes.items():
        files = (tmp_path / kind).glob("*.safetensors")
        assert 4 * numbers[kind] < sum(file.stat().st_size for file in files) < bytes_


class FakeTimer:
    """Says 1, 2, 3, … seconds, and which step it was asked for."""

    asked: ClassVar = []

    def __init__(self, stmt, globals, num_threads):
        self.step = globals["step"]

    def blocked_autorange(self, min_run_time):
        self.asked.append(self.step)
        return type("Measurement", (), {"median": float(len(self.asked))})


def test_rounds_are_interleaved_and_shuffled(monkeypatch):
    monkeypatch.setattr(measure, "Timer", FakeTimer)
    monkeypatch.setattr(FakeTimer, "asked", [])
    cases = {(name, None): type("Case", (), {"training": name}) for name in ("limit", "a", "b")}
    times = measure._rounds(cases, "training", 0.0, (7, 9))
    asked = FakeTimer.asked
    assert [len(spent) for spent in times.values()] == [7, 7, 7]
    rounds = [asked[i : i + 3] for i in range(0, 21, 3)]
    assert (
        all(sorted(r) == ["a", "b", "limit"] for r in rounds) and len(set(map(tuple, rounds))) > 1
    )
    assert all(asked[int(second) - 1] == name for (name, _), s in times.items() for second in s)
    assert len(measure._rounds(cases, "training", 60.0, (1, 4))["limit", None]) == 4


def row(contender, rank, seconds, subject="model", **changes):
    """Of three rounds, the first two of them once more."""
    seconds, limit = seconds + seconds[:2], [1.0, 2.0, 4.0, 1.0, 2.0]
    made = {
        "subject": subject, "dtype": "fp32", "device": "cpu", "tokens": 8, "pass": "training",
        "contender": contender, "rank": rank, "rounds": 5, "median_seconds": sorted(seconds)[2],
        "seconds": seconds, "ratios": [a / b for a, b in zip(seconds, limit, strict=True)],
    }  # fmt: skip
    return {**made, **changes}


def size(contender, rank, kept, subject="model", **changes):
    made = {
        "subject": subject, "dtype": "fp32", "device": "cpu", "tokens": 8, "contender": contender,
        "rank": rank, "projections": 3, "trained": 1234, "optimiser_bytes": 9872,
        "disk_bytes": 5000, "add_seconds": [0.3, 0.1, 0.2], "read_seconds": [0.1, 0.1, 0.4],
        "kept_bytes": kept, "peak_bytes": None,
    }  # fmt: skip
    return {**made, **changes}


def made_up():
    """Ours is 1.04, 1.02 and 1.50 times the limit; half of LoRA, of it and twice it."""
    provenance = {"device": "a CPU", "threads": 2, "commit": "c" * 40}
    return {
        "rows": [
            row("limit", None, [1.0, 2.0, 4.0]),
            row("curlora", 8, [1.04, 2.04, 6.0]),
            row("lora", 8, [2.08, 2.04, 3.0]),
            row("curlora", 16, [1.06, 2.12, 4.24]),
            row("lora", 16, [1.0, 2.0, 4.0]),
            row("vera", 77, [1.0, 3.0, 6.0]),
            row("limit", None, [1.0, 2.0, 4.0], "projection"),
            row("curlora", 8, [1.0, 2.0, 4.0], "projection"),
            row("dense", 8, [2.2, 5.0, 10.0], "projection"),
            row("limit", None, [0.5, 1.0, 2.0], **{"pass": "forward"}),
        ],
        "sizes": [
            size("limit", None, 800),
            size("curlora", 8, 880),
            size("lora", 8, 16000, disk_bytes=77777),
            size("limit", None, 100, "mistral"),
            size("curlora", 16, 100, "mistral"),
        ],
        "provenance": {
            "cpu": {**provenance, "packages": {"torch": "2", "peft": "0"}},
        },
    }


def made_up_stages():
    seconds = {"before": [2.0, 3.0, 4.0], "after": [1.0, 1.0, 1.0]}
    stage = {"stage": "training", "before": "slow", "after": "fast", "seconds": seconds}
    # 2 x 100 x 10 x 50 operations in a millisecond: 0.1 GFLOP/s
    product = {"shape": (100, 10, 50), "precision": "bf16", "seconds": [0.001]}
    return {"stages": [stage], "product": product}


def test_stages_and_their_bound_by_hand():
    """1,000 tokens at 4 operations a weight, and 3,000 read once in three epochs at 2 each."""
    spec = {"model": {"name": "smollm2-135m"}, "table": "table1", "tasks": [{"epochs": 3}]}
    runs = [
        records.RunRecord(
            {**spec, "method": method},
            stages=[{"training": {"tokens": tokens, "seconds": 60.0}, "scoring_seconds": 30.0}],
            seconds=120.0,
        )
        for method, tokens in (("curlora", 1000), ("head-only", 3000))
    ]
    assert stages.operations(runs) == stages.WEIGHTS * (1000 * 4 + 1000 * 2)
    table = stages.table(made_up_stages(), runs)
    assert table.rows == (("training", "slow: 3.00 s", "fast: 1.00 s", "3.00 (2.00 to 4.00)"),)
    assert "at 0 GFLOP/s in bf16" in table.notes[1]
    assert "2.0 were taken. Scoring took 1.0, perplexity and loading 1.0," in table.notes[1]
    assert len(stages.table(made_up_stages(), []).notes) == 1


def test_the_weights_that_smollm2_multiplies():
    """134,515,008 in all, less the embedding and the 61 norms of 576."""
    assert stages.WEIGHTS == 134_515_008 - 49_152 * 576 - 61 * 576


def test_verdicts():
    """Five rounds: the interval is the range."""
    found = {(v["target"], v["rank"]): v for v in tables.verdicts(made_up())}
    values = {key: (round(v["value"], 6), v["met"]) for key, v in found.items()}
    assert values == {
        ("limit", 8): (1.04, None),  # 1.02 to 1.50
        ("limit", 16): (1.06, False),
        ("lora", 8): (1.0, None),  # 0.5 to 2
        ("lora", 16): (1.06, False),
        ("dense", 8): (round(1 / 2.5, 6), True),  # of 1/2.2, 1/2.5, 1/2.5, 1/2.2, 1/2.5
    }
    text = tables.targets(made_up()).markdown()
    assert "| 1.040 (1.020 to 1.500) undecided | 1.060 (1.060 to 1.060) missed |" in text
    assert "1 met, 2 undecided, 2 missed." in text
    short = [
        {**r, "seconds": r["seconds"][:4], "ratios": r["ratios"][:4]} for r in made_up()["rows"]
    ]
    assert {v["met"] for v in tables.verdicts({"rows": short})} == {None}


def test_interval_of_the_median_by_hand():
    """Nine values: fewer than two heads in nine tosses, twice (1 + 9) / 512, is below 5 %."""
    assert tables.interval([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (2, 8)
    assert tables.interval([1, 2, 3, 4, 5, 6]) == (1, 6)  # twice 1 / 64
    assert tables.interval([3, 1, 2]) == (1, 3)  # cannot be had from three
    assert tables.interval([4.0]) == (4.0, 4.0)


def test_middle_and_half_the_quartiles():
    assert tables.middle([5, 1, 4, 2, 3]) == (3.0, 1.0)
    assert tables.middle([1.5]) == (1.5, 0.0)


def test_tables_from_rows():
    made = tables.tables(made_up())
    assert set(made) == {"targets", "training", "forward", "kept", "sizes"}  # no GPU, no peak
    steps = {line[1]: line[2:] for line in made["training"].rows}
    assert steps["frozen model (limit)"] == ("2000.0 ms", "2000.0 ms")
    assert steps["CURLoRA (ours), rank 8"] == ("1.04 ± 0.01", "1.00 ± 0.00")
    assert steps["PEFT VeRA"] == ("1.50 ± 0.25", "–")
    assert steps["CURLoRA, dense Eq. 8, rank 8"] == ("–", "2.50 ± 0.15")
    kept = {line[1]: line[2] for line in made["kept"].rows}
    assert kept["frozen model (limit)"] == "100" and kept["PEFT LoRA, rank 8"] == "+1,900"
    assert kept["CURLoRA (ours), rank 8"] == "+10"
    sizes = made["sizes"].rows
    assert sizes[1] == (
        "SmolLM2-135M (3)", "PEFT LoRA, rank 8", "1,234", "9,872", "77,777", "0.200", "2.0",
    )  # fmt: skip
    assert any("96 projections" in n and "in 6.4 s" in n for n in made["sizes"].notes)


def test_peak_memory_where_there_is_a_gpu():
    result = made_up()
    for entry in copy.deepcopy(result["sizes"]):
        result["sizes"].append({**entry, "device": "cuda", "peak_bytes": 3 * 2**20})
    rows = tables.tables(result)["peak"].rows
    assert {line[0] for line in rows} == {"cuda"} and rows[0][2] == "3.0"


@pytest.fixture
def small_bench(monkeypatch, tmp_path, llama):
    """A language model, a block and a projection, all tiny, and a results folder of its own."""
    llama.requires_grad_(False)
    build = lambda precision, _: copy.deepcopy(llama).to(measure.models.DTYPES[precision])  # noqa: E731
    tiny = {"n_embd": 32, "n_head": 4}
    projection = subjects.Projection("q_proj", 20, 24).requires_grad_(False)
    shape = {"cpu": (2, 3)}
    chosen = [
        subjects.Subject("model", "tiny", build, subjects.call_language_model, QKV, shape, 1.0),
        subjects.Subject(
            "gpt2", "a block",
            lambda *at: subjects.block("GPT-2 Large", *at, **tiny),
            subjects.call_block, ("c_attn",), shape, 1.0,
        ),
        subjects.Subject(
            "projection", "one",
            lambda precision, _: copy.deepcopy(projection).to(measure.models.DTYPES[precision]),
            lambda model, x: model(x), ("q_proj",), shape, 1.0, thorough=True,
        ),
    ]  # fmt: skip
    monkeypatch.setattr(subjects, "subjects", lambda: chosen)
    monkeypatch.setattr(measure.models, "prepare", lambda name: None)
    monkeypatch.setattr(stages, "measure", lambda quick: made_up_stages())
    monkeypatch.setattr(measure, "BLOCK", 0.0)
    monkeypatch.setattr(measure, "devices", lambda: ["cpu"])
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setenv("CURLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "results" / "benchmarks-quick"


def test_from_the_command_line(small_bench, capsys, monkeypatch):
    assert cli.main(["bench", "--quick"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Timing 6 contenders on each of 3 subjects (tiny, a block, one)")
    result = json.loads((small_bench / "benchmarks.json").read_text())
    assert len(result["rows"]) == 3 * 2 * 2 * 6 and len(result["sizes"]) == 3 * 2 * 6
    for entry in result["rows"]:
        assert entry["rounds"] == len(entry["seconds"]) == len(entry["ratios"]) == 1
        assert entry["tokens"] == 6 and min(entry["seconds"]) > 0
        assert entry["contender"] != "limit" or entry["ratios"] == [1.0]
    assert result["provenance"]["cpu"]["packages"]["peft"]
    made = {path.name for path in small_bench.rglob("*") if path.is_file()}
    assert {"training_cpu.png", "kept_cpu.pdf", "targets.md", "sizes.tex", "kept.csv"} <= made

    monkeypatch.setattr(figures, "save", lambda figure, stem, source: None)  # seen above
    table = (small_bench / "tables" / "training.md").read_text()
    (small_bench / "tables" / "training.md").unlink()
    marks = "<!-- benchmarks-quick/training -->{}<!-- /benchmarks-quick/training -->"
    (small_bench / "README.md").write_text(marks.format(""))
    assert cli.main(["bench", "--quick", "--tables"]) == 0  # from the JSON, nothing measured
    assert (small_bench / "README.md").read_text() == marks.format("\n" + table)


def test_tables_without_a_benchmark(small_bench, capsys):
    assert cli.main(["bench", "--quick", "--tables"]) == 1
    assert "no whole benchmark" in capsys.readouterr().err
