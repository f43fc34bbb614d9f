import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars.nn import TanhNormal
from spaars.nn.distributions import MAX_SQUASHED, log_tanh_slope

MEAN = np.array([[0.3, -1.2], [0.0, 2.0]])
LOG_STD = np.array([[-0.5, 0.4], [0.0, -2.0]])


def distribution(mean=MEAN, log_std=LOG_STD):
    return TanhNormal(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32))


def test_log_prob_is_the_change_of_variables():
    y = np.array([[0.5, -0.9], [-0.2, 0.95]])
    # p(y) = N(x; mean, std) |dx/dy|, with x = atanh(y) and its slope by central differences.
    x, h = np.arctanh(y), 1e-6
    slope = (np.arctanh(y + h) - np.arctanh(y - h)) / (2 * h)
    std = np.exp(LOG_STD)
    density = np.exp(-0.5 * ((x - MEAN) / std) ** 2) / (std * np.sqrt(2 * np.pi)) * slope
    np.testing.assert_allclose(
        distribution().log_prob(jnp.asarray(y, jnp.float32)),
        np.log(density).sum(-1),
        rtol=1e-5,
    )


def test_log_prob_golden():
    # Standard normal, y = 0.5 twice: x = 0.549306, -x^2/2 - ln(2 pi)/2 - ln(1 - 0.25)
    # = -0.150869 - 0.918939 + 0.287682 = -0.782125; two dimensions: -1.564251.
    standard = distribution(np.zeros((1, 2)), np.zeros((1, 2)))
    np.testing.assert_allclose(standard.log_prob(jnp.full((1, 2), 0.5)), [-1.564251], rtol=1e-5)


def test_density_integrates_to_one():
    y = np.linspace(-0.998, 0.998, 4_001)
    n = len(y)
    density = np.exp(
        distribution(np.full((n, 1), 0.4), np.full((n, 1), -0.7)).log_prob(
            jnp.asarray(y[:, None], jnp.float32)
        )
    )
    assert np.trapezoid(density, y) == pytest.approx(1.0, abs=2e-3)


def test_sample_and_log_prob_agrees_with_log_prob_and_sample():
    pi, key = distribution(), jax.random.key(0)
    y, log_prob = pi.sample_and_log_prob(key)
    assert np.all(np.abs(y) < MAX_SQUASHED)
    np.testing.assert_allclose(pi.log_prob(y), log_prob, rtol=1e-3)
    np.testing.assert_array_equal(pi.sample(key), y)


def test_samples_follow_mean_and_std():
    n = 20_000
    y = distribution(np.full((n, 1), 0.4), np.full((n, 1), -0.7)).sample(jax.random.key(1))
    x = np.arctanh(np.asarray(y, np.float64))
    assert x.mean() == pytest.approx(0.4, abs=0.02)
    assert x.std() == pytest.approx(np.exp(-0.7), abs=0.01)


def test_mode_is_the_squashed_mean():
    np.testing.assert_allclose(distribution().mode(), np.tanh(MEAN), rtol=1e-6)


@pytest.mark.parametrize("mean", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("y", [-1.0, 1.0])
def test_saturated_actions_have_finite_densities_and_gradients(mean, y):
    def log_prob(mean, log_std):
        return TanhNormal(mean, log_std).log_prob(jnp.full((1, 2), y)).sum()

    arguments = jnp.full((1, 2), mean), jnp.full((1, 2), -3.0)
    value, gradients = jax.value_and_grad(log_prob, argnums=(0, 1))(*arguments)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("mean", [-30.0, 30.0])
def test_saturated_samples_have_finite_gradients(mean):
    def log_prob(mean):
        pi = TanhNormal(mean, jnp.zeros((1, 2)))
        return pi.sample_and_log_prob(jax.random.key(0))[1].sum()

    value, gradient = jax.value_and_grad(log_prob)(jnp.full((1, 2), mean))
    assert np.isfinite(value)
    # log pi = ... - log(1 - tanh(x)^2), and -log(1 - tanh^2) grows as 2|x|.
    np.testing.assert_allclose(gradient, np.sign(mean) * np.full((1, 2), 2.0), rtol=1e-5)


def test_log_tanh_slope_at_extremes():
    x = np.array([-50.0, -20.0, -9.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 9.0, 20.0, 50.0])
    exact = -2.0 * (np.logaddexp(x, -x) - np.log(2.0))  # 1 - tanh^2 = 1 / cosh^2
    np.testing.assert_allclose(
        log_tanh_slope(jnp.asarray(x, jnp.float32)), exact, rtol=1e-6, atol=5e-7
    )
    # Written as it reads, the logarithm is lost: this is what the formula is for.
    assert np.isneginf(jnp.log(1.0 - jnp.square(jnp.tanh(jnp.float32(20.0)))))
