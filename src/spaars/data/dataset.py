"""An offline dataset: checked arrays, and where its episodes begin and end.

    row                 0   1   2   3   4   5   6
    terminated          .   .   T   .   .   .   .      terminal state: no bootstrap
    truncated           .   .   .   .   T   .   T      time limit, or the recording ends: bootstrap
    episode             '---0---'   '-1-'   '-2-'

Rows of an episode follow each other in time; every episode ends in exactly one flag, and so does
the dataset.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spaars.data.description import Description
from spaars.data.memory import blocks, mean_and_std
from spaars.errors import DataError

DIMENSIONS = {
    "observations": 2,
    "actions": 2,
    "rewards": 1,
    "next_observations": 2,
    "terminated": 1,
    "truncated": 1,
}
"""The arrays of a dataset and their number of axes."""

FLAGS = ("terminated", "truncated")
ACTION_TOLERANCE = 1e-5
"""Rounding of a rescaled action; what exceeds [-1, 1] by less is clipped."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Transitions in the order of their recording. Make one with `Dataset.build`.

    The arrays are read-only; compare datasets by `sha256`.
    """

    observations: np.ndarray
    """(N, obs) float32."""
    actions: np.ndarray
    """(N, act) float32 in [-1, 1]."""
    rewards: np.ndarray
    """(N,) float32."""
    next_observations: np.ndarray
    """(N, obs) float32; unused by a backup where `terminated`."""
    terminated: np.ndarray
    """(N,) bool: the next state is terminal, its value is zero."""
    truncated: np.ndarray
    """(N,) bool: the episode ends here without a terminal state."""
    label: str
    """What results of this dataset are labelled with."""
    sha256: str
    """`content_sha256` of the arrays."""
    description: Description = Description()
    """How the arrays were made from what their source stores."""

    @classmethod
    def build(
        cls,
        *,
        label: str,
        observations: Any = None,
        actions: Any = None,
        rewards: Any = None,
        next_observations: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        where: str | None = None,
        keys: Mapping[str, str] | None = None,
        description: Description | None = None,
    ) -> "Dataset":
        """Check array-likes, cast them and compute the digest.

        Where both flags are set, `terminated` wins: a fall at the time limit is a fall. The last
        row is marked truncated if no flag ends it.

        Args:
            where: how errors call the source (a path); the label by default.
            keys: how errors call the arrays, where the source has another name for them.
            description: how the arrays were made from what the source stores.

        Raises:
            DataError: what is wrong, in which array and row, and how to mend it.
        """
        arrays = checked(
            {
                "observations": observations,
                "actions": actions,
                "rewards": rewards,
                "next_observations": next_observations,
                "terminated": terminated,
                "truncated": truncated,
            },
            where or label,
            keys or {},
        )
        truncated = arrays["truncated"] & ~arrays["terminated"]
        truncated[-1] = not arrays["terminated"][-1]
        arrays["truncated"] = truncated
        description = description or Description()
        check_description(description, arrays, where or label)
        for name, array in arrays.items():
            arrays[name] = array.view()  # locks our view, not the caller's array
            arrays[name].flags.writeable = False
        return cls(**arrays, label=label, sha256=content_sha256(arrays), description=description)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The six arrays by name."""
        return {name: getattr(self, name) for name in DIMENSIONS}

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def observation_dim(self) -> int:
        return self.observations.shape[1]

    @property
    def action_dim(self) -> int:
        return self.actions.shape[1]

    def episode_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """First rows and one-past-last rows of the episodes, each (episodes,) int64."""
        stops = np.flatnonzero(self.terminated | self.truncated) + 1
        return np.concatenate([[0], stops[:-1]]), stops

    def episodes(self) -> list[slice]:
        """The rows of each episode, in order; together they are all rows."""
        return [slice(int(a), int(b)) for a, b in zip(*self.episode_bounds(), strict=True)]

    def episode_returns(self) -> np.ndarray:
        """Undiscounted returns (episodes,) float64."""
        return np.add.reduceat(self.rewards, self.episode_bounds()[0], dtype=np.float64)

    def episode_lengths(self) -> np.ndarray:
        """Steps per episode (episodes,) int64."""
        starts, stops = self.episode_bounds()
        return stops - starts

    def observation_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std, each (obs,) float32, to standardise observations with.

        A dimension that never changes gets std 1, and no std is below 1e-3.
        """
        mean, std = mean_and_std(self.observations)
        std = np.where(is_constant(mean, std), 1.0, np.maximum(std, 1e-3))
        return mean.astype(np.float32), std.astype(np.float32)


def check_description(
    description: Description, arrays: Mapping[str, np.ndarray], where: str
) -> None:
    """Raises DataError unless it is of arrays of these widths."""
    try:
        description.check_widths(arrays["observations"].shape[1], arrays["actions"].shape[1])
    except ValueError as error:
        raise DataError(
            f"{where}: its description does not fit its arrays ({error}). "
            "Convert the original again."
        ) from error


def is_constant(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Where the spread is no more than the rounding of float32."""
    return std <= 1e-6 * np.maximum(1.0, np.abs(mean))


def content_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Hex digest over names, dtypes, shapes and contents; the order of the names is no matter."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def check_against_env(
    dataset: Dataset, observation_dim: int, action_dim: int, env_name: str
) -> None:
    """Raises DataError unless the dataset's dimensions are the env's."""
    for what, found, expected in (
        ("observations", dataset.observation_dim, observation_dim),
        ("actions", dataset.action_dim, action_dim),
    ):
        if found != expected:
            raise DataError(
                f"{dataset.label}: {what} have {found} dimensions, those of {env_name} have "
                f"{expected}. Choose the task the data were recorded in, or wrap the env so that "
                "both agree."
            )


def checked(
    arrays: Mapping[str, Any], where: str, keys: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Cast some or all arrays of a dataset to their dtypes, and check each and all together.

    Raises:
        DataError: see `Dataset.build`.
    """
    done: dict[str, np.ndarray] = {}
    for name, loose in arrays.items():
        key = keys.get(name, name)
        array = _numeric(loose, DIMENSIONS[name], f"{where}: '{key}'")
        done[name] = (
            _flags(array, f"{where}: '{key}'")
            if name in FLAGS
            else _finite(array, f"{where}: '{key}'")
        )
    same_rows(where, {keys.get(name, name): len(array) for name, array in done.items()})
    if "next_observations" in done:
        widths = [done[name].shape[1] for name in ("observations", "next_observations")]
        if widths[0] != widths[1]:
            raise DataError(
                f"{where}: '{keys.get('next_observations', 'next_observations')}' has "
                f"{widths[1]} dimensions, 'observations' has {widths[0]}. "
                "Log the same observation before and after the step."
            )
    done["actions"] = _bounded(done["actions"], f"{where}: '{keys.get('actions', 'actions')}'")
    return done


def same_rows(where: Any, rows: Mapping[str, int]) -> int:
    """The number of rows that columns have in common."""
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"'{key}' {n}" for key, n in rows.items())
        raise DataError(
            f"{where}: arrays have different numbers of rows ({counts}). "
            "Row i of each must belong to transition i; cut or complete them."
        )
    return next(iter(rows.values()))


def _numeric(loose: Any, dimensions: int, what: str) -> np.ndarray:
    if loose is None:
        raise DataError(f"{what} is missing. A dataset needs {', '.join(DIMENSIONS)}.")
    try:
        array = np.asarray(loose)
    except ValueError as error:
        raise DataError(
            f"{what} is no array ({error}). Rows must all have the same length."
        ) from error
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"{what} has dtype {array.dtype}, which is not numeric. "
            "Store plain numbers; flatten dictionaries of observations into one vector."
        )
    if array.ndim != dimensions:
        wanted = "(rows, dimensions)" if dimensions == 2 else "(rows,)"
        raise DataError(f"{what} has shape {array.shape}, expected {wanted}. Reshape it.")
    if array.size == 0:
        raise DataError(f"{what} is empty (shape {array.shape}). Record at least one transition.")
    return array


def _flags(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype == np.bool_:
        return array
    wrong = ~((array == 0) | (array == 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{what} must be booleans or 0 and 1, got {array[row]} in {wrong.sum()} row(s), first "
            f"row {row}. Store True exactly where an episode ends."
        )
    return array.astype(np.bool_)


def _finite(array: np.ndarray, what: str) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number then is reported below
        array = np.ascontiguousarray(array, np.float32)
    finite = (np.isfinite(array[part]) for part in blocks(len(array)))
    sound = np.concatenate([x.all(1) if x.ndim == 2 else x for x in finite])
    if not sound.all():
        rows = np.flatnonzero(~sound)
        raise DataError(
            f"{what} has NaN or infinity (as float32) in {len(rows)} row(s), first row {rows[0]}. "
            "Remove the episodes they are in, or repair the logger."
        )
    return array


def _bounded(actions: np.ndarray, what: str) -> np.ndarray:
    low, high = actions.min(0), actions.max(0)
    excess = np.maximum(high, -low) - 1.0
    worst = int(np.argmax(excess))
    if excess[worst] <= 0.0:
        return actions
    if excess[worst] > ACTION_TOLERANCE:
        row = int(np.argmax(np.abs(actions[:, worst]) > 1.0 + ACTION_TOLERANCE))
        raise DataError(
            f"{what} must lie in [-1, 1], but dimension {worst} ranges over "
            f"[{low[worst]:g}, {high[worst]:g}], first at row {row}. Rescale the actions by the "
            "env's bounds (`spaars data convert` with --action-low and --action-high) and wrap the "
            "env in gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)."
        )
    return np.clip(actions, -1.0, 1.0)
