import jax
import numpy as np

from spaars.nn import GRU, BidirectionalGRU

KEY = jax.random.key(0)


def by_hand(gru: GRU, x: np.ndarray) -> np.ndarray:
    """Cho et al., 2014, one sequence and step at a time."""

    def sigmoid(v):
        return 1.0 / (1.0 + np.exp(-v))

    w, b = np.asarray(gru.inputs.weight), np.asarray(gru.inputs.bias)
    v, c = np.asarray(gru.recurrent.weight), np.asarray(gru.recurrent.bias)
    n = v.shape[0]
    out = np.zeros((*x.shape[:2], n))
    for i, sequence in enumerate(x):
        h = np.zeros(n)
        for t, x_t in enumerate(sequence):
            a, r = x_t @ w + b, h @ v + c
            reset, update = sigmoid(a[:n] + r[:n]), sigmoid(a[n : 2 * n] + r[n : 2 * n])
            candidate = np.tanh(a[2 * n :] + reset * r[2 * n :])
            h = update * h + (1.0 - update) * candidate
            out[i, t] = h
    return out


def test_gru_is_the_papers():
    gru = GRU(3, 5, key=KEY)
    x = jax.random.normal(jax.random.key(1), (2, 4, 3))
    np.testing.assert_allclose(gru(x), by_hand(gru, np.asarray(x)), atol=1e-5)


def test_backwards_is_forwards_on_the_reversed_sequence():
    both = BidirectionalGRU(3, 5, key=KEY)
    x = jax.random.normal(jax.random.key(1), (2, 4, 3))
    out = both(x)
    assert out.shape == (2, 4, 10)
    np.testing.assert_allclose(out[..., :5], both.forward(x), atol=1e-6)
    np.testing.assert_allclose(out[:, ::-1, 5:], both.backward(x[:, ::-1]), atol=1e-6)
