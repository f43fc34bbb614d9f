import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spaars.nn import (
    MLP,
    Critics,
    LayerNorm,
    Learner,
    Linear,
    TanhGaussianPolicy,
    descend,
    polyak,
)
from spaars.nn.layers import layer_norm, uniform

KEY = jax.random.key(0)


def by_hand(mlp, x):
    """The layers in numpy, float64."""
    for i, layer in enumerate(mlp.layers):
        x = x @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)
        if i == len(mlp.layers) - 1:
            return x
        if mlp.norms:
            centred = x - x.mean(-1, keepdims=True)
            x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
            x = x * np.asarray(mlp.norms[i].gain) + np.asarray(mlp.norms[i].shift)
        x = np.maximum(x, 0.0)
    raise AssertionError("an MLP has a last layer")


@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (32, 32), (1025,), (40, 30, 5)])
def test_lengths_in_common_change_no_number(shape):
    expected = jax.random.uniform(KEY, shape, jnp.float32, -0.3, 0.3)
    np.testing.assert_array_equal(uniform(KEY, shape, 0.3), expected)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("hidden", [(), (5,), (6, 4)])
@pytest.mark.parametrize("batch", [(), (7,), (2, 3)])
def test_mlp_is_what_it_says(hidden, layer_norm, batch):
    mlp = MLP(3, 2, hidden, key=KEY, layer_norm=layer_norm)
    if layer_norm and hidden:
        gains = tuple(jnp.linspace(0.5, 2.0, n) for n in hidden)
        mlp = eqx.tree_at(lambda m: [norm.gain for norm in m.norms], mlp, list(gains))
        mlp = eqx.tree_at(lambda m: [norm.shift for norm in m.norms], mlp, list(gains))
    x = np.random.default_rng(0).normal(size=(*batch, 3)).astype(np.float32)
    np.testing.assert_allclose(mlp(jnp.asarray(x)), by_hand(mlp, x), rtol=2e-4, atol=2e-5)


def test_linear_golden():
    linear = eqx.tree_at(
        lambda m: (m.weight, m.bias),
        Linear(2, 2, key=KEY),
        (jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0.5, -0.5])),
    )
    # [1*1 + 2*3 + 0.5, 1*2 + 2*4 - 0.5]
    np.testing.assert_array_equal(linear(jnp.array([1.0, 2.0])), [7.5, 9.5])


def test_initial_weights_fill_their_bounds():
    linear = Linear(100, 200, key=KEY, scale=0.5)
    weight = np.abs(linear.weight)
    assert 0.049 < weight.max() <= 0.05  # 0.5 / sqrt(100)
    assert weight.mean() == pytest.approx(0.025, rel=0.05)  # uniform
    assert np.abs(linear.bias).max() <= 0.05
    small = MLP(4, 2, (8,), key=KEY, final_scale=1e-2)
    assert np.abs(small.layers[-1].weight).max() <= 1e-2 / 8**0.5
    assert np.abs(small.layers[0].weight).max() > 1e-1


def test_layer_norm_golden():
    # mean 2, variance (1 + 0 + 1)/3: (x - 2)/sqrt(2/3) = -1.224745, 0, 1.224745
    x = jnp.array([1.0, 2.0, 3.0])
    norm = LayerNorm(3)
    np.testing.assert_allclose(norm(x), [-1.2247440, 0.0, 1.2247440], rtol=1e-5)
    norm = eqx.tree_at(
        lambda m: (m.gain, m.shift), norm, (jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, 2.0]))
    )
    np.testing.assert_allclose(norm(x), [-1.2247440, 1.0, 5.6742320], rtol=1e-5)


def test_layer_norm_far_from_zero():
    x = np.float32(10.0 + np.random.default_rng(0).normal(size=(64, 256)))
    far = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    expected = far / np.sqrt((far**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(LayerNorm(256)(jnp.asarray(x)), expected, atol=2e-4)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_layer_norm_gradient_is_that_of_the_formula(batch):
    def formula(x, gain, shift):
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + 1e-6) * gain + shift

    seeds = 3  # a population: every argument is mapped
    draw = np.random.default_rng(0).normal
    gain, shift = np.float32(draw(size=(2, seeds, 8)))
    x, weights = np.float32(draw(size=(2, seeds, *batch, 8))) + np.float32(2.0)

    def gradient(layer):
        def loss(x, gain, shift, weights):
            return (weights * layer(x, gain, shift)).sum()

        return jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2))))(x, gain, shift, weights)

    for own, true in zip(gradient(layer_norm), gradient(formula), strict=True):
        assert own.shape == true.shape
        np.testing.assert_allclose(own, true, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_critics_are_separate_members(batch):
    critics = Critics(3, 2, (5,), 4, key=KEY)
    observations, actions = jnp.ones((*batch, 3)), jnp.full((*batch, 2), 0.5)
    q = critics(observations, actions)
    assert q.shape == (4, *batch)
    x = np.concatenate([observations, actions], -1)
    for member, values in zip(critics.members, q, strict=True):
        np.testing.assert_allclose(values, by_hand(member, x)[..., 0], rtol=1e-4, atol=1e-5)
    assert len({float(values.ravel()[0]) for values in q}) == 4


def test_polyak_golden():
    online, target = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([0.0, 4.0])}
    # 0.75 * 0 + 0.25 * 1, 0.75 * 4 + 0.25 * 2
    np.testing.assert_allclose(polyak(online, target, 0.25)["a"], [0.25, 3.5])
    np.testing.assert_array_equal(polyak(online, target, 0.0)["a"], target["a"])
    np.testing.assert_array_equal(polyak(online, target, 1.0)["a"], online["a"])


def test_policy_keeps_its_log_std_in_range():
    policy = TanhGaussianPolicy(3, 2, (4,), key=KEY, log_std_range=(-5.0, 2.0))
    bias = jnp.array([0.3, -0.3, -100.0, 100.0])
    policy = eqx.tree_at(lambda p: p.net.layers[-1].bias, policy, bias)
    pi = policy(jnp.zeros((6, 3)))
    np.testing.assert_allclose(pi.mean, np.tile([0.3, -0.3], (6, 1)), atol=0.05)
    np.testing.assert_array_equal(pi.log_std, np.tile([-5.0, 2.0], (6, 1)))


def test_descend_golden():
    def loss(params, target):
        value = jnp.square(params - target).sum()
        return value, {"loss": value}

    tx = optax.sgd(0.1)
    learner = Learner.create(jnp.array([1.0, 2.0]), tx)
    learner, metrics = descend(loss, learner, tx, jnp.zeros(2))
    # params - 0.1 * 2 params; the metrics are those before the step: 1 + 4
    np.testing.assert_allclose(learner.params, [0.8, 1.6])
    assert float(metrics["loss"]) == 5.0


def test_dropout_keeps_the_mean_and_drops_whole_units():
    """One hidden layer of weights 1 from an input of 1: the output counts the kept units."""
    n, rate, mlp = 1000, 0.25, MLP(1, 1, (1000,), key=KEY)
    ones = jax.tree.map(jnp.ones_like, mlp.layers)
    mlp = eqx.tree_at(lambda m: m.layers, mlp, ones)
    mlp = eqx.tree_at(
        lambda m: [layer.bias for layer in m.layers], mlp, [jnp.zeros(n), jnp.zeros(1)]
    )
    kept = mlp(jnp.ones((50, 1)), rate, KEY)[:, 0] * (1.0 - rate)
    np.testing.assert_allclose(kept, jnp.round(kept), atol=1e-2)
    spread = (n * rate * (1.0 - rate)) ** 0.5
    assert abs(float(kept.mean()) - n * (1.0 - rate)) < 4.0 * spread / 50**0.5
    assert 0.5 * spread < float(kept.std()) < 1.5 * spread
    np.testing.assert_array_equal(mlp(jnp.ones((2, 1)), rate), [[n], [n]])  # acting
