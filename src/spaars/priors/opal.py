"""OPAL (Ajay et al., 2021): skills of H steps learned from trajectory chunks, as SUPE trains them.

    q(z | s_1..s_H, a_1..a_H) = N(mean, std)     bidirectional GRUs over the chunk
    p(z | s_1) = N(mean, std)                    what skills the data begin here
    pi(a | s_t, z) = N(mean, std)                closed-loop low-level policy, the decoder

    loss = -E_q[log pi(a_t | s_t, z)] + beta KL(q || p(. | s_1))

Design section 2.2; SUPE (Wilcoxson et al., 2024), appendix.
"""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from spaars.nn import MLP, BidirectionalGRU, Linear, Metrics, Normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpalConfig:
    """The OPAL skill prior and its pretraining; the defaults are SUPE's."""

    skill_length: int = 4
    """Environment steps H that a skill lasts."""
    latent_dim: int = 8
    """Latent dimensions k of a skill."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of observation encoder, state prior and decoder."""
    recurrent: int = 256
    """Width of each direction of the encoder's two GRU layers."""
    decoder_columns: tuple[int, ...] | None = None
    """Observation columns that the decoder reads, such as those of a robot's own joints; None: all.
    What the rest asks for is then the skill's to say alone (information asymmetry: Galashov et al.,
    2019; proprioceptive low-level policies: Merel et al., 2019), and a skill does the same where
    the data never were: with another door open."""
    kl_weight: float = 0.1
    """Weight beta of KL(q || p(. | s_1)) against the log likelihood of an action."""
    updates: int = 1_000_000
    """Pretraining updates."""
    batch_size: int = 256
    """Chunks per update."""
    learning_rate: float = 3e-4
    """Adam's step size."""


class SkillDecoder(eqx.Module):
    """State prior and low-level policy: what acting with skills needs."""

    state_prior_net: MLP
    decoder: MLP

    def state_prior(self, observations: Float[Array, "*b obs"]) -> Normal:
        """p(z | s_1), (*b, k)."""
        mean, log_variance = jnp.split(self.state_prior_net(observations), 2, -1)
        return Normal(mean, jnp.clip(0.5 * log_variance, -10.0, 4.0))

    def low_level(self, observations: Float[Array, "*b obs"], z: Float[Array, "*b k"]) -> Normal:
        """pi(a | s, z); actions are clipped to [-1, 1] where they are executed."""
        out = self.decoder(jnp.concatenate([observations, z], -1))
        mean, log_std = jnp.split(out, 2, -1)
        return Normal(mean, jnp.clip(log_std, -20.0, 2.0))

    def decode(
        self, observations: Float[Array, "*b obs"], z: Float[Array, "*b k"]
    ) -> Float[Array, "*b act"]:
        """The low-level policy's mean action, clipped."""
        return jnp.clip(self.low_level(observations, z).mean, -1.0, 1.0)


class OPAL(eqx.Module):
    """Encoder, state prior and low-level policy. Observations are standardised."""

    observation_net: MLP
    layers: tuple[BidirectionalGRU, ...]
    head: Linear
    acting: SkillDecoder

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        latent_dim: int,
        skill_length: int,
        hidden: Sequence[int],
        recurrent: int,
        decoder_columns: Sequence[int] | None = None,
        *,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 6)
        *inner, last = hidden
        self.observation_net = MLP(observation_dim, last, inner, key=keys[0])
        self.layers = (
            BidirectionalGRU(last + action_dim, recurrent, key=keys[1]),
            BidirectionalGRU(2 * recurrent, recurrent, key=keys[2]),
        )
        self.head = Linear(skill_length * 2 * recurrent, 2 * latent_dim, key=keys[3])
        decoder = MLP(
            observation_dim + latent_dim, 2 * action_dim, hidden, key=keys[5], final_scale=1e-2
        )
        if decoder_columns is not None:
            # Zero for good: in training it is shown zeros there, so no gradient ever comes.
            hidden_columns = np.setdiff1d(np.arange(observation_dim), decoder_columns)
            decoder = eqx.tree_at(
                lambda d: d.layers[0].weight,
                decoder,
                replace_fn=lambda weight: weight.at[hidden_columns].set(0.0),
            )
        self.acting = SkillDecoder(
            MLP(observation_dim, 2 * latent_dim, hidden, key=keys[4], final_scale=1e-2), decoder
        )

    def posterior(
        self, observations: Float[Array, "b time obs"], actions: Float[Array, "b time act"]
    ) -> Normal:
        """q(z | chunk), (b, k)."""
        seen = jax.nn.relu(self.observation_net(observations))
        x = jnp.concatenate([seen, actions], -1)
        for layer in self.layers:
            x = layer(x)
        mean, log_variance = jnp.split(self.head(x.reshape(x.shape[0], -1)), 2, -1)
        return Normal(mean, jnp.clip(0.5 * log_variance, -10.0, 4.0))

    def encode_mean(
        self, observations: Float[Array, "b time obs"], actions: Float[Array, "b time act"]
    ) -> Float[Array, "b k"]:
        """The skill that a chunk is labelled with: the posterior's mean."""
        return self.posterior(observations, actions).mean


def kl_divergence(q: Normal, p: Normal) -> Float[Array, "*b"]:
    """KL(q || p) of diagonal Gaussians, summed over the dimensions."""
    ratio = jnp.exp(2.0 * (q.log_std - p.log_std))
    shift = jnp.square((q.mean - p.mean) * jnp.exp(-p.log_std))
    return 0.5 * (ratio + shift - 1.0 - 2.0 * (q.log_std - p.log_std)).sum(-1)


def opal_loss(
    opal: OPAL,
    observations: Float[Array, "b time obs"],
    actions: Float[Array, "b time act"],
    noise: Float[Array, "b k"],
    kl_weight: float,
    seen: Float[Array, "b time obs"] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """-E log pi(a_t | s_t, z) + beta KL(q || p(. | s_1)), z = mean + std noise, noise ~ N(0, I).

    `seen` is what the decoder is shown for s_t: the observations where it is None.
    """
    q = opal.posterior(observations, actions)
    z = q.mean + jnp.exp(q.log_std) * noise
    z = jnp.broadcast_to(z[:, None], (*actions.shape[:2], z.shape[-1]))
    pi = opal.acting.low_level(observations if seen is None else seen, z)
    log_likelihood = pi.log_prob(actions).mean()
    kl = kl_divergence(q, opal.acting.state_prior(observations[:, 0])).mean()
    loss = -log_likelihood + kl_weight * kl
    reconstruction = jnp.square(actions - jnp.clip(pi.mean, -1.0, 1.0)).sum(-1).mean()
    metrics = {
        "prior_loss": loss,
        "log_likelihood": log_likelihood,
        "reconstruction": reconstruction,
        "kl": kl,
    }
    return loss, metrics
