"""Soft actor-critic (Haarnoja et al., 2018) with an ensemble of LayerNorm critics.

It trains the behaviour policies; its losses also serve SPAARS.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from spaars.algos.agent import Facts, Phase
from spaars.data.replay import Batch, Normaliser
from spaars.nn import Critics, Learner, Metrics, TanhGaussianPolicy, descend, polyak


def td_targets(
    rewards: Float[Array, " b"],
    terminated: Float[Array, " b"],
    next_values: Float[Array, " b"],
    discount: float,
) -> Float[Array, " b"]:
    """r + discount * (1 - terminated) * V(s')."""
    return rewards + discount * (1.0 - terminated) * next_values


def critic_loss(
    critics: Critics,
    observations: Float[Array, "b obs"],
    actions: Float[Array, "b act"],
    targets: Float[Array, " b"],
) -> tuple[Float[Array, ""], Metrics]:
    """Sum over the ensemble of the mean squared TD error."""
    q = critics(observations, actions)
    loss = jnp.square(q - targets).mean(-1).sum()
    return loss, {"critic_loss": loss / q.shape[0], "q_mean": q.mean(), "q_std": q.std(0).mean()}


def actor_loss(
    log_probs: Float[Array, " b"], q: Float[Array, " b"], temperature: Float[Array, ""]
) -> Float[Array, ""]:
    """E[temperature log pi(a|s) - Q(s, a)]  (Haarnoja et al. 2018, eq. 7)."""
    return (temperature * log_probs - q).mean()


def temperature_loss(
    log_temperature: Float[Array, ""], log_probs: Float[Array, " b"], target_entropy: float
) -> Float[Array, ""]:
    """E[-temperature (log pi + target entropy)]  (Haarnoja et al. 2018, eq. 18)."""
    return -jnp.exp(log_temperature) * jax.lax.stop_gradient(log_probs + target_entropy).mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACConfig:
    """Hyper-parameters of SAC; the defaults are the paper's."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics."""
    critics: int = 2
    """Ensemble size; targets and actor take the minimum."""
    learning_rate: float = 3e-4
    """Adam's step size, all networks."""
    discount: float = 0.99
    """Discount per environment step."""
    tau: float = 0.005
    """Target networks move by this fraction per update."""
    batch_size: int = 256
    """Transitions per update."""
    target_entropy_scale: float = 1.0
    """Target entropy = -scale * action dimension (nats)."""
    initial_temperature: float = 1.0
    """Entropy temperature at the start."""
    entropy_backup: bool = True
    """Add the entropy bonus to the critics' targets."""


class SACState(NamedTuple):
    normaliser: Normaliser
    actor: Learner[TanhGaussianPolicy]
    critics: Learner[Critics]
    target_critics: Critics
    log_temperature: Learner[Array]


@dataclasses.dataclass(frozen=True)
class SAC:
    """The agent (see `spaars.algos.agent.Agent`)."""

    config: SACConfig = SACConfig()

    @property
    def batch_size(self) -> int:
        return self.config.batch_size

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate)

    def init(
        self, key: PRNGKeyArray, observation_mean: Array, observation_std: Array, action_dim: int
    ) -> SACState:
        c, tx = self.config, self.optimizer
        actor_key, critic_key = jax.random.split(key)
        dim = observation_mean.shape[0]
        critics = Critics(dim, action_dim, c.hidden, c.critics, key=critic_key)
        return SACState(
            normaliser=Normaliser(observation_mean, observation_std),
            actor=Learner.create(TanhGaussianPolicy(dim, action_dim, c.hidden, key=actor_key), tx),
            critics=Learner.create(critics, tx),
            target_critics=critics,
            log_temperature=Learner.create(jnp.log(jnp.float32(c.initial_temperature)), tx),
        )

    def offline_phases(self) -> tuple[Phase, ...]:
        return ()

    def begin_online(self, state: SACState) -> SACState:
        return state

    def acting(self, state: SACState) -> Any:
        return state.normaliser, state.actor.params

    def act(self, acting: Any, observations: Array, key: PRNGKeyArray) -> tuple[Array, Facts]:
        normaliser, actor = acting
        return actor(normaliser(observations)).sample(key), {}

    def act_deterministic(self, acting: Any, observations: Array) -> tuple[Array, Facts]:
        normaliser, actor = acting
        return actor(normaliser(observations)).mode(), {}

    def evidence(self, state: SACState, batch: Batch) -> Metrics:
        return {}

    def hand_over(self, state: SACState, armed: Array) -> SACState:
        return state

    def update(self, state: SACState, batch: Batch, key: PRNGKeyArray) -> tuple[SACState, Metrics]:
        c, tx = self.config, self.optimizer
        batch = state.normaliser.batch(batch)
        target_key, actor_key = jax.random.split(key)
        temperature = jnp.exp(state.log_temperature.params)

        # 1. Critics towards the soft Bellman target.
        next_actions, next_log_probs = state.actor.params(
            batch.next_observations
        ).sample_and_log_prob(target_key)
        next_values = state.target_critics(batch.next_observations, next_actions).min(0)
        if c.entropy_backup:
            next_values -= temperature * next_log_probs
        targets = td_targets(batch.rewards, batch.terminated, next_values, c.discount)
        critics, critic_metrics = descend(
            critic_loss, state.critics, tx, batch.observations, batch.actions, targets
        )

        # 2. Actor towards the critics' minimum.
        def loss(actor: TanhGaussianPolicy) -> tuple[Array, tuple[Array, Metrics]]:
            actions, log_probs = actor(batch.observations).sample_and_log_prob(actor_key)
            q = critics.params(batch.observations, actions).min(0)
            value = actor_loss(log_probs, q, temperature)
            return value, (log_probs, {"actor_loss": value, "entropy": -log_probs.mean()})

        grads, (log_probs, actor_metrics) = jax.grad(loss, has_aux=True)(state.actor.params)
        actor = state.actor.apply(grads, tx)

        # 3. Temperature towards the target entropy.
        target_entropy = -c.target_entropy_scale * batch.actions.shape[-1]
        grad = jax.grad(temperature_loss)(state.log_temperature.params, log_probs, target_entropy)
        log_temperature = state.log_temperature.apply(grad, tx)

        # 4. Target critics follow.
        target_critics = polyak(critics.params, state.target_critics, c.tau)
        metrics = critic_metrics | actor_metrics | {"temperature": temperature}
        new = SACState(state.normaliser, actor, critics, target_critics, log_temperature)
        return new, metrics
