"""Losses of the two policies: latent SAC through the decoder, and the raw policy's cloning."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spaars.nn.distributions import TanhNormal

ENTROPY_TAU = 0.005
"""Step of the moving average of a policy's entropy: over the last few hundred updates."""


def scaled_policy_loss(
    log_probs: Float[Array, " b"], q: Float[Array, " b"], temperature: Float[Array, ""] | float
) -> Float[Array, ""]:
    """E[temperature log pi - Q] / mean|Q|: the step does not depend on the rewards' scale.

    For the latent policy log pi is that of u, and q that of the decoded action (design 2.4);
    the division follows TD3+BC (Fujimoto & Gu, 2021, eq. 5).
    """
    scale = jax.lax.stop_gradient(jnp.abs(q).mean()) + 1e-6
    return (temperature * log_probs - q).mean() / scale


def cloning_loss(raw: TanhNormal, decoded_actions: Float[Array, "b act"]) -> Float[Array, ""]:
    """-E log pi_a(D(s, z) | s), z ~ pi_z: the raw policy follows what the latent one does.

    Of logged actions instead of decoded ones it is behavioural cloning; of skills and the latents
    that the data's windows are taken for, too.
    """
    return -raw.log_prob(jax.lax.stop_gradient(decoded_actions)).mean()


def linear_anneal(start: float, end: float, progress: Float[Array, ""]) -> Float[Array, ""]:
    """From `start` at progress 0 to `end` at progress 1, constant outside."""
    return start + (end - start) * jnp.clip(progress, 0.0, 1.0)
