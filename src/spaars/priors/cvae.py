"""A conditional VAE over single actions: the prior learned from unordered (s, a) pairs.

    q(z | s, a) = N(mean, std),  p(z) = N(0, I),  a = tanh(D(s, z))

As in PLAS (Zhou et al., 2020) and BCQ (Fujimoto et al., 2019); design section 2.1.
"""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from spaars.nn import MLP, Metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """The CVAE behaviour prior and its pretraining."""

    latent_dim: int | None = None
    """Latent dimensions k; None takes the action dimension d."""
    latent_bound: float = 2.0
    """Policies act in z = bound * u, u in (-1, 1)^k, so z stays where the decoder was trained."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of encoder and decoder."""
    kl_weight: float = 0.05
    """Weight beta of KL(q || p) against the summed squared reconstruction error."""
    updates: int = 30_000
    """Pretraining updates."""


class CVAE(eqx.Module):
    """Encoder and decoder of the behaviour prior."""

    encoder: MLP
    decoder: MLP
    latent_dim: int = eqx.field(static=True)

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        latent_dim: int,
        hidden: Sequence[int],
        *,
        key: PRNGKeyArray,
    ):
        enc_key, dec_key = jax.random.split(key)
        self.encoder = MLP(observation_dim + action_dim, 2 * latent_dim, hidden, key=enc_key)
        self.decoder = MLP(observation_dim + latent_dim, action_dim, hidden, key=dec_key)
        self.latent_dim = latent_dim

    def posterior(
        self, observations: Float[Array, "*b obs"], actions: Float[Array, "*b act"]
    ) -> tuple[Float[Array, "*b k"], Float[Array, "*b k"]]:
        """Mean and log std of q(z | s, a)."""
        out = self.encoder(jnp.concatenate([observations, actions], -1))
        mean, log_std = jnp.split(out, 2, -1)
        return mean, jnp.clip(log_std, -4.0, 4.0)

    def encode_mean(
        self, observations: Float[Array, "*b obs"], actions: Float[Array, "*b act"]
    ) -> Float[Array, "*b k"]:
        return self.posterior(observations, actions)[0]

    def decode(
        self, observations: Float[Array, "*b obs"], z: Float[Array, "*b k"]
    ) -> Float[Array, "*b act"]:
        return jnp.tanh(self.decoder(jnp.concatenate([observations, z], -1)))


def kl_to_standard_normal(
    mean: Float[Array, "*b k"], log_std: Float[Array, "*b k"]
) -> Float[Array, "*b"]:
    """KL(N(mean, std) || N(0, I)), summed over the latent dimensions."""
    return 0.5 * (jnp.square(mean) + jnp.exp(2 * log_std) - 2 * log_std - 1.0).sum(-1)


def cvae_loss(
    cvae: CVAE,
    observations: Float[Array, "b obs"],
    actions: Float[Array, "b act"],
    noise: Float[Array, "b k"],
    kl_weight: float,
) -> tuple[Float[Array, ""], Metrics]:
    """E ||a - D(s, z)||^2 + beta KL(q || p), z = mean + std noise, noise ~ N(0, I)."""
    mean, log_std = cvae.posterior(observations, actions)
    z = mean + jnp.exp(log_std) * noise
    reconstruction = jnp.square(actions - cvae.decode(observations, z)).sum(-1).mean()
    kl = kl_to_standard_normal(mean, log_std).mean()
    loss = reconstruction + kl_weight * kl
    return loss, {"prior_loss": loss, "reconstruction": reconstruction, "kl": kl}
