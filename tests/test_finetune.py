"""Fine-tuning to answer: labels, scores by hand, the Trainer on a tiny model, the notebook."""

import copy
import re
import shutil

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from curlora_lite.replication.answers import Row
from small_runs import fake_task

from curlora_lite import CURLoRAConfig, add_adapters
from curlora_lite.replication import (
    answers,
    data,
    figures,
    finetune,
    hub,
    notebooks,
    records,
    small_gpt2,
)
from curlora_lite.replication.fetch import FetchError

TEXTS = ["the film is good", "the film is bad", "so very good", "a bad film, a very bad one"]
ROWS = [Row(text, ("bad" if "bad" in text else "good",)) for text in TEXTS]


class Letters:
    """One id a letter, and a start token (1) where special tokens are wanted."""

    eos_token_id = 0

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1] * add_special_tokens + [ord(c) for c in text]}


def test_only_the_answer_is_in_the_loss():
    """Letters a, b, c are 97, 98, 99; a space 32; the start token stands before the prompt only."""
    (row,) = answers.encode([Row("ab", ("c", "other"))], Letters(), 10)
    assert row["input_ids"] == [1, 97, 98, 32, 99, 0]
    assert row["labels"] == [-100, -100, -100, 32, 99, 0]


def test_a_long_prompt_is_cut_and_the_answer_stays():
    (row,) = answers.encode([Row("ab", ("c",))], Letters(), 4)
    assert row["input_ids"] == [98, 32, 99, 0]
    assert row["labels"] == [-100, 32, 99, 0]
    with pytest.raises(ValueError, match="max_length: got 3, expected more than 3, the tokens of"):
        answers.encode([Row("ab", ("c",))], Letters(), 3)


def test_f1_by_hand():
    assert answers.normalised("The U.S., a state!") == ["us", "state"]
    # {red, car} and {red, big, car}: precision 1, recall 2/3
    assert answers.f1("the red car", "a Red, big car.") == pytest.approx(0.8)
    assert answers.f1("no no no", "no") == pytest.approx(0.5)  # one shared: 1/3 and 1
    assert answers.f1("", "the") == 1.0  # nothing is left of either
    assert answers.f1("x", "the") == 0.0


def test_score_takes_the_best_of_the_accepted_answers():
    rows = [Row("", ("x y", "z")), Row("", ("x  Y.",)), Row("", ("w", "x y")), Row("", ("v",))]
    score = answers.score(["Z.", "x", "w w", ""], rows)
    assert score["right"] == [True, False, False, False]
    assert score["exact"] == 0.25
    assert score["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3 + 0) / 4)
    assert score["majority"] == 0.75  # always "x y": right in the first three
    with pytest.raises(ValueError, match="rows: got none"):
        answers.score([], [])


def test_embedded_rows(monkeypatch):
    monkeypatch.setattr(data, "load_task", fake_task)
    rows = answers.rows("sst2", "train", 2)
    assert rows[1].prompt.startswith("Review: ") and rows[1].prompt.endswith("\nSentiment:")
    assert [row.answers for row in rows] == [("negative",), ("positive",)]
    with pytest.raises(ValueError, match="task: got 'mrpc', expected one of sst2, squad"):
        answers.rows("mrpc", "train", 2)


@pytest.fixture
def squad(tmp_path, monkeypatch):
    """A mirror with a SQuAD of twelve questions, in the hub's layout."""
    folder = tmp_path / "mirror" / "rajpurkar/squad/plain_text"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        found = [{"text": [f"{split} {i}", "it"], "answer_start": [0, 3]} for i in range(12)]
        columns = {"id": ["x"] * 12, "context": ["c"] * 12, "answers": found}
        columns["question"] = [f"q{i}?" for i in range(12)]
        pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")
    monkeypatch.setenv("CURLORA_MIRROR", str(tmp_path / "mirror"))
    hub._rows.cache_clear()
    yield folder
    hub._rows.cache_clear()


def test_squad_rows(squad):
    rows = answers.rows("squad", "eval", 12, "paper")
    numbers = [int(row.answers[0].split()[1]) for row in rows]
    assert sorted(numbers) == list(range(12))
    assert numbers != sorted(numbers)  # neighbours are of one article
    assert rows[0].prompt == f"Context: c\nQuestion: q{numbers[0]}?\nAnswer:"
    assert rows[0].answers == (f"validation {numbers[0]}", "it")
    assert answers.rows("squad", "eval", 3, "paper") == rows[:3]
    assert answers.rows("squad", "train", 1, "paper")[0].answers[0].startswith("train ")
    with pytest.raises(ValueError, match="count: got 13, expected at most 12, SQuAD's eval rows"):
        answers.rows("squad", "eval", 13, "paper")
    (squad / "train-00000-of-00001.parquet").unlink()
    hub._rows.cache_clear()
    with pytest.raises(FetchError, match="--repo-type dataset rajpurkar/squad --revision 7b6d24c"):
        answers.rows("squad", "train", 1, "paper")


def test_plans():
    plan = finetune.plan("gpt2-large", rank=8, steps=None)
    assert (plan.task, plan.source, plan.choices) == ("squad", "paper", ())
    assert plan.config(3) == CURLoRAConfig(rank=8, target_modules=["c_attn"], seed=3)
    assert plan.steps == finetune.SIZES["paper"]["steps"]
    assert finetune.plan("embedded", eval_rows=7).loss_rows == 7
    assert finetune.plan("embedded", precision="tf32").precision == "fp32"
    for changes, message in (
        ({"rank": 0}, "rank: got 0"),
        ({"method": "dora"}, "method: got 'dora', expected one of curlora, lora"),
        ({"learning_rate": -1.0}, "learning_rate: got -1.0"),
        ({"epochs": 3}, "chosen: got 'epochs', expected one of model"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune.plan("embedded", **changes)


@pytest.fixture
def tuned():
    """A tiny GPT-2 with a real tokenizer, which pads."""
    tokenizer = small_gpt2.train_tokenizer(TEXTS)
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4
    )
    return transformers.GPT2LMHeadModel(config).eval(), tokenizer


def trained(tuned, folder, steps=6):
    model, tokenizer = copy.deepcopy(tuned[0]), tuned[1]
    add_adapters(model, CURLoRAConfig(rank=8, target_modules=["c_attn"]))
    encoded = answers.encode(ROWS, tokenizer, 64)
    settings = {"max_steps": steps, "learning_rate": 0.1, "per_device_train_batch_size": 2}
    trainer = finetune.trainer(model, tokenizer, encoded, encoded, folder, seed=0, **settings)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    return trainer, before


def test_the_trainer_repeats_and_writes_nothing(tuned, tmp_path, capsys):
    """Dropout is on, as GPT-2 has it: the seed governs it too."""
    (one, before), (other, _) = (trained(tuned, tmp_path / "out") for _ in range(2))
    assert len(finetune.losses(one)) == 6
    assert finetune.losses(one) == finetune.losses(other)
    assert one.evaluate()["eval_loss"] < before
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert capsys.readouterr().out == ""


def test_the_loss_is_the_answers_alone(tuned, tmp_path):
    """Row by row and unpadded, from log-probabilities. fp32: to 1e-5."""
    model, tokenizer = tuned
    encoded = answers.encode(ROWS, tokenizer, 64)
    settings = {"max_steps": 1, "per_device_eval_batch_size": len(ROWS)}
    trainer = finetune.trainer(model, tokenizer, encoded, encoded, tmp_path, **settings)
    nats = []
    for row, given in zip(ROWS, encoded, strict=True):
        ids = torch.tensor(given["input_ids"])
        said = model(ids[None]).logits[0].log_softmax(-1)
        start = len(tokenizer(row.prompt)["input_ids"])
        assert tokenizer.decode(ids[start:-1]) == f" {row.answers[0]}"
        nats += [-said[place - 1, ids[place]].item() for place in range(start, len(ids))]
    expected = sum(nats) / len(nats)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_answers_in_padded_batches_are_those_of_each_row_alone(tuned):
    model, tokenizer = tuned
    plan = finetune.plan("embedded", new_tokens=3)
    texts, chosen = finetune.answer(model, tokenizer, ROWS, plan, batch=3)
    firsts = [answers.answer_ids(choice, tokenizer)[0] for choice in plan.choices]
    for row, text, choice in zip(ROWS, texts, chosen, strict=True):
        ids = tokenizer(row.prompt, return_tensors="pt")["input_ids"]
        out = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert tokenizer.decode(out[0, ids.shape[1] :], True).strip() == text
        first = model(ids).logits[0, -1, firsts]
        assert choice == plan.choices[first.argmax().item()]
    assert not model.lm_head._forward_pre_hooks
    squad = finetune.plan("gpt2-large", new_tokens=3)
    assert finetune.answer(model, tokenizer, ROWS, squad) == (texts, None)


def test_the_table():
    """3 of 4 right: Wilson's 95 % interval is 0.30 to 0.95; 1 of 4: 0.05 to 0.70."""
    marks = {"before": "x - - -", "after": "- x x x"}
    both = {}
    for when, answered in marks.items():
        score = answers.score(answered.split(), [Row("", ("x",))] * 4)
        text = {"perplexity": 1234.5 if when == "after" else 20.0, "tokens": 511, "window": 512}
        both[when] = {"Generated answer": score, "Perplexity": text, "Held-out loss": 2.0}
    plan = finetune.plan("gpt2-large", eval_rows=4)
    table = finetune.results_table(plan, both["before"], both["after"], seed=5)
    assert table.rows == (
        ("Generated answer", "4", "1.00", "0.25 (0.05 to 0.70)", "0.75 (0.30 to 0.95)"),
        ("Generated answer, F1", "4", "", "0.25", "0.75"),
        ("Perplexity", "511 tokens", "", "20.00", "1,234.50"),
        ("Held-out loss", "4", "", "2.00", "2.00"),
    )
    assert table.notes[0] == "Generated answer: 3 rows became right, 1 wrong."
    assert "GPT-2 Large" in table.caption and "CURLoRA-16" in table.caption
    assert any("seed 5" in note for note in table.notes)


def test_side_by_side_keeps_a_table_a_table():
    rows = [Row("a | b\nc", ("x",)), Row("y" * 300, ("z",))]
    table = finetune.side_by_side(rows, ["one", ""], ["x\n", "z"], count=2)
    assert table.rows[0] == ("a / b c", "x", "one", "x")
    assert table.rows[1][0] == "… " + "y" * 200


def test_the_loss_figure():
    figure = figures.training_loss([3.0, 2.0, 1.5], (3.5, 1.0), "title")
    training, held_out = figure.axes[0].lines
    assert training.get_xydata().tolist() == [[1, 3.0], [2, 2.0], [3, 1.5]]
    assert held_out.get_xydata().tolist() == [[0, 3.5], [3, 1.0]]


@pytest.mark.slow
def test_the_notebook(tmp_path):
    """Small sizes, on SmolLM2: what it prints of saving, merging and loading must be true."""
    sizes = {"rank": 4, "steps": 2, "precision": "fp32", "eval_rows": 6}
    chosen, folder = {"profile": "embedded", **sizes}, records.outputs("embedded", **sizes)
    try:
        assert notebooks.execute("finetune_causal_lm", chosen, target=tmp_path / "out.ipynb")
        assert (folder / "figures" / "finetune_loss.pdf").exists()
        assert "| Generated answer | 6 |" in (folder / "tables" / "finetune.md").read_text()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    printed = "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))
    assert "same answers as the adapter: 4 of 4" in printed
    assert "equal bit for bit: 360 of 360 tensors" in printed
    assert "logits equal bit for bit: True" in printed
    assert printed.count("same answers: True") == 2
    differences = [float(d) for d in re.findall(r"difference of a logit: (\S+),", printed)]
    # merged, and in PEFT; logits reach some 30, and 30 layers of fp32 round to a few 1e-5 of that
    assert len(differences) == 2 and max(differences) < 1e-3
