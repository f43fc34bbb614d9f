import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spaars.nn import Learner, Normal, descend
from spaars.priors.opal import OPAL, kl_divergence, opal_loss

KEY = jax.random.key(0)
H, OBS, ACT, K = 4, 3, 2, 2


@pytest.fixture(scope="module")
def opal() -> OPAL:
    return OPAL(OBS, ACT, K, H, (32, 32), 16, key=KEY)


def chunks(n, key=KEY):
    """Two skills: an action that pushes towards +1 and one towards -1, whatever the state."""
    obs_key, side_key = jax.random.split(key)
    observations = jax.random.normal(obs_key, (n, H, OBS))
    side = jnp.where(jax.random.bernoulli(side_key, 0.5, (n, 1, 1)), 0.7, -0.7)
    return observations, jnp.broadcast_to(side, (n, H, ACT))


def test_kl_golden():
    # Per dimension: log(p/q) + (q^2 + shift^2) / (2 p^2) - 1/2, q = 1, p = 2, shift 3.
    q = Normal(jnp.array([[3.0, 3.0]]), jnp.zeros((1, 2)))
    p = Normal(jnp.zeros((1, 2)), jnp.full((1, 2), jnp.log(2.0)))
    each = np.log(2.0) + (1.0 + 9.0) / 8.0 - 0.5
    np.testing.assert_allclose(kl_divergence(q, p), [2 * each], rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(q, q), [0.0], atol=1e-6)


def test_loss_golden(opal):
    """With all last layers at zero: pi = N(0, 1), q = p = N(0, I)."""
    flat = eqx.tree_at(
        lambda o: [
            leaf
            for layer in (o.head, o.acting.state_prior_net.layers[-1], o.acting.decoder.layers[-1])
            for leaf in (layer.weight, layer.bias)
        ],
        opal,
        replace_fn=jnp.zeros_like,
    )
    observations, actions = chunks(5)
    loss, metrics = opal_loss(flat, observations, actions, jnp.ones((5, K)), 0.1)
    log_likelihood = ACT * (-0.5 * 0.7**2 - 0.5 * np.log(2 * np.pi))
    assert float(loss) == pytest.approx(-log_likelihood, rel=1e-5)
    assert float(metrics["kl"]) == pytest.approx(0.0, abs=1e-6)
    assert float(metrics["reconstruction"]) == pytest.approx(ACT * 0.7**2, rel=1e-5)


def test_decoder_sees_the_present_state_alone(opal):
    """Closed loop: an action depends on this step's observation and z."""
    observations = jax.random.normal(KEY, (2, H, OBS))
    z = jnp.ones((2, H, K))
    actions = opal.acting.low_level(observations, z).mean
    changed = opal.acting.low_level(observations.at[:, 0].add(1.0), z).mean
    np.testing.assert_array_equal(actions[:, 1:], changed[:, 1:])
    assert np.abs(actions[:, 0] - changed[:, 0]).max() > 0


def test_skills_tell_apart_what_the_data_do(opal):
    tx = optax.adam(3e-3)

    @jax.jit
    def train(learner, key):
        def step(learner, key):
            observations, actions = chunks(64, key)
            noise = jax.random.normal(key, (64, K))
            return descend(opal_loss, learner, tx, observations, actions, noise, 0.1)

        return jax.lax.scan(step, learner, jax.random.split(key, 300))

    learner, metrics = train(Learner.create(opal, tx), KEY)
    trained, acting = learner.params, learner.params.acting
    assert float(metrics["reconstruction"][-1]) < 0.05
    assert float(metrics["kl"][-1]) > 0.3  # which of two: about log 2
    observations, actions = chunks(100, jax.random.key(9))
    z = trained.encode_mean(observations, actions)
    decoded = acting.decode(observations[:, 0], z)
    np.testing.assert_array_equal(np.sign(decoded), np.sign(actions[:, 0]))
    # What the state prior draws is one or the other, each about as often.
    drawn = acting.decode(observations[:, 0], acting.state_prior(observations[:, 0]).sample(KEY))
    assert 25 < int((drawn[:, 0] > 0).sum()) < 75
