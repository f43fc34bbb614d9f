"""Implicit Q-learning (Kostrikov et al., 2021): the offline start of critic and policies."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spaars.nn import MLP, Metrics, TanhGaussianPolicy


def expectile_loss(difference: Float[Array, " b"], expectile: float) -> Float[Array, " b"]:
    """|expectile - 1(difference < 0)| difference^2  (IQL, eq. 5)."""
    weight = jnp.where(difference < 0, 1.0 - expectile, expectile)
    return weight * jnp.square(difference)


def value_loss(
    value: MLP,
    observations: Float[Array, "b obs"],
    q: Float[Array, " b"],
    expectile: float,
) -> tuple[Float[Array, ""], Metrics]:
    """V(s) towards the upper expectile of the target critics' Q(s, a), a from the data."""
    v = value(observations)[..., 0]
    loss = expectile_loss(q - v, expectile).mean()
    return loss, {"value_loss": loss, "value_mean": v.mean()}


def regression_weights(
    advantages: Float[Array, " b"], temperature: float, maximum: float = 100.0
) -> Float[Array, " b"]:
    """exp(temperature * A / mean|A|), clipped at `maximum`, divided by its mean.

    IQL (eq. 7) uses exp(beta * A) on rewards scaled task by task; dividing by mean|A| instead
    takes the scale from the batch, so one temperature serves every task.
    """
    scaled = temperature * advantages / (jnp.abs(advantages).mean() + 1e-8)
    weights = jnp.minimum(jnp.exp(scaled), maximum)
    return weights / weights.mean()


def weighted_regression_loss(
    policy: TanhGaussianPolicy,
    observations: Float[Array, "b obs"],
    targets: Float[Array, "b n"],
    weights: Float[Array, " b"],
) -> Float[Array, ""]:
    """-E[weight log pi(target | s)]: advantage-weighted regression (IQL, eq. 7)."""
    log_probs = policy(observations).log_prob(targets)
    return -(jax.lax.stop_gradient(weights) * log_probs).mean()
