"""What a learner begins with: a run's state or one learned here, and the same data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from spaars import seeding
from spaars.algos.agent import Agent, SkillAgent
from spaars.data import Dataset, load_dataset
from spaars.deploy.policy import state_shapes
from spaars.errors import ConfigError, RunError
from spaars.safety.envelope import ActionEnvelope
from spaars.tasks import get_task
from spaars.training.checkpoint import Checkpoint
from spaars.training.config import TrainConfig
from spaars.training.logged import logged_data, standardisation
from spaars.training.offline import OfflineLoop
from spaars.training.placement import reason_to_stay_on_host
from spaars.training.population import own_buffers
from spaars.training.trainer import OFFLINE_BLOCK, diverged, initial_state

OWN_LOOP = "own_loop"
"""Section of config.json that only a learner's directory has."""


def learned_offline(
    config: TrainConfig, dataset: Dataset, on_progress: Callable[[str, int, int], None] | None
) -> Any:
    """The state of one seed after all offline phases, no seed axis."""
    agent = config.agent()
    state = own_buffers(
        initial_state(config, *standardisation(config, dataset), dataset.action_dim)
    )
    logged = logged_data(agent, config.online, dataset)
    keys = seeding.stream(config.seeds[0], seeding.OFFLINE)[None]
    loop = OfflineLoop(agent, logged.offline, keys, windows=logged.windows)
    for phase in agent.offline_phases():
        done = 0
        while done < phase.updates:
            block = min(OFFLINE_BLOCK, phase.updates - done)
            state, metrics = loop.run(phase, state, done, block)
            done += block
            for name, value in metrics.items():
                if not np.isfinite(value).all():
                    when = f"update {done} of the {phase.name} phase"
                    raise diverged(config.seeds[0], when, name)
            if on_progress is not None:
                on_progress(phase.name, done, phase.updates)
    return jax.tree.map(lambda x: x[0], state)


def state_of(checkpoint: Checkpoint, config: TrainConfig, dataset: Dataset, index: int) -> Any:
    """One seed's state."""
    like = state_shapes(config, dataset.observation_dim, dataset.action_dim)
    return jax.tree.map(lambda x: x[index], checkpoint.tree("state", like))


def without_returns(progress: dict[str, Any]) -> dict[str, Any]:
    """A run's progress, the returns of its training episodes unknown (NaN).

    What is left of them, such as falls, still counts. A window of a dip's budget has no mean, and
    so no dip, until such episodes have left it.
    """
    episodes = [[[e[0], np.nan, *e[2:]] for e in own] for own in progress["episodes"]]
    returns = [[np.nan] * len(own) for own in progress["episode_returns"]]
    return progress | {"episodes": episodes, "episode_returns": returns}


def refuse_capacity(config: TrainConfig, capacity: int) -> None:
    agent = config.agent()
    block = agent.skill_length if isinstance(agent, SkillAgent) else 1
    least = -(-config.online.chunk // block) * block
    if capacity < least or capacity % block:
        skills = f" and be a multiple of a skill's {block} steps" if block > 1 else ""
        raise ConfigError(f"capacity must be at least {least}{skills}, got {capacity}.")


def envelope_of(config: TrainConfig, action_dim: int) -> ActionEnvelope:
    """Of actions in [-1, 1], as every task's env has them (`spaars.tasks.registry`)."""
    return config.safety.envelope(gymnasium.spaces.Box(-1.0, 1.0, (action_dim,), np.float32))


def checked_agent(config: TrainConfig) -> Agent:
    if config.method == "bc":
        raise ConfigError(
            "--method bc learns from the logged data only; use spaars.load_policy to act with it."
        )
    return config.agent()


def refuse_used(directory: Path) -> None:
    if (directory / "config.json").exists():
        raise RunError(
            f"{directory} holds a learner or a run. Go on with it by OnlineLearner.load, or choose "
            "another directory."
        )
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise RunError(f"{directory} exists and is not empty. Choose another directory.")


def same_dataset(
    directory: Path, config: TrainConfig, described: dict[str, Any], dataset: Dataset | None = None
) -> Dataset:
    """The dataset that the run or learner began with, by its content."""
    if dataset is None:
        if described.get(OWN_LOOP, {}).get("given"):
            raise RunError(
                f"{directory} was begun with a Dataset from Python: give the same one to "
                "OnlineLearner.load(directory, dataset)."
            )
        dataset = load_dataset(get_task(config.task), config.dataset, config.transitions)
    if dataset.sha256 != described["dataset"]["sha256"]:
        raise RunError(
            f"{directory}: the dataset has changed since it was begun (sha256 "
            f"{dataset.sha256[:12]}, was {described['dataset']['sha256'][:12]}). Bring the old one "
            "back, or begin anew."
        )
    return dataset


def refuse_large(config: TrainConfig, dataset: Dataset) -> None:
    """A learner's updates read the dataset on the device."""
    if reason_to_stay_on_host(config, dataset) is not None:
        raise ConfigError(
            "the dataset is larger than what the device has for it, and an OnlineLearner keeps it "
            "there. Give a part of the data, or learn on the CPU (JAX_PLATFORMS=cpu)."
        )
