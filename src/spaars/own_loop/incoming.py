"""What a robot's loop gives: checked before anything of it is kept."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from spaars.data.dataset import ACTION_TOLERANCE
from spaars.deploy.numpy_policy import PolicyError, flattened
from spaars.errors import DataError
from spaars.own_loop.records import Acted, Row, frozen


class Incoming:
    """The shapes, names and units that the training data had."""

    def __init__(self, observation_dim: int, action_dim: int, known: Mapping[str, Any]):
        """`known` is the data's description, as config.json has it."""
        self.observation_dim, self.action_dim = observation_dim, action_dim
        layout = [(str(name), int(width)) for name, width in known.get("observations", [])]
        self.layout = layout if sum(n for _, n in layout) == observation_dim else []
        self.bounds = [
            np.array(known.get(f"action_{side}") or [value] * action_dim, np.float32)
            for side, value in (("low", -1.0), ("high", 1.0))
        ]

    def to_robot(self, action: Any) -> np.ndarray:
        """An action in [-1, 1] in the robot's units, where the data or the env told its bounds."""
        low, high = self.bounds
        # Rounding must not pass a limit that a driver checks.
        return np.clip(low + (np.asarray(action, np.float32) + 1.0) * 0.5 * (high - low), low, high)

    def from_robot(self, action: Any) -> np.ndarray:
        """The inverse of `to_robot`, for what was executed."""
        low, high = self.bounds
        return 2.0 * (np.asarray(action, np.float32) - low) / (high - low) - np.float32(1.0)

    def observation(self, observation: Any, name: str) -> np.ndarray:
        """A float32 copy (obs,). Raises DataError where it cannot be one."""
        if isinstance(observation, Mapping):
            if not self.layout:
                raise DataError(
                    f"{name} is a mapping, but the training data named no parts. Give a vector of "
                    f"{self.observation_dim} numbers."
                )
            try:
                observation = flattened(observation, self.layout)
            except PolicyError as error:
                raise DataError(f"{name}: {error}") from error
        vector = floats(observation, name)
        if vector.shape != (self.observation_dim,):
            raise DataError(
                f"{name} must be a vector of {self.observation_dim} numbers, got shape "
                f"{vector.shape}."
            )
        if not np.isfinite(vector).all():
            i = int(np.argmax(~np.isfinite(vector)))
            raise DataError(
                f"{name} has {vector[i]} in dimension {i}. Read the sensor again, or cut the "
                "episode with end_episode()."
            )
        return vector

    def row(
        self,
        acted: Acted,
        executed: Any,
        reward: Any,
        next_observation: Any,
        terminated: Any,
        truncated: Any,
    ) -> Row:
        done = floats(executed, "executed")
        if done.shape != (self.action_dim,):
            raise DataError(
                f"executed must be an action of {self.action_dim} numbers, got shape {done.shape}."
            )
        if not np.isfinite(done).all() or (np.abs(done) > 1.0 + ACTION_TOLERANCE).any():
            i = int(np.argmax(~(np.abs(done) <= 1.0 + ACTION_TOLERANCE)))
            raise DataError(
                f"executed has {done[i]:g} in dimension {i}, outside [-1, 1]. Actions in the "
                "robot's units are scaled by learner.from_robot."
            )
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, (bool, np.bool_)):
                raise DataError(f"{name} must be True or False, got {flag!r}.")
        return Row(
            acted.observation,
            frozen(np.clip(done, -1.0, 1.0)),
            finite_number(reward, "reward"),
            frozen(self.observation(next_observation, "next_observation")),
            bool(terminated),
            acted.skill,
            float(bool(acted.gate)),
            float(bool(acted.raw)),
        )


def finite_number(value: Any, name: str) -> float:
    """As float32 holds it. Raises DataError where it cannot."""
    try:
        with np.errstate(over="ignore"):
            found = float(np.float32(value)) if np.ndim(value) == 0 else np.nan
    except (TypeError, ValueError):
        found = np.nan
    if not np.isfinite(found):
        raise DataError(f"{name} must be a finite number, got {value!r}.")
    return found


def floats(values: Any, name: str) -> np.ndarray:
    """A float32 copy. Raises DataError where it cannot be one."""
    try:
        with np.errstate(over="ignore"):
            return np.array(values, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers ({error}).") from error
