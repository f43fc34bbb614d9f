"""The interface of a behaviour prior: latents that decode to actions the data supports."""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float


@runtime_checkable
class BehaviourPrior(Protocol):
    """Frozen after pretraining. Observations are standardised, actions lie in [-1, 1]."""

    latent_dim: int

    def encode_mean(
        self, observations: Float[Array, "*b obs"], actions: Float[Array, "*b act"]
    ) -> Float[Array, "*b k"]:
        """The posterior mean of z given what was done."""

    def decode(
        self, observations: Float[Array, "*b obs"], z: Float[Array, "*b k"]
    ) -> Float[Array, "*b act"]:
        """The action that z stands for at this state."""
