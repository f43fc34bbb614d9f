"""Layers that act on whole batches.

Every layer multiplies `(*batch, in)` by `(in, out)` at once. A per-example layer under `vmap`
(Equinox's default style) costs a third of the speed on CPU (docs/lab-notebook.md).
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

M = TypeVar("M")


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], bound: float) -> Float[Array, "..."]:
    """`jax.random.uniform(key, shape)` in +-`bound`, bit for bit. A number depends on the key and
    its place alone, so a few lengths do for all shapes: each costs a second of compiling, which
    was a third of the time to the first update (docs/speed.md)."""
    count = math.prod(shape)
    length = 1_024
    while length < count:
        length *= 4
    drawn = jax.random.uniform(key, (length,), jnp.float32, -bound, bound)
    return jax.lax.slice_in_dim(drawn, 0, count).reshape(shape)


class Linear(eqx.Module):
    """`x @ weight + bias`, initialised uniformly in +-`scale`/sqrt(in) (PyTorch's default)."""

    weight: Float[Array, "n_in n_out"]
    bias: Float[Array, " n_out"]

    def __init__(self, n_in: int, n_out: int, *, key: PRNGKeyArray, scale: float = 1.0):
        w_key, b_key = jax.random.split(key)
        bound = scale / n_in**0.5
        self.weight = uniform(w_key, (n_in, n_out), bound)
        self.bias = uniform(b_key, (n_out,), bound)

    def __call__(self, x: Float[Array, "*batch n_in"]) -> Float[Array, "*batch n_out"]:
        return x @ self.weight + self.bias


class LayerNorm(eqx.Module):
    """Normalises the last axis, then scales and shifts it (Ba et al., 2016)."""

    gain: Float[Array, " n"]
    shift: Float[Array, " n"]

    def __init__(self, n: int):
        self.gain = jnp.ones(n, jnp.float32)
        self.shift = jnp.zeros(n, jnp.float32)

    def __call__(self, x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        return layer_norm(x, self.gain, self.shift)


@jax.custom_vjp
def layer_norm(x: Array, gain: Array, shift: Array) -> Array:
    """Layers are small: what costs is how often they are read. So mean and variance are taken of
    `x` as it is, and the gradient below is written out; together a tenth off an update of five
    critics on a CPU (docs/speed.md).

    Where |mean| is 10, 100 standard deviations, the variance is off by 3e-5, 3e-3 of itself; in
    trained critics it is 1.3 at most (docs/lab-notebook.md)."""
    return _layer_norm(x, gain, shift)[0]


def _layer_norm(x: Array, gain: Array, shift: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x).mean(-1, keepdims=True) - jnp.square(mean)
    scale = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + 1e-6)
    standardised = (x - mean) * scale
    return standardised * gain + shift, (standardised, scale, gain)


def _layer_norm_gradient(kept: tuple[Array, Array, Array], dy: Array) -> tuple[Array, Array, Array]:
    standardised, scale, gain = kept
    weighted = dy * standardised
    # Means over the axis as products with gain / n.
    mean_gain = gain / gain.shape[0]
    mean, along = (dy @ mean_gain)[..., None], (weighted @ mean_gain)[..., None]
    dx = scale * (dy * gain - mean - standardised * along)
    batch = tuple(range(dy.ndim - 1))
    return dx, weighted.sum(batch), dy.sum(batch)


layer_norm.defvjp(_layer_norm, _layer_norm_gradient)


class MLP(eqx.Module):
    """Linear -> (LayerNorm) -> ReLU, repeated; the last layer is linear."""

    layers: tuple[Linear, ...]
    norms: tuple[LayerNorm, ...]

    def __init__(
        self,
        n_in: int,
        n_out: int,
        hidden: Sequence[int],
        *,
        key: PRNGKeyArray,
        layer_norm: bool = False,
        final_scale: float = 1.0,
    ):
        widths = (n_in, *hidden)
        keys = jax.random.split(key, len(hidden) + 1)
        hidden_layers = (
            Linear(a, b, key=k) for a, b, k in zip(widths[:-1], widths[1:], keys[:-1], strict=True)
        )
        self.layers = (*hidden_layers, Linear(widths[-1], n_out, key=keys[-1], scale=final_scale))
        self.norms = tuple(LayerNorm(n) for n in hidden) if layer_norm else ()

    def __call__(
        self,
        x: Float[Array, "*batch n_in"],
        dropout: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*batch n_out"]:
        """With a `key`, each hidden unit is dropped with probability `dropout`."""
        for i, layer in enumerate(self.layers[:-1]):
            x = layer(x)
            if self.norms:
                x = self.norms[i](x)
            x = jax.nn.relu(x)
            if key is not None and dropout > 0.0:
                keep = jax.random.bernoulli(jax.random.fold_in(key, i), 1.0 - dropout, x.shape)
                x = jnp.where(keep, x / (1.0 - dropout), 0.0)
        return self.layers[-1](x)


class Critics(eqx.Module):
    """An ensemble Q_1..Q_E(s, a) on raw actions.

    The members are a tuple, not a stacked array: batched matrix products under `vmap` are slower
    than E separate ones on CPU, and XLA runs the separate ones side by side.
    """

    members: tuple[MLP, ...]

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        size: int,
        *,
        key: PRNGKeyArray,
        layer_norm: bool = True,
    ):
        self.members = tuple(
            MLP(observation_dim + action_dim, 1, hidden, key=k, layer_norm=layer_norm)
            for k in jax.random.split(key, size)
        )

    def __call__(
        self, observations: Float[Array, "*batch obs"], actions: Float[Array, "*batch act"]
    ) -> Float[Array, "ensemble *batch"]:
        x = jnp.concatenate([observations, actions], -1)
        return jnp.stack([member(x)[..., 0] for member in self.members])


def polyak(online: M, target: M, tau: float) -> M:
    """target <- (1 - tau) target + tau online, leaf by leaf."""
    return jax.tree.map(lambda o, t: (1.0 - tau) * t + tau * o, online, target)
