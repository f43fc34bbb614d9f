"""A population whose seeds are spread over two devices, against each seed alone on one.

Runs in a process of its own with two pretended CPU devices (tests/training/test_speed.py).
"""

import jax
import jax.numpy as jnp
import numpy as np

from spaars import seeding
from spaars.algos.sac import SAC, SACConfig
from spaars.data.replay import Replay, as_batch, empty_ring
from spaars.training import population
from spaars.training.envs import EnvPopulation
from spaars.training.online import OnlineConfig, OnlineLoop
from toy import POINT, point_dataset

SEEDS = (3, 7)
CONFIG = OnlineConfig(chunk=10, start_fraction=0.0, learning_starts=0)
AGENT = SAC(SACConfig(hidden=(), batch_size=16))


def train(seeds, mapping, sharding=None):
    """State (S, ...) and ring after three chunks."""
    keys = seeding.streams(seeds, seeding.INIT)
    state = jax.vmap(lambda key: AGENT.init(key, jnp.zeros(4), jnp.ones(4), 2))(keys)
    if sharding is not None:
        state = jax.device_put(state, sharding)
    data = point_dataset(200)
    offline = as_batch(
        data.observations, data.actions, data.rewards, data.next_observations, data.terminated
    )
    replay = Replay(empty_ring(len(seeds), 30, 4, 2), offline)
    population.MAPPING = mapping
    loop = OnlineLoop(AGENT, state, replay, EnvPopulation(POINT.make_env, seeds), CONFIG)
    for _ in range(3):
        loop.run_chunk()
    return loop.state, loop.replay.ring


def row(tree, i):
    return [np.asarray(leaf)[i] for leaf in jax.tree.leaves(tree)]


def main():
    assert len(jax.devices()) == 2, jax.devices()
    mesh = jax.make_mesh((2,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,))
    over_seeds = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("seeds"))
    spread, ring = train(SEEDS, "vmap", over_seeds)
    for leaf in jax.tree.leaves(spread):
        places = [(shard.device.id, shard.data.shape[0]) for shard in leaf.addressable_shards]
        assert places == [(0, 1), (1, 1)], "an update brought all seeds to one device"

    mapped, _ = train(SEEDS, "map")
    for i, seed in enumerate(SEEDS):
        alone, alone_ring = train((seed,), "map")
        for a, b in zip(row(mapped, i), row(alone, 0), strict=True):
            np.testing.assert_array_equal(a, b)  # mapping promises the same bits
        pairs = [*zip(row(spread, i), row(alone, 0), strict=True)]
        pairs += zip(row(ring.storage, i), row(alone_ring.storage, 0), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # vmap: the same sums


if __name__ == "__main__":
    main()
