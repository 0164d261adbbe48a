"""What follows from numbers alone: measures of a run's score matrix, intervals, paired tests.

R[i][j] is the accuracy on task j after training stage i; both count from 0 here, and R[i] holds
the tasks up to i. Pure functions.
"""

import math
import statistics
from typing import NamedTuple

import numpy as np
from scipy import stats


def plasticity(R):
    """mean_j R[j][j]: accuracy on each task right after its own stage."""
    return statistics.fmean(R[j][j] for j in range(len(R)))


def average_accuracy(R):
    """ACC = mean_j R[T][j]: accuracy over all tasks after the last stage T."""
    return statistics.fmean(R[-1])


def backward_transfer(R):
    """BWT = mean_{j<T} (R[T][j] - R[j][j]); below zero where earlier tasks lost."""
    return statistics.fmean(R[-1][j] - R[j][j] for j in range(_earlier(R)))


def forgetting(R):
    """mean_{j<T} (max_{j<=i<T} R[i][j] - R[T][j]): the best earlier score less the last one.

    Source: Chaudhry et al. 2018, the maximum taken over stages that have seen task j.
    """
    last = _earlier(R)
    return statistics.fmean(max(R[i][j] for i in range(j, last)) - R[-1][j] for j in range(last))


def _earlier(R):
    if len(R) < 2:
        raise ValueError(f"R: got {len(R)} stages, expected at least 2 to compare")
    return len(R) - 1


class Interval(NamedTuple):
    """A mean with its confidence interval and the number of values; p where it is a comparison."""

    mean: float
    low: float
    high: float
    n: int
    p: float = math.nan


def wilson_interval(accuracy, n, level=0.95):
    """Wilson's Interval for a share of n independent answers, for the choice of rows alone."""
    if n < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"got accuracy {accuracy!r} of n {n!r}, expected 0 to 1 of 1 or more")
    found = stats.binomtest(round(accuracy * n), n).proportion_ci(level, method="wilson")
    return Interval(accuracy, found.low, found.high, n)


def t_interval(values, level=0.95):
    """The mean of values, one a seed, and its Interval by Student's t.

    ValueError for fewer than two. The values are taken as independent draws of one normal
    distribution; where all are equal the interval is that point.
    """
    values = [float(v) for v in values]
    if len(values) < 2:
        raise ValueError(f"values: got {len(values)}, expected at least 2, one a seed")
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * spread / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def paired(first, second, level=0.95):
    """`first` less `second`, pair by pair (same seed, same rows), as an Interval with its p value.

    Two-sided, by the paired t test. Where all differences are equal there is no spread to judge by:
    p is 1 if they are zero and NaN if not. ValueError for lists of different lengths or fewer than
    two pairs.
    """
    first, second = list(first), list(second)
    found = t_interval([a - b for a, b in zip(first, second, strict=True)], level)
    if found.high - found.low <= 1e-9 * max(1.0, abs(found.mean)):  # rounding alone
        p = 1.0 if abs(found.mean) <= 1e-9 else math.nan
        return Interval(found.mean, found.mean, found.mean, found.n, p)
    return found._replace(p=float(stats.ttest_rel(first, second).pvalue))


def holm(p_values):
    """Holm's adjusted p values, in the order given: each at most 1, none below its own.

    Reject those at most 0.05 and the chance of any false rejection among them is at most 5 %.
    NaN, where there was nothing to judge by, stays NaN and does not count. Source: Holm 1979.
    """
    judged = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    order = sorted(judged, key=lambda i: p_values[i])
    adjusted, so_far = [math.nan] * len(p_values), 0.0
    for place, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(order) - place) * p_values[i]))
        adjusted[i] = so_far
    return adjusted


def two_level_interval(differences, draws=10_000, seed=0, level=0.95):
    """Interval of a mean over seeds and evaluation rows, both drawn anew with replacement.

    differences: one array (seeds, rows) a task, of what the first method got right less the
    second, by row; the rows are the same for all seeds, the seeds for all tasks. The mean is over
    the rows of each task, then over tasks. Percentiles of `draws` draws: in each, all tasks take
    the same seeds, and all seeds the same rows. With few seeds the part of the seeds comes out
    small, by (S - 1) / S in variance and without Student's t: to be read beside `t_interval`.
    Source: Owen 2007, the pigeonhole bootstrap.
    """
    rng, total = np.random.default_rng(seed), np.zeros(draws)
    seeds = np.shape(differences[0])[0]
    drawn = rng.multinomial(seeds, [1 / seeds] * seeds, draws) / seeds  # (draws, seeds)
    for task in differences:
        n = np.shape(task)[1]
        rows = rng.multinomial(n, [1 / n] * n, draws) / n  # (draws, rows)
        total += ((drawn @ np.asarray(task, float)) * rows).sum(1) / len(differences)
    low, high = np.quantile(total, [(1 - level) / 2, (1 + level) / 2])
    mean = float(np.mean([np.mean(task) for task in differences]))
    return Interval(mean, float(low), float(high), seeds)
