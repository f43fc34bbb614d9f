"""Diagonal Gaussians: squashed by tanh (all policies but IQL's) and plain."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

LOG_2PI = 1.8378770664093453
# tanh saturates: in float32 atanh(1) is infinite, and data from saturated policies hold exact 1s.
MAX_SQUASHED = 1.0 - 1e-3


class TanhNormal(NamedTuple):
    """y = tanh(x), x ~ N(mean, exp(log_std)^2), per dimension.

    Shapes: `mean`, `log_std`: (*batch, n). Densities are with respect to y in (-1, 1)^n.
    """

    mean: Float[Array, "*batch n"]
    log_std: Float[Array, "*batch n"]

    def mode(self) -> Float[Array, "*batch n"]:
        """tanh of the Gaussian's mean: the deterministic action."""
        return jnp.tanh(self.mean)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*batch n"]:
        noise = jax.random.normal(key, self.mean.shape)
        return jnp.tanh(self.mean + jnp.exp(self.log_std) * noise)

    def sample_and_log_prob(
        self, key: PRNGKeyArray
    ) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch"]]:
        """A reparameterised sample and its log density (SAC, Haarnoja et al. 2018, eq. 21)."""
        noise = jax.random.normal(key, self.mean.shape)
        x = self.mean + jnp.exp(self.log_std) * noise
        log_prob = -0.5 * jnp.square(noise) - self.log_std - 0.5 * LOG_2PI
        return jnp.tanh(x), (log_prob - log_tanh_slope(x)).sum(-1)

    def log_prob(self, y: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
        """Log density of given `y`; values beyond +-0.999 count as 0.999 (see MAX_SQUASHED)."""
        x = jnp.arctanh(jnp.clip(y, -MAX_SQUASHED, MAX_SQUASHED))
        noise = (x - self.mean) * jnp.exp(-self.log_std)
        log_prob = -0.5 * jnp.square(noise) - self.log_std - 0.5 * LOG_2PI
        return (log_prob - log_tanh_slope(x)).sum(-1)


class Normal(NamedTuple):
    """y ~ N(mean, exp(log_std)^2), per dimension; actions are clipped where they are executed.

    Shapes: `mean`: (*batch, n); `log_std`: (*batch, n) or (n,).
    """

    mean: Float[Array, "*batch n"]
    log_std: Float[Array, "*#batch n"]

    def mode(self) -> Float[Array, "*batch n"]:
        return self.mean

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*batch n"]:
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def log_prob(self, y: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
        noise = (y - self.mean) * jnp.exp(-self.log_std)
        return (-0.5 * jnp.square(noise) - self.log_std - 0.5 * LOG_2PI).sum(-1)


def log_tanh_slope(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """log(1 - tanh(x)^2) without cancellation."""
    return 2.0 * (jnp.log(2.0) - x - jax.nn.softplus(-2.0 * x))
