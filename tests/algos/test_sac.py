import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars.algos.sac import (
    SAC,
    SACConfig,
    actor_loss,
    critic_loss,
    subset_minimum,
    td_targets,
    temperature_loss,
)
from spaars.data.replay import Batch
from spaars.nn import Critics

KEY = jax.random.key(0)


def linear_critics(*rows):
    """obs 1, act 1; member e is Q = w_s s + w_a a + bias of rows[e]."""
    critics = Critics(1, 1, (), len(rows), key=KEY)
    return eqx.tree_at(
        lambda c: [leaf for m in c.members for leaf in (m.layers[0].weight, m.layers[0].bias)],
        critics,
        [leaf for s, a, bias in rows for leaf in (jnp.array([[s], [a]]), jnp.array([bias]))],
    )


def test_td_targets_golden():
    # 1 + 0.9 * 10; the terminal one 2 alone. There is no argument for truncation: a time limit
    # keeps its value.
    np.testing.assert_allclose(
        td_targets(jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0]), jnp.array([10.0, 10.0]), 0.9),
        [10.0, 2.0],
    )


def test_critic_loss_golden():
    # Q_1 = s + 2 a: 1, 4; Q_2 = -s + 1: 0, -1; targets 0, 2
    # member 1: (1 + 4)/2 = 2.5; member 2: (0 + 9)/2 = 4.5; sum 7
    critics = linear_critics((1.0, 2.0, 0.0), (-1.0, 0.0, 1.0))
    loss, metrics = critic_loss(
        critics, jnp.array([[1.0], [2.0]]), jnp.array([[0.0], [1.0]]), jnp.array([0.0, 2.0])
    )
    assert float(loss) == pytest.approx(7.0)
    assert float(metrics["critic_loss"]) == pytest.approx(3.5)
    assert float(metrics["q_mean"]) == pytest.approx(1.0)
    # std over the members: |1 - 0|/2, |4 + 1|/2
    assert float(metrics["q_std"]) == pytest.approx(1.5)


def test_critic_gradient_is_each_members_own():
    critics = linear_critics((0.0, 0.0, 0.0), (0.0, 0.0, 5.0))
    zeros = jnp.zeros((3, 1))
    gradient = jax.grad(lambda c: critic_loss(c, zeros, zeros, jnp.ones(3))[0])(critics)
    # d/dbias mean (bias - 1)^2 = 2 (bias - 1)
    biases = [float(member.layers[0].bias[0]) for member in gradient.members]
    np.testing.assert_allclose(biases, [-2.0, 8.0], rtol=1e-6)


def test_actor_loss_golden():
    # ((0.5 * -2 - 3) + (0.5 * 1 - 1)) / 2 = (-4 - 0.5) / 2
    loss = actor_loss(jnp.array([-2.0, 1.0]), jnp.array([3.0, 1.0]), jnp.float32(0.5))
    assert float(loss) == pytest.approx(-2.25)


def test_temperature_loss_golden():
    # -e^ln2 * mean(-1 + -2, 3 + -2) = -2 * (-3 + 1)/2 = 2
    loss = temperature_loss(jnp.log(jnp.float32(2.0)), jnp.array([-1.0, 3.0]), -2.0)
    assert float(loss) == pytest.approx(2.0)


@pytest.mark.parametrize(("entropy", "sign"), [(-5.0, 1), (-2.0, 0), (3.0, -1)])
def test_temperature_rises_exactly_when_entropy_is_below_target(entropy, sign):
    log_probs = jnp.array([-entropy - 0.5, -entropy + 0.5])
    gradient = jax.grad(temperature_loss)(jnp.float32(0.3), log_probs, -2.0)
    assert np.sign(np.round(-gradient, 5)) == sign  # descent moves against the gradient


def test_temperature_loss_does_not_move_the_policy():
    gradient = jax.grad(temperature_loss, argnums=1)(jnp.float32(0.3), jnp.ones(3), -2.0)
    np.testing.assert_array_equal(gradient, np.zeros(3))


# ------------------------------------------------------------------ the agent


def toy_batch(n=32):
    keys = jax.random.split(jax.random.key(7), 4)
    return Batch(
        observations=jax.random.normal(keys[0], (n, 3)),
        actions=jax.random.uniform(keys[1], (n, 2), minval=-1.0),
        rewards=jax.random.normal(keys[2], (n,)),
        next_observations=jax.random.normal(keys[3], (n, 3)),
        terminated=jnp.zeros(n).at[::4].set(1.0),
    )


@pytest.fixture(scope="module")
def agent():
    return SAC(SACConfig(hidden=(8,), batch_size=32, tau=0.1))


@pytest.fixture(scope="module")
def update(agent):
    return jax.jit(agent.update)


def test_targets_start_as_the_critics(agent):
    state = agent.init(KEY, jnp.zeros(3), jnp.ones(3), 2)
    assert eqx.tree_equal(state.critics.params, state.target_critics)


def test_update_is_deterministic_and_depends_on_the_key(agent, update):
    state = agent.init(KEY, jnp.zeros(3), jnp.ones(3), 2)
    first, again = (update(state, toy_batch(), jax.random.key(1)) for _ in range(2))
    assert eqx.tree_equal(first, again)
    other, _ = update(state, toy_batch(), jax.random.key(2))
    assert not eqx.tree_equal(first[0].actor.params, other.actor.params)


def test_targets_follow_by_tau(agent, update):
    state = agent.init(KEY, jnp.zeros(3), jnp.ones(3), 2)
    new, _ = update(state, toy_batch(), KEY)
    old = jax.tree.leaves(state.target_critics)
    for before, critic, after in zip(
        old, jax.tree.leaves(new.critics.params), jax.tree.leaves(new.target_critics), strict=True
    ):
        np.testing.assert_allclose(after, 0.9 * before + 0.1 * critic, rtol=1e-5, atol=1e-7)


def test_terminal_next_states_do_not_matter(agent, update):
    """The next observation of a terminal transition never reaches the critics."""
    state = agent.init(KEY, jnp.zeros(3), jnp.ones(3), 2)
    batch = toy_batch()
    elsewhere = jnp.where(batch.terminated[:, None] > 0, 9.0, batch.next_observations)
    new, _ = update(state, batch, KEY)
    same, _ = update(state, batch._replace(next_observations=elsewhere), KEY)
    assert eqx.tree_equal(new.critics.params, same.critics.params)
    moved, _ = update(state, batch._replace(next_observations=elsewhere + 1.0), KEY)
    assert not eqx.tree_equal(new.critics.params, moved.critics.params)


def test_observations_are_standardised(agent):
    mean, std = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 4.0, 0.5])
    standard = agent.init(KEY, jnp.zeros(3), jnp.ones(3), 2)
    shifted = agent.init(KEY, mean, std, 2)
    observations = jax.random.normal(KEY, (5, 3))
    np.testing.assert_allclose(
        agent.act_deterministic(agent.acting(shifted), observations * std + mean)[0],
        agent.act_deterministic(agent.acting(standard), observations)[0],
        rtol=1e-4,
        atol=1e-6,
    )


# ------------------------------------------------------------------ RLPD


def test_subset_minimum_golden():
    q = jnp.array([[3.0, 9.0], [1.0, 8.0], [2.0, 7.0]])
    np.testing.assert_array_equal(subset_minimum(q, None, KEY), [1.0, 7.0])
    np.testing.assert_array_equal(subset_minimum(q, 3, KEY), [1.0, 7.0])
    pairs = {tuple(np.asarray(subset_minimum(q, 2, jax.random.key(i))).tolist()) for i in range(40)}
    # {0,1}, {0,2}, {1,2}: one draw for the whole batch, never a mixture such as (2, 8).
    assert pairs == {(1.0, 8.0), (2.0, 7.0), (1.0, 7.0)}


def test_actor_moves_at_every_nth_update_only():
    agent = SAC(SACConfig(hidden=(8,), batch_size=32, critics=3, target_subset=2, actor_every=3))
    update, state = jax.jit(agent.update), agent.init(KEY, jnp.zeros(3), jnp.ones(3), 2)
    moved = []
    for i in range(6):
        new, metrics = update(state, toy_batch(), jax.random.key(i))
        moved.append(not eqx.tree_equal(new.actor.params, state.actor.params))
        assert bool(jnp.isnan(metrics["actor_loss"])) is not moved[-1]
        assert not eqx.tree_equal(new.critics.params, state.critics.params)
        state = new
    assert moved == [False, False, True, False, False, True]


@pytest.mark.parametrize(("aggregate", "slope"), [("min", 1.0), ("mean", 2.0)])
def test_what_the_actor_climbs(aggregate, slope):
    """Q_1 = a, Q_2 = 3 a + 100: the minimum has slope 1, the mean 2; Adam's step is the same, so
    the loss itself tells."""
    agent = SAC(SACConfig(hidden=(), critics=2, actor_aggregate=aggregate))
    state = agent.init(KEY, jnp.zeros(1), jnp.ones(1), 1)
    critics = state.critics._replace(params=linear_critics((0.0, 1.0, 0.0), (0.0, 3.0, 100.0)))
    temperature = state.log_temperature._replace(params=jnp.float32(-30.0))
    state = state._replace(critics=critics, log_temperature=temperature)
    obs = jnp.zeros((4, 1))
    _, metrics = agent.update_actor(state, obs, KEY)
    actions = state.actor.params(obs).sample(KEY)
    expected = -(slope * actions.mean() + (50.0 if aggregate == "mean" else 0.0))
    assert float(metrics["actor_loss"]) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
