"""State-conditional Gaussian policies, over raw actions or over squashed latents."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from spaars.nn.distributions import Normal, TanhNormal
from spaars.nn.layers import MLP


class TanhGaussianPolicy(eqx.Module):
    """pi(y | s) = TanhNormal(mean(s), std(s)), y in (-1, 1)^n."""

    net: MLP
    log_std_range: tuple[float, float] = eqx.field(static=True)

    def __init__(
        self,
        observation_dim: int,
        n: int,
        hidden: Sequence[int],
        *,
        key: PRNGKeyArray,
        log_std_range: tuple[float, float] = (-5.0, 2.0),
        final_scale: float = 1e-2,
    ):
        self.net = MLP(observation_dim, 2 * n, hidden, key=key, final_scale=final_scale)
        self.log_std_range = log_std_range

    def __call__(self, observations: Float[Array, "*batch obs"]) -> TanhNormal:
        mean, log_std = jnp.split(self.net(observations), 2, -1)
        return TanhNormal(mean, jnp.clip(log_std, *self.log_std_range))


class GaussianPolicy(eqx.Module):
    """pi(a | s) = N(tanh(net(s)), exp(log_std)^2), one log_std for all states (IQL's policy)."""

    net: MLP
    log_std: Float[Array, " n"]
    log_std_range: tuple[float, float] = eqx.field(static=True)

    def __init__(
        self,
        observation_dim: int,
        n: int,
        hidden: Sequence[int],
        *,
        key: PRNGKeyArray,
        log_std_range: tuple[float, float] = (-5.0, 2.0),
    ):
        self.net = MLP(observation_dim, n, hidden, key=key)
        self.log_std = jnp.zeros(n, jnp.float32)
        self.log_std_range = log_std_range

    def __call__(
        self,
        observations: Float[Array, "*batch obs"],
        dropout: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Normal:
        """With a `key`, hidden units are dropped (`MLP`): in training only."""
        mean = jnp.tanh(self.net(observations, dropout, key))
        return Normal(mean, jnp.clip(self.log_std, *self.log_std_range))
