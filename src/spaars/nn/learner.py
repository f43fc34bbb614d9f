"""A network together with the state of the optimiser that trains it."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import optax
from jaxtyping import Array, Float

P = TypeVar("P")
Metrics = dict[str, Float[Array, ""]]


class Learner(NamedTuple, Generic[P]):
    """Parameters and the state of the optimiser that trains them."""

    params: P
    opt_state: optax.OptState

    @classmethod
    def create(cls, params: P, optimizer: optax.GradientTransformation) -> "Learner[P]":
        return cls(params, optimizer.init(params))

    def apply(self, grads: P, optimizer: optax.GradientTransformation) -> "Learner[P]":
        updates, opt_state = optimizer.update(grads, self.opt_state, self.params)
        return Learner(optax.apply_updates(self.params, updates), opt_state)


def descend(
    loss: Callable[..., tuple[Float[Array, ""], Metrics]],
    learner: Learner[P],
    optimizer: optax.GradientTransformation,
    *args: Any,
) -> tuple[Learner[P], Metrics]:
    """One gradient step on `loss(params, *args) -> (scalar, metrics)`."""
    grads, metrics = jax.grad(loss, has_aux=True)(learner.params, *args)
    return learner.apply(grads, optimizer), metrics
