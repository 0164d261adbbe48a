"""Measures of a run on hand-worked matrices; intervals and tests against textbooks and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from curlora_lite import metrics
from curlora_lite.replication import rules

# Three tasks: the first was best in the middle, 0.9, and ends at 0.6; the second at 0.75, from 0.7.
R = [[0.8], [0.9, 0.7], [0.6, 0.75, 0.5]]


def test_metrics_by_hand():
    assert metrics.average_accuracy(R) == pytest.approx((0.6 + 0.75 + 0.5) / 3)
    assert metrics.backward_transfer(R) == pytest.approx(((0.6 - 0.8) + (0.75 - 0.7)) / 2)
    assert metrics.forgetting(R) == pytest.approx(((0.9 - 0.6) + (0.7 - 0.75)) / 2)
    assert metrics.plasticity(R) == pytest.approx((0.8 + 0.7 + 0.5) / 3)
    with pytest.raises(ValueError, match="got 1 stages"):
        metrics.forgetting([[0.5]])


def test_wilson_interval_of_a_textbook_case():
    # 8 of 10: Wilson 1927, as tabulated: 0.4902 to 0.9433
    found = metrics.wilson_interval(0.8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert (found.mean, found.n) == (0.8, 10)
    with pytest.raises(ValueError, match=r"accuracy 1.2 of n 10, expected 0 to 1"):
        metrics.wilson_interval(1.2, 10)


def test_t_interval_by_the_tables():
    """1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.3027 in any table; 4.3027 / sqrt(3)."""
    found = metrics.t_interval([1, 2, 3])
    assert found[:3] == pytest.approx((2, 2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert found.n == 3 and math.isnan(found.p)
    assert metrics.t_interval([1, 2, 3], level=0.9).high == pytest.approx(2 + 2.91999 / 3**0.5)
    with pytest.raises(ValueError, match="at least 2"):
        metrics.t_interval([1])


def test_paired_differences():
    """Differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.4641, whose two-sided p with 2 degrees of
    freedom is 1 - t / sqrt(t^2 + 2) = 0.07418."""
    found = metrics.paired([2, 4, 6], [1, 2, 3])
    assert found[:4] == pytest.approx((2, 2 - 2.48414, 2 + 2.48414, 3), abs=1e-5)
    assert found.p == pytest.approx(1 - 3.4641016 / math.sqrt(14), abs=1e-6)
    assert metrics.paired([1, 1], [1, 1]).p == 1
    # 0.1 in each pair, but for rounding: no spread to judge by, not certainty
    assert math.isnan(metrics.paired([0.7, 0.71, 0.69], [0.6, 0.61, 0.59]).p)
    with pytest.raises(ValueError, match="shorter"):
        metrics.paired([1, 2], [1])


def test_holm_by_hand():
    """0.01 x 4; 0.02 x 3; 0.03 x 2 = 0.06 as the one before; 0.5 x 1."""
    assert metrics.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert metrics.holm([0.9, 0.8]) == [1, 1] and metrics.holm([]) == []
    # the same numbers with one that cannot be judged, which does not count
    found = metrics.holm([0.03, math.nan, 0.01, 0.5, 0.02])
    assert found == pytest.approx([0.06, math.nan, 0.04, 0.5, 0.06], nan_ok=True)


SAID = [
    *(([(a, b), (a, b)], 0.049, "differs") for a, b in ((0.01, 0.09), (-0.07, -0.02))),
    ([(0.01, 0.09), (0.02, 0.07)], 0.05, "not shown"),
    ([(0.01, 0.09), (-0.02, 0.07)], 0.01, "not shown"),  # over rows it may be none
    ([(0.01, 0.019)], 0.01, "differs little"),
    ([(-0.019, 0.019), (-0.01, 0.019)], 0.9, "no difference"),
    ([(-0.019, 0.02)], 0.9, "not shown"),  # as far as the margin
    ([(-0.019, 0.019), (-0.02, 0.01)], 0.9, "not shown"),
]


@pytest.mark.parametrize(("intervals", "p", "said"), SAID)
def test_verdict_of_a_difference(intervals, p, said):
    found = [metrics.Interval(low, low, high, 5) for low, high in intervals]
    assert rules.verdict(0.02, p, *found) == said


def test_cost_at_a_gain_by_hand():
    """Up to (0.2, 1), back to (0.1, 2), up to (0.4, 8), where one point more costs half of that."""
    line = [0.0, 0.2, 0.1, 0.4, 0.4], [0.0, 1.0, 2.0, 8.0, 4.0]
    found = [rules.cost_at(gain, *line) for gain in (0, 0.1, 0.3, 0.4, 0.41, -0.01)]
    assert found == pytest.approx([0, 0.5, 6, 4, math.nan, math.nan], nan_ok=True)


def test_two_level_interval_of_rows_alike():
    """Seeds alike too: the mean of the tasks' differences, 1 and 0, exactly. One seed at 1 and one
    at 0: both drawn the same in a quarter of the draws each, so that the middle half is 0.5 and the
    middle 80 % reach from 0 to 1."""
    found = metrics.two_level_interval([np.ones((3, 5)), np.zeros((3, 7))])
    assert found[:4] == (0.5, 0.5, 0.5, 3)
    both = [np.array([[1.0] * 4, [0.0] * 4])] * 2
    assert metrics.two_level_interval(both, level=0.3)[:3] == (0.5, 0.5, 0.5)
    assert metrics.two_level_interval(both, level=0.8)[:3] == (0.5, 0.0, 1.0)


def test_two_level_interval_of_one_seed_is_the_bootstrap_over_rows():
    """scipy's percentile bootstrap of the same mean; both from 10,000 draws, whose 2.5 % quantile
    has a standard error of some 0.0006 here."""
    rows = np.random.default_rng(3).choice([-1, 0, 1], 400, p=[0.2, 0.5, 0.3])
    oracle = stats.bootstrap((rows,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    found = metrics.two_level_interval([rows[None]])
    assert found[1:3] == pytest.approx(tuple(oracle.confidence_interval), abs=0.004)
    assert found[:3] == metrics.two_level_interval([rows[None]])[:3]
