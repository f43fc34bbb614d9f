"""Behavioural cloning: the policy that makes the logged actions most likely."""

import dataclasses
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from spaars.algos.agent import Facts, Phase
from spaars.data.replay import Batch, Normaliser
from spaars.nn import Learner, Metrics, TanhGaussianPolicy


def cloning_loss(
    policy: TanhGaussianPolicy,
    observations: Float[Array, "b obs"],
    actions: Float[Array, "b act"],
) -> tuple[Float[Array, ""], Metrics]:
    """-E log pi(a | s) over the dataset (Pomerleau, 1991)."""
    loss = -policy(observations).log_prob(actions).mean()
    return loss, {"actor_loss": loss}


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
class BC:
    """The agent (see `spaars.algos.agent.Agent`). It learns offline only."""

    config: BCConfig = BCConfig()

    @property
    def batch_size(self) -> int:
        return self.config.batch_size

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

    def begin_online(self, state: BCState) -> BCState:
        return state

    def roll_back(self, state: BCState, acting: tuple[Normaliser, TanhGaussianPolicy]) -> BCState:
        return state._replace(actor=state.actor._replace(params=acting[1]))

    def hand_over(self, state: BCState, armed: Array) -> BCState:
        return state

    def evidence(self, state: BCState, batch: Batch) -> Metrics:
        return {}

    def acting(self, state: BCState) -> tuple[Normaliser, TanhGaussianPolicy]:
        return state.normaliser, state.actor.params

    def act(
        self, acting: tuple[Normaliser, TanhGaussianPolicy], observations: Array, key: PRNGKeyArray
    ) -> tuple[Array, Facts]:
        normaliser, actor = acting
        return actor(normaliser(observations)).sample(key), {}

    def act_deterministic(
        self, acting: tuple[Normaliser, TanhGaussianPolicy], observations: Array
    ) -> tuple[Array, Facts]:
        normaliser, actor = acting
        return actor(normaliser(observations)).mode(), {}

    def update(self, state: BCState, batch: Batch, key: PRNGKeyArray) -> tuple[BCState, Metrics]:
        batch = state.normaliser.batch(batch)
        (_, metrics), grads = jax.value_and_grad(cloning_loss, has_aux=True)(
            state.actor.params, batch.observations, batch.actions
        )
        actor = state.actor.apply(grads, optax.adam(self.config.learning_rate))
        return state._replace(actor=actor), metrics
