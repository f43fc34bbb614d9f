"""Implicit Q-learning (Kostrikov et al., 2021).

Its losses are SPAARS's offline start of critic and policies; the agent `IQL` is the peer, with
the published networks and hyper-parameters.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from spaars.algos.agent import Phase, SingleActor, appraised_by
from spaars.algos.sac import critic_loss, td_targets
from spaars.data.replay import Batch, Normaliser
from spaars.nn import (
    MLP,
    Critics,
    GaussianPolicy,
    Learner,
    Metrics,
    Normal,
    TanhNormal,
    descend,
    polyak,
)

# Any policy that has a density.
Policy = Callable[[Float[Array, "b obs"]], Normal | TanhNormal]


def expectile_loss(difference: Float[Array, " b"], expectile: float) -> Float[Array, " b"]:
    """|expectile - 1(difference < 0)| difference^2  (IQL, eq. 5)."""
    weight = jnp.where(difference < 0, 1.0 - expectile, expectile)
    return weight * jnp.square(difference)


def value_loss(
    value: MLP,
    observations: Float[Array, "b obs"],
    q: Float[Array, " b"],
    expectile: float,
) -> tuple[Float[Array, ""], Metrics]:
    """V(s) towards the upper expectile of the target critics' Q(s, a), a from the data."""
    v = value(observations)[..., 0]
    loss = expectile_loss(q - v, expectile).mean()
    return loss, {"value_loss": loss, "value_mean": v.mean()}


def regression_weights(
    advantages: Float[Array, " b"],
    temperature: float | Float[Array, ""],
    maximum: float = 100.0,
) -> Float[Array, " b"]:
    """exp(temperature * A / mean|A|), clipped at `maximum`, divided by its mean.

    IQL (eq. 7) uses exp(beta * A) on rewards scaled task by task; dividing by mean|A| instead
    takes the scale from the batch, so one temperature serves every task.
    """
    scaled = temperature * advantages / (jnp.abs(advantages).mean() + 1e-8)
    weights = jnp.minimum(jnp.exp(scaled), maximum)
    return weights / weights.mean()


def exponential_weights(
    advantages: Float[Array, " b"], temperature: float, maximum: float = 100.0
) -> Float[Array, " b"]:
    """min(exp(temperature * A), maximum): the weights of IQL, eq. 7, as published."""
    return jnp.minimum(jnp.exp(temperature * advantages), maximum)


def weighted_regression_loss(
    policy: Policy,
    observations: Float[Array, "b obs"],
    targets: Float[Array, "b n"],
    weights: Float[Array, " b"],
) -> Float[Array, ""]:
    """-E[weight log pi(target | s)]: advantage-weighted regression (IQL, eq. 7)."""
    log_probs = policy(observations).log_prob(targets)
    return -(jax.lax.stop_gradient(weights) * log_probs).mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class IQLConfig:
    """Hyper-parameters of the peer IQL; the defaults are the paper's for locomotion."""

    updates: int = 1_000_000
    """Offline updates."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor, critics and value."""
    batch_size: int = 256
    """Transitions per update, offline and online."""
    learning_rate: float = 3e-4
    """Adam's step size, all networks."""
    actor_dropout: float = 0.0
    """Probability with which a hidden unit of the actor is dropped in an update. (Published: 0.1 on
    the kitchen.)"""
    actor_decay: bool = False
    """The actor's step size falls to 0 along a cosine over the offline updates; online it is
    `learning_rate` again. (Published for offline training alone; their fine-tuning, of AntMaze, has
    none before it, either: from 0 to full size it undoes the fit.)"""
    expectile: float = 0.7
    """Expectile of Q that V regresses to."""
    temperature: float = 3.0
    """Sharpness of the regression weights exp(temperature * A), in scaled rewards."""
    discount: float = 0.99
    """Discount per environment step."""
    tau: float = 0.005
    """Target critics move by this fraction per update."""
    reward_scale: float | None = None
    """Rewards, logged and online, are multiplied by this; None: 1000 / (best - worst return of
    the dataset's whole episodes), as published for locomotion."""


class IQLState(NamedTuple):
    normaliser: Normaliser
    actor: Learner[GaussianPolicy]
    critics: Learner[Critics]
    target_critics: Critics
    value: Learner[MLP]
    updates: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class IQL(SingleActor):
    """The agent (see `spaars.algos.agent.Agent`): offline, then fine-tuned by the same update."""

    config: IQLConfig = IQLConfig()

    def init(
        self, key: PRNGKeyArray, observation_mean: Array, observation_std: Array, action_dim: int
    ) -> IQLState:
        c, tx = self.config, optax.adam(self.config.learning_rate)
        actor_key, critic_key, value_key = jax.random.split(key, 3)
        dim = observation_mean.shape[0]
        critics = Critics(dim, action_dim, c.hidden, 2, key=critic_key, layer_norm=False)
        return IQLState(
            normaliser=Normaliser(observation_mean, observation_std),
            actor=Learner.create(GaussianPolicy(dim, action_dim, c.hidden, key=actor_key), tx),
            critics=Learner.create(critics, tx),
            target_critics=critics,
            value=Learner.create(MLP(dim, 1, c.hidden, key=value_key), tx),
            updates=jnp.int32(0),
        )

    def offline_phases(self) -> tuple[Phase, ...]:
        return (Phase("offline", self.config.updates, self.config.batch_size, self.update),)

    def appraise(self, state: IQLState, rows: Batch) -> dict[str, Array]:
        observations = state.normaliser(rows.observations)
        found = appraised_by(state.critics.params, observations, rows.actions)
        scale = self.config.reward_scale
        return {name: value / (1.0 if scale is None else scale) for name, value in found.items()}

    def actor_learning_rate(self, updates: Int[Array, ""]) -> Array:
        c = self.config
        progress = updates.astype(jnp.float32) / max(c.updates, 1)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return c.learning_rate * jnp.where(c.actor_decay & (progress < 1.0), cosine, 1.0)

    def update(self, state: IQLState, batch: Batch, key: PRNGKeyArray) -> tuple[IQLState, Metrics]:
        """The published order: V, actor, Q, target. Draws nothing but the actor's dropout."""
        c, tx = self.config, optax.adam(self.config.learning_rate)
        batch = state.normaliser.batch(batch)
        rewards = batch.rewards * (1.0 if c.reward_scale is None else c.reward_scale)

        # 1. V towards the expectile of the smaller target Q of the data's actions.
        q = state.target_critics(batch.observations, batch.actions).min(0)
        value, value_metrics = descend(
            value_loss, state.value, tx, batch.observations, q, c.expectile
        )

        # 2. Actor by advantage-weighted regression.
        advantages = q - value.params(batch.observations)[..., 0]
        weights = exponential_weights(advantages, c.temperature)

        def loss(policy: GaussianPolicy) -> Array:
            dropped = partial(policy, dropout=c.actor_dropout, key=key)
            return weighted_regression_loss(dropped, batch.observations, batch.actions, weights)

        actor_loss, grads = jax.value_and_grad(loss)(state.actor.params)
        actor = state.actor.apply(grads, optax.adam(self.actor_learning_rate(state.updates)))

        # 3. Q towards r + gamma V(s').
        next_values = value.params(batch.next_observations)[..., 0]
        targets = td_targets(rewards, batch.terminated, next_values, c.discount)
        critics, critic_metrics = descend(
            critic_loss, state.critics, tx, batch.observations, batch.actions, targets
        )

        # 4. Target critics follow.
        new = IQLState(
            normaliser=state.normaliser,
            actor=actor,
            critics=critics,
            target_critics=polyak(critics.params, state.target_critics, c.tau),
            value=value,
            updates=state.updates + 1,
        )
        metrics = value_metrics | critic_metrics
        return new, metrics | {"actor_loss": actor_loss, "advantage_mean": advantages.mean()}
