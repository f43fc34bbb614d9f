"""What is measured of what was executed. All of it is NumPy, on the host, between updates."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spaars.safety.support import SupportMonitor


def action_rate(actions: np.ndarray, before: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Mean |a_t - a_{t-1}| (seeds,) over the dimensions and the steps that have a predecessor.

    Of actions (seeds, time, act); `before` (seeds, act) were executed before the first, NaN where
    an episode begins there; `ends` (seeds, time) says after which steps an episode ended.
    """
    previous = np.concatenate([before[:, None], actions[:, :-1]], 1)
    previous[:, 1:][ends[:, :-1]] = np.nan
    change = np.abs(actions - previous)
    counted = ~np.isnan(change)
    return _share(np.where(counted, change, 0.0).sum((1, 2)), counted.sum((1, 2)))


def gate_flips(gate: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How often the gate opened or closed, per 1,000 steps (seeds,).

    Of one chunk (seeds, time), and within episodes: between two chunks the policies change, too.
    """
    within = ~ends[:, :-1]
    flips = (gate[:, 1:] != gate[:, :-1]) & within
    return 1_000.0 * _share(flips.sum(1), within.sum(1))


def _share(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class Ended(NamedTuple):
    """A finished episode among the newest stored rows: [first, stop) of them."""

    first: int
    stop: int
    terminated: bool


def ended_episodes(
    episodes: Sequence[Sequence[Any]], ends: Sequence[int], oldest: int, since: int
) -> list[Ended]:
    """The exploring episodes that ended after step `since`, among the rows stored since `oldest`.

    Args:
        episodes: (step at the end, return, terminated, actor), oldest first.
        ends: steps at which an episode ended, also by a failure of the env, which is no episode.
    """
    found = []
    for step, _, terminated, actor in reversed(episodes):
        if step <= since:
            break
        if actor == "explore":
            before = bisect_left(ends, step)
            start = ends[before - 1] if before else 0
            found.append(Ended(max(start - oldest, 0), step - oldest, terminated))
    return found[::-1]


def q_minus_return(
    q: np.ndarray, rewards: np.ndarray, episodes: Sequence[Ended], discount: float
) -> float:
    """Mean of Q(s_t, a_t) less the discounted return that followed, over the episodes' steps.

    Where a time limit cut the episode off, Q of its last step stands for what would have followed;
    that step itself is not counted. NaN where there is no step to count.
    """
    errors = []
    for first, stop, terminated in episodes:
        value = 0.0 if terminated else float(q[stop - 1])
        if not terminated:
            stop -= 1
        for t in reversed(range(first, stop)):
            value = float(rewards[t]) + discount * value
            errors.append(float(q[t]) - value)
    return float(np.mean(errors)) if errors else float("nan")


def look_back(
    seen: Mapping[str, np.ndarray],
    steps: int,
    episodes: Sequence[Ended],
    support: SupportMonitor,
    discount: float,
) -> dict[str, float]:
    """Measurements of the newest `steps` of one seed's rows.

    Args:
        seen: observations (n, obs), actions (n, act), rewards (n,) and what `Agent.appraise` says
            of them, (n,) each, oldest first.
        episodes: the exploring ones that ended within those steps; they may begin before.
    """
    measured = {
        name: float(np.mean(seen[name][-steps:]))
        for name in ("support_distance", "latent_norm", "q_ensemble_std")
        if name in seen
    }
    measured |= support.measure(seen["observations"][-steps:], seen["actions"][-steps:])
    if "q" in seen:
        measured["q_minus_return"] = q_minus_return(seen["q"], seen["rewards"], episodes, discount)
    return measured
