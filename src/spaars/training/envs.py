"""Training environments: one per seed, restorable without knowing their internals."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from spaars import seeding
from spaars.errors import RunError

MakeEnv = Callable[[], gymnasium.Env]


class Episode(NamedTuple):
    """A finished training episode of one seed; `env_step` is the seed's step count at its end.

    `episode_return` is in evaluation's units: the sum of the rewards, or what the env says
    (`Task.training_kwargs`).
    """

    seed: int
    env_step: int
    episode_return: float
    length: int
    terminated: bool
    actor: str = "explore"
    """Who acted: explore, candidate or deployed (spaars.training.deployment)."""
    cost: float | None = None
    """Sum of `info["cost"]`; None if the env reports none."""


class EnvFailure(NamedTuple):
    """An env raised, or gave NaN: its episode was cut there, after `length` steps."""

    seed: int
    env_step: int
    length: int
    reason: str


class EnvPopulation:
    """One env per seed, reset by itself at an episode's end.

    A Gymnasium env is restored by its reset seed and the actions since: that replays any
    deterministic env, so a checkpoint needs no simulator internals (design, section 3).
    """

    def __init__(self, make_env: MakeEnv, seeds: Sequence[int], errors_allowed: int = 0):
        self.seeds = list(seeds)
        self.make_env, self.errors_allowed = make_env, errors_allowed
        self.errors = [0] * len(self.seeds)
        self.failures: list[EnvFailure] = []
        """What went wrong, until it is logged."""
        self.failed = np.zeros(len(self.seeds), bool)
        """Whose last step failed: a new episode has begun, in which no step is done yet, (S,)."""
        self.envs = [make_env() for _ in seeds]
        self.episode_index = [0] * len(self.envs)
        self.actions: list[list[np.ndarray]] = [[] for _ in self.envs]
        self.returns = [0.0] * len(self.envs)
        self.episode_costs: list[float | None] = [None] * len(self.envs)
        """Of the running episodes so far."""
        self.costs = np.full(len(self.envs), np.nan)
        """`info["cost"]` of the last step (S,); NaN where the env reports none."""
        self.env_steps = 0
        self.episode_ends: list[list[int]] = [[] for _ in self.envs]
        """Value of `env_steps` at the end of each finished episode."""
        self.observations = np.stack([self._reset(i) for i in range(len(self.envs))])

    def _reset(self, i: int) -> np.ndarray:
        reset_seed = seeding.episode_seed(
            seeding.TRAIN_EPISODE, self.seeds[i], self.episode_index[i]
        )
        self.actions[i] = []
        self.returns[i] = 0.0
        self.episode_costs[i] = None
        try:
            observation, _ = self.envs[i].reset(seed=reset_seed)
            return _finite(observation)
        except Exception as error:
            return self._fail(i, error)

    def _fail(self, i: int, error: Exception) -> np.ndarray:
        """Cut the running episode and begin the next, in a fresh env; returns its observation."""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        length = len(self.actions[i])
        self.errors[i] += 1
        self.failures.append(EnvFailure(self.seeds[i], self.env_steps, length, reason))
        if self.errors[i] > self.errors_allowed:
            raise RunError(
                f"seed {self.seeds[i]}: the env failed {self.errors[i]} times, at last at step "
                f"{self.env_steps} ({reason}); --online.env-errors allows {self.errors_allowed}. "
                "Mend the env, or train anew with more."
            ) from error
        if length:
            self.episode_ends[i].append(self.env_steps - 1)
        self.episode_index[i] += 1
        with contextlib.suppress(Exception):  # it is broken
            self.envs[i].close()
        self.envs[i] = self.make_env()
        return self._reset(i)

    def step(
        self, actions: np.ndarray, again: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[Episode]]:
        """Step every env with `actions` (S, act).

        Returns next observations (the true ones, before any reset) (S, obs), rewards (S,),
        terminated (S,), truncated (S,) and the episodes that ended.

        Where an env raises or gives NaN its episode is cut before this step, as by a time limit,
        the next one begins, and `failed` says so; nothing else is returned for it. Step it once
        more with an action for its new observation: with `again` (S,), its own mask, no further
        step is counted and only those envs move. Raises RunError beyond `errors_allowed`.
        """
        n = len(self.envs)
        next_observations = np.empty_like(self.observations)
        rewards = np.empty(n, np.float32)
        terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
        finished = []
        self.env_steps += again is None
        self.failed = np.zeros(n, bool)
        for i in range(n) if again is None else np.flatnonzero(again).tolist():
            action = np.array(actions[i], np.float32)
            try:
                observation, reward, terminated[i], truncated[i], info = self.envs[i].step(action)
                next_observations[i] = _finite(observation)
                _finite(reward)
            except Exception as error:
                self.failed[i], terminated[i], truncated[i] = True, False, False
                self.observations[i] = self._fail(i, error)
                continue
            rewards[i] = reward
            self.actions[i].append(action)
            self.returns[i] += float(reward)
            self._count_cost(i, info)
            if terminated[i] or truncated[i]:
                finished.append(
                    Episode(
                        self.seeds[i],
                        self.env_steps,
                        float(info.get("score_return", self.returns[i])),
                        len(self.actions[i]),
                        bool(terminated[i]),
                        cost=self.episode_costs[i],
                    )
                )
                self.episode_index[i] += 1
                self.episode_ends[i].append(self.env_steps)
                self.observations[i] = self._reset(i)
            else:
                self.observations[i] = next_observations[i]
        return next_observations, rewards, terminated, truncated, finished

    def _count_cost(self, i: int, info: dict[str, Any]) -> None:
        self.costs[i] = np.nan
        if "cost" not in info:
            return
        try:
            cost = float(info["cost"])
        except (TypeError, ValueError):
            cost = np.nan
        if not np.isfinite(cost):
            raise RunError(
                f"the env reported info['cost'] = {info['cost']!r}; it must be a finite number. "
                "Mend the env, or let it leave 'cost' out."
            )
        self.costs[i] = cost
        self.episode_costs[i] = (self.episode_costs[i] or 0.0) + cost

    @property
    def previous_actions(self) -> np.ndarray:
        """Executed in the last step (S, act); NaN where an episode has just begun."""
        dim = self.envs[0].action_space.shape[0]  # type: ignore[index]
        blank = np.full(dim, np.nan, np.float32)
        return np.stack([actions[-1] if actions else blank for actions in self.actions])

    def state(self) -> dict[str, Any]:
        """JSON facts and arrays that `restore` needs."""
        dim = self.envs[0].action_space.shape[0]  # type: ignore[index]
        return {
            "episode_index": list(self.episode_index),
            "episode_ends": [list(ends) for ends in self.episode_ends],
            "env_steps": self.env_steps,
            "env_errors": list(self.errors),
            "actions": [np.stack(a) if a else np.zeros((0, dim), np.float32) for a in self.actions],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Replay each env's current episode up to where `state` was taken."""
        self.episode_index = list(state["episode_index"])
        self.errors = list(state.get("env_errors", self.errors))
        for i, env in enumerate(self.envs):
            self.observations[i] = self._reset(i)
            for action in state["actions"][i]:
                observation, reward, _, _, info = env.step(action)
                self.observations[i] = observation
                self.actions[i].append(np.array(action, np.float32))
                self.returns[i] += float(reward)
                self._count_cost(i, info)
        self.env_steps = state["env_steps"]
        self.episode_ends = [list(ends) for ends in state["episode_ends"]]

    def close(self) -> None:
        for env in self.envs:
            env.close()


def _finite(values: Any) -> np.ndarray:
    """A float32 copy: some envs return live buffers. Raises ValueError for NaN and infinity."""
    array = np.array(values, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{array[~np.isfinite(array)][0]} in its observation or reward")
    return array
