"""Soft actor-critic (Haarnoja et al., 2018), and RLPD (Ball et al., 2023) as a configuration.

RLPD is SAC on half offline, half online batches, with ten LayerNorm critics, targets by the
minimum of two drawn at random, and many critic updates per actor update. SAC also trains the
behaviour policies; its losses also serve SPAARS.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from spaars.algos.agent import Phase, SingleActor, appraised_by
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
    log_temperature: Float[Array, ""],
    log_probs: Float[Array, " b"],
    target_entropy: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """E[-temperature (log pi + target entropy)]  (Haarnoja et al. 2018, eq. 18)."""
    return -jnp.exp(log_temperature) * jax.lax.stop_gradient(log_probs + target_entropy).mean()


def subset_minimum(
    q: Float[Array, "ensemble b"], size: int | None, key: PRNGKeyArray
) -> Float[Array, " b"]:
    """Minimum over `size` members drawn at random, the same for the whole batch; None: over all.

    REDQ (Chen et al., 2021, algorithm 1).
    """
    if size is None or size >= q.shape[0]:
        return q.min(0)
    members = jax.random.choice(key, q.shape[0], (size,), replace=False)
    return q[members].min(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACConfig:
    """Hyper-parameters of SAC; the defaults are the paper's."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics."""
    critics: int = 2
    """Ensemble size."""
    layer_norm: bool = False
    """LayerNorm in the critics (RLPD)."""
    target_subset: int | None = None
    """Critics drawn at random for the minimum in a target (RLPD: 2); None: all."""
    actor_aggregate: Literal["min", "mean"] = "min"
    """What the actor climbs: the critics' minimum (SAC) or mean (RLPD)."""
    actor_every: int = 1
    """Critic updates per update of actor and temperature (RLPD: as many as updates per step)."""
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


class Easing(NamedTuple):
    """What holds an actor near where it started."""

    loss: Callable[[TanhGaussianPolicy], Float[Array, ""]]
    """Added to the actor's loss."""
    entropy: Float[Array, ""]
    """Of the actor where it started (nats): its target entropy is no higher."""


class SACState(NamedTuple):
    normaliser: Normaliser
    actor: Learner[TanhGaussianPolicy]
    critics: Learner[Critics]
    target_critics: Critics
    log_temperature: Learner[Array]
    updates: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class SAC(SingleActor):
    """The agent (see `spaars.algos.agent.Agent`)."""

    config: SACConfig = SACConfig()

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate)

    def init(
        self, key: PRNGKeyArray, observation_mean: Array, observation_std: Array, action_dim: int
    ) -> SACState:
        c, tx = self.config, self.optimizer
        actor_key, critic_key = jax.random.split(key)
        dim = observation_mean.shape[0]
        critics = Critics(
            dim, action_dim, c.hidden, c.critics, key=critic_key, layer_norm=c.layer_norm
        )
        return SACState(
            normaliser=Normaliser(observation_mean, observation_std),
            actor=Learner.create(TanhGaussianPolicy(dim, action_dim, c.hidden, key=actor_key), tx),
            critics=Learner.create(critics, tx),
            target_critics=critics,
            log_temperature=Learner.create(jnp.log(jnp.float32(c.initial_temperature)), tx),
            updates=jnp.int32(0),
        )

    def offline_phases(self) -> tuple[Phase, ...]:
        return ()

    def update(
        self,
        state: SACState,
        batch: Batch,
        key: PRNGKeyArray,
        easing: Easing | None = None,
    ) -> tuple[SACState, Metrics]:
        """One update of the critics, and of the rest at every `actor_every`th."""
        c, tx = self.config, self.optimizer
        batch = state.normaliser.batch(batch)
        target_key, subset_key, actor_key = jax.random.split(key, 3)
        temperature = jnp.exp(state.log_temperature.params)

        # 1. Critics towards the soft Bellman target.
        next_actions, next_log_probs = state.actor.params(
            batch.next_observations
        ).sample_and_log_prob(target_key)
        next_q = state.target_critics(batch.next_observations, next_actions)
        next_values = subset_minimum(next_q, c.target_subset, subset_key)
        if c.entropy_backup:
            next_values -= temperature * next_log_probs
        targets = td_targets(batch.rewards, batch.terminated, next_values, c.discount)
        critics, critic_metrics = descend(
            critic_loss, state.critics, tx, batch.observations, batch.actions, targets
        )
        state = state._replace(critics=critics, updates=state.updates + 1)

        # 2.-3. Actor and temperature, at every `actor_every`th update.
        if c.actor_every == 1:
            state, actor_metrics = self.update_actor(state, batch.observations, actor_key, easing)
        else:
            state, actor_metrics = jax.lax.cond(
                state.updates % c.actor_every == 0,
                lambda: self.update_actor(state, batch.observations, actor_key, easing),
                lambda: (state, dict.fromkeys(("actor_loss", "entropy"), jnp.float32(jnp.nan))),
            )

        # 4. Target critics follow.
        state = state._replace(target_critics=polyak(critics.params, state.target_critics, c.tau))
        return state, critic_metrics | actor_metrics | {"temperature": temperature}

    def appraise(self, state: SACState, rows: Batch) -> dict[str, Array]:
        """With `entropy_backup` Q holds the entropy bonus, which no return does."""
        return appraised_by(state.critics.params, state.normaliser(rows.observations), rows.actions)

    def update_actor(
        self,
        state: SACState,
        observations: Float[Array, "b obs"],
        key: PRNGKeyArray,
        easing: Easing | None = None,
    ) -> tuple[SACState, Metrics]:
        c, tx, critics = self.config, self.optimizer, state.critics.params
        temperature = jnp.exp(state.log_temperature.params)

        # 2. Actor up the critics.
        def loss(actor: TanhGaussianPolicy) -> tuple[Array, Array]:
            actions, log_probs = actor(observations).sample_and_log_prob(key)
            q = critics(observations, actions)
            q = q.min(0) if c.actor_aggregate == "min" else q.mean(0)
            value = actor_loss(log_probs, q, temperature)
            return (value if easing is None else value + easing.loss(actor)), log_probs

        (value, log_probs), grads = jax.value_and_grad(loss, has_aux=True)(state.actor.params)

        # 3. Temperature towards the target entropy.
        target_entropy: Array | float
        target_entropy = -c.target_entropy_scale * state.actor.params(observations).mean.shape[-1]
        if easing is not None:
            target_entropy = jnp.minimum(target_entropy, easing.entropy)
        grad = jax.grad(temperature_loss)(state.log_temperature.params, log_probs, target_entropy)
        state = state._replace(
            actor=state.actor.apply(grads, tx),
            log_temperature=state.log_temperature.apply(grad, tx),
        )
        return state, {"actor_loss": value, "entropy": -log_probs.mean()}
