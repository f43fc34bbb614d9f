"""Training environments: one per seed, restorable without knowing their internals."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from spaars import seeding
from spaars.data.processes import usable_cores
from spaars.errors import RunError
from spaars.tasks import Task
from spaars.training.stepping import Failure, MakeEnv, Outcome, open_envs, successes


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
    """Who acted: explore, candidate or deployed; on which route it explored, retrace or splice; or
    stand-in (spaars.training.deployment)."""
    cost: float | None = None
    """Sum of `info["cost"]`; None if the env reports none."""
    completed: tuple[str, ...] | None = None
    """Subtasks that were done at any step, the first one first; None if the env names none."""
    fell: bool = False
    """Whether the env ended it, and not because all was done (`Outcome.fell`)."""


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

    The envs are shared out among so many `processes`; 1 is this one (training/stepping.py).
    """

    def __init__(
        self,
        make_env: MakeEnv,
        seeds: Sequence[int],
        errors_allowed: int = 0,
        processes: int = 1,
    ):
        self.seeds = list(seeds)
        n = len(self.seeds)
        self.errors_allowed = errors_allowed
        self.errors = [0] * n
        self.failures: list[EnvFailure] = []
        """What went wrong, until it is logged."""
        self.failed = np.zeros(n, bool)
        """Whose last step failed: a new episode has begun, in which no step is done yet, (S,)."""
        self.envs = open_envs(make_env, n, processes)
        self.action_dim: int = self.envs.action_space.shape[0]
        self.episode_index = [0] * n
        self.actions: list[list[np.ndarray]] = [[] for _ in self.seeds]
        self.returns = [0.0] * n
        self.episode_costs: list[float | None] = [None] * n
        """Of the running episodes so far."""
        self.completed: list[dict[str, None] | None] = [None] * n
        """Subtasks done in the running episodes so far, in this order."""
        self.costs = np.full(n, np.nan)
        """`info["cost"]` of the last step (S,); NaN where the env reports none."""
        self.env_steps = 0
        self.episode_ends: list[list[int]] = [[] for _ in self.seeds]
        """Value of `env_steps` at the end of each finished episode."""
        self.episode_returns: list[list[float]] = [[] for _ in self.seeds]
        """Return of each, NaN where it was cut."""
        self.observations = np.empty((n, *self.envs.observation_space.shape), np.float32)
        try:
            self._reset(range(n))
        except BaseException:
            self.envs.close()
            raise

    def _reset(self, which: Iterable[int], anew: bool = False) -> None:
        """Begin the next episodes of these envs, in fresh ones if they failed."""
        waiting = list(which)
        while waiting:
            for i in waiting:
                self.actions[i] = []
                self.returns[i] = 0.0
                self.episode_costs[i] = None
                self.completed[i] = None
            reset_seeds = {
                i: seeding.episode_seed(seeding.TRAIN_EPISODE, self.seeds[i], self.episode_index[i])
                for i in waiting
            }
            waiting = []
            for i, found in self.envs.reset(reset_seeds, anew).items():
                if isinstance(found, Failure):
                    self._cut(i, found)
                    waiting.append(i)
                else:
                    self.observations[i] = found.observation
            anew = True

    def _cut(self, i: int, failure: Failure) -> None:
        """Count a failure and end its episode before it."""
        length = len(self.actions[i])
        self.errors[i] += 1
        self.failures.append(EnvFailure(self.seeds[i], self.env_steps, length, failure.reason))
        if self.errors[i] > self.errors_allowed:
            raise RunError(
                f"seed {self.seeds[i]}: the env failed {self.errors[i]} times, at last at step "
                f"{self.env_steps} ({failure.reason}); --online.env-errors allows "
                f"{self.errors_allowed}. Mend the env, or train anew with more."
            ) from failure.error
        if length:
            self.episode_ends[i].append(self.env_steps - 1)
            self.episode_returns[i].append(np.nan)
        self.episode_index[i] += 1

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
        n = len(self.seeds)
        next_observations = np.empty_like(self.observations)
        rewards = np.empty(n, np.float32)
        terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
        finished, broken = [], []
        self.env_steps += again is None
        self.failed = np.zeros(n, bool)
        moving = range(n) if again is None else np.flatnonzero(again).tolist()
        asked = {i: np.array(actions[i], np.float32) for i in moving}
        for i, found in self.envs.step(asked).items():
            if isinstance(found, Failure):
                self.failed[i] = True
                self._cut(i, found)
                broken.append(i)
                continue
            next_observations[i], rewards[i] = found.observation, found.reward
            terminated[i], truncated[i] = found.terminated, found.truncated
            self.observations[i] = found.observation
            self._count(i, asked[i], found)
            if found.terminated or found.truncated:
                total = self.returns[i] if found.score_return is None else found.score_return
                done = self.completed[i]
                finished.append(
                    Episode(
                        self.seeds[i],
                        self.env_steps,
                        total,
                        len(self.actions[i]),
                        found.terminated,
                        cost=self.episode_costs[i],
                        completed=None if done is None else tuple(done),
                        fell=found.fell,
                    )
                )
                self.episode_index[i] += 1
                self.episode_ends[i].append(self.env_steps)
                self.episode_returns[i].append(float(total))
        ended = [i for i in moving if terminated[i] or truncated[i]]
        self._reset(ended)
        self._reset(broken, anew=True)
        return next_observations, rewards, terminated, truncated, finished

    def _count(self, i: int, action: np.ndarray, found: Outcome) -> None:
        """A step of the running episode."""
        self.actions[i].append(action)
        self.returns[i] += found.reward
        self.costs[i] = np.nan
        if isinstance(found.cost, str):
            raise RunError(
                f"the env reported info['cost'] = {found.cost}; it must be a finite number. "
                "Mend the env, or let it leave 'cost' out."
            )
        if found.cost is not None:
            self.costs[i] = found.cost
            self.episode_costs[i] = (self.episode_costs[i] or 0.0) + found.cost
        if found.subtasks is not None:
            now = dict.fromkeys(name for name, done in found.subtasks.items() if done)
            self.completed[i] = (self.completed[i] or {}) | now

    @property
    def previous_actions(self) -> np.ndarray:
        """Executed in the last step (S, act); NaN where an episode has just begun."""
        blank = np.full(self.action_dim, np.nan, np.float32)
        return np.stack([actions[-1] if actions else blank for actions in self.actions])

    def state(self) -> dict[str, Any]:
        """JSON facts and arrays that `restore` needs."""
        blank = np.zeros((0, self.action_dim), np.float32)
        return {
            "episode_index": list(self.episode_index),
            "episode_ends": [list(ends) for ends in self.episode_ends],
            "episode_returns": [list(returns) for returns in self.episode_returns],
            "env_steps": self.env_steps,
            "env_errors": list(self.errors),
            "actions": [np.stack(a) if a else blank for a in self.actions],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Replay each env's current episode up to where `state` was taken."""
        self.episode_index = list(state["episode_index"])
        self._reset(range(len(self.seeds)))
        if self.episode_index != list(state["episode_index"]):
            raise RunError(
                "the env failed at its reset while the run's episode was brought back "
                f"({self.failures[-1].reason}). Go on once it works."
            )
        self.failures = []  # of the first resets: counted and logged when the run began
        self.errors = list(state["env_errors"])
        replayed = [list(np.array(actions, np.float32)) for actions in state["actions"]]
        for step in range(max(map(len, replayed))):
            asked = {i: actions[step] for i, actions in enumerate(replayed) if step < len(actions)}
            found = successes(self.envs.step(asked), f"the env failed at replayed step {step + 1}")
            for i, outcome in found.items():
                self.observations[i] = outcome.observation
                self._count(i, asked[i], outcome)
        self.env_steps = state["env_steps"]
        self.episode_ends = [list(ends) for ends in state["episode_ends"]]
        self.episode_returns = [list(returns) for returns in state["episode_returns"]]

    def close(self) -> None:
        self.envs.close()


AUTO_PROCESSES = 8
"""More are started only if asked for: each takes a hundred megabytes and more."""


def processes_for(task: Task, asked: int | None) -> int:
    """As many as asked for; None: one for every core where an env's step outweighs the messages."""
    if asked is not None:
        return asked
    return min(usable_cores(), AUTO_PROCESSES) if task.slow else 1
