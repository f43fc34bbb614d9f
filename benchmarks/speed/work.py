"""The work that is measured: our own loops on made-up data of a task's shape.

What an update costs does not depend on what the numbers are.
"""

from functools import partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import flops
from benchmarks.speed.measure import Case
from spaars import seeding
from spaars.algos.agent import Agent, Phase, SkillAgent
from spaars.algos.spaars import Spaars
from spaars.data import Dataset
from spaars.data.replay import Batch, Replay, Ring
from spaars.data.rows import recent_episodes, start_rows, window_rows
from spaars.tasks import get_task
from spaars.training.config import TrainConfig, preset_config
from spaars.training.envs import EnvPopulation
from spaars.training.offline import OfflineLoop
from spaars.training.online import OnlineLoop
from spaars.training.population import own_buffers
from spaars.training.trainer import initial_state

TASK = "hopper-medium"
OBSERVATIONS, ACTIONS = 11, 3
EPISODE = 500
"""Rows of a made-up episode."""
SETTLED = 100_000
"""Online steps after which warm-up, regression and the gate's ramp are over."""


def transitions(rows: int, observations: int = OBSERVATIONS, actions: int = ACTIONS) -> Batch:
    """Normal observations and rewards, uniform actions; on the device."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal((rows, *shape), np.float32))

    return Batch(
        observations=normal(observations),
        actions=jnp.asarray(rng.uniform(-1.0, 1.0, (rows, actions)).astype(np.float32)),
        rewards=normal(),
        next_observations=normal(observations),
        terminated=jnp.zeros(rows, jnp.float32),
    )


def dataset(rows: int, episode: int = EPISODE) -> Dataset:
    """The same as a dataset of episodes of so many steps, each cut by a time limit."""
    batch = transitions(rows)
    return Dataset.build(
        label="made up",
        observations=np.asarray(batch.observations),
        actions=np.asarray(batch.actions),
        rewards=np.asarray(batch.rewards),
        next_observations=np.asarray(batch.next_observations),
        terminated=np.zeros(rows, bool),
        truncated=np.arange(1, rows + 1) % episode == 0,
    )


class Shape(gymnasium.Env):
    """An env that is nothing but its shape, for updates at any number of dimensions."""

    def __init__(self, observations: int, actions: int):
        box = gymnasium.spaces.Box
        self.blank = np.zeros(observations, np.float32)
        self.observation_space = box(-np.inf, np.inf, (observations,), np.float32)
        self.action_space = box(-1.0, 1.0, (actions,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.blank, {}

    def step(self, action: Any) -> Any:
        return self.blank, 0.0, False, False, {}


class Data(NamedTuple):
    """The logged data, and where their episodes and windows begin."""

    offline: Batch
    starts: jax.Array
    windows: jax.Array

    @classmethod
    def make(cls, rows: int, observations: int = OBSERVATIONS, actions: int = ACTIONS) -> "Data":
        begin = np.arange(0, rows, EPISODE)
        end = np.minimum(begin + EPISODE, rows)
        return cls(
            transitions(rows, observations, actions),
            jnp.asarray(start_rows(begin, end, 50), jnp.int32),
            jnp.asarray(window_rows(begin, end, 4), jnp.int32),
        )


def state_of(config: TrainConfig, data: Data) -> Any:
    """A fresh population, in buffers of its own."""
    dim = data.offline.observations.shape[1]
    actions = data.offline.actions.shape[1]
    return own_buffers(initial_state(config, np.zeros(dim), np.ones(dim), actions))


def settled(agent: Agent, state: Any, steps: int, armed: bool) -> Any:
    """The population after so many online steps, the gate armed or not."""
    if not isinstance(agent, Spaars):
        return state
    if armed:
        state = jax.vmap(agent.hand_over)(state, jnp.ones_like(state.updates, bool))
    return state._replace(updates=state.updates + steps * agent.utd)


def full_ring(seeds: int, rows: int, observations: int, actions: int) -> Ring:
    """Every seed's ring, full of the same transitions."""
    one = transitions(rows, observations, actions)
    storage = jax.tree.map(lambda x: jnp.tile(x[None], (seeds,) + (1,) * x.ndim), one)
    return Ring(storage, jnp.int32(rows))


def online_loop(
    config: TrainConfig, data: Data, armed: bool = False, ring: int = 300_000, env: Any = None
) -> OnlineLoop:
    """An online loop with a full ring; without `env` it cannot step, only update."""
    agent, dims = config.agent(), (data.offline.observations.shape[1], ACTIONS)
    envs = EnvPopulation(env or partial(Shape, *dims), config.seeds)
    ends = [list(range(EPISODE, ring + 1, EPISODE)) for _ in config.seeds]
    replay = Replay(
        full_ring(len(config.seeds), ring, *dims),
        data.offline if config.online.offline_fraction != 0.0 else None,
        data.starts if config.online.start_fraction else None,
        data.windows if isinstance(agent, SkillAgent) else None,
        jnp.asarray(recent_episodes(ends, ring, config.online.recent_episodes)),
    )
    state = settled(agent, state_of(config, data), SETTLED, armed)
    return OnlineLoop(agent, state, replay, envs, config.online)


class Update(NamedTuple):
    """Updates of one kind, and what one of them takes."""

    case: Case
    flops: float


def offline_updates(
    name: str, config: TrainConfig, phase_name: str, data: Data, block: int = 100
) -> Update:
    """A phase of a method on the logged data; `block` updates a call, as the trainer's blocks."""
    agent = config.agent()
    (phase,) = (p for p in agent.offline_phases() if p.name == phase_name)
    keys = seeding.streams(config.seeds, seeding.OFFLINE)
    loop = OfflineLoop(agent, data.offline, keys, windows=data.windows)
    held = [state_of(config, data)]

    def run() -> None:
        held[0], _ = loop.run(phase, held[0], 0, block)

    one = jax.tree.map(lambda x: x[0], held[0])
    cost = flops.of_phase(phase, one, _batch(phase, data))
    return Update(Case(name, block * len(config.seeds), run), cost)


def _batch(phase: Phase, data: Data) -> Batch:
    rows = phase.batch_size * (phase.window or 1)
    batch = jax.tree.map(lambda x: x[:rows], data.offline)
    if phase.window is None:
        return batch
    return jax.tree.map(lambda x: x.reshape(-1, phase.window, *x.shape[1:]), batch)


def online_updates(name: str, config: TrainConfig, loop: OnlineLoop) -> Update:
    """The updates of one chunk."""
    one = jax.tree.map(lambda x: x[0], loop.state)
    batch = jax.tree.map(lambda x: x[0, : loop.agent.batch_size], loop.replay.ring.storage)
    every = config.sac.actor_every if config.method in ("sac", "rlpd") else 1
    cost = flops.of_update(loop.agent, one, batch, every)
    updates = config.online.chunk * config.online.utd * len(config.seeds)
    return Update(Case(name, updates, loop.update), cost)


def config_of(method: str, **changes: Any) -> TrainConfig:
    """The method as `spaars train hopper-medium --preset full` sets it, with changes."""
    return preset_config(TASK, method, "full", **changes)


def hopper() -> gymnasium.Env:
    return get_task(TASK).make_env(training=True)
