"""What every algorithm shares: a network with its optimiser state, and the agent's interface."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from spaars.data.replay import Batch

P = TypeVar("P")
Metrics = dict[str, Float[Array, ""]]


class Learner(NamedTuple, Generic[P]):
    """Parameters and the state of the optimiser that trains them."""

    params: P
    opt_state: optax.OptState

    @classmethod
    def create(cls, params: P, optimizer: optax.GradientTransformation) -> "Learner[P]":
        return cls(params, optimizer.init(params))  # type: ignore[arg-type]

    def apply(self, grads: P, optimizer: optax.GradientTransformation) -> "Learner[P]":
        updates, opt_state = optimizer.update(grads, self.opt_state, self.params)  # type: ignore[arg-type]
        return Learner(optax.apply_updates(self.params, updates), opt_state)  # type: ignore[arg-type]


def descend(
    loss: Callable[..., tuple[Float[Array, ""], Metrics]],
    learner: Learner[P],
    optimizer: optax.GradientTransformation,
    *args: Any,
) -> tuple[Learner[P], Metrics]:
    """One gradient step on `loss(params, *args) -> (scalar, metrics)`."""
    grads, metrics = jax.grad(loss, has_aux=True)(learner.params, *args)
    return learner.apply(grads, optimizer), metrics


class Phase(NamedTuple):
    """A stretch of offline training: `updates` times `update(state, batch, key)`."""

    name: str
    updates: int
    update: Callable[[Any, Batch, PRNGKeyArray], tuple[Any, Metrics]]


class Agent(Protocol):
    """What the trainers need of a method. Implementations are frozen, hashable dataclasses.

    All functions act on one seed; the trainer maps them over the population. `State` is one
    pytree of arrays for the agent's whole life, offline and online.
    """

    needs_offline_data: bool
    batch_size: int

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
    ) -> tuple[Float[Array, "n act"], Metrics]:
        """Exploring actions in [-1, 1] and per-observation facts to log (leaves (n,))."""

    def act_deterministic(
        self, acting: Any, observations: Float[Array, "n obs"]
    ) -> tuple[Float[Array, "n act"], Metrics]:
        """Evaluation actions in [-1, 1], and the same facts."""

    def update(self, state: Any, batch: Batch, key: PRNGKeyArray) -> tuple[Any, Metrics]:
        """One online update."""

    def hand_over(self, state: Any, armed: Array) -> Any:
        """Tell the agent that from now on (`armed`, bool) the gate may open."""


class Normaliser(NamedTuple):
    """Standardises observations by dataset statistics; saved with the policy."""

    mean: Float[Array, " obs"]
    std: Float[Array, " obs"]

    def __call__(self, observations: Float[Array, "*batch obs"]) -> Float[Array, "*batch obs"]:
        return (observations - self.mean) / self.std

    def batch(self, batch: Batch) -> Batch:
        return batch._replace(
            observations=self(batch.observations), next_observations=self(batch.next_observations)
        )


def mean_abs(x: Float[Array, "*any"]) -> Float[Array, ""]:
    return jnp.abs(x).mean()
