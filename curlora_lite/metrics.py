"""What follows from numbers alone: means with spread, and measures of a run's score matrix.

R[i][j] is the accuracy on task j after training stage i; both count from 0 here, and R[i] holds
the tasks up to i. Pure functions.
"""

import math
import statistics
from dataclasses import dataclass

import numpy as np
from scipy import stats


def mean_and_spread(values):
    """(mean, sample standard deviation, count); the deviation is None for a single value.

    ValueError for no values: there is no mean of nothing.
    """
    values = list(values)
    if not values:
        raise ValueError("values: got none, expected at least one")
    spread = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), spread, len(values)


BALANCED = "sentiment140, balanced"  # a score beside one on rows that are all negative


def score_matrix(record, balanced=False):
    """R of a RunRecord as nested lists, lower triangular: R[i][j] for j <= i.

    balanced: where a task was also scored on balanced rows, count these.
    """
    tasks = [stage["task"] for stage in record.stages]

    def accuracy(scores, task):
        beside = scores.get(BALANCED) if balanced and task == "sentiment140" else None
        return (beside or scores[task])["accuracy"]

    return [
        [accuracy(stage["scores"], task) for task in tasks[: i + 1]]
        for i, stage in enumerate(record.stages)
    ]


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


def wilson_interval(accuracy, n, z=1.96):
    """Wilson's interval (low, high) for a proportion of n independent answers; 95 % by default."""
    if n < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"got accuracy {accuracy!r} of n {n!r}, expected 0 to 1 of 1 or more")
    centre = accuracy + z * z / (2 * n)
    half = z * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def intransigence(R, best):
    """mean_j (best[j] - R[j][j]): what a run falls short of the best single-task scores (T,).

    Below zero where it learned a task better than the reference did.
    Source: Chaudhry et al. 2018, with the best score of the task learned alone as the reference.
    """
    if len(best) != len(R):
        raise ValueError(f"best: got {len(best)} scores, expected {len(R)}, one a task")
    return statistics.fmean(b - R[j][j] for j, b in enumerate(best))


def nats_lost(before, after):
    """log(after / before): how many nats per token perplexity has grown by."""
    return math.log(after / before)


def t_interval(values, level=0.95):
    """(mean, low, high) by Student's t over seeds; ValueError for fewer than two values.

    The values are taken as independent draws of one normal distribution.
    """
    mean, spread, n = mean_and_spread(values)
    if n < 2:
        raise ValueError(f"values: got {n}, expected at least 2 for an interval over seeds")
    half = stats.t.ppf((1 + level) / 2, n - 1) * spread / math.sqrt(n)
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class Paired:
    """A difference over pairs: mean, 95 % interval, two-sided p by the paired t test, pairs."""

    mean: float
    low: float
    high: float
    p: float
    n: int


def paired(first, second, level=0.95):
    """`first` less `second`, pair by pair (same seed, same rows), as a `Paired`.

    Where all differences are equal there is no spread to judge by: p is 1 if they are zero and
    NaN if not. ValueError for lists of different lengths or fewer than two pairs.
    """
    if len(first) != len(second):
        raise ValueError(f"got {len(first)} values and {len(second)}, expected pairs")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, low, high = t_interval(differences, level)
    if high - low <= 1e-9 * max(1.0, abs(mean)):  # rounding alone
        p = 1.0 if abs(mean) <= 1e-9 else math.nan
        return Paired(mean, mean, mean, p, len(differences))
    return Paired(mean, low, high, float(stats.ttest_rel(first, second).pvalue), len(differences))


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
    """(low, high) of a mean over seeds and evaluation rows, both drawn anew with replacement.

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
    return float(low), float(high)
