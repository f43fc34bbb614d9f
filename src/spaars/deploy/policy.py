"""The deployed policy of a run's last checkpoint: normalisation, decoder, gate, bounds inside."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spaars.algos.agent import SkillAgent
from spaars.errors import DataError, RunError
from spaars.tasks import get_task
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import TrainConfig
from spaars.training.run_directory import read_config
from spaars.training.trainer import initial_state


class Policy:
    """Deterministic actions of one seed of a run. Call it with raw observations.

    A policy with skills remembers the running one, and one with a rate limit its last actions: call
    it once per env step, for the same envs, and `reset()` it when their episodes begin.
    """

    def __init__(self, config: TrainConfig, acting: Any, seed: int, observation_dim: int):
        self.config, self.seed, self.observation_dim = config, seed, observation_dim
        self.acting = acting
        agent = config.agent()
        env = get_task(config.task).make_env()
        self._envelope = config.safety.envelope(env.action_space)
        env.close()
        self._act = jax.jit(agent.act_deterministic)
        self._length = None
        if isinstance(agent, SkillAgent):
            self._length = agent.skill_length
            self._choose = jax.jit(partial(agent.choose, acting, key=None))
        self.reset()

    def reset(self) -> None:
        """An episode begins: what was going on is forgotten."""
        self._calls, self._running = 0, self.acting
        self._executed: np.ndarray | None = None

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Actions in [-1, 1], (act,) or (n, act), for observations (obs,) or (n, obs)."""
        observations = np.atleast_2d(np.asarray(observation, np.float32))
        if observations.ndim != 2 or observations.shape[1] != self.observation_dim:
            raise DataError(
                f"the policy takes observations of {self.observation_dim} numbers, "
                f"got shape {np.shape(observation)}."
            )
        if self._length is not None:
            if self._calls % self._length == 0:
                self._running = (self.acting, self._choose(observations))
            elif len(self._running[1]) != len(observations):
                raise DataError(
                    f"the policy follows skills of {len(self._running[1])} envs, got "
                    f"observations of {len(observations)}. Call `reset()` before other episodes."
                )
            self._calls += 1
        actions = np.asarray(self._act(self._running, observations)[0])
        limited = self._envelope.rate_limit is not None
        if limited and self._executed is not None and self._executed.shape != actions.shape:
            raise DataError(
                f"the policy's rate limit follows {len(self._executed)} envs, got observations of "
                f"{len(actions)}. Call `reset()` before other episodes."
            )
        actions = self._executed = self._envelope(actions, self._executed)
        return actions[0] if np.ndim(observation) == 1 else actions


def load_policy(run_dir: str | Path, seed: int | None = None) -> Policy:
    """The deployed policy of `run_dir`'s newest checkpoint; `seed` chooses among the run's seeds.

    Raises RunError if there is no run or checkpoint, or the run has no such seed.
    """
    path = Path(run_dir)
    config, _ = read_config(path)
    seed = config.seeds[0] if seed is None else seed
    if seed not in config.seeds:
        raise RunError(f"{path} has seeds {list(config.seeds)}, not {seed}.")
    acting, observation_dim = load_acting(path, config)
    index = config.seeds.index(seed)
    one = jax.tree.map(lambda leaf: leaf[index], acting)
    return Policy(config, one, seed, observation_dim)


def load_acting(run_dir: Path, config: TrainConfig, newest: bool = False) -> tuple[Any, int]:
    """What the deployed (or the `newest`) policies read, leaves (S, ...); the observation dim."""
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None:
        raise RunError(f"{run_dir} has no checkpoint yet; go on with `spaars resume {run_dir}`.")
    env = get_task(config.task).make_env()
    observation_dim = env.observation_space.shape[0]  # type: ignore[index]
    action_dim = env.action_space.shape[0]  # type: ignore[index]
    env.close()
    # Statistics of observations are part of the state; these only give the shapes.
    zeros = np.zeros(observation_dim, np.float32)
    state = checkpoint.tree("state", initial_state(config, zeros, zeros, action_dim))
    acting = jax.vmap(config.agent().acting)(state)
    # Before the first online step nothing is deployed but the offline policy.
    if config.deployment.rule == "proven" and "trials" in checkpoint.progress and not newest:
        acting = checkpoint.tree("deployed", acting)
    return acting, observation_dim
