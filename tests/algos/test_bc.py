import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars.algos.bc import BC, BCConfig
from spaars.algos.latent import cloning_loss
from spaars.data.replay import Batch
from spaars.nn import TanhGaussianPolicy

KEY = jax.random.key(0)


def test_cloning_loss_golden():
    """Mean 0, std 1 before the tanh: -log pi(0) = log(2 pi) / 2, and at tanh(1) by the slope."""
    policy = eqx.tree_at(
        lambda p: (p.net.layers[0].weight, p.net.layers[0].bias),
        TanhGaussianPolicy(1, 1, (), key=KEY),
        (jnp.zeros((1, 2)), jnp.zeros(2)),
    )
    half = 0.5 * np.log(2.0 * np.pi)
    at_one = half + 0.5 + np.log(1.0 - np.tanh(1.0) ** 2)
    actions = jnp.array([[0.0], [np.tanh(1.0)]])
    loss = cloning_loss(policy(jnp.zeros((2, 1))), actions)
    assert float(loss) == pytest.approx((half + at_one) / 2.0, rel=1e-5)


def test_it_learns_the_logged_action():
    agent = BC(BCConfig(hidden=(16,), learning_rate=3e-3))
    observations = jax.random.normal(KEY, (64, 3))
    actions = jnp.tanh(observations[:, :2])
    zeros = jnp.zeros(64)
    batch = Batch(observations, actions, zeros, observations, zeros)
    state, update = agent.init(KEY, jnp.zeros(3), jnp.ones(3), 2), jax.jit(agent.update)
    for _ in range(600):
        state, _ = update(state, batch, KEY)
    mode, _ = agent.act_deterministic(agent.acting(state), observations)
    assert float(jnp.abs(mode - actions).mean()) < 0.05
