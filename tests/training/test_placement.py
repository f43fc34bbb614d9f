"""A dataset that the device has no room for gives the same batches, bit for bit."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars import seeding
from spaars.algos.agent import Phase
from spaars.data.replay import Batch, Replay, as_batch, empty_ring
from spaars.data.rows import start_rows, window_rows
from spaars.training import placement
from spaars.training.config import preset_config
from spaars.training.envs import EnvPopulation
from spaars.training.offline import OfflineLoop
from spaars.training.online import OnlineConfig, OnlineLoop
from toy import POINT, point_dataset

SEEDS = (3, 7)
DATA = point_dataset(400)
STARTS, ENDS = DATA.episode_bounds()


class Seen(NamedTuple):
    """What a `Watcher` has seen."""

    last: Batch
    """The last update's batch."""
    total: Any
    """Sum over all batches of all observations, weighted by where in the batch they stand."""


@dataclasses.dataclass(frozen=True)
class Watcher:
    """An agent that keeps what it is given instead of learning from it."""

    window: int | None = None
    batch_size: int = 6
    discount: float = 0.9

    def offline_phases(self):
        return (Phase("watching", 10, self.batch_size, self.update, self.window),)

    def acting(self, state):
        return state.total

    def act(self, acting, observations, key):
        return jax.random.uniform(key, (len(observations), 2), minval=-1.0), {}

    def act_deterministic(self, acting, observations):
        return jnp.zeros((len(observations), 2)), {}

    def update(self, state, batch, key):
        place = jnp.arange(batch.observations.size, dtype=jnp.float32)
        total = state.total + place @ batch.observations.reshape(-1)
        return Seen(batch, total), {"seen": total}

    # Of the protocol; never called here.
    begin_online = hand_over = take_back = roll_back = appraise = init = NotImplemented

    def evidence(self, state, batch):
        return {f"evidence_{name}": x for name, x in batch._asdict().items() if x is not None}


@dataclasses.dataclass(frozen=True)
class SkilledWatcher(Watcher):
    window: int | None = 4
    skill_length: int = 4
    skill_dim: int = 3

    def act(self, acting, observations, key):
        return super().act(acting[0], observations, key)

    def label(self, state, windows):
        return jnp.cos(windows.observations[:, 0, :3] + windows.observations[:, -1, :3])

    def choose(self, acting, observations, key):
        return jnp.full((len(observations), 3), 0.5)

    def observe(self, state, windows, facts):
        return state, windows


def state_of(agent, batch):
    """For two seeds, with the structure that its updates keep."""
    like = jax.eval_shape(lambda b: agent.update(Seen(b, jnp.float32(0)), b, None)[0], batch)
    return jax.tree.map(lambda x: jnp.zeros((len(SEEDS), *x.shape), x.dtype), like)


def offline_batch(host):
    return as_batch(
        DATA.observations,
        DATA.actions,
        DATA.rewards,
        DATA.next_observations,
        DATA.terminated,
        host=host,
    )


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("agent", [Watcher(), SkilledWatcher()], ids=["rows", "windows"])
def test_offline_batches_are_the_same_from_the_host(agent):
    keys = seeding.streams(SEEDS, seeding.OFFLINE)
    windows = jnp.asarray(window_rows(STARTS, ENDS, 4), jnp.int32)
    (phase,) = agent.offline_phases()
    shape = (agent.batch_size,) + ((agent.window,) if agent.window else ())
    one = jax.tree.map(lambda x: jnp.zeros(shape + x.shape[1:]), offline_batch(False))

    def run(host):
        loop = OfflineLoop(agent, offline_batch(host), keys, windows=windows)
        state, found = state_of(agent, one), []
        for done, updates in ((0, 3), (3, 2), (5, 3)):
            state, metrics = loop.run(phase, state, done, updates)
            found.append((state.last, metrics))
            state = jax.tree.map(jnp.copy, state)
        return found

    resident = run(host=False)
    assert np.abs(resident[-1][0].observations).sum() > 0
    same(resident, run(host=True))


MIXED = {"offline_fraction": 0.5, "start_fraction": 0.4, "recent_fraction": 0.5}
PLAIN = {"start_fraction": 0.0, "recent_fraction": 0.0}


@pytest.mark.parametrize(
    ("agent", "sampling"),
    [
        (Watcher(), MIXED),
        (Watcher(), PLAIN | {"offline_fraction": None}),
        (Watcher(), PLAIN | {"offline_fraction": 0.0}),
        (SkilledWatcher(), PLAIN | {"offline_fraction": 0.5}),
    ],
    ids=["mixed", "union", "own only", "windows"],
)
def test_online_batches_are_the_same_from_the_host(agent, sampling):
    config = OnlineConfig(steps=24, chunk=8, utd=2, learning_starts=0, **sampling)
    skill = 3 if agent.window else 0
    shape = (agent.batch_size,) + ((agent.window,) if agent.window else ())
    latents = jnp.zeros((*shape, skill)) if skill else None
    one = jax.tree.map(lambda x: jnp.zeros(shape + x.shape[1:]), offline_batch(False))

    def run(host):
        replay = Replay(
            empty_ring(len(SEEDS), 24, 4, 2, skill),
            offline_batch(host),
            jnp.asarray(start_rows(STARTS, ENDS, 3), jnp.int32) if not skill else None,
            jnp.asarray(window_rows(STARTS, ENDS, 4), jnp.int32) if skill else None,
        )
        envs = EnvPopulation(POINT.make_env, SEEDS)
        loop = OnlineLoop(
            agent, state_of(agent, one._replace(latents=latents)), replay, envs, config
        )
        assert (loop.replay.offline is None) == host
        found = []
        for _ in range(3):
            metrics, _, _ = loop.run_chunk()
            found.append((jax.device_get(loop.state), metrics["seen"], loop.evidence()))
        envs.close()
        return found

    resident = run(host=False)
    assert np.abs(resident[-1][0].last.observations).sum() > 0
    same(resident, run(host=True))


def test_a_dataset_stays_on_the_host_where_it_does_not_fit():
    config = preset_config("hopper-medium", seeds=SEEDS, online={"steps": 1_000})
    row = 4 * (2 * DATA.observation_dim + DATA.action_dim + 2)
    fits = row * (len(DATA) + 1_000 * len(SEEDS)) / 2**30
    on = dataclasses.replace
    assert placement.reason_to_stay_on_host(config, DATA) is None  # a CPU
    assert placement.reason_to_stay_on_host(on(config, device_memory_gib=fits), DATA) is None
    less = on(config, device_memory_gib=0.99 * fits)
    assert "stays in the computer's memory" in placement.reason_to_stay_on_host(less, DATA)
