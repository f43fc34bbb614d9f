import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars.algos.iql import (
    IQL,
    IQLConfig,
    expectile_loss,
    exponential_weights,
    regression_weights,
    value_loss,
    weighted_regression_loss,
)
from spaars.data.replay import Batch
from spaars.nn import MLP, GaussianPolicy, TanhGaussianPolicy
from spaars.training.config import preset_config

KEY = jax.random.key(0)


def linear_value(weight, bias):
    return eqx.tree_at(
        lambda m: (m.layers[0].weight, m.layers[0].bias),
        MLP(1, 1, (), key=KEY),
        (jnp.array([[weight]]), jnp.array([bias])),
    )


def flat_policy(mean, log_std):
    """One dimension, the same distribution at every state."""
    return eqx.tree_at(
        lambda p: (p.net.layers[0].weight, p.net.layers[0].bias),
        TanhGaussianPolicy(1, 1, (), key=KEY),
        (jnp.zeros((1, 2)), jnp.array([mean, log_std])),
    )


def test_expectile_loss_golden():
    # 0.7 * 2^2, 0.3 * (-2)^2, 0
    np.testing.assert_allclose(
        expectile_loss(jnp.array([2.0, -2.0, 0.0]), 0.7), [2.8, 1.2, 0.0], rtol=1e-6
    )


def test_value_loss_golden():
    # V = 2 s + 1 = 1, 3; Q - V = 2, -2: (0.9 * 4 + 0.1 * 4) / 2 = 2
    loss, metrics = value_loss(
        linear_value(2.0, 1.0), jnp.array([[0.0], [1.0]]), jnp.array([3.0, 1.0]), 0.9
    )
    assert float(loss) == pytest.approx(2.0)
    assert float(metrics["value_mean"]) == pytest.approx(2.0)


def test_value_goes_to_the_expectile():
    # Q is 0 or 1, evenly: the expectile m solves 0.9 (1 - m) = 0.1 m, m = 0.9; half way is 0.5.
    observations, q = jnp.zeros((2, 1)), jnp.array([0.0, 1.0])
    for expectile in (0.5, 0.9):
        at_rest = linear_value(0.0, expectile)
        gradient = jax.grad(lambda v, t=expectile: value_loss(v, observations, q, t)[0])(at_rest)
        np.testing.assert_allclose(gradient.layers[0].bias, [0.0], atol=1e-6)
    too_low = linear_value(0.0, 0.6)
    gradient = jax.grad(lambda v: value_loss(v, observations, q, 0.9)[0])(too_low)
    assert float(gradient.layers[0].bias[0]) < 0.0  # descending raises V


def test_regression_weights_golden():
    # mean|A| = 1, temperature ln 2: 2^A = 2, 0.5, 4, 1 without the 0: A = 1, -1, 2, 0
    weights = regression_weights(jnp.array([1.0, -1.0, 2.0, 0.0]), float(np.log(2.0)))
    # mean|A| = 4/4 = 1; 2 + 0.5 + 4 + 1 = 7.5, mean 1.875
    np.testing.assert_allclose(weights, np.array([2.0, 0.5, 4.0, 1.0]) / 1.875, rtol=1e-5)


def test_regression_weights_are_clipped_and_have_mean_one():
    # 99 of the 100 advantages are 0: A / mean|A| = 100 for the other, exp(300) clipped at 100.
    advantages = jnp.zeros(100).at[7].set(5.0)
    weights = regression_weights(advantages, 3.0)
    np.testing.assert_allclose(weights.mean(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(weights[7] / weights[0], 100.0, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-2, 1e4])
def test_regression_weights_do_not_depend_on_the_rewards_scale(scale):
    advantages = jax.random.normal(KEY, (32,))
    np.testing.assert_allclose(
        regression_weights(scale * advantages, 3.0), regression_weights(advantages, 3.0), rtol=1e-3
    )


def test_regression_weights_without_any_advantage_are_one():
    np.testing.assert_allclose(regression_weights(jnp.zeros(5), 3.0), np.ones(5))


def test_weighted_regression_loss_golden():
    # Standard normal before tanh. log pi(0) = -0.918939.
    # log pi(0.5) = -0.549306^2/2 - 0.918939 - ln 0.75 = -0.782125
    # -(2 * -0.918939 + 0.5 * -0.782125) / 2 = 1.114470
    loss = weighted_regression_loss(
        flat_policy(0.0, 0.0),
        jnp.zeros((2, 1)),
        jnp.array([[0.0], [0.5]]),
        jnp.array([2.0, 0.5]),
    )
    assert float(loss) == pytest.approx(1.114470, abs=1e-5)


def test_regression_pulls_the_mean_to_the_heavier_target():
    def mean_gradient(weights):
        loss = jax.grad(weighted_regression_loss)(
            flat_policy(0.0, 0.0), jnp.zeros((2, 1)), jnp.array([[0.5], [-0.5]]), weights
        )
        return float(loss.net.layers[0].bias[0])

    # d/dmean -E[w log pi] = -E[w (x - mean)] = -(w1 - w2) 0.549306 / 2
    assert mean_gradient(jnp.array([2.0, 0.5])) == pytest.approx(-1.5 * 0.549306 / 2, abs=1e-5)
    assert mean_gradient(jnp.array([0.5, 2.0])) == pytest.approx(1.5 * 0.549306 / 2, abs=1e-5)
    assert mean_gradient(jnp.array([1.0, 1.0])) == pytest.approx(0.0, abs=1e-6)


def test_no_gradient_through_the_weights():
    def loss(weights):
        return weighted_regression_loss(
            flat_policy(0.0, 0.0), jnp.zeros((2, 1)), jnp.array([[0.5], [-0.5]]), weights
        )

    np.testing.assert_array_equal(jax.grad(loss)(jnp.array([2.0, 0.5])), [0.0, 0.0])


# ------------------------------------------------------------------ the peer


def test_exponential_weights_golden():
    # e^(3 * 0), e^(3 ln 2) = 8, and 100 where e^30 would be
    advantages = jnp.array([0.0, np.log(2.0), 10.0])
    np.testing.assert_allclose(exponential_weights(advantages, 3.0), [1.0, 8.0, 100.0], rtol=1e-6)


def test_regression_of_the_published_policy_golden():
    """Mean tanh(0.5) everywhere, std 1: -log pi = ((a - tanh 0.5)^2 + log 2 pi) / 2."""
    policy = eqx.tree_at(
        lambda p: (p.net.layers[0].weight, p.net.layers[0].bias),
        GaussianPolicy(1, 1, (), key=KEY),
        (jnp.zeros((1, 1)), jnp.array([0.5])),
    )
    loss = weighted_regression_loss(
        policy, jnp.zeros((2, 1)), jnp.array([[0.0], [1.0]]), jnp.array([1.0, 3.0])
    )
    mean, constant = np.tanh(0.5), np.log(2.0 * np.pi)
    nll = [0.5 * (mean**2 + constant), 0.5 * ((1.0 - mean) ** 2 + constant)]
    assert float(loss) == pytest.approx((1.0 * nll[0] + 3.0 * nll[1]) / 2.0, rel=1e-6)


def peer_batch(n=16):
    keys = jax.random.split(jax.random.key(7), 4)
    return Batch(
        observations=jax.random.normal(keys[0], (n, 3)),
        actions=jax.random.uniform(keys[1], (n, 2), minval=-1.0),
        rewards=jax.random.normal(keys[2], (n,)),
        next_observations=jax.random.normal(keys[3], (n, 3)),
        terminated=jnp.ones(n),
    )


def test_actor_step_size_falls_to_zero_offline_and_is_whole_online():
    agent = IQL(IQLConfig(updates=100, actor_decay=True))
    rates = [float(agent.actor_learning_rate(jnp.int32(n))) for n in (0, 50, 99, 100, 500)]
    np.testing.assert_allclose(rates[:2], [3e-4, 1.5e-4], rtol=1e-5)
    assert 0.0 < rates[2] < 1e-6
    np.testing.assert_allclose(rates[3:], [3e-4, 3e-4], rtol=1e-6)
    fine_tuning = IQL(preset_config("hopper-medium", "iql").iql)
    assert float(fine_tuning.actor_learning_rate(jnp.int32(50_000))) == pytest.approx(3e-4)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_rewards_are_scaled_in_the_critics_targets(scale):
    """All transitions end, so the target is scale * r alone: one loss tells the scale."""
    agent = IQL(IQLConfig(hidden=(4,), reward_scale=scale))
    state = agent.init(KEY, jnp.zeros(3), jnp.ones(3), 2)
    batch = peer_batch()
    q = state.critics.params(batch.observations, batch.actions)
    _, metrics = agent.update(state, batch, KEY)
    expected = jnp.square(q - scale * batch.rewards).mean()
    assert float(metrics["critic_loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_executed_actions_are_within_bounds():
    agent = IQL(IQLConfig(hidden=(4,)))
    state = agent.init(KEY, jnp.zeros(3), jnp.ones(3), 2)
    actions, _ = agent.act(agent.acting(state), jnp.zeros((500, 3)), KEY)
    assert float(jnp.abs(actions).max()) == 1.0  # std is 1 at first: some are clipped


def test_dropout_is_the_actors_alone():
    """Of an update, only the actor and its loss change; acting drops nothing."""
    batch = peer_batch()
    found = {}
    for rate in (0.0, 0.5):
        agent = IQL(IQLConfig(hidden=(8,), reward_scale=1.0, actor_dropout=rate))
        state = agent.init(KEY, jnp.zeros(3), jnp.ones(3), 2)
        found[rate] = agent.update(state, batch, KEY)
    (plain, a), (dropped, b) = found[0.0], found[0.5]
    assert float(a["actor_loss"]) != float(b["actor_loss"])
    for name in ("critics", "target_critics", "value"):
        same = jax.tree.map(
            lambda x, y: bool((x == y).all()), getattr(plain, name), getattr(dropped, name)
        )
        assert all(jax.tree.leaves(same)), name
    acting = agent.acting(dropped)
    one, other = (agent.act_deterministic(acting, batch.observations)[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)
