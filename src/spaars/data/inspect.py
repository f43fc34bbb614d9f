"""What is in a dataset, and what is wrong with it."""

from typing import Any

import numpy as np

from spaars.data.dataset import Dataset, is_constant
from spaars.data.memory import blocks, mean_and_std
from spaars.tasks import Task

AT_BOUND = 0.99
"""An action this close to its bound counts as saturated."""
COLUMNS = ("mean", "std", "min", "max")
SHORT = 5
"""Episodes of fewer steps are likely an accident of the logger."""


def describe(dataset: Dataset, task: Task | None = None) -> dict[str, Any]:
    """Facts of a dataset, as plain numbers, strings, lists and dicts (JSON can hold them).

    Distributions have min, q1, median, q3, max, mean, std. With a task, `scores` are its
    normalised returns. `effective_dimensions` is the participation ratio (sum l)^2 / sum l^2 of
    the eigenvalues l of the observations' correlation matrix: 1 if all dimensions move together,
    their number if they are uncorrelated.
    """
    observations, actions, rewards = dataset.observations, dataset.actions, dataset.rewards
    returns = dataset.episode_returns()
    constant, at_bounds = _constant(observations), _at_bounds(actions)
    facts = {
        "label": dataset.label,
        "sha256": dataset.sha256,
        "transitions": len(dataset),
        "observation_dim": dataset.observation_dim,
        "action_dim": dataset.action_dim,
        "episodes": len(returns),
        "terminated": int(dataset.terminated.sum()),
        "truncated": int(dataset.truncated.sum()),
        "lengths": _distribution(dataset.episode_lengths()),
        "returns": _distribution(returns),
        "observations": _columns(observations),
        "constant_dimensions": np.flatnonzero(constant).tolist(),
        "constant_fraction": float(constant.mean()),
        "effective_dimensions": _participation_ratio(observations, ~constant),
        "actions": _columns(actions) | {"at_bounds": at_bounds.tolist()},
        "actions_at_bounds": float(at_bounds.mean()),
        "rewards": {
            "min": float(rewards.min()),
            "max": float(rewards.max()),
            "mean": float(rewards.mean(dtype=np.float64)),
            "nonzero_fraction": float((rewards != 0.0).mean()),
        },
        "duplicates": _duplicates(dataset),
    }
    if task is not None:
        facts["scores"] = _distribution(task.score(returns))
    return facts


def problems(dataset: Dataset) -> list[str]:
    """One line for each thing that a person should look at before training; most serious first."""
    found = []
    lengths, returns = dataset.episode_lengths(), dataset.episode_returns()
    rewards, actions = dataset.rewards, dataset.actions
    stops = dataset.episode_bounds()[1]

    if not rewards.any():
        found.append("All rewards are zero: nothing can be learned but imitation.")
    elif rewards.min() == rewards.max():
        found.append(f"All rewards are {rewards[0]:g}: only the length of episodes differs.")
    jumps = _jumps(dataset)
    if len(jumps):
        found.append(
            f"In {len(jumps):,} rows (first: {jumps[0]}) the next observation is not the following "
            "row's observation, though the episode goes on: ends of episodes are not marked, or "
            "rows are shuffled. Skills over several steps need the order of time."
        )
    if len(lengths) == 1:
        found.append(
            "There is one episode only: the ends of episodes may be missing in the log, and no "
            "statistics over episodes are possible."
        )
    if not dataset.terminated.any():
        found.append(
            "No row is terminated: right for tasks that never fail, wrong if failures were logged "
            "as time limits."
        )
    at_limit = dataset.terminated[stops - 1] & (lengths == lengths.max())
    if len(lengths) > 1 and at_limit.sum() > max(1, 0.05 * len(lengths)):
        found.append(
            f"{at_limit.sum():,} episodes of {len(lengths):,} terminate after exactly "
            f"{lengths.max()} steps, the longest length: if that is a time limit, mark those rows "
            "truncated, or their value is learned as zero."
        )
    short = int((lengths < SHORT).sum())
    if short > 0.01 * len(lengths):
        found.append(f"{short:,} episodes of {len(lengths):,} have fewer than {SHORT} steps.")
    if len(returns) > 1 and rewards.any() and np.ptp(returns) == 0.0:
        found.append(f"All episodes have the same return, {returns[0]:g}.")
    constant = np.flatnonzero(_constant(dataset.observations))
    if len(constant):
        found.append(f"Observation dimensions that never change: {_ranges(constant)}.")
    still = np.flatnonzero(_constant(actions))
    if len(still):
        found.append(f"Action dimensions that never change: {_ranges(still)}.")
    saturated = np.flatnonzero(_at_bounds(actions) > 0.5)
    saturated = np.setdiff1d(saturated, still)
    if len(saturated):
        found.append(
            f"Actions are at their bounds in more than half of the rows in dimensions "
            f"{_ranges(saturated)}: the logger may have clipped them, or the scale is too small."
        )
    duplicates = _duplicates(dataset)
    if duplicates:
        found.append(
            f"{duplicates:,} transitions are exact copies of others: files may have been joined "
            "twice, or the sensors were frozen."
        )
    return found


def _distribution(x: np.ndarray) -> dict[str, float]:
    names = ("min", "q1", "median", "q3", "max")
    quartiles = np.percentile(x, (0, 25, 50, 75, 100))
    return dict(zip(names, map(float, quartiles), strict=True)) | {
        "mean": float(np.mean(x)),
        "std": float(np.std(x)),
    }


def _columns(x: np.ndarray) -> dict[str, list[float]]:
    """Per-dimension statistics of (N, dim)."""
    mean, std = mean_and_std(x)
    low, high = x.min(0), x.max(0)
    return {name: y.tolist() for name, y in zip(COLUMNS, (mean, std, low, high), strict=True)}


def _constant(x: np.ndarray) -> np.ndarray:
    return is_constant(*mean_and_std(x))


def _at_bounds(actions: np.ndarray) -> np.ndarray:
    """Share of the rows at a bound, for each dimension."""
    counts = [(np.abs(actions[rows]) > AT_BOUND).sum(0) for rows in blocks(len(actions))]
    return np.sum(counts, 0) / len(actions)


def _participation_ratio(x: np.ndarray, chosen: np.ndarray) -> float:
    """Of the chosen dimensions, none of which is constant."""
    if len(x) < 2 or not chosen.any():
        return 0.0
    mean, std = (y[chosen] for y in mean_and_std(x))
    correlation = np.zeros((chosen.sum(), chosen.sum()))
    for rows in blocks(len(x)):
        standard = (x[rows][:, chosen] - mean) / std
        correlation += standard.T @ standard / len(x)
    # For a symmetric matrix the sums over eigenvalues are the trace and the squared entries.
    return float(np.trace(correlation) ** 2 / np.square(correlation).sum())


def _duplicates(dataset: Dataset) -> int:
    """Transitions (s, a, r, s') that repeat an earlier one exactly.

    By 64-bit hashes, since sorting a million whole rows takes minutes; a false match among a
    million rows has probability 3e-8.
    """
    hashes = np.zeros(len(dataset), np.uint64)
    for rows in blocks(len(dataset)):
        part = hashes[rows]
        for array in (
            dataset.observations,
            dataset.actions,
            dataset.rewards[:, None],
            dataset.next_observations,
        ):
            for column in array[rows].T:
                # + 0.0 makes the two zeros one.
                part ^= (column + np.float32(0.0)).view(np.uint32)
                part *= np.uint64(0x9E3779B97F4A7C15)
                part ^= part >> np.uint64(29)
    return len(hashes) - len(np.unique(hashes))


def _jumps(dataset: Dataset) -> np.ndarray:
    """Rows inside an episode whose next observation is not the following row's observation."""
    jumps = np.zeros(len(dataset) - 1, np.bool_)
    for rows in blocks(len(jumps)):
        following = dataset.observations[rows.start + 1 : rows.stop + 1]
        difference = np.abs(following - dataset.next_observations[rows])
        jumps[rows] = (difference > 1e-5 * (1.0 + np.abs(following))).any(1)
    return np.flatnonzero(jumps & ~(dataset.terminated | dataset.truncated)[:-1])


def _ranges(indices: np.ndarray) -> str:
    """`3, 7-9` for 3, 7, 8, 9."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
