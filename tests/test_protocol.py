"""What the published protocol does, each point worked out apart from the code under test.

A test here fails if somebody quietly corrects the author's choice.
"""

import dataclasses
import math

import pytest
import torch
import transformers
from datasets import Dataset

from curlora_lite import LoRAConfig, adapter_layers, add_adapters, cur, training
from curlora_lite.replication import machine, profiles, sequence
from curlora_lite.replication.protocol import SWITCHES, Protocol
from curlora_lite.scoring import predict

PUBLISHED, CORRECTED = Protocol.published(), Protocol.corrected()
# §2 of the specification: records of the full split, times epochs, is what the schedule counts
RECORDS = {"mrpc": 3 * 3668, "sst2": 3 * 67349, "sentiment140": 3 * 498}
STEPS = {"table1": (375, 375, 189), "table2": (345, 471, 80)}
PAPER_GRIDS = [("smollm2", "table1"), ("mistral-7b", "table1"), ("gpt2-large", "table2")]


def spec_of(profile="smollm2", table="table1", method="lora", rank=16, **changes):
    spec = profiles.grid(profile, table, ranks=[rank], methods=[method])[0]
    return dataclasses.replace(spec, **changes)


@pytest.fixture(autouse=True)
def padded(monkeypatch):
    monkeypatch.setattr(machine, "packs_rows", lambda: False)


def steps(spec, task):
    return len(list(training.batches(task.train_rows, sequence.recipe(spec, task))))


@pytest.mark.parametrize(("profile", "table"), PAPER_GRIDS)
def test_steps_are_the_papers(profile, table):
    spec = spec_of(profile, table)
    assert tuple(steps(spec, task) for task in spec.tasks) == STEPS[table]


def test_the_last_batch_of_sst2_is_full():
    """`range(0, 5000, 32)` of the author's loop begins its last slice of 32 rows at row 4,992."""
    rows = {row for i in range(0, 5000, 32) for row in range(i, i + 32)}
    sst2 = spec_of("gpt2-large", "table2").tasks[1]
    assert sst2.train_rows == len(rows) == 5024


@pytest.mark.parametrize(("profile", "table"), PAPER_GRIDS)
def test_no_published_run_leaves_warm_up(profile, table):
    """Its rates are those of transformers' cosine schedule with 500 warm-up steps, step by step."""
    spec = spec_of(profile, table)
    assert spec.learning_rate == 2.5e-4
    for task in spec.tasks:
        last = steps(spec, task)
        ours = [training.rate(k, last, task.peak, "records") for k in range(last)]
        if (table, task.name) == ("table2", "sentiment140"):
            assert set(ours) == {1.0}  # no schedule
            continue
        optimiser = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
        oracle = transformers.get_cosine_schedule_with_warmup(optimiser, 500, RECORDS[task.name])
        for rate in ours:
            assert rate == pytest.approx(oracle.get_last_lr()[0], abs=1e-12)
            optimiser.step()
            oracle.step()
        assert max(ours) < 1


def test_lora_starts_within_one_over_root_r(llama):
    """Kaiming's bound with a = sqrt(5) is 1/sqrt(fan-in); the published fan-in is r."""
    for protocol, bound in ((PUBLISHED, 1 / math.sqrt(4)), (CORRECTED, 1 / math.sqrt(32))):
        config = sequence.adapter_config(spec_of(rank=4, protocol=protocol))
        assert isinstance(config, LoRAConfig)
        add_adapters(llama, config)
        largest = max(layer.A.abs().max().item() for _, layer in adapter_layers(llama))
        sequence.remove_adapters(llama)
        assert 0.9 * bound < largest <= bound


def test_alpha_is_not_divided_by_the_rank():
    divided = dataclasses.replace(PUBLISHED, scaling="alpha/r")
    assert sequence.adapter_config(spec_of(rank=16)).alpha == 1.0
    assert sequence.adapter_config(spec_of(rank=16, protocol=divided)).alpha == 1 / 16


def test_selection_is_nearly_uniform_and_repeats_itself():
    selection = sequence.adapter_config(spec_of(method="curlora")).selection
    assert selection == cur.Selection("smoothed", True)
    p = torch.tensor([1e-4, 3e-4, 1 - 4e-4], dtype=torch.float64)
    q = cur.draw_probabilities(p, selection.weighting)
    assert q[0] / q[1] == pytest.approx(0.0013 / 0.0011)  # Eq. 4 has 3
    weights = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    rows, _ = cur.select(weights, 16, selection, torch.Generator().manual_seed(0))
    assert len(set(rows.tolist())) < 16  # all 16 without repeating would be chance 1e-6
    corrected = spec_of(method="curlora", protocol=CORRECTED)
    assert sequence.adapter_config(corrected).selection == cur.Selection("inverted", False)


def test_rows_keep_their_order_each_epoch():
    task = dataclasses.replace(spec_of().tasks[0], epochs=2)
    spec = spec_of(batch=4, seed=3)
    in_order = list(training.batches(10, sequence.recipe(spec, task)))
    assert in_order == 2 * [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    corrected = dataclasses.replace(spec, protocol=CORRECTED)
    shuffled = list(training.batches(10, sequence.recipe(corrected, task)))
    assert shuffled[:3] != shuffled[3:]
    assert sorted(i for batch in shuffled[:3] for i in batch) == list(range(10))


class Letters:
    eos_token_id = 0

    def __call__(self, text):
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.mark.parametrize(("protocol", "between"), [(PUBLISHED, []), (CORRECTED, [0])])
def test_what_stands_between_the_texts_of_a_pair(protocol, between):
    rows = Dataset.from_dict({"text": ["ab"], "pair": ["c"], "label": [1]})
    encoded = training.encode(rows, Letters(), 512, protocol.separator)
    assert encoded.ids == [[97, 98, *between, 99]]


class WithStart(Letters):
    """A tokenizer that begins every text with a start token, as Mistral's does."""

    def __call__(self, text):
        return {"input_ids": [1, *super().__call__(text)["input_ids"]]}


def test_mistrals_pairs_have_the_start_token_between(llama):
    """`<s> A <s> B`, as Llama tokenizers encode a pair; GPT-2's has nothing there."""
    rows = Dataset.from_dict({"text": ["ab"], "pair": ["c"], "label": [1]})
    assert training.encode(rows, WithStart(), 512).ids == [[1, 97, 98, 1, 99]]


def naive_last_position(model, head, rows, size, pad_id):
    """Right-padded batches in order, logits at position -1, as the author's loop has it."""
    answers = []
    for i in range(0, len(rows), size):
        chosen = rows[i : i + size]
        longest = max(map(len, chosen))
        ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in chosen])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in chosen])
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        answers += head(hidden[:, -1].float()).argmax(1).tolist()
    return answers


def test_sentiment_is_scored_at_a_padding_position(gpt2):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 30, (200,), generator=generator).tolist()
    rows = [torch.randint(1, 64, (n,), generator=generator).tolist() for n in lengths]
    head = torch.nn.Linear(32, 3)
    published = predict(gpt2.base_model, head, rows, 0, last_position=True)
    assert published == naive_last_position(gpt2, head, rows, 128, 0)
    assert predict(gpt2.base_model, head, rows, 0) == naive_last_position(gpt2, head, rows, 1, 0)
    assert published != predict(gpt2.base_model, head, rows, 0)


def two_steps(model, protocol):
    """Of training on two rows, one a step, under a protocol."""
    spec = spec_of("gpt2-large", "table2", protocol=protocol, batch=1)
    task = dataclasses.replace(spec.tasks[0], train_rows=2, epochs=1)
    encoded = training.Encoded([[1, 2, 3], [4, 5]], torch.tensor([0, 1]))
    head = torch.nn.Linear(32, 2)
    return training.train_task(model.base_model, head, encoded, sequence.recipe(spec, task), 0)


@pytest.mark.parametrize("protocol", [PUBLISHED, CORRECTED])
def test_dropout_is_the_protocols(gpt2, protocol):
    seen = []
    gpt2.base_model.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    two_steps(gpt2, protocol)
    assert seen == [protocol.dropout] * 2


def transformers_adamw(gradients, rate):
    """Where transformers 4's AdamW takes a zero: its formula adds epsilon to sqrt(v) itself."""
    x, m, v = 0.0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        size = rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        x -= size * m / (math.sqrt(v) + 1e-6)
    return x


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_epsilon_stands_where_the_authors_optimiser_has_it(scale):
    """It matters where gradients are as small as epsilon: the first steps are then far shorter."""
    gradients = [scale * (1 + math.sin(k)) for k in range(40)]
    taken = {}
    for choice in SWITCHES["optimiser"][2]:
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.AdamW([x], lr=0.1, weight_decay=0.0, betas=training.BETAS)
        for step, g in enumerate(gradients):
            x.grad = torch.full_like(x, g)
            optimiser.param_groups[0]["eps"] = training.epsilon(step, choice)
            optimiser.step()
        taken[choice] = x.item()
    expected = transformers_adamw(gradients, 0.1)
    assert PUBLISHED.optimiser == "transformers"
    assert taken["transformers"] == pytest.approx(expected, rel=1e-9)
    assert (abs(taken["torch"] / expected - 1) > 0.1) == (scale < 1)


@pytest.mark.parametrize("choice", SWITCHES["optimiser"][2])
def test_training_steps_by_the_protocols_optimiser(gpt2, monkeypatch, choice):
    seen = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self: seen.append(self.param_groups[0]["eps"]) or step(self),
    )
    two_steps(gpt2, dataclasses.replace(PUBLISHED, optimiser=choice))
    # sqrt(1 - 0.999) and sqrt(1 - 0.999^2), worked out by hand
    by_hand = {"torch": [1e-6, 1e-6], "transformers": [1e-6 / 0.0316228, 1e-6 / 0.0447102]}
    assert seen == pytest.approx(by_hand[choice], rel=1e-5)


def test_perplexity_reads_one_window_of_the_first_tokens():
    for profile, table, tokens in (("mistral-7b", "table1", 10_000), ("gpt2-large", "table2", 256)):
        spec = spec_of(profile, table)
        assert (spec.text_tokens, spec.text_window) == (tokens, tokens)


def test_every_field_can_be_set_alone_and_is_named():
    assert PUBLISHED.name() == "published"
    assert CORRECTED.name() == "corrected"
    own, other = dataclasses.asdict(PUBLISHED), dataclasses.asdict(CORRECTED)
    assert set(own) == set(SWITCHES)
    assert [field for field in own if own[field] == other[field]] == ["scaling"]
    for field, (_, _, choices) in SWITCHES.items():
        for choice in choices:
            parsed = Protocol.parse(f"published,{field}={choice}")
            assert parsed == dataclasses.replace(PUBLISHED, **{field: choice})
            changed = "" if choice == own[field] else f", {field}={choice}"
            assert parsed.name() == f"published{changed}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("publisht", "protocol: got 'publisht', expected one of published, corrected"),
        ("published,order=x", "protocol field: got 'order', expected one of weighting"),
        ("corrected,readout=first", "readout: got 'first', expected one of last-position"),
    ],
)
def test_bad_protocol(text, message):
    with pytest.raises(ValueError, match=message):
        Protocol.parse(text)
