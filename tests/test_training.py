"""Training of one task: what is read and where, the schedule, and the whole loop by hand."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curlora_lite import CURLoRAConfig, add_adapters, training
from curlora_lite.training import Recipe, encode

ROWS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [1, 2], [3, 4, 5, 6], [11]]
LABELS = torch.tensor([0, 1, 1, 0, 1])
ENCODED = training.Encoded(ROWS, LABELS)
PLAIN = Recipe(learning_rate=0.01, epochs=2, batch=2, seed=3)
AUTHORS = {"schedule": "records", "peak": 0.7, "shuffle": False, "optimiser": "transformers"}
PUBLISHED = dataclasses.replace(PLAIN, **AUTHORS)


def alone(model, row):
    """The last token's state of a row read by itself."""
    return model.base_model(torch.tensor([row])).last_hidden_state[0, -1]


def test_a_half_precision_model_trains_an_fp32_head(llama):
    """Features leave the model as fp32: rounded to bf16 once, by the model."""
    head = nn.Linear(32, 2)
    reference = torch.stack([alone(llama.bfloat16(), row) for row in ROWS[:2]]).float()
    first = F.cross_entropy(head(reference), LABELS[:2]).item()
    recipe = dataclasses.replace(PLAIN, shuffle=False)
    losses = training.train_task(llama.base_model, head, ENCODED, recipe, 0)["losses"]
    assert losses[0] == pytest.approx(first, rel=0.01)  # bf16 of rows in a batch


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


BAD = [([1] * n, 0, f"row 0 has {n} tokens, expected 1 to 4") for n in (0, 5)]
BAD += [([0, 10], 0, "token ids from 0 to 10, expected within 0 to 9")]
BAD += [([-1, 3], 0, "token ids from -1 to 3, expected within 0 to 9")]
BAD += [([1], 2, "label 2, expected within 0 to 1")]


@pytest.mark.parametrize(("ids", "label", "message"), BAD)
def test_rows_that_a_model_cannot_take(ids, label, message):
    encoded = training.Encoded([ids], torch.tensor([label]))
    with pytest.raises(ValueError, match=message):
        training.check_rows(encoded, "mrpc", classes=2, vocabulary=10, context=4)
    training.check_rows(training.Encoded([[9] * 4], torch.tensor([1])), "mrpc", 2, 10, 4)


@pytest.mark.parametrize("dropout", [True, False])
def test_a_frozen_models_features_are_kept_unless_dropout_draws_them_anew(gpt2, dropout):
    gpt2.requires_grad_(False)
    calls = []
    gpt2.base_model.register_forward_hook(lambda model, *_: calls.append(model.training))
    recipe = dataclasses.replace(PUBLISHED, dropout=dropout, epochs=3)
    training.train_task(gpt2.base_model, nn.Linear(32, 2), ENCODED, recipe, 0)
    assert calls == ([True] * 9 if dropout else [False])
    assert not gpt2.base_model.training


def test_a_rate_of_dropout_counts_wherever_a_module_keeps_it():
    """As OPT's `dropout`, Llama's `attention_dropout`, `nn.Dropout`'s p: zero where it is off."""
    inner = nn.Dropout(0.1)
    for name in ("dropout", "attention_dropout"):
        module = nn.Sequential(inner).train()
        setattr(module, name, 0.9)
        with training._training_mode(module, False, False):
            assert getattr(module, name) == inner.p == 0
        assert getattr(module, name) == 0.9 and inner.p == 0.1 and not module.training
        del module[0]
        assert training._has_dropout(module.train()) and not training._has_dropout(module.eval())


def test_a_head_may_train_at_a_rate_of_its_own(llama):
    """Beside an adapter that hardly moves it becomes what it becomes alone; at one rate as ever."""
    found = []
    for rates in (None, {"learning_rate": 1e-9, "head_rate": 0.01}, {}, {"head_rate": 0.01}):
        torch.manual_seed(0)
        model, head = copy.deepcopy(llama).requires_grad_(False), nn.Linear(32, 2)
        if rates is not None:
            add_adapters(model, CURLoRAConfig(rank=2))
        recipe = dataclasses.replace(PLAIN, **rates or {})
        training.train_task(model.base_model, head, ENCODED, recipe, 0)
        found.append(head.weight.detach())
    alone, beside, same, again = found
    assert torch.allclose(beside, alone, atol=1e-6) and torch.equal(same, again)
    assert not torch.equal(same, alone)


def test_a_loss_that_is_not_finite_ends_the_training(llama):
    head = nn.Linear(32, 2)
    head.weight.data[0, 0] = math.inf
    with pytest.raises(training.DivergedError, match=r"loss (nan|inf) at step 0 of 6"):
        training.train_task(llama.base_model, head, ENCODED, PLAIN, 0)
