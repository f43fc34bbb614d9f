"""The interface between a method and the trainers."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from spaars.data.replay import Batch, Normaliser
from spaars.nn import Critics, Metrics

# What an action came with, per observation: leaves (n,).
Facts = dict[str, Float[Array, " n"]]


class Phase(NamedTuple):
    """A stretch of offline training: `updates` times `update(state, batch, key)`."""

    name: str
    updates: int
    batch_size: int
    update: Callable[[Any, Batch, PRNGKeyArray], tuple[Any, Metrics]]
    window: int | None = None
    """Batches are windows of so many rows, leaves (batch, window, ...), instead of rows."""


@runtime_checkable
class Agent(Protocol):
    """What the trainers need of a method. Implementations are frozen, hashable dataclasses.

    All functions act on one seed; the trainer maps them over the population. `State` is one
    pytree of arrays for the agent's whole life, offline and online.
    """

    @property
    def batch_size(self) -> int:
        """Transitions per online update."""

    @property
    def discount(self) -> float:
        """Per environment step; rewards within a transition of several steps are summed with it."""

    def init(
        self, key: PRNGKeyArray, observation_mean: Array, observation_std: Array, action_dim: int
    ) -> Any:
        """A fresh state. Observation statistics have shape (obs,)."""

    def offline_phases(self) -> tuple[Phase, ...]:
        """What to train on the dataset before the first online step, in order."""

    def begin_online(self, state: Any) -> Any:
        """Called once between the last offline update and the first online step."""

    def acting(self, state: Any) -> Any:
        """The part of the state that `act` reads."""

    def act(
        self, acting: Any, observations: Float[Array, "n obs"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "n act"], Facts]:
        """Exploring actions in [-1, 1] and per-observation facts to log (leaves (n,))."""

    def act_deterministic(
        self, acting: Any, observations: Float[Array, "n obs"]
    ) -> tuple[Float[Array, "n act"], Facts]:
        """Evaluation actions in [-1, 1], and the same facts."""

    def update(self, state: Any, batch: Batch, key: PRNGKeyArray) -> tuple[Any, Metrics]:
        """One online update."""

    def evidence(self, state: Any, batch: Batch) -> Metrics:
        """Measurements that need no update: what the hand-over is decided on."""

    def appraise(self, state: Any, rows: Batch) -> dict[str, Float[Array, "*n"]]:
        """What the agent makes of transitions (n, ...) that were executed; leaves (n,).

        Of these, what it has means to say: `support_distance` ||a - D(s, enc(s, a))|| and
        `latent_norm` (of the latent's deviations from the prior's mean, in its std), from its
        behaviour prior; `q` (mean of the critics, in units of discounted return) and
        `q_ensemble_std`.
        """

    def hand_over(self, state: Any, armed: Array) -> Any:
        """Tell the agent that from now on (`armed`, bool) the gate may open."""

    def take_back(self, state: Any) -> Any:
        """Undo the hand-over: the gate is shut until the next one."""

    def roll_back(self, state: Any, acting: Any) -> Any:
        """The state with the policies that `acting` was read from; critics stay as they are."""


@runtime_checkable
class SkillAgent(Agent, Protocol):
    """An agent that chooses a skill and follows it for H steps.

    It learns from windows of H rows (data/replay.py): its updates take leaves (batch, H, ...).
    In the place of `acting`, its `act` and `act_deterministic` take (acting, skills (n, k)).
    `appraise` takes windows (n, H, ...), its leaves are (n, H).
    """

    @property
    def skill_length(self) -> int:
        """Environment steps H that a skill lasts."""

    @property
    def skill_dim(self) -> int:
        """Dimensions k of a skill."""

    def label(self, state: Any, windows: Batch) -> Float[Array, "n k"]:
        """Skills that windows of the dataset, leaves (n, H, ...), are taken for."""

    def choose(
        self, acting: Any, observations: Float[Array, "n obs"], key: PRNGKeyArray | None
    ) -> Float[Array, "n k"]:
        """Skills for the next H steps; without a key, as evaluation chooses."""

    def observe(
        self, state: Any, windows: Batch, facts: dict[str, Float[Array, "n time"]]
    ) -> tuple[Any, Batch]:
        """Look at what was just acted, windows (n, H, ...) in order, before it is stored.

        `facts` are what `act` said with every action.
        """


def appraised_by(
    critics: Critics, observations: Float[Array, "*n obs"], actions: Float[Array, "*n act"]
) -> dict[str, Float[Array, "*n"]]:
    """What an ensemble says of executed actions."""
    q = critics(observations, actions)
    return {"q": q.mean(0), "q_ensemble_std": q.std(0)}


class NoGate:
    """What agents without a gate share: nothing begins, and there is nothing to hand over."""

    def begin_online(self, state: Any) -> Any:
        return state

    def hand_over(self, state: Any, armed: Array) -> Any:
        return state

    def take_back(self, state: Any) -> Any:
        return state

    def evidence(self, state: Any, batch: Batch) -> Metrics:
        return {}


class SingleActor(NoGate):
    """What agents of one actor share: `config`, and a state with `normaliser` and `actor`."""

    config: Any

    @property
    def batch_size(self) -> int:
        return self.config.batch_size

    @property
    def discount(self) -> float:
        return self.config.discount

    def roll_back(self, state: Any, acting: tuple[Normaliser, Any]) -> Any:
        return state._replace(actor=state.actor._replace(params=acting[1]))

    def acting(self, state: Any) -> tuple[Normaliser, Any]:
        return state.normaliser, state.actor.params

    def act(
        self, acting: tuple[Normaliser, Any], observations: Array, key: PRNGKeyArray
    ) -> tuple[Array, Facts]:
        normaliser, actor = acting
        return jnp.clip(actor(normaliser(observations)).sample(key), -1.0, 1.0), {}

    def act_deterministic(
        self, acting: tuple[Normaliser, Any], observations: Array
    ) -> tuple[Array, Facts]:
        normaliser, actor = acting
        return actor(normaliser(observations)).mode(), {}
