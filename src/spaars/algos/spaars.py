"""SPAARS: explore in the latent space of a behaviour prior, then hand over through the gate.

One agent, four parts (design section 2): a frozen behaviour prior, a critic ensemble on raw
actions shared by all, a latent and a raw policy, and a gate that says who acts. `latent-only` is
this agent with the gate shut.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from spaars.algos import iql, latent
from spaars.algos.agent import Facts, Phase, appraised_by
from spaars.algos.config import LearnerConfig, OfflineConfig
from spaars.algos.gate import (
    NOT_ARMED,
    GateConfig,
    arm,
    disarm,
    handover_evidence,
    raw_share,
    raw_wins,
)
from spaars.algos.sac import critic_loss, td_targets, temperature_loss
from spaars.data.replay import Batch, Normaliser
from spaars.nn import MLP, Critics, Learner, Metrics, TanhGaussianPolicy, descend, polyak
from spaars.priors.base import BehaviourPrior
from spaars.priors.cvae import CVAE, PriorConfig, cvae_loss


class Acting(NamedTuple):
    """What `act` reads."""

    normaliser: Normaliser
    prior: BehaviourPrior
    latent: TanhGaussianPolicy
    raw: TanhGaussianPolicy
    latent_average: TanhGaussianPolicy
    raw_average: TanhGaussianPolicy
    critics: Critics
    armed: Bool[Array, ""]
    raw_share: Float[Array, ""]


class SpaarsState(NamedTuple):
    normaliser: Normaliser
    prior: Learner[CVAE]
    critics: Learner[Critics]
    target_critics: Critics
    value: Learner[MLP]
    latent: Learner[TanhGaussianPolicy]
    raw: Learner[TanhGaussianPolicy]
    latent_average: TanhGaussianPolicy
    """Moving averages of both policies' parameters: what may be deployed."""
    raw_average: TanhGaussianPolicy
    log_temperature: Learner[Array]
    offline_entropy: Float[Array, ""]
    """Entropy of the latent policy at the offline phase's end, a moving average (nats)."""
    updates: Int[Array, ""]
    """Online updates so far."""
    armed_at: Int[Array, ""]
    """Value of `updates` when the gate was armed; NOT_ARMED before."""


@dataclasses.dataclass(frozen=True)
class Spaars:
    """The agent (see `spaars.algos.agent.Agent`)."""

    prior: PriorConfig = PriorConfig()
    offline: OfflineConfig = OfflineConfig()
    learner: LearnerConfig = LearnerConfig()
    gate: GateConfig = GateConfig()
    utd: int = 1
    """Updates per environment step: schedules are told in steps, the state counts updates."""

    prior_in: ClassVar[tuple[str, ...]] = ("prior",)
    """Where the state keeps its prior."""

    @property
    def batch_size(self) -> int:
        return self.learner.batch_size

    @property
    def discount(self) -> float:
        return self.learner.discount

    @property
    def offline_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.offline.learning_rate)

    def optimizer(self, updates: Int[Array, ""]) -> optax.GradientTransformation:
        """The online Adam. Its state, gone on with from offline, holds no step size."""
        c = self.learner
        progress = self.steps(updates) / max(c.learning_rate_steps, 1)
        return optax.adam(latent.linear_anneal(c.learning_rate, c.learning_rate_end, progress))

    def init(
        self, key: PRNGKeyArray, observation_mean: Array, observation_std: Array, action_dim: int
    ) -> SpaarsState:
        c, tx = self.learner, self.offline_optimizer
        keys = jax.random.split(key, 5)
        dim = observation_mean.shape[0]
        k = self.prior.latent_dim or action_dim
        critics = Critics(dim, action_dim, c.hidden, c.critics, key=keys[0])
        latent_policy = TanhGaussianPolicy(dim, k, c.hidden, key=keys[3])
        raw = TanhGaussianPolicy(dim, action_dim, c.hidden, key=keys[4])
        return SpaarsState(
            normaliser=Normaliser(observation_mean, observation_std),
            prior=Learner.create(CVAE(dim, action_dim, k, self.prior.hidden, key=keys[1]), tx),
            critics=Learner.create(critics, tx),
            target_critics=critics,
            value=Learner.create(MLP(dim, 1, c.hidden, key=keys[2], layer_norm=True), tx),
            latent=Learner.create(latent_policy, tx),
            raw=Learner.create(raw, tx),
            latent_average=latent_policy,
            raw_average=raw,
            log_temperature=Learner.create(jnp.log(jnp.float32(c.initial_temperature)), tx),
            offline_entropy=jnp.float32(0.0),
            updates=jnp.int32(0),
            armed_at=jnp.int32(NOT_ARMED),
        )

    def steps(self, updates: Int[Array, ""]) -> Float[Array, ""]:
        """Environment steps that so many online updates belong to."""
        return updates.astype(jnp.float32) / self.utd

    # ------------------------------------------------------------------ offline

    def offline_phases(self) -> tuple[Phase, ...]:
        return (
            Phase("prior", self.prior.updates, self.offline.batch_size, self.update_prior),
            Phase("offline", self.offline.updates, self.offline.batch_size, self.update_offline),
        )

    def update_prior(
        self, state: SpaarsState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[SpaarsState, Metrics]:
        batch = state.normaliser.batch(batch)
        noise = jax.random.normal(key, (*batch.rewards.shape, state.prior.params.latent_dim))
        prior, metrics = descend(
            cvae_loss,
            state.prior,
            self.offline_optimizer,
            batch.observations,
            batch.actions,
            noise,
            self.prior.kl_weight,
        )
        return state._replace(prior=prior), metrics

    def update_offline(
        self, state: SpaarsState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[SpaarsState, Metrics]:
        """IQL's order: V, policies, Q, target."""
        c, tx = self.learner, self.offline_optimizer
        batch = state.normaliser.batch(batch)

        # 1. V towards the expectile of the target Q of the data's actions. The ensemble's mean:
        #    in-sample targets need no pessimism, and a minimum's bias would add up over the
        #    horizon, backup by backup (docs/lab-notebook.md).
        q = state.target_critics(batch.observations, batch.actions).mean(0)
        value, value_metrics = descend(
            iql.value_loss, state.value, tx, batch.observations, q, self.offline.expectile
        )

        # 2. Both policies by regression with the same weights: raw on the data's action, latent
        #    on what the prior encodes it to. So both start from the same improved behaviour.
        advantages = q - value.params(batch.observations)[..., 0]
        weights = iql.regression_weights(advantages, self.offline.temperature)
        raw, raw_loss = _regress(state.raw, tx, batch.observations, batch.actions, weights)
        u = self.latent_labels(state.prior.params, batch)
        latent_policy, latent_loss = _regress(state.latent, tx, batch.observations, u, weights)
        _, log_probs = latent_policy.params(batch.observations).sample_and_log_prob(key)

        # 3. Q towards r + gamma V(s').
        next_values = value.params(batch.next_observations)[..., 0]
        targets = td_targets(batch.rewards, batch.terminated, next_values, c.discount)
        critics, critic_metrics = descend(
            critic_loss, state.critics, tx, batch.observations, batch.actions, targets
        )

        # 4. Target critics follow.
        new = state._replace(
            value=value,
            raw=raw,
            latent=latent_policy,
            raw_average=raw.params,
            latent_average=latent_policy.params,
            critics=critics,
            target_critics=polyak(critics.params, state.target_critics, self.offline.tau),
            offline_entropy=polyak(-log_probs.mean(), state.offline_entropy, latent.ENTROPY_TAU),
        )
        metrics = (
            value_metrics
            | critic_metrics
            | {
                "raw_regression": raw_loss,
                "latent_regression": latent_loss,
                "advantage_mean": advantages.mean(),
            }
        )
        return new, metrics

    def latent_labels(self, prior: BehaviourPrior, batch: Batch) -> Float[Array, "b k"]:
        """u in [-1, 1]^k of the data's actions: the posterior mean over the latent bound."""
        z = prior.encode_mean(batch.observations, batch.actions)
        return jnp.clip(z / self.prior.latent_bound, -1.0, 1.0)

    def begin_online(self, state: SpaarsState) -> SpaarsState:
        """rule 'always' has the gate armed from the first step; otherwise nothing changes."""
        if self.gate.rule == "always":
            return state._replace(armed_at=jnp.zeros_like(state.armed_at))
        return state

    def hand_over(self, state: SpaarsState, armed: Bool[Array, ""]) -> SpaarsState:
        """From now on the gate may open, where `armed` and not yet so."""
        return state._replace(armed_at=arm(state.armed_at, armed, state.updates))

    def take_back(self, state: SpaarsState) -> SpaarsState:
        return state._replace(armed_at=disarm(state.armed_at))

    # ------------------------------------------------------------------ acting

    def acting(self, state: SpaarsState) -> Acting:
        armed = state.armed_at != NOT_ARMED
        return Acting(
            state.normaliser,
            state.prior.params,
            state.latent.params,
            state.raw.params,
            state.latent_average,
            state.raw_average,
            state.critics.params,
            armed,
            jnp.where(armed, self.raw_share(state), 0.0),
        )

    def roll_back(self, state: SpaarsState, acting: Acting) -> SpaarsState:
        """Both policies go back to the averages that were deployed."""
        return state._replace(
            latent=state.latent._replace(params=acting.latent_average),
            raw=state.raw._replace(params=acting.raw_average),
            latent_average=acting.latent_average,
            raw_average=acting.raw_average,
        )

    def raw_share(self, state: SpaarsState) -> Float[Array, ""]:
        """Probability with which an open gate is obeyed."""
        return raw_share(self.gate, self.steps(state.updates - state.armed_at))

    def decode(
        self, prior: BehaviourPrior, observations: Float[Array, "b obs"], u: Float[Array, "b k"]
    ) -> Float[Array, "b act"]:
        return prior.decode(observations, self.prior.latent_bound * u)

    def act(
        self, acting: Acting, observations: Float[Array, "n obs"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "n act"], Facts]:
        latent_key, raw_key, share_key = jax.random.split(key, 3)
        obs = acting.normaliser(observations)
        pi_z, pi_a = acting.latent(obs), acting.raw(obs)
        decoded = self.decode(acting.prior, obs, pi_z.sample(latent_key))
        is_open = self._armed_and_open(acting, obs, pi_a.mode(), pi_z.mode())
        obeyed = jax.random.uniform(share_key, is_open.shape) < acting.raw_share
        use_raw = is_open & obeyed
        actions = jnp.where(use_raw[..., None], pi_a.sample(raw_key), decoded)
        facts = {"raw_share": use_raw.astype(jnp.float32), "gate": is_open.astype(jnp.float32)}
        return actions, facts

    def act_deterministic(
        self, acting: Acting, observations: Float[Array, "n obs"]
    ) -> tuple[Float[Array, "n act"], Facts]:
        """Modes of both averaged policies; an open gate is always obeyed, whatever the limit.

        Only as a shadow it is not.
        """
        obs = acting.normaliser(observations)
        raw, u = acting.raw_average(obs).mode(), acting.latent_average(obs).mode()
        is_open = self._armed_and_open(acting, obs, raw, u)
        use_raw = jnp.zeros_like(is_open) if self.gate.shadow else is_open
        actions = jnp.where(use_raw[..., None], raw, self.decode(acting.prior, obs, u))
        return actions, {
            "raw_share": use_raw.astype(jnp.float32),
            "gate": is_open.astype(jnp.float32),
        }

    def _armed_and_open(
        self, acting: Acting, obs: Array, raw: Array, u: Array
    ) -> Bool[Array, " n"]:
        def compare() -> Array:
            decoded = self.decode(acting.prior, obs, u)
            return raw_wins(self.gate, acting.critics, obs, raw, decoded)

        if self.gate.rule == "never":
            return jnp.zeros(obs.shape[:-1], bool)
        return jax.lax.cond(acting.armed, compare, lambda: jnp.zeros(obs.shape[:-1], bool))

    # ------------------------------------------------------------------ online

    def update(
        self, state: SpaarsState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[SpaarsState, Metrics]:
        """One online update of everything but the prior."""
        c, tx = self.learner, self.optimizer(state.updates)
        batch = state.normaliser.batch(batch)
        target_key, policy_key = jax.random.split(key)

        # 1. The shared critic towards r + gamma min_e Q'(s', a'), a' from whoever acts at s'.
        next_values = self.next_values(state, batch.next_observations, target_key)
        targets = td_targets(batch.rewards, batch.terminated, next_values, c.discount)
        critics, metrics = descend(
            critic_loss, state.critics, tx, batch.observations, batch.actions, targets
        )
        state = state._replace(critics=critics)

        # 2.-4. Latent policy, its temperature, raw policy; not while the critic warms up.
        state, policy_metrics = jax.lax.cond(
            self.steps(state.updates) >= c.warmup_steps,
            lambda: self.update_policies(state, batch, policy_key),
            lambda: (state, self.no_policy_metrics()),
        )

        # 5. Target critics and averaged policies follow.
        state = state._replace(
            target_critics=polyak(critics.params, state.target_critics, c.tau),
            latent_average=polyak(state.latent.params, state.latent_average, c.average_tau),
            raw_average=polyak(state.raw.params, state.raw_average, c.average_tau),
            updates=state.updates + 1,
        )
        return state, metrics | policy_metrics

    def next_values(
        self, state: SpaarsState, next_observations: Float[Array, "b obs"], key: PRNGKeyArray
    ) -> Float[Array, " b"]:
        """min_e Q'(s', a') of a sampled action of the policy that acts at s' (no entropy bonus)."""
        latent_key, raw_key, share_key = jax.random.split(key, 3)
        pi_z = state.latent.params(next_observations)
        prior, target = state.prior.params, state.target_critics

        def latent_actions() -> Array:
            return self.decode(prior, next_observations, pi_z.sample(latent_key))

        def gated_actions() -> Array:
            pi_a = state.raw.params(next_observations)
            decoded_mode = self.decode(prior, next_observations, pi_z.mode())
            is_open = raw_wins(self.gate, target, next_observations, pi_a.mode(), decoded_mode)
            obeyed = jax.random.uniform(share_key, is_open.shape) < self.raw_share(state)
            use_raw = is_open & obeyed
            return jnp.where(use_raw[..., None], pi_a.sample(raw_key), latent_actions())

        if self.gate.rule == "never":
            actions = latent_actions()
        else:
            armed = state.armed_at != NOT_ARMED
            actions = jax.lax.cond(armed, gated_actions, latent_actions)
        return target(next_observations, actions).min(0)

    def update_policies(
        self, state: SpaarsState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[SpaarsState, Metrics]:
        c, tx = self.learner, self.optimizer(state.updates)
        critics, prior, obs = state.critics.params, state.prior.params, batch.observations
        latent_key, raw_key = jax.random.split(key)
        since_warmup = self.steps(state.updates) - c.warmup_steps
        temperature = jnp.exp(state.log_temperature.params)

        # 2. Latent policy: SAC through the decoder, eased in by the offline regression, so that
        #    going online is no leap.
        regression_weight = latent.linear_anneal(
            c.regression_weight, 0.0, since_warmup / max(c.regression_steps, 1)
        )

        def latent_loss(policy: TanhGaussianPolicy) -> tuple[Array, tuple[Array, Array]]:
            u, log_probs = policy(obs).sample_and_log_prob(latent_key)
            decoded = self.decode(prior, obs, u)
            q = critics(obs, decoded).min(0)
            loss = latent.scaled_policy_loss(log_probs, q, temperature)
            eased = jax.lax.cond(
                regression_weight > 0.0,
                lambda: regression_weight * self.regression(state, policy, batch),
                lambda: jnp.zeros_like(loss),
            )
            return loss + eased, (log_probs, decoded)

        (latent_value, (log_probs, decoded)), grads = jax.value_and_grad(latent_loss, has_aux=True)(
            state.latent.params
        )
        latent_policy = state.latent.apply(grads, tx)

        # 3. Temperature towards the target entropy in latent space, which is never above the
        #    offline policy's: the critics know nothing of what more noise would do.
        target_entropy = jnp.minimum(
            -c.latent_entropy_scale * prior.latent_dim, state.offline_entropy
        )
        grad = jax.grad(temperature_loss)(state.log_temperature.params, log_probs, target_entropy)
        log_temperature = state.log_temperature.apply(grad, tx)

        # 4. Raw policy: clones throughout; once the gate is armed it also climbs the critic.
        armed = state.armed_at != NOT_ARMED
        since_armed = jnp.where(armed, self.steps(state.updates - state.armed_at), 0.0)
        cloning_weight = latent.linear_anneal(
            c.cloning_weight, c.cloning_weight_end, since_armed / max(c.cloning_steps, 1)
        )

        def clone_only(policy: TanhGaussianPolicy) -> Array:
            return cloning_weight * latent.cloning_loss(policy(obs), decoded)

        def clone_and_climb(policy: TanhGaussianPolicy) -> Array:
            actions, log_probs = policy(obs).sample_and_log_prob(raw_key)
            q = critics(obs, actions).min(0)
            # At the latent policy's temperature: what a nat is worth does not depend on who acts.
            return clone_only(policy) + latent.scaled_policy_loss(log_probs, q, temperature)

        raw_value, raw_grads = jax.lax.cond(
            armed,
            lambda: jax.value_and_grad(clone_and_climb)(state.raw.params),
            lambda: jax.value_and_grad(clone_only)(state.raw.params),
        )
        raw = state.raw.apply(raw_grads, tx)

        new = state._replace(latent=latent_policy, log_temperature=log_temperature, raw=raw)
        metrics = {
            "latent_loss": latent_value,
            "entropy": -log_probs.mean(),
            "temperature": temperature,
            "raw_loss": raw_value,
            "cloning_weight": cloning_weight,
            "regression_weight": regression_weight,
        }
        return new, metrics

    def regression(
        self, state: SpaarsState, policy: TanhGaussianPolicy, batch: Batch
    ) -> Float[Array, ""]:
        """The offline phase's regression of the latent policy, on the same batch."""
        q = state.target_critics(batch.observations, batch.actions).mean(0)
        advantages = q - state.value.params(batch.observations)[..., 0]
        weights = iql.regression_weights(advantages, self.offline.temperature)
        u = self.latent_labels(state.prior.params, batch)
        return iql.weighted_regression_loss(policy, batch.observations, u, weights)

    @staticmethod
    def no_policy_metrics() -> Metrics:
        names = (
            "latent_loss",
            "entropy",
            "temperature",
            "raw_loss",
            "cloning_weight",
            "regression_weight",
        )
        return {name: jnp.float32(jnp.nan) for name in names}

    # ------------------------------------------------------------------ evidence

    def evidence(self, state: SpaarsState, batch: Batch) -> Metrics:
        """What the hand-over is decided on, measured on a batch."""
        obs = state.normaliser(batch.observations)
        raw = state.raw.params(obs).mode()
        decoded = self.decode(state.prior.params, obs, state.latent.params(obs).mode())
        critics, discount = state.critics.params, self.learner.discount
        found = handover_evidence(self.gate, critics, obs, raw, decoded, discount)
        armed = state.armed_at != NOT_ARMED
        return found | {"raw_share_limit": jnp.where(armed, self.raw_share(state), 0.0)}

    def appraise(self, state: SpaarsState, rows: Batch) -> dict[str, Float[Array, " n"]]:
        obs, prior = state.normaliser(rows.observations), state.prior.params
        z = prior.encode_mean(obs, rows.actions)
        return {
            "support_distance": jnp.linalg.norm(rows.actions - prior.decode(obs, z), axis=-1),
            "latent_norm": jnp.linalg.norm(z, axis=-1),
        } | appraised_by(state.critics.params, obs, rows.actions)


def _regress(
    learner: Learner[TanhGaussianPolicy],
    tx: optax.GradientTransformation,
    observations: Array,
    targets: Array,
    weights: Array,
) -> tuple[Learner[TanhGaussianPolicy], Array]:
    loss, grads = jax.value_and_grad(iql.weighted_regression_loss)(
        learner.params, observations, targets, weights
    )
    return learner.apply(grads, tx), loss
