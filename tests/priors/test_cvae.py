import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spaars.nn import Learner, descend
from spaars.priors.cvae import CVAE, cvae_loss, kl_to_standard_normal

KEY = jax.random.key(0)


def linear_cvae():
    """obs 1, act 1, k 1, no hidden layer: mean = o + 2 a, log std = 0.5 a; D = o + z / 2."""
    cvae = CVAE(1, 1, 1, (), key=KEY)
    encoder, decoder = cvae.encoder.layers[0], cvae.decoder.layers[0]
    assert encoder.weight.shape == (2, 2)
    assert decoder.weight.shape == (2, 1)
    return eqx.tree_at(
        lambda m: (
            m.encoder.layers[0].weight,
            m.encoder.layers[0].bias,
            m.decoder.layers[0].weight,
            m.decoder.layers[0].bias,
        ),
        cvae,
        (
            jnp.array([[1.0, 0.0], [2.0, 0.5]]),
            jnp.zeros(2),
            jnp.array([[1.0], [0.5]]),
            jnp.zeros(1),
        ),
    )


def test_loss_golden():
    # Row 1: o = 0.5, a = 0: mean 0.5, log std 0, noise 1: z = 1.5, D = tanh(0.5 + 0.75)
    #        = tanh(1.25) = 0.848284; (0 - 0.848284)^2 = 0.719586; KL = (0.25 + 1 - 0 - 1)/2 = 0.125
    # Row 2: o = 0, a = 0.5: mean 1, log std 0.25, noise 0: z = 1, D = tanh(0.5) = 0.462117;
    #        (0.5 - 0.462117)^2 = 0.001435; KL = (1 + e^0.5 - 0.5 - 1)/2 = 0.574361
    loss, metrics = cvae_loss(
        linear_cvae(),
        jnp.array([[0.5], [0.0]]),
        jnp.array([[0.0], [0.5]]),
        jnp.array([[1.0], [0.0]]),
        0.1,
    )
    assert float(metrics["reconstruction"]) == pytest.approx((0.719586 + 0.001435) / 2, abs=1e-5)
    assert float(metrics["kl"]) == pytest.approx((0.125 + 0.574361) / 2, abs=1e-5)
    assert float(loss) == pytest.approx(0.360511 + 0.1 * 0.349680, abs=1e-5)


def test_loss_sums_over_dimensions_and_averages_over_rows():
    cvae = CVAE(3, 2, 2, (4,), key=KEY)
    rng = np.random.default_rng(0)
    o, a, noise = (rng.normal(size=(6, n)).astype(np.float32) for n in (3, 2, 2))
    a = np.tanh(a)

    def mlp(net, x):
        first, last = net.layers
        x = np.maximum(x @ np.asarray(first.weight) + np.asarray(first.bias), 0.0)
        return x @ np.asarray(last.weight) + np.asarray(last.bias)

    mean, log_std = np.split(mlp(cvae.encoder, np.concatenate([o, a], -1)), 2, -1)
    z = mean + np.exp(log_std) * noise
    error = (a - np.tanh(mlp(cvae.decoder, np.concatenate([o, z], -1)))) ** 2
    kl = 0.5 * (mean**2 + np.exp(2 * log_std) - 2 * log_std - 1)
    loss, _ = cvae_loss(cvae, *(jnp.asarray(x) for x in (o, a, noise)), 0.3)
    assert float(loss) == pytest.approx(error.sum(-1).mean() + 0.3 * kl.sum(-1).mean(), rel=1e-5)


def test_kl_golden():
    # (0.25 + e^1.386294 - 1.386294 - 1)/2 = (0.25 + 4 - 1.386294 - 1)/2 = 0.931853 for mean 0.5,
    # std 2; zero for the standard normal itself.
    mean = jnp.array([[0.5, 0.0], [0.0, 0.0], [0.5, 0.5]])
    log_std = jnp.array([[np.log(2.0), 0.0], [0.0, 0.0], [np.log(2.0)] * 2])
    np.testing.assert_allclose(
        kl_to_standard_normal(mean, log_std), [0.931853, 0.0, 1.863706], rtol=1e-5, atol=1e-7
    )


def test_decoded_actions_are_bounded_however_far_the_latent():
    cvae = CVAE(3, 2, 4, (8,), key=KEY)
    observations = 10.0 * jax.random.normal(KEY, (50, 3))
    for scale in (0.0, 1.0, 100.0):
        actions = cvae.decode(observations, scale * jax.random.normal(KEY, (50, 4)))
        assert actions.shape == (50, 2)
        assert np.abs(actions).max() <= 1.0


def test_posterior_std_is_clipped():
    cvae = CVAE(2, 1, 1, (), key=KEY)
    for bias, clipped in ((100.0, 4.0), (-100.0, -4.0)):
        wild = eqx.tree_at(lambda m: m.encoder.layers[0].bias, cvae, jnp.array([0.0, bias]))
        mean, log_std = wild.posterior(jnp.zeros((3, 2)), jnp.zeros((3, 1)))
        np.testing.assert_array_equal(log_std, np.full((3, 1), clipped))
        np.testing.assert_array_equal(wild.encode_mean(jnp.zeros((3, 2)), jnp.zeros((3, 1))), mean)


def test_training_reduces_the_reconstruction_error():
    observations = jax.random.normal(KEY, (128, 2))
    actions = jnp.tanh(observations[:, ::-1] + jax.random.normal(jax.random.key(1), (128, 2)))
    tx = optax.adam(3e-3)
    learner = Learner.create(CVAE(2, 2, 2, (32,), key=KEY), tx)

    @jax.jit
    def train(learner):
        def update(learner, key):
            noise = jax.random.normal(key, (128, 2))
            return descend(cvae_loss, learner, tx, observations, actions, noise, 0.01)

        return jax.lax.scan(update, learner, jax.random.split(jax.random.key(2), 400))

    _, metrics = train(learner)
    first, last = metrics["reconstruction"][:10].mean(), metrics["reconstruction"][-10:].mean()
    assert first > 0.5  # about the actions' variance, twice 0.4
    assert last < 0.1
