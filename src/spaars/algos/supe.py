"""SUPE (Wilcoxson et al., 2024): explore with skills, and with what unlabelled data know.

Offline, OPAL learns skills of H steps from trajectory chunks; rewards are not needed. Online, SAC
chooses a skill u in (-1, 1)^k at every H-th step; the decoder gets z = arctanh(u). Half of every
batch are chunks of the offline data, taken for the skill that the encoder finds in them, with
rewards of a learned model; both halves get a bonus for novelty, so that exploration is drawn to
where the data have been and the agent has not. Design section 4.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from spaars.algos.agent import Facts, NoGate, Phase
from spaars.algos.rnd import RND
from spaars.algos.sac import SAC, Easing, SACConfig, SACState
from spaars.data.replay import Batch, Normaliser
from spaars.nn import MLP, Learner, Metrics, TanhGaussianPolicy, descend
from spaars.nn.distributions import MAX_SQUASHED
from spaars.priors.opal import OPAL, OpalConfig, SkillDecoder, opal_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupeConfig:
    """Exploration with unlabelled data; the defaults are the paper's. SAC over skills is `--sac`;
    there `--sac.discount` is per skill."""

    discount: float = 0.99
    """Discount per environment step, of the rewards within a skill."""
    bonus: float = 8.0
    """Weight of the novelty in every reward."""
    bonus_from: int = 0
    """Environment step from which rewards have it."""
    novelty_from: int = 10_000
    """Environment step from which the predictor learns: until then all is as new as all else."""
    novelty_features: int = 256
    """Outputs of the random network and its predictor."""
    novelty_learning_rate: float = 3e-4
    """Adam's step size of the predictor: one update per skill, on it alone."""
    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers of novelty, reward and termination networks."""
    learning_rate: float = 3e-4
    """Adam's step size of reward and termination model."""
    models_every: int = 4
    """Critic updates for one of theirs."""


class Acting(NamedTuple):
    """What `choose` and `act` read."""

    normaliser: Normaliser
    prior: SkillDecoder
    actor: TanhGaussianPolicy
    untrained: Bool[Array, ""]
    """Skills come from the state prior: the actor has learned nothing yet."""


Running = tuple[Acting, Float[Array, "n k"]]
"""What acts, and the skills u of each observation's env."""


class SupeState(NamedTuple):
    prior: Learner[OPAL]
    sac: SACState
    """Over skills; its normaliser and count of updates are the agent's."""
    rnd: RND
    reward_model: Learner[MLP]
    """r(s, u): the summed reward of a skill."""
    termination_model: Learner[MLP]
    """Logit of P(a skill ends in a terminal state)."""
    untrained: Bool[Array, ""]
    """Until the first update; and after going back to what acted before it, until the next."""


def macro_transitions(windows: Batch, discount: float) -> Batch:
    """(s_t, u, sum_i discount^i r_{t+i}, s_{t+H}, terminated) of windows (b, H, ...)."""
    powers = discount ** jnp.arange(windows.rewards.shape[1], dtype=jnp.float32)
    assert windows.latents is not None
    return Batch(
        observations=windows.observations[:, 0],
        actions=windows.latents[:, 0],
        rewards=windows.rewards @ powers,
        next_observations=windows.next_observations[:, -1],
        terminated=windows.terminated[:, -1],
    )


def reward_model_loss(
    model: MLP, observations: Float[Array, "b obs"], u: Float[Array, "b k"], rewards: Array
) -> tuple[Float[Array, ""], Metrics]:
    """E (r(s, u) - r)^2."""
    predicted = model(jnp.concatenate([observations, u], -1))[..., 0]
    loss = jnp.square(predicted - rewards).mean()
    return loss, {"reward_model_loss": loss}


def termination_model_loss(
    model: MLP, observations: Float[Array, "b obs"], u: Float[Array, "b k"], terminated: Array
) -> tuple[Float[Array, ""], Metrics]:
    """Binary cross-entropy of the logits."""
    logits = model(jnp.concatenate([observations, u], -1))[..., 0]
    loss = optax.sigmoid_binary_cross_entropy(logits, terminated).mean()
    return loss, {"termination_model_loss": loss}


def to_latent(u: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
    """z = arctanh(u), finite."""
    return jnp.arctanh(jnp.clip(u, -MAX_SQUASHED, MAX_SQUASHED))


@dataclasses.dataclass(frozen=True)
class Supe(NoGate):
    """The agent (see `spaars.algos.agent.SkillAgent`)."""

    prior: OpalConfig = OpalConfig()
    supe: SupeConfig = SupeConfig()
    sac: SACConfig = SACConfig()
    utd: int = 20
    """Updates per environment step: `supe.*_from` is told in steps."""
    learning_starts: int = 5_000
    """Environment steps before the first update, for the same."""
    logged_rows: int = 128
    """The first so many windows of a batch are the dataset's."""

    prior_in: ClassVar[tuple[str, ...]] = ("prior",)
    """Where the state keeps its prior."""

    @property
    def batch_size(self) -> int:
        return self.sac.batch_size

    @property
    def discount(self) -> float:
        return self.supe.discount

    @property
    def skill_length(self) -> int:
        return self.prior.skill_length

    @property
    def skill_dim(self) -> int:
        return self.prior.latent_dim

    @property
    def macro(self) -> SAC:
        """SAC over skills."""
        return SAC(self.sac)

    @property
    def prior_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.prior.learning_rate)

    @property
    def novelty_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.supe.novelty_learning_rate)

    @property
    def model_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.supe.learning_rate)

    def init(
        self, key: PRNGKeyArray, observation_mean: Array, observation_std: Array, action_dim: int
    ) -> SupeState:
        p, c = self.prior, self.supe
        keys = jax.random.split(key, 6)
        dim, k = observation_mean.shape[0], p.latent_dim
        opal = OPAL(
            dim,
            action_dim,
            k,
            p.skill_length,
            p.hidden,
            p.recurrent,
            p.decoder_columns,
            key=keys[0],
        )
        models = [
            Learner.create(MLP(dim + k, 1, c.hidden, key=key), self.model_optimizer)
            for key in keys[4:]
        ]
        return SupeState(
            prior=Learner.create(opal, self.prior_optimizer),
            sac=self.macro.init(keys[1], observation_mean, observation_std, k),
            rnd=RND.create(
                dim + k, c.hidden, c.novelty_features, self.novelty_optimizer, keys[2], keys[3]
            ),
            reward_model=models[0],
            termination_model=models[1],
            untrained=jnp.array(True),
        )

    # ------------------------------------------------------------------ offline

    def offline_phases(self) -> tuple[Phase, ...]:
        p = self.prior
        return (Phase("prior", p.updates, p.batch_size, self.update_prior, p.skill_length),)

    def update_prior(
        self, state: SupeState, windows: Batch, key: PRNGKeyArray
    ) -> tuple[SupeState, Metrics]:
        windows = state.sac.normaliser.batch(windows)
        noise = jax.random.normal(key, (windows.rewards.shape[0], self.prior.latent_dim))
        seen = windows.observations
        if self.prior.decoder_columns is not None:
            # Its weights of the others are zero, and so stay zero.
            columns = jnp.array(self.prior.decoder_columns)
            seen = jnp.zeros_like(seen).at[..., columns].set(seen[..., columns])
        prior, metrics = descend(
            opal_loss,
            state.prior,
            self.prior_optimizer,
            windows.observations,
            windows.actions,
            noise,
            self.prior.kl_weight,
            seen,
        )
        return state._replace(prior=prior), metrics

    def label(self, state: SupeState, windows: Batch) -> Float[Array, "n k"]:
        """u = tanh of the encoder's mean."""
        obs = state.sac.normaliser(windows.observations)
        return jnp.tanh(state.prior.params.encode_mean(obs, windows.actions))

    # ------------------------------------------------------------------ acting

    def acting(self, state: SupeState) -> Acting:
        return Acting(
            normaliser=state.sac.normaliser,
            prior=state.prior.params.acting,
            actor=state.sac.actor.params,
            untrained=state.untrained,
        )

    def choose(
        self, acting: Acting, observations: Float[Array, "n obs"], key: PRNGKeyArray | None
    ) -> Float[Array, "n k"]:
        return self.choose_standardised(acting, acting.normaliser(observations), key)

    @staticmethod
    def choose_standardised(
        acting: Acting, obs: Float[Array, "n obs"], key: PRNGKeyArray | None
    ) -> Float[Array, "n k"]:
        """`choose` of observations that are standardised already."""
        prior, actor = acting.prior.state_prior(obs), acting.actor(obs)
        if key is None:
            z, u = prior.mode(), actor.mode()
        else:
            z, u = prior.sample(key), actor.sample(key)
        return jnp.where(acting.untrained, jnp.tanh(z), u)

    def act(
        self, running: Running, observations: Float[Array, "n obs"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "n act"], Facts]:
        """The low-level policy sampled."""
        acting, u = running
        pi = acting.prior.low_level(acting.normaliser(observations), to_latent(u))
        return jnp.clip(pi.sample(key), -1.0, 1.0), {}

    def act_deterministic(
        self, running: Running, observations: Float[Array, "n obs"]
    ) -> tuple[Float[Array, "n act"], Facts]:
        """The low-level policy's mean. (Published: sampled also in evaluation.)"""
        acting, u = running
        return acting.prior.decode(acting.normaliser(observations), to_latent(u)), {}

    # ------------------------------------------------------------------ online

    def observe(
        self, state: SupeState, windows: Batch, facts: dict[str, Float[Array, "n time"]]
    ) -> tuple[SupeState, Batch]:
        """The novelty network learns from each skill just acted, once, in order, from
        `supe.novelty_from` on."""
        assert windows.latents is not None
        obs = state.sac.normaliser(windows.observations[:, :1])

        def learn(rnd: RND, x: tuple[Array, Array]) -> tuple[RND, None]:
            return rnd.learn(*x, self.novelty_optimizer)[0], None

        rnd = jax.lax.cond(
            self.steps(state) >= self.supe.novelty_from,
            lambda rnd, x: jax.lax.scan(learn, rnd, x)[0],
            lambda rnd, x: rnd,
            state.rnd,
            (obs, windows.latents[:, :1]),
        )
        return state._replace(rnd=rnd), windows

    def update(
        self,
        state: SupeState,
        windows: Batch,
        key: PRNGKeyArray,
        easing: Easing | None = None,
    ) -> tuple[SupeState, Metrics]:
        """One critic update over skills; the actor's at every `sac.actor_every`th (`SAC.update`),
        the models' at every `supe.models_every`th."""
        batch = macro_transitions(windows, self.supe.discount)
        obs, n = state.sac.normaliser(batch.observations), self.logged_rows

        # 1. Reward and termination model from what the agent itself has seen.
        state, model_metrics = jax.lax.cond(
            state.sac.updates % self.supe.models_every == 0,
            lambda: self.update_models(state, jax.tree.map(lambda x: x[n:], batch), obs[n:]),
            lambda: (state, self.no_model_metrics()),
        )

        # 2. They label the dataset's windows, whose own rewards are not used.
        x = jnp.concatenate([obs, batch.actions], -1)[:n]
        rewards = state.reward_model.params(x)[..., 0]
        ends = jax.nn.sigmoid(state.termination_model.params(x)[..., 0])
        batch = batch._replace(
            rewards=jnp.concatenate([rewards, batch.rewards[n:]]),
            terminated=jnp.concatenate([ends, batch.terminated[n:]]),
        )

        # 3. Optimism: both halves are worth more where little has been seen.
        novelty = state.rnd.novelty(obs, batch.actions)
        weight = jnp.where(self.steps(state) >= self.supe.bonus_from, self.supe.bonus, 0.0)
        batch = batch._replace(rewards=batch.rewards + weight * novelty)

        # 4. SAC over skills.
        sac, metrics = self.macro.update(state.sac, batch, key, easing)
        metrics |= model_metrics | {
            "novelty_logged": novelty[:n].mean(),
            "novelty_online": novelty[n:].mean(),
            "logged_rewards": rewards.mean(),
        }
        return state._replace(sac=sac, untrained=jnp.array(False)), metrics

    def steps(self, state: SupeState) -> Float[Array, ""]:
        """Environment steps so far."""
        return self.learning_starts + state.sac.updates.astype(jnp.float32) / self.utd

    def update_models(
        self, state: SupeState, online: Batch, observations: Float[Array, "b obs"]
    ) -> tuple[SupeState, Metrics]:
        tx, u = self.model_optimizer, online.actions
        reward_model, reward_metrics = descend(
            reward_model_loss, state.reward_model, tx, observations, u, online.rewards
        )
        termination_model, termination_metrics = descend(
            termination_model_loss,
            state.termination_model,
            tx,
            observations,
            u,
            online.terminated,
        )
        state = state._replace(reward_model=reward_model, termination_model=termination_model)
        return state, reward_metrics | termination_metrics

    @staticmethod
    def no_model_metrics() -> Metrics:
        names = ("reward_model_loss", "termination_model_loss")
        return {name: jnp.float32(jnp.nan) for name in names}

    # ------------------------------------------------------------------ looking back

    def appraise(self, state: SupeState, rows: Batch) -> dict[str, Float[Array, "n time"]]:
        """The critics' spread is that of the skills; Q itself holds the bonus, and is left out."""
        assert rows.latents is not None
        found = self.reconstruction(state, rows)
        obs = state.sac.normaliser(rows.observations[:, 0])
        spread = state.sac.critics.params(obs, rows.latents[:, 0]).std(0)
        return found | {"q_ensemble_std": jnp.broadcast_to(spread[:, None], rows.rewards.shape)}

    def reconstruction(self, state: SupeState, rows: Batch) -> dict[str, Float[Array, "n time"]]:
        """How well the skill that the encoder takes a window for gives back its actions."""
        prior, obs = state.prior.params, state.sac.normaliser(rows.observations)
        z = prior.encode_mean(obs, rows.actions)
        decoded = prior.acting.decode(
            obs, jnp.broadcast_to(z[:, None], (*obs.shape[:2], z.shape[-1]))
        )
        begins = prior.acting.state_prior(obs[:, 0])
        norm = jnp.linalg.norm((z - begins.mean) * jnp.exp(-begins.log_std), axis=-1)
        return {
            "support_distance": jnp.linalg.norm(rows.actions - decoded, axis=-1),
            "latent_norm": jnp.broadcast_to(norm[:, None], rows.rewards.shape),
        }

    def roll_back(self, state: SupeState, acting: Acting) -> SupeState:
        actor = state.sac.actor._replace(params=acting.actor)
        sac = state.sac._replace(actor=actor)
        return state._replace(sac=sac, untrained=acting.untrained)
