"""That a run follows its protocol: each field seen at work through training, scoring and a run."""

import dataclasses

import pytest
import torch
from small_runs import fake_task, small_grid
from torch.nn import functional as F

from curlora_lite import LoRAConfig, add_adapters, remove_adapters, training
from curlora_lite.replication import data, machine, profiles, sequence
from curlora_lite.replication.protocol import Protocol

PUBLISHED, CORRECTED = Protocol.published(), Protocol.corrected()
ROWS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [1, 2], [3, 4, 5, 6]]
ENCODED = training.Encoded(ROWS, torch.tensor([0, 1, 0, 1]))
TARGETS = {"llama": ["q_proj"], "gpt2": ["c_attn"]}


@pytest.fixture(autouse=True)
def padded(monkeypatch):
    monkeypatch.setattr(machine, "packs_rows", lambda: False)


def table2(**changes):
    spec = profiles.grid("gpt2-large", "table2", ranks=[8], methods=["lora"], seeds=[3])[0]
    return dataclasses.replace(spec, batch=2, **changes)


def train(model, head, spec, encoded=ENCODED, epochs=1):
    task = dataclasses.replace(spec.tasks[0], epochs=epochs)
    recipe = sequence.recipe(spec, task)
    return training.train_task(model.base_model, head, encoded, recipe, 0)


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
    assert train(gpt2, head, spec)["losses"][0] == pytest.approx(expected, rel=1e-5)
    assert abs(expected - other) > 1e-4


@pytest.mark.parametrize("packs", [True, False])
def test_rows_are_packed_where_that_is_faster_and_nothing_is_read_from_padding(monkeypatch, packs):
    monkeypatch.setattr(machine, "packs_rows", lambda: packs)
    left = profiles.grid("smollm2", "table1", methods=["head-only"])[0]
    assert sequence.recipe(left, left.tasks[0]).packed == packs
    assert not sequence.recipe(left, left.tasks[0]).last_position
    right = sequence.recipe(table2(), left.tasks[0])
    assert (right.packed, right.last_position) == (False, True)


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
    sequence._score(stage, None, spec, gpt2, {name: (head, encoded)}, lambda *_: None, 0)
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


@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("kind", TARGETS)
def test_checkpointing_works_with_and_without_dropout(request, kind, dropout):
    """Each block is run twice a step, and the losses are those without checkpointing."""
    model = request.getfixturevalue(kind).requires_grad_(False)
    # inside the block: checkpointing leaves the block's own hooks outside
    block = model.model.layers[0].mlp if kind == "llama" else model.transformer.h[0].mlp
    protocol = dataclasses.replace(PUBLISHED, dropout=dropout)
    encoded = training.Encoded(ROWS[:2], torch.tensor([0, 1]))
    config = LoRAConfig(rank=2, target_modules=TARGETS[kind])
    losses = {}
    for checkpointing in (False, True):
        add_adapters(model, config)
        torch.manual_seed(0)
        head = torch.nn.Linear(32, 2)
        calls = []
        hook = block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(0)
        spec = table2(protocol=protocol, checkpointing=checkpointing)
        losses[checkpointing] = train(model, head, spec, encoded, epochs=2)["losses"]
        hook.remove()
        remove_adapters(model)
        assert len(calls) == (4 if checkpointing else 2)
        # of the backbone: it alone is put into training mode
        assert not any(module.training for module in model.base_model.modules())
        assert not model.base_model.is_gradient_checkpointing
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == (set() if kind == "llama" else {0.1})  # as they were


@pytest.mark.parametrize("protocol", [PUBLISHED, CORRECTED])
@pytest.mark.parametrize("tune", [True, False])
def test_a_run_passes_its_protocol_on(tiny, monkeypatch, protocol, tune):
    asked, encoded, texts = [], [], []
    monkeypatch.setattr(
        data,
        "load_task",
        lambda task, part, rows, protocol, source: (
            asked.append((task, part, protocol)) or fake_task(task, part, rows)
        ),
    )
    encode, text = training.encode, data.load_text
    monkeypatch.setattr(training, "encode", lambda *args: encoded.append(args) or encode(*args))
    monkeypatch.setattr(data, "load_text", lambda *args: texts.append(args[0]) or text(*args))
    spec = small_grid(methods=["head-only"], protocol=protocol)[0]
    record = sequence.run(dataclasses.replace(spec, tune=tune))
    assert {separator for *_, separator in encoded} == {protocol.separator}
    balanced = dataclasses.replace(PUBLISHED, sentiment_eval="balanced")
    beside = {
        "published": ("sentiment140", "eval", balanced),
        "corrected": ("sentiment140", "held-out", protocol),
    }[protocol.name()]
    scored = "tune" if tune else "eval"
    plain = [(t.name, part, protocol) for t in spec.tasks for part in ("train", scored)]
    assert asked[:6] == plain and (tune or asked[6:] == [beside])
    assert set(texts) == {scored} == set(record.data["text"])
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
    sentiment = spec.tasks[-1]
    assert sentiment.train_rows == 399
    steps = len(list(training.batches(399, sequence.recipe(spec, sentiment))))
    assert training.rate(100, steps, sentiment.peak, "records") == 0.2
