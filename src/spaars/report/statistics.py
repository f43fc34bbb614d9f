"""Statistics of a few runs (Agarwal et al., 2021, arXiv 2108.13264), held to `rliable` by a test.

Scores are arrays of shape (..., runs, tasks); leading axes are resamples and stay. With one task
the last axis has length one.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spaars.report.records import Series

Statistic = np.ndarray | np.floating
"""One value for each index of the leading axes; numpy makes it a scalar where there are none."""

RESAMPLES = 10_000
EXACT_PERMUTATIONS = 7


def mean(scores: np.ndarray) -> Statistic:
    """Mean over the tasks of the mean over the runs: (..., runs, tasks) -> (...)."""
    return np.asarray(scores, np.float64).mean(axis=(-2, -1))


def iqm(scores: np.ndarray) -> Statistic:
    """Interquartile mean, of runs and tasks together: (..., runs, tasks) -> (...).

    A quarter of the scores, rounded down, is cut at either end: of fewer than four scores none,
    and the IQM is their mean.
    """
    scores = np.asarray(scores, np.float64)
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    count = ordered.shape[-1]
    cut = count // 4
    return ordered[..., cut : count - cut].mean(axis=-1)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the runs that score above each threshold, averaged over tasks.

    (..., runs, tasks), (thresholds,) -> (..., thresholds); "above" is strict.
    """
    scores = np.asarray(scores, np.float64)
    return np.stack([(scores > tau).mean(axis=(-2, -1)) for tau in thresholds], axis=-1)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> Statistic:
    """P(a run of x scores above a run of y), averaged over tasks; a tie counts half.

    (..., runs of x, tasks), (..., runs of y, tasks) -> (...). Of one task it is the Mann-Whitney
    U of x over the number of pairs.
    """
    x, y = np.asarray(x, np.float64)[..., :, None, :], np.asarray(y, np.float64)[..., None, :, :]
    return ((x > y) + 0.5 * (x == y)).mean(axis=(-3, -2, -1))


def stratified_bootstrap_interval(
    statistic: Callable[..., Statistic],
    *scores: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Statistic, Statistic]:
    """Ends of the 95% interval of `statistic(*scores)` by the percentile method.

    Each array of scores, (runs, tasks), is resampled by itself, with replacement among the runs
    of every task. Seeded, so that a report built twice is the same.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for array in scores:
        runs, tasks = array.shape
        picked = rng.integers(runs, size=(resamples, runs, tasks))
        drawn.append(np.asarray(array, np.float64)[picked, np.arange(tasks)])
    low, high = np.percentile(statistic(*drawn), (2.5, 97.5), axis=0)
    return low, high


def steps_to_threshold(evaluations: Sequence[Series], threshold: float) -> np.ndarray:
    """First step at which each seed was evaluated at `threshold` or above; inf where never.

    (seeds,), in environment steps. Its median is the report's sample efficiency: it is inf, "not
    reached", unless more than half of the seeds got there, however fast the others were.
    """
    return np.array(
        [
            min(one.steps[one.values >= threshold], default=np.inf)  # steps ascend
            for one in evaluations
        ],
        np.float64,
    )


def lowest_window(episodes: Series, width: int = 5_000) -> float | None:
    """Lowest mean score of the episodes that ended within one window of `width` steps.

    Windows lie side by side, the first holding the steps 1 to `width`; one in which no episode
    ended is passed over, and None means that none ended at all.
    """
    if not len(episodes.steps):
        return None
    window = (episodes.steps.astype(int) - 1) // width
    return min(float(episodes.values[window == w].mean()) for w in np.unique(window))


def regret_below(episodes: Series, level: float, lengths: np.ndarray) -> float | None:
    """Points by which episodes scored below `level`, mean over their steps; None if none ended.

    Weighted by `lengths`, (episodes,): a mean over episodes would count a fall after 20 steps as
    much as 1,000 good ones.
    """
    if not len(episodes.steps):
        return None
    return float(np.average(np.maximum(0.0, level - episodes.values), weights=lengths))


class RankCorrelation(NamedTuple):
    """Spearman's, and how little a few points say."""

    value: float | None
    """None of fewer than three points, or where one side does not vary."""
    interval: tuple[float, float] | None
    """95%; None of fewer than five points, or of a perfect order, which has no standard error."""
    p_value: float | None
    """Two-sided, by permutations: exact up to seven points, else 10,000 seeded ones."""


def rank_correlation(x: np.ndarray, y: np.ndarray, seed: int = 0) -> RankCorrelation:
    """Spearman's rank correlation of paired values (n,); ties get their mean rank.

    Interval: Fisher's z with the standard error sqrt((1 + r^2 / 2) / (n - 3)) of Bonett and Wright
    (2000).
    """
    ranks = [_ranks(np.asarray(side, np.float64)) for side in (x, y)]
    n = len(ranks[0])
    if n < 3 or any(np.ptp(side) == 0.0 for side in ranks):
        return RankCorrelation(None, None, None)
    a, b = (side - side.mean() for side in ranks)
    scale = np.sqrt((a @ a) * (b @ b))
    value = float(a @ b / scale)
    if n <= EXACT_PERMUTATIONS:
        shuffled = np.array(list(itertools.permutations(b)))
    else:
        rng = np.random.default_rng(seed)
        shuffled = rng.permuted(np.tile(b, (RESAMPLES, 1)), axis=1)
    others = shuffled @ a / scale
    # The order that was seen is one of them; drawn ones need it counted in.
    hits = int((np.abs(others) >= abs(value) - 1e-9).sum())
    exact = n <= EXACT_PERMUTATIONS
    p_value = hits / len(others) if exact else (hits + 1) / (len(others) + 1)
    interval = None
    if n >= 5 and abs(value) < 1.0 - 1e-12:
        half = 1.959964 * np.sqrt((1.0 + value**2 / 2.0) / (n - 3))
        ends = np.tanh(np.arctanh(value) + np.array([-half, half]))
        interval = float(ends[0]), float(ends[1])
    return RankCorrelation(value, interval, p_value)


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 to n; ties get their mean rank."""
    below = (values[None, :] < values[:, None]).sum(1)
    same = (values[None, :] == values[:, None]).sum(1)
    return below + (same + 1.0) / 2.0
