"""Training of one task: what is read and where, the schedule, and the whole loop by hand."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import get_cosine_schedule_with_warmup

from curlora_lite import CURLoRAConfig, LoRAConfig, add_adapters, training
from curlora_lite.training import Recipe, encode, features, pad, rate

ROWS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [1, 2], [3, 4, 5, 6], [11]]
LABELS = torch.tensor([0, 1, 1, 0, 1])
ENCODED = training.Encoded(ROWS, LABELS)
PLAIN = Recipe(learning_rate=0.01, epochs=2, batch=2, seed=3)
PUBLISHED = dataclasses.replace(
    PLAIN, schedule="records", peak=0.7, shuffle=False, optimiser="transformers"
)


def test_corrected_rates_are_those_of_a_cosine_over_the_steps():
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = get_cosine_schedule_with_warmup(optimiser, 10, 100)
    for step in range(100):
        assert rate(step, 100, 0.75, "steps") == pytest.approx(oracle.get_last_lr()[0])
        optimiser.step()
        oracle.step()


def test_no_schedule_is_a_constant_rate():
    assert {rate(step, 50, None, "records") for step in range(50)} == {1.0}


def alone(model, row):
    """The last token's state of a row read by itself."""
    return model.base_model(torch.tensor([row])).last_hidden_state[0, -1]


def test_features_do_not_depend_on_padding(llama, gpt2):
    for model in (llama, gpt2):
        together = features(model.base_model, *pad(ROWS, 0, "cpu"))
        for row, state in zip(ROWS, together, strict=True):
            torch.testing.assert_close(state, alone(model, row), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 10, 256])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_rows_do_not_see_each_other(llama, gpt2, monkeypatch, tokens, attention):
    """Whatever the size of a group, each row's state is that of the row read alone."""
    monkeypatch.setattr(training, "PACKED_TOKENS", tokens)
    for model in (llama, gpt2):
        model.set_attn_implementation(attention)
        together = training.packed_features(model.base_model, ROWS, "cpu")
        assert together.shape == (5, 32)
        for row, state in zip(ROWS, together, strict=True):
            torch.testing.assert_close(state, alone(model, row), rtol=1e-5, atol=1e-5)


def test_last_position_reads_the_padding(gpt2):
    """The published readout differs from the last real token's wherever a row is padded."""
    ids, lengths = pad(ROWS[:2], 0, "cpu")
    published = features(gpt2.base_model, ids, lengths, last_position=True)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1] * 7])
    expected = gpt2.base_model(ids, attention_mask=mask).last_hidden_state[:, -1]
    torch.testing.assert_close(published, expected)
    real = features(gpt2.base_model, ids, lengths)
    assert not torch.allclose(published[0], real[0], atol=1e-3)
    torch.testing.assert_close(published[1], real[1], rtol=1e-5, atol=1e-5)


def test_left_padding_with_rotary_positions_is_the_same_readout(llama):
    """Mistral's tokenizer pads on the left; reading position -1 there is our last real token."""
    ids = torch.tensor([[0, 0, 0, 0, 5, 6, 7], ROWS[1]])
    mask = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [1] * 7])
    left = llama.base_model(ids, attention_mask=mask).last_hidden_state[:, -1]
    ours = features(llama.base_model, *pad(ROWS[:2], 0, "cpu"))
    torch.testing.assert_close(ours, left, rtol=1e-4, atol=1e-5)  # rotary rounding


@pytest.mark.parametrize("packed", [True, False])
def test_a_half_precision_model_trains_an_fp32_head(llama, packed):
    """Features leave the model as fp32: rounded to bf16 once, by the model."""
    llama.bfloat16()
    head = nn.Linear(32, 2)
    reference = torch.stack([alone(llama, row) for row in ROWS[:2]]).float()
    first = F.cross_entropy(head(reference), LABELS[:2]).item()
    recipe = dataclasses.replace(PLAIN, shuffle=False, packed=packed)
    losses = training.train_task(llama.base_model, head, ENCODED, recipe, 0)["losses"]
    assert losses[0] == pytest.approx(first, rel=0.01)  # bf16 of rows in a batch
    read = training.packed_features(llama.base_model, ROWS, "cpu") if packed else None
    read = features(llama.base_model, *pad(ROWS, 0, "cpu")) if read is None else read
    assert read.dtype == head.weight.dtype == torch.float32


class Letters:
    """A token a letter. start: ids that every text begins with, as Mistral's tokenizer has one."""

    eos_token_id = 99

    def __init__(self, *start):
        self.start = start

    def __call__(self, text):
        return {"input_ids": [*self.start, *(ord(c) - 96 for c in text)]}


def test_encode_joins_pairs_cuts_and_marks_missing_labels():
    rows = {"text": ["ab", "abc"], "pair": ["cd", None], "label": [1, None]}
    assert encode(rows, Letters(), 8).ids == [[1, 2, 3, 4], [1, 2, 3]]
    assert encode(rows, Letters(50), 8).ids == [[50, 1, 2, 50, 3, 4], [50, 1, 2, 3]]
    cut = encode(rows, Letters(), 4, separator=True)
    assert cut.ids == [[1, 2, 99, 3], [1, 2, 3]]
    assert cut.labels.tolist() == [1, -1]
    with pytest.raises(ValueError, match=r"sst2: row 1 has label -1, expected within 0 to 1"):
        training.check_rows(cut, "sst2", classes=2, vocabulary=100, context=4)


@pytest.mark.parametrize(
    ("ids", "label", "message"),
    [
        ([], 0, "row 0 has 0 tokens, expected 1 to 4"),
        ([1] * 5, 0, "row 0 has 5 tokens, expected 1 to 4"),
        ([0, 10], 0, "token ids from 0 to 10, expected within 0 to 9"),
        ([-1, 3], 0, "token ids from -1 to 3, expected within 0 to 9"),
        ([1], 2, "label 2, expected within 0 to 1"),
    ],
)
def test_rows_that_a_model_cannot_take(ids, label, message):
    encoded = training.Encoded([ids], torch.tensor([label]))
    with pytest.raises(ValueError, match=message):
        training.check_rows(encoded, "mrpc", classes=2, vocabulary=10, context=4)
    training.check_rows(training.Encoded([[9] * 4], torch.tensor([1])), "mrpc", 2, 10, 4)


def by_hand(model, head, trained, recipe):
    """AdamW written out, rows read one by one: losses and last rate. Trains in place."""
    parameters = [*trained, head.weight, head.bias]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    generator = torch.Generator().manual_seed(recipe.seed)
    losses, k, steps = [], 0, recipe.epochs * 3
    for _ in range(recipe.epochs):
        order = [0, 1, 2, 3, 4]
        if recipe.shuffle:
            order = torch.randperm(5, generator=generator).tolist()
        for rows in (order[:2], order[2:4], order[4:]):
            states = torch.stack([alone(model, ROWS[i]) for i in rows])
            loss = F.cross_entropy(head(states), LABELS[rows])
            gradients = torch.autograd.grad(loss, parameters)
            if recipe.schedule == "records":
                lr = 0.01 * 0.7 * k / steps
            else:  # six steps: one warms up, from zero
                lr = 0.01 * (0.5 * (1 + math.cos(math.pi * (k - 1) / 5)) if k else 0)
            k += 1
            correction = math.sqrt(1 - 0.999**k)
            for p, g, (m, v) in zip(parameters, gradients, moments, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                if recipe.optimiser == "torch":
                    below = v.sqrt() / correction + 1e-6
                else:  # epsilon stands before the bias correction
                    below = (v.sqrt() + 1e-6) / correction
                p.data -= lr * m / (1 - 0.9**k) / below
            losses.append(loss.item())
    return losses, lr


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("recipe", [PLAIN, PUBLISHED], ids=["corrected", "published"])
@pytest.mark.parametrize("config", [CURLoRAConfig(4, seed=3), LoRAConfig(4, seed=3), None])
def test_the_whole_loop_is_the_one_written_out(llama, config, recipe, packed):
    """Losses, adapter and head. Tolerance: fp32, through six steps of AdamW."""
    other, head = copy.deepcopy(llama), nn.Linear(32, 2)
    heads, names = [head, copy.deepcopy(head)], {"A", "B", "U"}
    found = []
    for model in (llama, other):
        model.requires_grad_(False)
        if config:
            add_adapters(model, config)
        found.append([p for n, p in model.named_parameters() if n.rsplit(".", 1)[-1] in names])
    before = [p.clone() for p in found[0]]
    recipe = dataclasses.replace(recipe, packed=packed)
    trained = training.train_task(llama.base_model, heads[0], ENCODED, recipe, 0)
    losses, last_rate = by_hand(other, heads[1], found[1], recipe)
    assert trained["losses"] == pytest.approx(losses, rel=1e-4)
    assert trained["last_rate"] == pytest.approx(last_rate)
    for ours, theirs in zip([*found[0], *heads[0].parameters()],
                            [*found[1], *heads[1].parameters()], strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)
    assert all(not torch.equal(p, was) for p, was in zip(found[0], before, strict=True))
    assert (trained["steps"], trained["tokens"]) == (6, 2 * (3 + 7 + 2 + 4 + 1))


@pytest.mark.parametrize("dropout", [True, False])
def test_a_frozen_models_features_are_kept_unless_dropout_draws_them_anew(gpt2, dropout):
    gpt2.requires_grad_(False)
    calls = []
    gpt2.base_model.register_forward_hook(lambda model, *_: calls.append(model.training))
    recipe = dataclasses.replace(PUBLISHED, dropout=dropout, epochs=3)
    training.train_task(gpt2.base_model, nn.Linear(32, 2), ENCODED, recipe, 0)
    assert calls == ([True] * 9 if dropout else [False] * 3)
    assert not gpt2.base_model.training


def test_a_loss_that_is_not_finite_ends_the_training(llama):
    head = nn.Linear(32, 2)
    head.weight.data[0, 0] = math.inf
    with pytest.raises(training.DivergedError, match=r"loss (nan|inf) at step 0 of 6"):
        training.train_task(llama.base_model, head, ENCODED, PLAIN, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "cosine"}, "schedule: got 'cosine', expected one of records, steps"),
        ({"optimiser": "sgd"}, "optimiser: got 'sgd', expected one of transformers, torch"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"learning_rate": math.nan}, "learning_rate: got nan, expected a finite number"),
        ({"packed": True, "last_position": True}, "packed: got True, but rows"),
    ],
)
def test_bad_recipes(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAIN, **changes)
