"""That a run follows its protocol: each field seen at work through training, scoring and a run."""

import dataclasses
import math

import pytest
import torch
from small_runs import fake_task, small_grid
from torch.nn import functional as F

from curlora_lite import training
from curlora_lite.replication import data, profiles, sequence
from curlora_lite.replication.protocol import Protocol

PUBLISHED, CORRECTED = Protocol.published(), Protocol.corrected()
ROWS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [1, 2], [3, 4, 5, 6]]


def table2(**changes):
    spec = profiles.grid("gpt2-large", "table2", ranks=[8], methods=["lora"])[0]
    return dataclasses.replace(spec, batch=2, **changes)


def first_loss(model, head, place):
    """Of the first two rows, padded on the right and masked, read at `place` of each."""
    ids = torch.tensor([[5, 6, 7, 0, 0, 0, 0], ROWS[1]])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1] * 7])
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        return F.cross_entropy(head(hidden[[0, 1], place]), torch.tensor([0, 1])).item()


@pytest.mark.parametrize(("readout", "place"), [("last-position", -1), ("last-token", [2, 6])])
def test_training_reads_where_the_protocol_says(gpt2, readout, place):
    spec = table2(protocol=dataclasses.replace(PUBLISHED, readout=readout, dropout=False))
    head = torch.nn.Linear(32, 2)
    expected = first_loss(gpt2, head, place)
    other = first_loss(gpt2, head, [2, 6] if place == -1 else -1)
    encoded = training.Encoded(ROWS, torch.tensor([0, 1, 0, 1]))
    task = dataclasses.replace(spec.tasks[0], train_rows=4, epochs=1)
    losses = training.train_task(gpt2.base_model, head, task, encoded, spec, 0)["losses"]
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert abs(expected - other) > 1e-4


@pytest.mark.parametrize("readout", ["last-position", "last-token"])
@pytest.mark.parametrize("name", ["sentiment140", "sentiment140, balanced", "mrpc"])
def test_scoring_reads_where_the_protocol_says(gpt2, readout, name):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(1, 64, (n,), generator=generator).tolist() for n in range(2, 42)]
    torch.manual_seed(3)
    head = torch.nn.Linear(32, 3)
    spec = table2(protocol=dataclasses.replace(PUBLISHED, readout=readout))
    stage = {"scores": {}}
    encoded = training.Encoded(rows, torch.zeros(len(rows), dtype=torch.long))
    sequence._score([stage], spec, gpt2, {name: (head, encoded)}, 0, lambda *_: None)
    size = 128 if readout == "last-position" and name != "mrpc" else 1
    answers = []
    for i in range(0, len(rows), size):
        chosen = rows[i : i + size]
        longest = max(map(len, chosen))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in chosen])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in chosen])
        with torch.no_grad():
            hidden = gpt2.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        answers += head(hidden[:, -1]).argmax(1).tolist()
    assert stage["scores"][name]["answers"] == "".join(map(str, answers))


@pytest.mark.parametrize("schedule", ["records", "steps"])
def test_training_follows_the_protocols_schedule(gpt2, schedule):
    """The rate of the last of four steps, by hand; `peak` 0.69 for MRPC with GPT-2 Large."""
    spec = table2(protocol=dataclasses.replace(PUBLISHED, schedule=schedule))
    task = dataclasses.replace(spec.tasks[0], train_rows=4, epochs=2)
    encoded = training.Encoded(ROWS, torch.tensor([0, 1, 0, 1]))
    head = torch.nn.Linear(32, 2)
    trained = training.train_task(gpt2.base_model, head, task, encoded, spec, 0)
    by_hand = {"records": 0.69 * 3 / 4, "steps": 0.5 * (1 + math.cos(math.pi * 2 / 3))}
    assert trained["last_rate"] == pytest.approx(2.5e-4 * by_hand[schedule])


@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_checkpointing_works_with_and_without_dropout(request, kind, dropout):
    """Each block is run twice a step, and the losses are those without checkpointing."""
    model = request.getfixturevalue(kind).requires_grad_(False)
    # inside the block: checkpointing leaves the block's own hooks outside
    block = model.model.layers[0].mlp if kind == "llama" else model.transformer.h[0].mlp
    protocol = dataclasses.replace(PUBLISHED, dropout=dropout)
    encoded = training.Encoded(ROWS[:2], torch.tensor([0, 1]))
    losses = {}
    for checkpointing in (False, True):
        spec = table2(protocol=protocol, checkpointing=checkpointing)
        task = dataclasses.replace(spec.tasks[0], train_rows=2, epochs=2)
        sequence.add_adapters(
            model,
            sequence.LoRAConfig(
                rank=2, target_modules=["q_proj"] if kind == "llama" else ["c_attn"]
            ),
        )
        torch.manual_seed(0)
        head = torch.nn.Linear(32, 2)
        calls = []
        hook = block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(0)
        trained = training.train_task(model.base_model, head, task, encoded, spec, 0)
        hook.remove()
        sequence.remove_adapters(model)
        assert len(calls) == (4 if checkpointing else 2)
        assert not model.training and not model.base_model.is_gradient_checkpointing
        losses[checkpointing] = trained["losses"]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == (set() if kind == "llama" else {0.1})  # as they were


@pytest.mark.parametrize("protocol", [PUBLISHED, CORRECTED])
def test_a_run_passes_its_protocol_on(tiny, monkeypatch, protocol):
    asked, encoded = [], []
    monkeypatch.setattr(
        data,
        "load_task",
        lambda task, part, rows, protocol, source: (
            asked.append((task, part, protocol)) or fake_task(task, part, rows)
        ),
    )
    encode = training.encode
    monkeypatch.setattr(training, "encode", lambda *args: encoded.append(args) or encode(*args))
    spec = small_grid(methods=["head-only"], protocol=protocol)[0]
    record = sequence.run(spec)
    assert {separator for *_, separator in encoded} == {protocol.separator}
    balanced = dataclasses.replace(PUBLISHED, sentiment_eval="balanced")
    beside = {
        "published": ("sentiment140", "eval", balanced),
        "corrected": ("sentiment140", "held-out", protocol),
    }[protocol.name()]
    plain = [(t.name, part, protocol) for t in spec.tasks for part in ("train", "eval")]
    assert asked == [*plain, beside]
    # 60 tokens in windows of 20, or all of the text's 100 in one window of the model's context
    found = record.perplexity["initial"]
    expected = {"published": (57, 20), "corrected": (99, 2048)}[protocol.name()]
    assert (found["tokens"], found["window"]) == expected


def test_no_three_class_score_where_two_classes_were_trained(tiny):
    protocol = dataclasses.replace(PUBLISHED, sentiment_eval="balanced")
    record = sequence.run(small_grid(methods=["head-only"], protocol=protocol)[0])
    assert list(record.stages[-1]["scores"]) == ["mrpc", "sst2", "sentiment140"]


def test_fewer_rows_leave_the_published_warm_up_earlier():
    """399 rows in batches of 8 are 50 steps an epoch: 150 of 500 warm-up steps."""
    spec = profiles.grid("smollm2", "table1", protocol="published,sentiment_eval=balanced")[0]
    assert spec.tasks[-1].train_rows == 399
    assert training.rate(100, spec.steps(spec.tasks[-1]), spec.tasks[-1].peak, "records") == 0.2
