"""SPAARS-SUPE: explore with OPAL skills, and hand over to a raw policy, step by step.

The skill side is SUPE's, but for its start: the skill policy begins as a clone of the skills that
the encoder finds in the data, and as its critics learn, it goes on cloning those skills, logged and
its own, that they say are better than what it does, or those of its best episodes. Beside it a
critic ensemble learns Q(s, a) of primitive steps from the same experience, without the novelty
bonus; a raw policy clones what the low-level policy does; and at every primitive step inside a
skill the gate compares the two. A skill in which the raw policy acted is relabelled in hindsight by
the encoder, so that the skill critics stay consistent. Design section 2.6.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from spaars.algos import iql, latent, supe
from spaars.algos.agent import Facts, Phase, appraised_by
from spaars.algos.gate import (
    NOT_ARMED,
    GateConfig,
    arm,
    disarm,
    handover_evidence,
    raw_share,
    raw_wins,
)
from spaars.algos.sac import Easing, critic_loss, td_targets
from spaars.algos.supe import Supe, SupeState, to_latent
from spaars.data.replay import Batch
from spaars.nn import Critics, Learner, Metrics, TanhGaussianPolicy, TanhNormal, descend, polyak


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawConfig:
    """The raw policy and the critics of primitive steps beside a skill policy."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    critics: int = 5
    """Ensemble size E; its mean is every target, the minimum over all the raw policy's aim."""
    learning_rate: float = 3e-4
    """Adam's step size."""
    discount: float = 0.99
    """Discount per environment step."""
    tau: float = 0.02
    """Target critics move by this fraction per update."""
    temperature: float = 0.01
    """What a nat of the raw policy's entropy is worth, in units of return."""
    cloning_weight: float = 1.0
    """Weight of cloning in the raw loss until the hand-over."""
    cloning_weight_end: float = 0.001
    """Weight of cloning once annealed."""
    cloning_steps: int = 10_000
    """Environment steps after the hand-over over which the cloning weight is annealed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EasingConfig:
    """The skill policy's start at the behaviour prior, and what holds it to skills that were seen.

    Advantage-weighted regression (AWAC, Nair et al., 2020; IQL, eq. 7) beside the climb of SAC: at
    first of the data's skills alone, all alike. Where batches have rows of the agent's best
    episodes (`--online.best-fraction`), it becomes cloning of these, all alike, instead (after
    self-imitation, Oh et al., 2018); the critics then do not weight it.
    """

    updates: int = 20_000
    """Updates before the first online step in which it clones the data's skills; 0 starts it from
    nothing, as SUPE does."""
    weight: float = 1.0
    """Weight of that cloning in its loss when its critics begin to learn; Q is scaled to 1."""
    weight_end: float = 0.2
    """The weight once annealed."""
    temperature: float = 2.0
    """Sharpness of the weights exp(temperature * A / mean|A|) once annealed, from 0. Not read with
    `--online.best-fraction`."""
    steps: int = 20_000
    """Environment steps over which weight and temperature are annealed, and skills of its own come
    to count as much as logged ones (those of the best episodes: instead of logged ones)."""


class Acting(NamedTuple):
    """What `choose` and `act` read."""

    skill: supe.Acting
    raw: TanhGaussianPolicy
    critics: Critics
    armed: Bool[Array, ""]
    raw_share: Float[Array, ""]


Running = tuple[Acting, Float[Array, "n k"]]


class SpaarsSupeState(NamedTuple):
    skill: SupeState
    critics: Learner[Critics]
    """Q(s, a) of primitive steps."""
    target_critics: Critics
    raw: Learner[TanhGaussianPolicy]
    start_entropy: Float[Array, ""]
    """Of the skill policy at the end of its start, a moving average (nats)."""
    armed_at: Int[Array, ""]
    """Count of updates when the gate was armed; NOT_ARMED before."""


def primitive_transitions(windows: Batch) -> tuple[Batch, Bool[Array, " n"]]:
    """The steps of windows (b, H, ...) as transitions (b H, ...), and which end a skill."""
    b, length = windows.rewards.shape
    flat = jax.tree.map(lambda x: x.reshape(b * length, *x.shape[2:]), windows)
    return flat, jnp.tile(jnp.arange(length) == length - 1, b)


@dataclasses.dataclass(frozen=True)
class SpaarsSupe:
    """The agent (see `spaars.algos.agent.SkillAgent`)."""

    skills: Supe = Supe()
    raw: RawConfig = RawConfig()
    gate: GateConfig = GateConfig()
    easing: EasingConfig = EasingConfig()
    best_rows: int = 0
    """So many windows of a batch, behind the dataset's, are of the agent's best episodes."""

    prior_in: ClassVar[tuple[str, ...]] = ("skill", "prior")
    """Where the state keeps its prior."""

    @property
    def batch_size(self) -> int:
        return self.skills.batch_size

    @property
    def discount(self) -> float:
        return self.raw.discount

    @property
    def skill_length(self) -> int:
        return self.skills.skill_length

    @property
    def skill_dim(self) -> int:
        return self.skills.skill_dim

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.raw.learning_rate)

    def init(
        self, key: PRNGKeyArray, observation_mean: Array, observation_std: Array, action_dim: int
    ) -> SpaarsSupeState:
        c, tx = self.raw, self.optimizer
        skill_key, critic_key, raw_key = jax.random.split(key, 3)
        dim = observation_mean.shape[0]
        critics = Critics(dim, action_dim, c.hidden, c.critics, key=critic_key)
        return SpaarsSupeState(
            skill=self.skills.init(skill_key, observation_mean, observation_std, action_dim),
            critics=Learner.create(critics, tx),
            target_critics=critics,
            raw=Learner.create(TanhGaussianPolicy(dim, action_dim, c.hidden, key=raw_key), tx),
            start_entropy=jnp.float32(0.0),
            armed_at=jnp.int32(NOT_ARMED),
        )

    # ------------------------------------------------------------------ offline

    def offline_phases(self) -> tuple[Phase, ...]:
        def on_skill_side(phase: Phase) -> Phase:
            def update(state: SpaarsSupeState, batch: Batch, key: PRNGKeyArray) -> Any:
                skill, metrics = phase.update(state.skill, batch, key)
                return state._replace(skill=skill), metrics

            return phase._replace(update=update)

        prior = self.skills.prior
        start = Phase(
            "skills", self.easing.updates, prior.batch_size, self.start_skills, prior.skill_length
        )
        return (*(on_skill_side(phase) for phase in self.skills.offline_phases()), start)

    def start_skills(
        self, state: SpaarsSupeState, windows: Batch, key: PRNGKeyArray
    ) -> tuple[SpaarsSupeState, Metrics]:
        """The skill policy clones what the encoder takes the data's windows for."""
        skill = state.skill
        obs = skill.sac.normaliser(windows.observations[:, 0])
        u = self.label(state, windows)
        loss, grads = jax.value_and_grad(lambda actor: latent.cloning_loss(actor(obs), u))(
            skill.sac.actor.params
        )
        sac = skill.sac._replace(actor=skill.sac.actor.apply(grads, self.skills.macro.optimizer))
        entropy = -sac.actor.params(obs).sample_and_log_prob(key)[1].mean()
        new = state._replace(
            skill=skill._replace(sac=sac, untrained=jnp.array(False)),
            start_entropy=polyak(entropy, state.start_entropy, latent.ENTROPY_TAU),
        )
        return new, {"skill_cloning": loss}

    def label(self, state: SpaarsSupeState, windows: Batch) -> Float[Array, "n k"]:
        return self.skills.label(state.skill, windows)

    def begin_online(self, state: SpaarsSupeState) -> SpaarsSupeState:
        if self.gate.rule == "always":
            return state._replace(armed_at=jnp.zeros_like(state.armed_at))
        return state

    def hand_over(self, state: SpaarsSupeState, armed: Bool[Array, ""]) -> SpaarsSupeState:
        return state._replace(armed_at=arm(state.armed_at, armed, self.updates(state)))

    def take_back(self, state: SpaarsSupeState) -> SpaarsSupeState:
        return state._replace(armed_at=disarm(state.armed_at))

    @staticmethod
    def updates(state: SpaarsSupeState) -> Int[Array, ""]:
        return state.skill.sac.updates

    def steps_since_armed(self, state: SpaarsSupeState) -> Float[Array, ""]:
        since = self.updates(state) - state.armed_at
        armed = state.armed_at != NOT_ARMED
        return jnp.where(armed, since.astype(jnp.float32) / self.skills.utd, 0.0)

    # ------------------------------------------------------------------ acting

    def acting(self, state: SpaarsSupeState) -> Acting:
        return Acting(
            skill=self.skills.acting(state.skill),
            raw=state.raw.params,
            critics=state.critics.params,
            armed=state.armed_at != NOT_ARMED,
            raw_share=raw_share(self.gate, self.steps_since_armed(state)),
        )

    def choose(
        self, acting: Acting, observations: Float[Array, "n obs"], key: PRNGKeyArray | None
    ) -> Float[Array, "n k"]:
        return self.skills.choose(acting.skill, observations, key)

    def act(
        self, running: Running, observations: Float[Array, "n obs"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "n act"], Facts]:
        acting, u = running
        skill_key, raw_key, share_key = jax.random.split(key, 3)
        decoded, _ = self.skills.act((acting.skill, u), observations, skill_key)
        pi_a, is_open = self._compare(acting, observations, u)
        use_raw = is_open & (jax.random.uniform(share_key, is_open.shape) < acting.raw_share)
        actions = jnp.where(use_raw[..., None], pi_a.sample(raw_key), decoded)
        return actions, {
            "raw_share": use_raw.astype(jnp.float32),
            "gate": is_open.astype(jnp.float32),
        }

    def act_deterministic(
        self, running: Running, observations: Float[Array, "n obs"]
    ) -> tuple[Float[Array, "n act"], Facts]:
        """Modes; an open gate is always obeyed, whatever the limit. Only as a shadow it is not."""
        acting, u = running
        decoded, _ = self.skills.act_deterministic((acting.skill, u), observations)
        pi_a, is_open = self._compare(acting, observations, u)
        use_raw = jnp.zeros_like(is_open) if self.gate.shadow else is_open
        actions = jnp.where(use_raw[..., None], pi_a.mode(), decoded)
        return actions, {
            "raw_share": use_raw.astype(jnp.float32),
            "gate": is_open.astype(jnp.float32),
        }

    def _compare(
        self, acting: Acting, observations: Array, u: Array
    ) -> tuple[TanhNormal, Bool[Array, " n"]]:
        obs = acting.skill.normaliser(observations)
        pi_a = acting.raw(obs)

        def compare() -> Array:
            decoded = acting.skill.prior.decode(obs, to_latent(u))
            return raw_wins(self.gate, acting.critics, obs, pi_a.mode(), decoded)

        return pi_a, jax.lax.cond(acting.armed, compare, lambda: jnp.zeros(obs.shape[:-1], bool))

    # ------------------------------------------------------------------ online

    def observe(
        self, state: SpaarsSupeState, windows: Batch, facts: dict[str, Float[Array, "n time"]]
    ) -> tuple[SpaarsSupeState, Batch]:
        """Skills in which the raw policy acted become what the encoder takes them for."""
        assert windows.latents is not None
        if "raw_share" in facts:
            touched = (facts["raw_share"] > 0.0).any(-1)
            found = self.skills.label(state.skill, windows)
            found = jnp.broadcast_to(found[:, None], windows.latents.shape)
            u = jnp.where(touched[:, None, None], found, windows.latents)
            windows = windows._replace(latents=u)
        skill, windows = self.skills.observe(state.skill, windows, facts)
        return state._replace(skill=skill), windows

    def update(
        self, state: SpaarsSupeState, windows: Batch, key: PRNGKeyArray
    ) -> tuple[SpaarsSupeState, Metrics]:
        """One update of the skill side, of the primitive critics and of the raw policy."""
        c, tx = self.raw, self.optimizer
        skill_key, target_key, policy_key = jax.random.split(key, 3)

        # 1. SUPE, its skill policy eased in by the cloning that it started from.
        before = state.skill
        easing = self.easing_of(state, windows)
        skill, metrics = self.skills.update(before, windows, skill_key, easing)
        metrics = {f"skill_{name}": value for name, value in metrics.items()}
        state = state._replace(skill=skill)

        # 2. Critics of primitive steps, from what the agent itself did: rewards are known there.
        own = jax.tree.map(lambda x: x[self.skills.logged_rows :], windows)
        batch, ends_skill = primitive_transitions(own)
        batch = before.sac.normaliser.batch(batch)
        next_values = self.next_values(state, batch, ends_skill, target_key)
        targets = td_targets(batch.rewards, batch.terminated, next_values, c.discount)
        critics, critic_metrics = descend(
            critic_loss, state.critics, tx, batch.observations, batch.actions, targets
        )
        state = state._replace(critics=critics)

        # 3. Raw policy: clones throughout; once the gate is armed it also climbs the critics.
        state, raw_metrics = self.update_raw(state, batch, policy_key)

        # 4. Target critics follow.
        state = state._replace(target_critics=polyak(critics.params, state.target_critics, c.tau))
        return state, metrics | critic_metrics | raw_metrics

    def easing_of(self, state: SpaarsSupeState, windows: Batch) -> Easing | None:
        """Regression on the batch's skills, in units of Q; None without a start."""
        c, sac = self.easing, state.skill.sac
        if c.updates == 0:
            return None
        assert windows.latents is not None
        obs, u = sac.normaliser(windows.observations[:, 0]), windows.latents[:, 0]
        critics, steps = sac.critics.params, sac.updates.astype(jnp.float32) / self.skills.utd
        progress = jnp.clip(steps / max(c.steps, 1), 0.0, 1.0)
        weight = latent.linear_anneal(c.weight, c.weight_end, progress)

        # All of it in here: not every update of the critics is one of the actor.
        def loss(actor: TanhGaussianPolicy) -> Array:
            q = critics(obs, sac.actor.params(obs).mode())
            row, n = jnp.arange(obs.shape[0]), self.skills.logged_rows
            if self.best_rows:
                best = (row >= n) & (row < n + self.best_rows)
                weights = jnp.where(row < n, 1.0 - progress, jnp.where(best, progress, 0.0))
            else:
                advantages = (critics(obs, u) - q).mean(0)
                weights = iql.regression_weights(advantages, c.temperature * progress)
                weights *= jnp.where(row < n, 1.0, progress)
            weights /= weights.mean()
            # With the temperature: while the critics know nothing, entropy must not win.
            scale = jnp.abs(q).mean() + jnp.exp(sac.log_temperature.params)
            return weight * scale * iql.weighted_regression_loss(actor, obs, u, weights)

        return Easing(loss, state.start_entropy)

    def next_values(
        self,
        state: SpaarsSupeState,
        batch: Batch,
        ends_skill: Bool[Array, " b"],
        key: PRNGKeyArray,
    ) -> Float[Array, " b"]:
        """mean_e Q'(s', a') of the action of who acts at s': the running skill, or the next one.

        The minimum would be paid anew at every step: values ended 100 below the returns
        (docs/lab-notebook.md). Caution is the gate's.
        """
        assert batch.latents is not None
        choose_key, skill_key, raw_key, share_key = jax.random.split(key, 4)
        obs, prior = batch.next_observations, state.skill.prior.params.acting
        target = state.target_critics
        # Only where a skill ends is the next one asked for.
        following = state.skill.sac.actor.params(obs[self.skill_length - 1 :: self.skill_length])
        following = jax.tree.map(lambda x: jnp.repeat(x, self.skill_length, 0), following)
        chosen = following.sample(choose_key)
        u = jnp.where(ends_skill[:, None], chosen, batch.latents)
        pi = prior.low_level(obs, to_latent(u))
        decoded = jnp.clip(pi.sample(skill_key), -1.0, 1.0)

        def gated_actions() -> Array:
            pi_a = state.raw.params(obs)
            mode = jnp.clip(pi.mode(), -1.0, 1.0)
            is_open = raw_wins(self.gate, target, obs, pi_a.mode(), mode)
            share = raw_share(self.gate, self.steps_since_armed(state))
            use_raw = is_open & (jax.random.uniform(share_key, is_open.shape) < share)
            return jnp.where(use_raw[:, None], pi_a.sample(raw_key), decoded)

        armed = state.armed_at != NOT_ARMED
        actions = jax.lax.cond(armed, gated_actions, lambda: decoded)
        return target(obs, actions).mean(0)

    def update_raw(
        self, state: SpaarsSupeState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[SpaarsSupeState, Metrics]:
        c, tx = self.raw, self.optimizer
        assert batch.latents is not None
        obs, critics = batch.observations, state.critics.params
        skill_key, raw_key = jax.random.split(key)
        pi = state.skill.prior.params.acting.low_level(obs, to_latent(batch.latents))
        decoded = jnp.clip(pi.sample(skill_key), -1.0, 1.0)
        progress = self.steps_since_armed(state) / max(c.cloning_steps, 1)
        weight = latent.linear_anneal(c.cloning_weight, c.cloning_weight_end, progress)

        def clone_only(policy: TanhGaussianPolicy) -> Array:
            return weight * latent.cloning_loss(policy(obs), decoded)

        def clone_and_climb(policy: TanhGaussianPolicy) -> Array:
            actions, log_probs = policy(obs).sample_and_log_prob(raw_key)
            q = critics(obs, actions).min(0)
            return clone_only(policy) + latent.scaled_policy_loss(log_probs, q, c.temperature)

        value, grads = jax.lax.cond(
            state.armed_at != NOT_ARMED,
            lambda: jax.value_and_grad(clone_and_climb)(state.raw.params),
            lambda: jax.value_and_grad(clone_only)(state.raw.params),
        )
        raw = state.raw.apply(grads, tx)
        return state._replace(raw=raw), {"raw_loss": value, "cloning_weight": weight}

    # ------------------------------------------------------------------ evidence

    def evidence(self, state: SpaarsSupeState, windows: Batch) -> Metrics:
        """As `Spaars.evidence`, on the agent's own steps and the skills it ran there."""
        own = jax.tree.map(lambda x: x[self.skills.logged_rows :], windows)
        batch, _ = primitive_transitions(own)
        assert batch.latents is not None
        obs = state.skill.sac.normaliser(batch.observations)
        raw = state.raw.params(obs).mode()
        decoded = state.skill.prior.params.acting.decode(obs, to_latent(batch.latents))
        critics, discount = state.critics.params, self.discount
        found = handover_evidence(self.gate, critics, obs, raw, decoded, discount)
        limit = raw_share(self.gate, self.steps_since_armed(state))
        armed = state.armed_at != NOT_ARMED
        return found | {"raw_share_limit": jnp.where(armed, limit, 0.0)}

    def appraise(self, state: SpaarsSupeState, rows: Batch) -> dict[str, Float[Array, "n time"]]:
        obs = state.skill.sac.normaliser(rows.observations)
        return self.skills.reconstruction(state.skill, rows) | appraised_by(
            state.critics.params, obs, rows.actions
        )

    def roll_back(self, state: SpaarsSupeState, acting: Acting) -> SpaarsSupeState:
        # What acted before the gate was armed had no raw policy to go back to.
        raw = jax.tree.map(
            lambda old, new: jnp.where(acting.armed, old, new), acting.raw, state.raw.params
        )
        return state._replace(
            skill=self.skills.roll_back(state.skill, acting.skill),
            raw=state.raw._replace(params=raw),
        )
