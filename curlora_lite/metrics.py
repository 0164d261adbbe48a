"""What follows from numbers alone: means with spread, and measures of a run's score matrix.

R[i][j] is the accuracy on task j after training stage i; both count from 0 here, and R[i] holds
the tasks up to i. Pure functions.
"""

import math
import statistics


def mean_and_spread(values):
    """(mean, sample standard deviation, count); the deviation is None for a single value.

    ValueError for no values: there is no mean of nothing.
    """
    values = list(values)
    if not values:
        raise ValueError("values: got none, expected at least one")
    spread = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), spread, len(values)


def score_matrix(record):
    """R of a RunRecord as nested lists, lower triangular: R[i][j] for j <= i."""
    tasks = [stage["task"] for stage in record.stages]
    return [
        [stage["scores"][task]["accuracy"] for task in tasks[: i + 1]]
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
