"""The stored run: every number of tiny runs of §6.4, kept in `stored_run.json`.

It guards `sequence.VERSION`, under which records are reused: whoever changes a number has to raise
it. Then, or after a change here, `python tests/test_stored_run.py` writes the file anew.
"""

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from small_runs import WordTokenizer, tiny_gpt2, tiny_llama

from curlora_lite.replication import corpus, fused, machine, models, sequence
from curlora_lite.replication.protocol import Protocol
from curlora_lite.replication.specs import ModelSpec, RunSpec, TaskSpec

FILE = Path(__file__).parent / "stored_run.json"
RELATIVE = 1e-5  # fp32 on other processors: a few 1e-7 here
DIGITS = 8

LLAMA = ModelSpec("smollm2-135m", ("q_proj", "k_proj", "v_proj"), "left", 30)
FUSED = ModelSpec("smollm2-135m-fused", ("qkv_proj",), "right", 30)
GPT2 = ModelSpec("gpt2-large", ("c_attn",), "right", 30)  # dropout on embeddings too
TASKS = (
    TaskSpec("mrpc", 2, 14, 20, 2, 0.75),
    TaskSpec("sst2", 2, 14, 20, 2, 0.5),
    TaskSpec("sentiment140", 3, 14, 20, 2, None),
)
COMMON = ("the", "a", "film", "phone", "news", "it", "was", "of", "so", "very")
TELLING = (("bad", "worst", "dull"), ("plain", "same", "usual"), ("good", "best", "joy"))


def examples(task, part, sentiment_eval):
    """Made-up rows of the corpus; a third of a text's words tell its class."""
    chance = random.Random(f"{task} {part}")
    sides = (0, 1, 2) if task == "sentiment140" else (0, 2)
    rows = []
    for i in range(24 if part == "held-out" else 60):
        side = sides[i % len(sides)]
        text, pair = (
            " ".join(chance.choice(TELLING[side] if chance.random() < 0.3 else COMMON)
                     for _ in range(chance.randint(2, 9)))
            for _ in range(2)
        )  # fmt: skip
        label = 2 * side if task == "sentiment140" else side // 2
        rows.append((text, pair if task == "mrpc" else None, label))
    return rows


def text(part):
    chance = random.Random(part)
    return " ".join(chance.choice([*COMMON, *TELLING[0], *TELLING[2]]) for _ in range(150))


def dropout(x, p=0.5, training=True, inplace=False):
    """By uniform draws: torch draws its own masks in another way on processors by Intel."""
    return x * (torch.rand_like(x) >= p) / (1 - p) if training else x


def stand_in(put):
    """Models whose weights are five times the usual at the start, so that projections matter."""
    made = {LLAMA.name: tiny_llama(), FUSED.name: tiny_llama(), GPT2.name: tiny_gpt2()}
    for model in made.values():
        for name, parameter in model.named_parameters():
            parameter.data.mul_(1 if "norm" in name or "ln_" in name else 4)
        model.set_attn_implementation("eager")  # whose dropout is the one below
    made[FUSED.name] = fused.fuse(made[FUSED.name])
    put(torch.nn.functional, "dropout", dropout)
    loaded = {n: models.Loaded(m, WordTokenizer(), "s" * 64, {}) for n, m in made.items()}
    put(models, "load", lambda name, precision, device: loaded[name])
    put(machine, "default_device", lambda: "cpu")
    put(machine, "installed_memory", lambda: 10**12)
    put(corpus, "examples", examples)
    put(corpus, "text", text)


def specs():
    """name -> RunSpec: two seeds of three methods under two protocols on three models."""
    found = {}
    for model in (LLAMA, FUSED, GPT2):
        for protocol in map(Protocol.parse, ("published", "corrected")):
            for method in ("head-only", "lora", "curlora"):
                spec = RunSpec(
                    "stored", "table1", model, TASKS, method, None if method == "head-only" else 4,
                    alpha=1.0, seed=0, protocol=protocol, learning_rate=0.005, batch=4,
                    max_length=16, text_tokens=64, text_window=32, precision="fp32",
                )  # fmt: skip
                for seed in (0, 3):
                    name = f"{model.name}, {protocol.name()}, {method}, seed {seed}"
                    found[name] = dataclasses.replace(spec, seed=seed)
    return found


def computed(put):
    """All numbers of the runs, as plain data."""
    stand_in(put)
    threads, runs = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    try:
        for name, spec in specs().items():
            # both ways of laying rows out, which machines choose between: one a seed
            put(sequence, "packs", lambda *_, spec=spec: spec.model is LLAMA and spec.seed == 0)
            runs[name] = numbers(sequence.run(spec))
    finally:
        torch.set_num_threads(threads)
    return {"version": sequence.VERSION, "runs": runs}


def numbers(record):
    assert record.status == "finished"
    kept = {"perplexity": [list(text.values()) for text in record.perplexity.values()]}
    for stage in record.stages:
        trained, of_task = stage["training"], {}
        of_task["losses"] = trained["losses"]
        of_task["steps, tokens, last rate"] = [trained[k] for k in ("steps", "tokens", "last_rate")]
        of_task["norms"] = list(stage["norms"].values())
        for task, score in stage["scores"].items():
            # accuracy, n, majority, how often each class was answered, the answers
            *shares, answers = score.values()
            of_task[f"{task} scored"] = [*shares, [int(answer) for answer in answers]]
        kept[stage["task"]] = of_task
    return kept


# without it torch draws indices without replacement in another way
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs Intel's MKL")
def test_no_number_has_changed_under_the_same_version(monkeypatch):
    stored, found = json.loads(FILE.read_text()), computed(monkeypatch.setattr)
    again = "`python tests/test_stored_run.py` writes the stored run anew"
    if found["version"] != stored["version"]:
        pytest.fail(f"sequence.VERSION is raised: {again}")
    said = f"If numbers are to change, raise sequence.VERSION; then {again}. If not, a bug did it:"
    torch.testing.assert_close(
        found["runs"], stored["runs"], rtol=RELATIVE, atol=1e-9, msg=lambda why: f"{said}\n{why}"
    )


def rounded(value):
    """Floats with so many digits as are kept."""
    few = lambda text: float(f"{float(text):.{DIGITS}g}")  # noqa: E731
    return json.loads(json.dumps(value), parse_float=few)


def written(value, depth=0):
    """JSON with a line for each list."""
    if not isinstance(value, dict):
        return json.dumps(value)
    inner = " " * (depth + 1)
    lines = [f"{inner}{json.dumps(key)}: {written(v, depth + 1)}" for key, v in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"


if __name__ == "__main__":
    FILE.write_text(written(rounded(computed(setattr))) + "\n")
    print(f"written: {FILE}")
