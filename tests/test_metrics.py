"""Metrics on hand-worked matrices, accuracy on hand-worked answers, the learning rate schedule."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from curlora_lite import metrics, scoring, training
from curlora_lite.training import encode, features, pad, rate

# Three tasks: the first falls from 0.9 to 0.6 by way of 0.8, the second from 0.7 to 0.75.
R = [[0.9], [0.8, 0.7], [0.6, 0.75, 0.5]]


def test_metrics_by_hand():
    assert metrics.average_accuracy(R) == pytest.approx((0.6 + 0.75 + 0.5) / 3)
    assert metrics.backward_transfer(R) == pytest.approx(((0.6 - 0.9) + (0.75 - 0.7)) / 2)
    assert metrics.forgetting(R) == pytest.approx(((0.9 - 0.6) + (0.7 - 0.75)) / 2)
    assert metrics.plasticity(R) == pytest.approx((0.9 + 0.7 + 0.5) / 3)


def test_forgetting_takes_the_best_earlier_score():
    assert metrics.forgetting([[0.5], [0.8, 0.5], [0.6, 0.5, 0.5]]) == pytest.approx(0.2 / 2)


def test_one_stage_has_no_forgetting():
    with pytest.raises(ValueError, match="got 1 stages"):
        metrics.forgetting([[0.5]])


def test_mean_and_spread():
    assert metrics.mean_and_spread([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7)), 3)
    assert metrics.mean_and_spread([4.0]) == (4.0, None, 1)
    with pytest.raises(ValueError, match="got none"):
        metrics.mean_and_spread([])


def test_wilson_interval_of_a_textbook_case():
    # 8 of 10: Wilson 1927, as tabulated: 0.4902 to 0.9433
    assert metrics.wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_accuracy_by_hand():
    metric = scoring.Accuracy(keep_in_memory=True)
    got = metric.compute(predictions=[0, 1, 1, 2], references=[0, 1, 2, 1], classes=3)
    assert got == {"accuracy": 0.5, "n": 4, "majority": 0.5, "predicted": [1, 2, 1]}


def test_published_rates_are_those_of_500_warm_up_steps():
    """375 steps under a 500-step warm-up, as transformers' own scheduler gives them."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = get_cosine_schedule_with_warmup(optimiser, 500, 3 * 3668)
    for step in range(375):
        assert rate(step, 375, 375 / 500, "records") == pytest.approx(oracle.get_last_lr()[0])
        optimiser.step()
        oracle.step()
    assert rate(374, 375, 375 / 500, "records") < 0.75


def test_corrected_rates_are_those_of_a_cosine_over_the_steps():
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = get_cosine_schedule_with_warmup(optimiser, 10, 100)
    for step in range(100):
        assert rate(step, 100, 0.75, "steps") == pytest.approx(oracle.get_last_lr()[0])
        optimiser.step()
        oracle.step()


def test_no_schedule_is_a_constant_rate():
    assert {rate(step, 50, None, "records") for step in range(50)} == {1.0}


def test_features_do_not_depend_on_padding(llama, gpt2):
    """The last real token's state in a padded batch equals that of the row read alone."""
    rows = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [1]]
    for model in (llama, gpt2):
        together = features(model.base_model, *pad(rows, 0, "cpu"))
        for row, state in zip(rows, together, strict=True):
            alone = model.base_model(torch.tensor([row])).last_hidden_state[0, -1]
            torch.testing.assert_close(state, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 10, 256])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_rows_do_not_see_each_other(llama, gpt2, monkeypatch, tokens, attention):
    """Whatever the size of a group, each row's state is that of the row read alone."""
    monkeypatch.setattr(training, "PACKED_TOKENS", tokens)
    rows = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [1], [4, 4, 4, 4]]
    for model in (llama, gpt2):
        model.set_attn_implementation(attention)
        together = training.packed_features(model.base_model, rows, "cpu")
        assert together.shape == (4, 32)
        for row, state in zip(rows, together, strict=True):
            alone = model.base_model(torch.tensor([row])).last_hidden_state[0, -1]
            torch.testing.assert_close(state, alone, rtol=1e-5, atol=1e-5)


def test_last_position_reads_the_padding(gpt2):
    """The published readout differs from the last real token's wherever a row is padded."""
    rows = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3]]
    ids, lengths = pad(rows, 0, "cpu")
    published = features(gpt2.base_model, ids, lengths, last_position=True)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1] * 7])
    expected = gpt2.base_model(ids, attention_mask=mask).last_hidden_state[:, -1]
    torch.testing.assert_close(published, expected)
    real = features(gpt2.base_model, ids, lengths)
    assert not torch.allclose(published[0], real[0], atol=1e-3)
    torch.testing.assert_close(published[1], real[1], rtol=1e-5, atol=1e-5)


def test_left_padding_with_rotary_positions_is_the_same_readout(llama):
    """Mistral's tokenizer pads on the left; reading position -1 there is our last real token."""
    rows = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3]]
    ids = torch.tensor([[0, 0, 0, 0, 5, 6, 7], rows[1]])
    mask = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [1] * 7])
    left = llama.base_model(ids, attention_mask=mask).last_hidden_state[:, -1]
    ours = features(llama.base_model, *pad(rows, 0, "cpu"))
    torch.testing.assert_close(ours, left, rtol=1e-4, atol=1e-5)  # rotary rounding


@pytest.mark.parametrize("window", [5, 8, 20])
def test_perplexity_from_the_definition(llama, window):
    ids = torch.arange(20) % 64
    nats = []
    for start in range(0, 20, window):
        part = ids[start : start + window]
        p = llama(part[None]).logits[0].softmax(-1)
        nats += [-p[i, part[i + 1]].log().item() for i in range(len(part) - 1)]
    got = scoring.perplexity(llama, ids, window)
    assert got["tokens"] == len(nats)
    assert got["perplexity"] == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-5)


def test_encode_joins_pairs_with_nothing_or_the_end_token():
    class Letters:
        eos_token_id = 99

        def __call__(self, text):
            return {"input_ids": [ord(c) - 96 for c in text]}

    rows = {"text": ["ab", "abc"], "pair": ["cd", None], "label": [1, 0]}
    assert encode(rows, Letters(), 8).ids == [[1, 2, 3, 4], [1, 2, 3]]
    assert encode(rows, Letters(), 4, separator=True).ids == [[1, 2, 99, 3], [1, 2, 3]]


def test_intransigence_and_nats_by_hand():
    R = [[0.6], [0.5, 0.8]]
    assert metrics.intransigence(R, [0.7, 0.8]) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="expected 2"):
        metrics.intransigence(R, [0.7])
    assert metrics.nats_lost(10, 10 * math.e) == pytest.approx(1)


def test_t_interval_by_the_tables():
    """1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.3027 in any table; 4.3027 / sqrt(3)."""
    mean, low, high = metrics.t_interval([1, 2, 3])
    assert (mean, low, high) == pytest.approx((2, 2 - 2.48414, 2 + 2.48414), abs=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        metrics.t_interval([1])


def test_paired_differences():
    """Differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.4641, whose two-sided p with 2 degrees of
    freedom is 1 - t / sqrt(t^2 + 2) = 0.07418."""
    found = metrics.paired([2, 4, 6], [1, 2, 3])
    assert (found.mean, found.n) == (2, 3)
    assert found.p == pytest.approx(1 - 3.4641016 / math.sqrt(14), abs=1e-6)
    assert metrics.paired([1, 1], [1, 1]).p == 1
    # 0.1 in each pair, but for rounding: no spread to judge by, not certainty
    assert math.isnan(metrics.paired([0.7, 0.71, 0.69], [0.6, 0.61, 0.59]).p)
    with pytest.raises(ValueError, match="pairs"):
        metrics.paired([1, 2], [1])


def test_holm_by_hand():
    """0.01 x 4; 0.02 x 3; 0.03 x 2 = 0.06 as the one before; 0.5 x 1."""
    assert metrics.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert metrics.holm([0.4, 0.3]) == pytest.approx([0.6, 0.6])
    assert metrics.holm([]) == []
    # the same numbers with one that cannot be judged, which does not count
    assert metrics.holm([0.03, math.nan, 0.01, 0.5, 0.02]) == pytest.approx(
        [0.06, math.nan, 0.04, 0.5, 0.06], nan_ok=True
    )


def test_two_level_interval_without_spread():
    """Every row and seed alike: the mean of the tasks' differences, 1 and 0, exactly."""
    assert metrics.two_level_interval([np.ones((3, 5)), np.zeros((3, 7))]) == (0.5, 0.5)


def test_two_level_interval_of_two_seeds():
    """Rows alike, one seed at 1 and one at 0: both drawn the same in a quarter of the draws each,
    so that the middle half is 0.5 and the middle 80 % reach from 0 to 1."""
    both = [np.array([[1.0] * 4, [0.0] * 4])] * 2
    assert metrics.two_level_interval(both, level=0.3) == (0.5, 0.5)
    assert metrics.two_level_interval(both, level=0.8) == (0.0, 1.0)


def test_two_level_interval_of_one_seed_is_the_bootstrap_over_rows():
    """scipy's percentile bootstrap of the same mean; both from 10,000 draws, whose 2.5 % quantile
    has a standard error of some 0.0006 here."""
    rows = np.random.default_rng(3).choice([-1, 0, 1], 400, p=[0.2, 0.5, 0.3])
    oracle = stats.bootstrap((rows,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    expected = tuple(oracle.confidence_interval)
    assert metrics.two_level_interval([rows[None]]) == pytest.approx(expected, abs=0.004)
    assert metrics.two_level_interval([rows[None]]) == metrics.two_level_interval([rows[None]])
