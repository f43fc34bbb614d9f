"""Random windows of a small skill agent, for the tests of both."""

import jax
import jax.numpy as jnp

from spaars.data.replay import Batch

KEY = jax.random.key(0)
OBS, ACT, K, H, B, LOGGED = 3, 2, 2, 4, 6, 3


def windows(n=B, key=KEY) -> Batch:
    keys = jax.random.split(key, 5)
    u = jnp.tanh(jax.random.normal(keys[4], (n, 1, K)))
    return Batch(
        observations=jax.random.normal(keys[0], (n, H, OBS)),
        actions=jnp.tanh(jax.random.normal(keys[1], (n, H, ACT))),
        rewards=jax.random.normal(keys[2], (n, H)),
        next_observations=jax.random.normal(keys[3], (n, H, OBS)),
        terminated=jnp.zeros((n, H)),
        latents=jnp.broadcast_to(u, (n, H, K)),
    )


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))
