"""Random network distillation (Burda et al., 2019): novelty as the error of predicting noise."""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from spaars.nn import MLP, Learner, Metrics, descend


class RND(NamedTuple):
    """A predictor learns the features of a fixed random network where it has been."""

    target: MLP
    predictor: Learner[MLP]

    @classmethod
    def create(
        cls,
        n_in: int,
        hidden: Sequence[int],
        features: int,
        tx: optax.GradientTransformation,
        target_key: PRNGKeyArray,
        predictor_key: PRNGKeyArray,
    ) -> "RND":
        target, predictor = (
            _glorot(MLP(n_in, features, hidden, key=key), key)
            for key in (target_key, predictor_key)
        )
        return cls(target, Learner.create(predictor, tx))

    def novelty(
        self, observations: Float[Array, "*b obs"], actions: Float[Array, "*b act"]
    ) -> Float[Array, "*b"]:
        """Mean squared error over the features: large where nothing alike was seen."""
        x = jnp.concatenate([observations, actions], -1)
        return jnp.square(self.predictor.params(x) - self.target(x)).mean(-1)

    def learn(
        self,
        observations: Float[Array, "b obs"],
        actions: Float[Array, "b act"],
        tx: optax.GradientTransformation,
    ) -> tuple["RND", Metrics]:
        """One gradient step towards knowing these."""
        x = jnp.concatenate([observations, actions], -1)
        predictor, metrics = descend(rnd_loss, self.predictor, tx, x, self.target(x))
        return self._replace(predictor=predictor), metrics


def _glorot(net: MLP, key: PRNGKeyArray) -> MLP:
    """Weights in +-sqrt(6 / (in + out)), biases zero (Glorot & Bengio, 2010), as published.

    How large novelty is beside rewards hangs on it: `Linear`'s own start has a third of the
    variance in every layer of 256, so four layers an eightieth.
    """
    initialise = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(net.layers))
    weights = [initialise(k, x.weight.shape) for k, x in zip(keys, net.layers, strict=True)]
    biases = [jnp.zeros_like(layer.bias) for layer in net.layers]
    return eqx.tree_at(
        lambda m: [x.weight for x in m.layers] + [x.bias for x in m.layers], net, weights + biases
    )


def rnd_loss(
    predictor: MLP, x: Float[Array, "b n"], features: Float[Array, "b m"]
) -> tuple[Float[Array, ""], Metrics]:
    """E (f(x) - f_random(x))^2, mean over the features."""
    loss = jnp.square(predictor(x) - features).mean()
    return loss, {"rnd_loss": loss}
