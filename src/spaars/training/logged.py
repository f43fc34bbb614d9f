"""The dataset as learning online reads it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spaars.algos.agent import Agent, SkillAgent
from spaars.data import Dataset
from spaars.data.replay import Batch, as_batch
from spaars.data.rows import start_rows, window_rows
from spaars.tasks import Task
from spaars.training.config import TrainConfig
from spaars.training.online import OnlineConfig


class Logged(NamedTuple):
    """Shared by all seeds."""

    offline: Batch
    """On the device, or numpy arrays where it has no room."""
    starts: jax.Array | None
    """Rows at the starts of episodes; None where no batch has a share of them."""
    windows: jax.Array | None
    """Rows at which windows of one skill begin; None for agents without skills."""


def logged_data(
    agent: Agent, config: OnlineConfig, dataset: Dataset, *, host: bool = False
) -> Logged:
    """Upload a dataset, or leave it on the `host`."""
    offline = as_batch(
        dataset.observations,
        dataset.actions,
        dataset.rewards,
        dataset.next_observations,
        dataset.terminated,
        host=host,
    )
    starts = None
    if config.start_fraction > 0.0:
        rows = start_rows(*dataset.episode_bounds(), config.start_steps)
        starts = jnp.asarray(rows, jnp.int32)
    return Logged(offline, starts, _skill_windows(agent, dataset))


def _skill_windows(agent: Agent, dataset: Dataset) -> jax.Array | None:
    if not isinstance(agent, SkillAgent):
        return None
    rows = window_rows(*dataset.episode_bounds(), agent.skill_length)
    return jnp.asarray(rows, jnp.int32)


def logged_return(task: Task, dataset: Dataset) -> float | None:
    """Mean return of the logged episodes, which a candidate must beat (`training.deployment`).

    None where logged rewards sum up to a training return, which need not be evaluation's.
    """
    return None if task.training_kwargs else float(dataset.episode_returns().mean())


def standardisation(config: TrainConfig, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std, each (obs,), that the run's networks standardise observations with."""
    if config.standardise:
        return dataset.observation_statistics()
    zeros = np.zeros(dataset.observation_dim, np.float32)
    return zeros, np.ones_like(zeros)
