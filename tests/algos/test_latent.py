import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars.algos.latent import cloning_loss, linear_anneal, scaled_policy_loss
from spaars.nn import TanhNormal


def test_scaled_policy_loss_golden():
    # mean|Q| = (4 + 2)/2 = 3; ((0.1 * 5 - 4) + (0.1 * -5 + 2)) / 2 / 3 = (-3.5 + 1.5) / 6
    loss = scaled_policy_loss(jnp.array([5.0, -5.0]), jnp.array([4.0, -2.0]), jnp.float32(0.1))
    assert float(loss) == pytest.approx(-1 / 3, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-2, 1e4])
def test_rewards_scale_does_not_change_the_step(scale):
    def gradient(scale):
        q = jnp.array([4.0, -2.0])
        return jax.grad(lambda x: scaled_policy_loss(jnp.zeros(2), scale * (q + x), 0.0))(
            jnp.zeros(2)
        )

    # -1/2 per row over mean|Q| = 3; the divisor itself is no path for the gradient.
    np.testing.assert_allclose(gradient(1.0), [-1 / 6, -1 / 6], rtol=1e-5)
    np.testing.assert_allclose(gradient(scale), gradient(1.0), rtol=1e-3)


def test_policy_loss_without_values_stays_finite():
    assert np.isfinite(scaled_policy_loss(jnp.ones(2), jnp.zeros(2), 0.0))


def standard_normal(mean):
    return TanhNormal(mean, jnp.zeros_like(mean))


def test_cloning_loss_golden():
    # log pi(0) = -0.918939; log pi(0.5) = -0.782125 (standard normal before tanh); mean, negated
    loss = cloning_loss(standard_normal(jnp.zeros((2, 1))), jnp.array([[0.0], [0.5]]))
    assert float(loss) == pytest.approx((0.918939 + 0.782125) / 2, abs=1e-5)


def test_cloning_moves_the_raw_policy_and_not_the_decoded_actions():
    decoded = jnp.array([[0.5], [-0.5]])
    to_raw, to_decoded = jax.grad(
        lambda mean, actions: cloning_loss(standard_normal(mean), actions), argnums=(0, 1)
    )(jnp.zeros((2, 1)), decoded)
    # d/dmean = -(atanh(a) - mean) / batch: descent moves each mean towards its action.
    np.testing.assert_allclose(to_raw, [[-0.549306 / 2], [0.549306 / 2]], rtol=1e-5)
    np.testing.assert_array_equal(to_decoded, np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("progress", "expected"), [(-1.0, 1.0), (0.0, 1.0), (0.25, 0.775), (1.0, 0.1), (7.0, 0.1)]
)
def test_linear_anneal_golden(progress, expected):
    # 1 + (0.1 - 1) * 0.25 = 0.775
    assert float(linear_anneal(1.0, 0.1, jnp.float32(progress))) == pytest.approx(expected)
