"""Golden numbers by hand, and agreement with `rliable`, resample by resample."""

from typing import Any

import numpy as np
import pytest

from spaars.report.records import Series
from spaars.report.statistics import (
    iqm,
    lowest_window,
    mean,
    performance_profile,
    probability_of_improvement,
    regret_below,
    steps_to_threshold,
    stratified_bootstrap_interval,
)

RNG = np.random.default_rng(5)
X = np.round(60.0 + 25.0 * RNG.normal(size=(7, 3)))  # rounded: there are ties
Y = np.round(55.0 + 25.0 * RNG.normal(size=(4, 3)))
TAUS = np.linspace(0.0, 110.0, 23)


def column(*scores: float) -> np.ndarray:
    """Runs of one task."""
    return np.array(scores)[:, None]


def curve(*points: tuple[float, float]) -> Series:
    steps, values = zip(*points, strict=True)
    return Series(np.array(steps, np.float64), np.array(values, np.float64))


# ---------------------------------------------------------------------- by hand


def test_mean_and_iqm_by_hand() -> None:
    scores = np.array([[0.0, 10.0], [2.0, 20.0], [4.0, 90.0]])
    assert mean(scores) == 21.0
    assert iqm(scores) == np.mean([2.0, 4.0, 10.0, 20.0])  # one of six cut at either end
    assert iqm(column(1.0, 2.0, 6.0)) == 3.0  # of three none is cut
    assert iqm(column(-100.0, 1.0, 2.0, 500.0)) == 1.5
    assert mean(column(7.0)) == iqm(column(7.0)) == 7.0


def test_profile_and_probability_by_hand() -> None:
    profile = performance_profile(column(10.0, 20.0, 20.0, 90.0), np.array([0.0, 10.0, 20.0, 90.0]))
    assert profile.tolist() == [1.0, 0.75, 0.25, 0.0]  # strictly above
    # 2 > 1; 3 > 1, 3 > 2; 2 = 2 counts half: 3.5 of 4 pairs.
    assert probability_of_improvement(column(2.0, 3.0), column(1.0, 2.0)) == 0.875
    assert probability_of_improvement(column(5.0, 5.0), column(5.0)) == 0.5
    # Averaged over the tasks: 1 on the first, 0 on the second.
    assert probability_of_improvement(np.array([[9.0, 1.0]]), np.array([[1.0, 9.0]])) == 0.5


def test_steps_to_threshold_of_seeds_that_reach_it_and_that_do_not() -> None:
    fast = curve((0, 20), (1_000, 90), (2_000, 50))  # at the threshold counts, once is enough
    slow = curve((0, 20), (1_000, 89.9), (2_000, 95))
    never = curve((0, 20), (2_000, 80))
    at_once = curve((0, 99))
    steps = steps_to_threshold([fast, slow, never, at_once], 90.0)
    assert steps.tolist() == [1_000.0, 2_000.0, np.inf, 0.0]
    assert np.median(steps[:3]) == 2_000.0
    assert np.median(steps[1:3]) == np.inf  # half of them is not more than half


def test_lowest_window_and_regret_by_hand() -> None:
    episodes = curve((1, 40), (5_000, 20), (5_001, 10), (14_000, 25), (15_000, 31))
    assert lowest_window(episodes) == 10.0  # windows end at 5,000: means 30, 10, 28
    assert lowest_window(episodes, 20_000) == 25.2
    lengths = np.array([1.0, 2.0, 1.0, 4.0, 2.0])
    assert regret_below(episodes, 30.0, lengths) == (0 + 2 * 10 + 20 + 4 * 5 + 0) / 10
    nothing = Series(np.array([]), np.array([]))
    assert lowest_window(nothing) is None
    assert regret_below(nothing, 30.0, np.array([])) is None


def test_interval_resamples_within_tasks_and_is_the_same_twice() -> None:
    # Each task's runs agree: whatever is drawn within them, the mean stays. Were runs of one task
    # drawn for the other, it would not.
    scores = np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])
    assert stratified_bootstrap_interval(mean, scores) == (50.0, 50.0)
    once = stratified_bootstrap_interval(iqm, X)
    assert once == stratified_bootstrap_interval(iqm, X)
    assert once[0] < iqm(X) < once[1]
    assert stratified_bootstrap_interval(iqm, X, seed=1) != once


def test_interval_is_near_the_normal_one() -> None:
    scores = np.random.default_rng(2).normal(size=(200, 1))
    low, high = stratified_bootstrap_interval(mean, scores)
    half = 1.96 * scores.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.01)


# ---------------------------------------------------------------------- rliable


def test_point_estimates_agree_with_rliable() -> None:
    from rliable import metrics

    for scores in (X, Y, X[:, :1], X[:1], X[:3]):
        assert mean(scores) == pytest.approx(metrics.aggregate_mean(scores), rel=1e-12)
        assert iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores), rel=1e-12)
    for x, y in ((X, Y), (Y, X), (X[:, :1], Y[:, 1:2]), (X, X), (X[:1], Y[:1])):
        expected = metrics.probability_of_improvement(x, y)
        assert probability_of_improvement(x, y) == pytest.approx(expected, rel=1e-12)


class Draws:
    """numpy.random.choice as rliable calls it, drawing what our bootstrap draws."""

    def __init__(self, *shapes: tuple[int, ...], resamples: int) -> None:
        rng = np.random.default_rng(0)
        drawn = [rng.integers(shape[0], size=(resamples, *shape)) for shape in shapes]
        self.queue = iter([array[i] for i in range(resamples) for array in drawn])

    def __call__(self, runs: int, shape: tuple[int, ...], replace: bool) -> np.ndarray:
        assert replace
        picked = next(self.queue)
        assert picked.shape == shape
        assert picked.max() < runs
        return picked


@pytest.mark.parametrize("scores", [(X,), (X[:, :1],), (X, Y)], ids=["tasks", "one", "pair"])
def test_intervals_agree_with_rliable(
    scores: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rliable import library, metrics

    ours, theirs = {
        1: (iqm, metrics.aggregate_iqm),
        2: (probability_of_improvement, metrics.probability_of_improvement),
    }[len(scores)]
    draws = Draws(*(array.shape for array in scores), resamples=300)
    monkeypatch.setattr(np.random, "choice", draws)
    given: Any = scores[0] if len(scores) == 1 else list(scores)
    points, intervals = library.get_interval_estimates(
        {"x": given}, lambda *drawn: np.array([theirs(*drawn)]), reps=300
    )
    assert points["x"][0] == pytest.approx(ours(*scores), rel=1e-12)
    found = stratified_bootstrap_interval(ours, *scores, resamples=300)
    assert found == pytest.approx(tuple(intervals["x"].ravel()), rel=1e-12)
    assert next(draws.queue, None) is None


def test_profile_agrees_with_rliable(monkeypatch: pytest.MonkeyPatch) -> None:
    from rliable import library

    monkeypatch.setattr(np.random, "choice", Draws(X.shape, resamples=200))
    profiles, intervals = library.create_performance_profile({"x": X}, TAUS, reps=200)
    np.testing.assert_allclose(performance_profile(X, TAUS), profiles["x"], rtol=1e-12)
    found = stratified_bootstrap_interval(lambda s: performance_profile(s, TAUS), X, resamples=200)
    np.testing.assert_allclose(found, intervals["x"], rtol=1e-12)
