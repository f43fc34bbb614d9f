"""Behavioural cloning (Pomerleau, 1991): the policy that makes the logged actions most likely."""

import dataclasses
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array, PRNGKeyArray

from spaars.algos.agent import Phase, SingleActor
from spaars.algos.latent import cloning_loss
from spaars.data.replay import Batch, Normaliser
from spaars.nn import Learner, Metrics, TanhGaussianPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class BCConfig:
    """Hyper-parameters of behavioural cloning."""

    updates: int = 100_000
    """Offline updates."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    batch_size: int = 256
    """Transitions per update."""
    learning_rate: float = 3e-4
    """Adam's step size."""


class BCState(NamedTuple):
    normaliser: Normaliser
    actor: Learner[TanhGaussianPolicy]


@dataclasses.dataclass(frozen=True)
class BC(SingleActor):
    """The agent (see `spaars.algos.agent.Agent`). It learns offline only."""

    config: BCConfig = BCConfig()

    @property
    def discount(self) -> float:
        return 1.0  # of no account: nothing is bootstrapped

    def init(
        self, key: PRNGKeyArray, observation_mean: Array, observation_std: Array, action_dim: int
    ) -> BCState:
        dim = observation_mean.shape[0]
        actor = TanhGaussianPolicy(dim, action_dim, self.config.hidden, key=key)
        optimizer = optax.adam(self.config.learning_rate)
        return BCState(
            Normaliser(observation_mean, observation_std), Learner.create(actor, optimizer)
        )

    def offline_phases(self) -> tuple[Phase, ...]:
        return (Phase("offline", self.config.updates, self.config.batch_size, self.update),)

    def appraise(self, state: BCState, rows: Batch) -> dict[str, Array]:
        return {}

    def update(self, state: BCState, batch: Batch, key: PRNGKeyArray) -> tuple[BCState, Metrics]:
        batch = state.normaliser.batch(batch)
        loss, grads = jax.value_and_grad(
            lambda policy: cloning_loss(policy(batch.observations), batch.actions)
        )(state.actor.params)
        actor = state.actor.apply(grads, optax.adam(self.config.learning_rate))
        return state._replace(actor=actor), {"actor_loss": loss}
