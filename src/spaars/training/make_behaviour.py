"""Train a behaviour policy with our own SAC and stop where it is *medium*, as D4RL did."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spaars import seeding
from spaars.algos.sac import SAC, SACConfig
from spaars.data.behaviour import BehaviourPolicy, record_episode
from spaars.data.replay import Replay, empty_ring
from spaars.errors import ConfigError
from spaars.tasks import Task
from spaars.training.envs import EnvPopulation
from spaars.training.online import OnlineConfig, OnlineLoop
from spaars.training.provenance import command_line, git_revision, versions


@dataclasses.dataclass(frozen=True, kw_only=True)
class BehaviourConfig:
    """How a behaviour policy is trained and when it is taken."""

    seed: int = 0
    """Seed of the SAC run and of its screening episodes."""
    max_steps: int = 1_000_000
    """Give up after this many environment steps."""
    screen_every: int = 5_000
    """Environment steps between two screenings."""
    screen_episodes: int = 20
    """Stochastic episodes of a screening."""
    confirm_episodes: int = 100
    """Stochastic episodes that must confirm a passed screening."""
    sac: SACConfig = SACConfig(layer_norm=True)
    """The learner."""


def make_behaviour(
    task: Task, config: BehaviourConfig, report: Callable[[dict[str, Any]], None]
) -> BehaviourPolicy:
    """SAC from scratch until the stochastic policy's scores meet `task.behaviour`.

    `report` receives a dict of facts at every screening. Raises ConfigError if the task has no
    target or the target is not met within `config.max_steps`.
    """
    target = task.behaviour
    if target is None:
        raise ConfigError(f"task '{task.name}' has no behaviour target; it brings its own data.")
    chunk = OnlineConfig().chunk
    for flag, value in {
        "--screen-every": config.screen_every,
        "--max-steps": config.max_steps,
    }.items():
        if value < chunk or value % chunk:
            raise ConfigError(f"{flag} must be a positive multiple of {chunk}, got {value}.")
    if min(config.screen_episodes, config.confirm_episodes) < 1:
        raise ConfigError("--screen-episodes and --confirm-episodes must be at least 1.")
    revision = git_revision()  # now: the tree may change while SAC trains
    agent = SAC(config.sac)
    envs = EnvPopulation(task.make_env, [config.seed])
    screen_env = task.make_env()
    observation_dim = envs.observations.shape[1]
    action_dim = envs.action_dim
    state = agent.init(
        seeding.stream(config.seed, seeding.INIT),
        jnp.zeros(observation_dim),
        jnp.ones(observation_dim),
        action_dim,
    )
    online = OnlineConfig(
        steps=config.max_steps,
        random_steps=5_000,
        learning_starts=5_000,
        offline_fraction=0.0,
        recent_fraction=0.0,
    )
    loop = OnlineLoop(
        agent,
        jax.tree.map(lambda x: x[None], state),
        Replay(empty_ring(1, config.max_steps, observation_dim, action_dim)),
        envs,
        online,
    )

    def scores(policy: BehaviourPolicy, first: int, episodes: int) -> np.ndarray:
        # Seed apart from the recordings', whose default is 0.
        screening = seeding.episode_seed(seeding.EVAL_EPISODE, config.seed, 0)
        returns = [
            record_episode(policy, screen_env, screening, i).rewards.sum(dtype=np.float64)
            for i in range(first, first + episodes)
        ]
        return task.score(np.array(returns))

    def meets(found: np.ndarray) -> bool:
        low, high = target.score_mean
        std_low, std_high = target.score_std
        return low <= found.mean() <= high and std_low <= found.std() <= std_high

    try:
        while envs.env_steps < config.max_steps:
            for _ in range(config.screen_every // online.chunk):
                loop.run_chunk()
            actor = jax.tree.map(lambda x: x[0], loop.state.actor.params)
            policy = BehaviourPolicy.from_policy(actor, {})
            found = scores(policy, 0, config.screen_episodes)
            facts = {
                "env_steps": envs.env_steps,
                "score_mean": round(float(found.mean()), 2),
                "score_std": round(float(found.std()), 2),
            }
            report(facts)
            if not meets(found):
                continue
            confirmed = scores(policy, config.screen_episodes, config.confirm_episodes)
            facts |= {
                "confirmed_mean": round(float(confirmed.mean()), 2),
                "confirmed_std": round(float(confirmed.std()), 2),
            }
            report(facts)
            if meets(confirmed):
                return policy._replace(
                    provenance=facts
                    | {
                        "task": task.name,
                        "env_id": task.env_id,
                        "confirm_episodes": config.confirm_episodes,
                        "config": dataclasses.asdict(config),
                        "command": command_line(),
                        "git_revision": revision,
                        "versions": versions(),
                    }
                )
    finally:
        envs.close()
        screen_env.close()
    raise ConfigError(
        f"{task.name}: no policy met the target {target} within {config.max_steps} steps. "
        "Try another --seed or more --max-steps."
    )
