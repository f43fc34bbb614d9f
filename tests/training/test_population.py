"""A population of seeds gives each seed what it would get alone."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars import seeding
from spaars.algos.config import LearnerConfig, OfflineConfig
from spaars.algos.sac import SAC, SACConfig
from spaars.algos.spaars import Spaars
from spaars.data.replay import Replay, as_batch, empty_ring
from spaars.priors import PriorConfig
from spaars.training import population
from spaars.training.envs import EnvPopulation
from spaars.training.offline import OfflineLoop
from spaars.training.online import OnlineConfig, OnlineLoop, _mean
from spaars.training.population import over_seeds, own_buffers
from toy import POINT, point_dataset

SEEDS = (3, 7)
SPAARS = Spaars(
    PriorConfig(hidden=(8,)),
    OfflineConfig(),
    LearnerConfig(hidden=(8,), critics=2, batch_size=16),
)
RANDOM = SAC(SACConfig(hidden=(8,), batch_size=16))
ONLINE = OnlineConfig(steps=30, chunk=10, random_steps=5, learning_starts=10)


@pytest.fixture(scope="module")
def offline():
    data = point_dataset(200)
    return as_batch(
        data.observations, data.actions, data.rewards, data.next_observations, data.terminated
    )


@contextlib.contextmanager
def mapped(mapping):
    """Decided where a function is traced: at its first call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "MAPPING", mapping)
        yield


def fresh(agent, seeds):
    keys = seeding.streams(seeds, seeding.INIT)
    return jax.vmap(lambda key: agent.init(key, jnp.zeros(4), jnp.ones(4), 2))(keys)


def run_offline(offline, seeds, mapping, blocks):
    loop = OfflineLoop(SPAARS, offline, seeding.streams(seeds, seeding.OFFLINE))
    state, done = own_buffers(fresh(SPAARS, seeds)), 0
    with mapped(mapping):
        for updates in blocks:
            state, metrics = loop.run(SPAARS.offline_phases()[1], state, done, updates)
            done += updates
    assert metrics["value_loss"].shape == (len(seeds),)
    return state


def run_online(offline, seeds, mapping):
    envs = EnvPopulation(POINT.make_env, seeds)
    ring = empty_ring(len(seeds), 30, 4, 2)
    with mapped(mapping):
        loop = OnlineLoop(RANDOM, fresh(RANDOM, seeds), Replay(ring, offline), envs, ONLINE)
        for _ in range(3):
            metrics, *_ = loop.run_chunk()
    assert metrics["critic_loss"].shape == (len(seeds),)
    return loop.state, loop.replay.ring


def row(state, i):
    return jax.tree.map(lambda x: np.asarray(x[i]), state)


def assert_close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def offline_population(offline):
    return run_offline(offline, SEEDS, "map", (6,))


@pytest.fixture(scope="module")
def online_population(offline):
    return run_online(offline, SEEDS, "map")


@pytest.mark.parametrize("mapping", ["map", "vmap", None])
def test_over_seeds_golden(mapping):
    with mapped(mapping):
        fn = over_seeds(lambda a, b: {"sum": a + b, "product": a * b})
    out = fn(jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0]))
    np.testing.assert_array_equal(out["sum"], [4.0, 7.0])
    np.testing.assert_array_equal(out["product"], [3.0, 10.0])


def test_own_buffers_can_be_donated():
    leaf = jnp.ones(3)
    owned = own_buffers((leaf, leaf))
    assert owned[0].unsafe_buffer_pointer() != owned[1].unsafe_buffer_pointer()
    np.testing.assert_array_equal(owned, np.ones((2, 3)))


def test_offline_map_and_vmap_agree(offline, offline_population):
    assert_close(offline_population, run_offline(offline, SEEDS, "vmap", (6,)))


def test_offline_a_seed_alone_gets_the_same_bits(offline, offline_population):
    alone = run_offline(offline, SEEDS[1:], "map", (6,))
    assert eqx.tree_equal(row(offline_population, 1), row(alone, 0))
    assert not eqx.tree_equal(row(offline_population, 0), row(alone, 0))


def test_offline_blocks_do_not_matter(offline, offline_population):
    """A resumed phase goes on where it stopped."""
    pieces = run_offline(offline, SEEDS, "map", (2, 4))
    assert eqx.tree_equal(row(offline_population, 0), row(pieces, 0))


def test_online_map_and_vmap_agree(offline, online_population):
    assert_close(online_population, run_online(offline, SEEDS, "vmap"))


def test_online_a_seed_alone_gets_the_same_bits(offline, online_population):
    state, ring = online_population
    alone_state, alone_ring = run_online(offline, SEEDS[1:], "map")
    assert eqx.tree_equal(row(ring.storage, 1), row(alone_ring.storage, 0))
    assert eqx.tree_equal(row(state, 1), row(alone_state, 0))
    assert not eqx.tree_equal(row(state, 0), row(alone_state, 0))


def test_the_ring_holds_what_happened(online_population):
    """Transitions follow the toy's law and each other; a fall shows as such."""
    _, ring = online_population
    assert int(ring.inserted) == 30
    s = jax.tree.map(np.asarray, ring.storage)
    velocity = 0.8 * s.observations[..., 2:] + 0.04 * s.actions
    np.testing.assert_allclose(s.next_observations[..., 2:], velocity, atol=1e-6)
    fell = np.abs(s.next_observations[..., :2]).max(-1) > 1.0
    np.testing.assert_array_equal(s.terminated, fell)
    inside = ~fell[:, :-1]
    np.testing.assert_array_equal(
        s.observations[:, 1:][inside], s.next_observations[:, :-1][inside]
    )


def test_a_chunks_mean_skips_what_was_not_updated_but_shows_divergence():
    values = jnp.array([1.0, jnp.nan, 3.0])
    assert float(_mean("actor_loss", values)) == 2.0
    assert bool(jnp.isnan(_mean("q_mean", values)))
