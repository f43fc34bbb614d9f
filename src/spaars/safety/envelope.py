"""What may be executed: bounds, and how fast an action may change."""

from collections.abc import Sequence

import gymnasium
import numpy as np

from spaars.errors import ConfigError, RunError


class ActionEnvelope:
    """Every action is brought within it before it is executed, and stored as executed.

        low <= a_t <= high      |a_t - a_{t-1}| <= rate_limit      in every dimension

    The first action of an episode has no predecessor: only the bounds hold for it. Both hold up to
    the rounding of float32. Where the action before was outside the bounds by more than the rate
    limit, the bounds hold. Nothing is remembered here: the caller says what came before.
    """

    def __init__(
        self,
        space: gymnasium.Space,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        rate_limit: Sequence[float] | None = None,
    ):
        """Each limit is one number for all dimensions or one for each; None: the space's bound.

        Raises:
            ConfigError: the space is unbounded, or a limit does not fit it, by the flag's name.
        """
        if not (isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1):
            raise ConfigError(f"an action envelope needs a flat Box of actions, got {space}.")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ConfigError(
                f"an action envelope needs finite bounds, got low {space.low} high {space.high}. "
                "Wrap the env in gymnasium.wrappers.RescaleAction(env, -1.0, 1.0), or give it a "
                "bounded action space."
            )
        self.dim = space.shape[0]
        self.low = self._limit("--safety.action-low", low, space.low)
        self.high = self._limit("--safety.action-high", high, space.high)
        if (outside := (self.low < space.low) | (self.low > space.high)).any():
            self._refuse("--safety.action-low", self.low, outside, space)
        if (outside := (self.high > space.high) | (self.high < space.low)).any():
            self._refuse("--safety.action-high", self.high, outside, space)
        if (crossed := self.low >= self.high).any():
            i = int(np.argmax(crossed))
            raise ConfigError(
                f"--safety.action-low ({self.low[i]:g}) must be below --safety.action-high "
                f"({self.high[i]:g}) in dimension {i}."
            )
        self.rate_limit = (
            None if rate_limit is None else self._limit("--safety.rate-limit", rate_limit, None)
        )
        if self.rate_limit is not None and not (self.rate_limit > 0.0).all():
            raise ConfigError(
                f"--safety.rate-limit must be positive in every dimension, got {rate_limit}: an "
                "action that may not change needs no policy."
            )

    def _limit(
        self, flag: str, given: Sequence[float] | None, default: np.ndarray | None
    ) -> np.ndarray:
        if given is None:
            return np.asarray(default, np.float32)
        values = np.asarray(given, np.float32)
        if values.shape not in ((1,), (self.dim,)) or not np.isfinite(values).all():
            raise ConfigError(
                f"{flag} takes one finite number, or one for each of the {self.dim} dimensions of "
                f"an action; got {tuple(given)}."
            )
        return np.broadcast_to(values, (self.dim,)).copy()

    def _refuse(
        self, flag: str, values: np.ndarray, outside: np.ndarray, space: gymnasium.spaces.Box
    ) -> None:
        i = int(np.argmax(outside))
        raise ConfigError(
            f"{flag} ({values[i]:g}) lies outside the env's own bounds "
            f"[{space.low[i]:g}, {space.high[i]:g}] in dimension {i}."
        )

    def __call__(self, actions: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        """The nearest actions (*batch, act) that may be executed.

        `previous` (*batch, act) are those executed just before, NaN where an episode begins. Only a
        rate limit reads them.

        Raises:
            RunError: an action is NaN or infinite: there is no nearest one.
        """
        if not np.isfinite(actions).all():
            raise RunError(
                "a policy asked for an action that is not finite (NaN or infinity); it was not "
                "executed. Its networks have diverged: train anew with a smaller learning rate, "
                "and check the data with `spaars data inspect`."
            )
        low, high = self.low, self.high
        if self.rate_limit is not None and previous is not None:
            # fmax and fmin pass over NaN: the bounds alone hold where an episode begins.
            low = np.fmax(low, previous - self.rate_limit)
            high = np.fmin(high, previous + self.rate_limit)
            # Who acted before may have been far outside, such as a person who took over: then no
            # action keeps both limits, and it goes back to the bound at once.
            low, high = np.minimum(low, self.high), np.maximum(high, self.low)
        return np.clip(actions, low, high)


def clip_shares(requested: np.ndarray, executed: np.ndarray) -> dict[str, np.ndarray]:
    """What the envelope changed, of actions (seeds, time, act): shares (seeds,)."""
    clipped = requested != executed
    return {
        "clipped_steps": clipped.any(-1).mean(1),
        "clipped_dimensions": clipped.mean((1, 2)),
    }
