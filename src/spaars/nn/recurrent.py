"""Gated recurrent units that act on whole batches of short sequences."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from spaars.nn.layers import Linear


class GRU(eqx.Module):
    """A gated recurrent unit (Cho et al., 2014; the reset gate after the product, as PyTorch's).

    The input products of all steps are taken at once.
    """

    inputs: Linear
    """To reset gate, update gate and candidate, side by side."""
    recurrent: Linear

    def __init__(self, n_in: int, n_out: int, *, key: PRNGKeyArray):
        in_key, recurrent_key = jax.random.split(key)
        self.inputs = Linear(n_in, 3 * n_out, key=in_key)
        self.recurrent = Linear(n_out, 3 * n_out, key=recurrent_key)

    def __call__(
        self, x: Float[Array, "batch time n_in"], *, reverse: bool = False
    ) -> Float[Array, "batch time n_out"]:
        n_out = self.recurrent.weight.shape[0]

        def step(h: Array, x_t: Array) -> tuple[Array, Array]:
            x_r, x_u, x_c = jnp.split(x_t, 3, -1)
            h_r, h_u, h_c = jnp.split(self.recurrent(h), 3, -1)
            update = jax.nn.sigmoid(x_u + h_u)
            candidate = jnp.tanh(x_c + jax.nn.sigmoid(x_r + h_r) * h_c)
            h = update * h + (1.0 - update) * candidate
            return h, h

        projected = jnp.swapaxes(self.inputs(x), 0, 1)
        h0 = jnp.zeros((x.shape[0], n_out), x.dtype)
        # Sequences are a few steps long: unrolled, XLA sees one graph.
        _, h = jax.lax.scan(step, h0, projected, reverse=reverse, unroll=True)
        return jnp.swapaxes(h, 0, 1)


class BidirectionalGRU(eqx.Module):
    """One unit reads forwards, one backwards; their outputs (2 n_out) stand side by side."""

    forward: GRU
    backward: GRU

    def __init__(self, n_in: int, n_out: int, *, key: PRNGKeyArray):
        forward_key, backward_key = jax.random.split(key)
        self.forward = GRU(n_in, n_out, key=forward_key)
        self.backward = GRU(n_in, n_out, key=backward_key)

    def __call__(
        self, x: Float[Array, "batch time n_in"]
    ) -> Float[Array, "batch time twice_n_out"]:
        return jnp.concatenate([self.forward(x), self.backward(x, reverse=True)], -1)
