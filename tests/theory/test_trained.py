"""Estimators of trained runs on agents made by hand, whose answers are known in closed form.

Linear decoder D(s, u) = U u + f(s), quadratic critics Q_e(s, a) = c_e - ||a - m(s)||^2 h.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from spaars.errors import ConfigError
from spaars.theory.trained import (
    Parts,
    TrainedGapStudy,
    TrainedVarianceStudy,
    gradient_variances,
    minimise_in_box,
    ratio_of_means,
)

U = jnp.array([[0.6], [0.8], [0.0]])  # a unit direction: k = 1, d = 3
H, GAMMA, LEVELS = 3.0, 0.9, (1.0, 5.0)


def best_action(obs):
    """m(s): inside the box, and off the decoder's line by |obs_0| in its third dimension."""
    along = 0.5 * obs[:, 1:2] * U[:, 0]
    return along + obs[:, :1] * jnp.array([0.0, 0.0, 1.0])


PARTS = Parts(
    decode=Partial(lambda obs, u: u @ U.T),
    critics=Partial(
        lambda obs, a: jnp.array(LEVELS)[:, None] - H * jnp.square(a - best_action(obs)).sum(-1)
    ),
    raw=Partial(lambda obs: best_action(obs) + jnp.array([0.0, 0.0, 0.1])),
    latent=Partial(lambda obs: jnp.zeros((len(obs), 1))),
    discount=GAMMA,
)


def states(n=40):
    return np.random.default_rng(0).uniform(-0.6, 0.6, (n, 2)).astype(np.float32)


def test_gap_of_a_linear_decoder_and_quadratic_critics():
    obs = states()
    executed = np.asarray(best_action(obs)) + np.array([0.0, 0.2, 0.0], np.float32)
    found = TrainedGapStudy(states=40, starts=2, steps=60).run(PARTS, obs, executed)
    off = np.abs(obs[:, 0])
    assert found.eps["best"] == pytest.approx(off, abs=2e-3)
    assert found.eps["raw"] == pytest.approx(np.abs(obs[:, 0] + 0.1), abs=2e-3)
    assert found.best.eps_mean == pytest.approx(off.mean(), abs=2e-3)
    assert found.best.eps_max == pytest.approx(off.max(), abs=2e-3)
    # Q(a*) - Q(nearest) = H eps^2, alike for both critics, over 1 - gamma.
    cost = float(H * np.square(obs[:, 0]).mean() / (1.0 - GAMMA))
    assert found.best.difference == pytest.approx(cost, rel=0.02)
    assert found.best.difference_low == pytest.approx(found.best.difference_high, rel=1e-3)
    assert found.best.difference_chosen == pytest.approx(cost, rel=0.02)  # nearest is best here
    # The raw action is 0.1 above the best one: it loses H 0.01 itself.
    raw_cost = cost - H * 0.01 / (1.0 - GAMMA)
    assert found.raw.difference == pytest.approx(raw_cost, abs=0.02 * cost)
    # ||grad_a Q|| = 2 H ||a - m|| = 2 H 0.2 at every executed action.
    assert found.slope_95 == pytest.approx(2.0 * H * 0.2, rel=1e-4)
    assert found.slope_max == pytest.approx(2.0 * H * 0.2, rel=1e-4)
    bound = found.slope_max * found.best.eps_mean / (1.0 - GAMMA)
    assert found.best.lipschitz_max == pytest.approx(bound, rel=1e-6)
    value = min(LEVELS) - H * np.square(np.asarray(best_action(obs))).sum(1).mean()
    assert found.value == pytest.approx(value, rel=1e-4)  # the latent policy does 0


def test_the_decoder_ends_at_the_latent_bound():
    """A target beyond u = 1 is as far as it lies beyond the box, and descent is a projection."""
    target = jnp.array([[1.5], [0.25]])
    found = minimise_in_box(
        lambda u: jnp.square(u - target).sum(-1), jnp.zeros((1, 2, 1)), steps=80
    )
    assert np.asarray(found)[:, 0] == pytest.approx([1.0, 0.25], abs=2e-3)


def test_descent_needs_its_starts_and_keeps_the_best():
    """(u^2 - 0.49)^2 - 0.1 u has its lower valley at 0.72; from -0.7 alone it is not found."""

    def valleys(u):
        return (jnp.square(jnp.square(u) - 0.49) - 0.1 * u).sum(-1)

    one = minimise_in_box(valleys, jnp.full((1, 1, 1), -0.7), 60)
    several = minimise_in_box(valleys, jnp.array([[[-0.7]], [[0.3]]]), 60)
    assert float(one[0, 0]) < 0.0
    assert float(several[0, 0]) == pytest.approx(0.72, abs=0.02)
    start = jnp.full((1, 1, 1), 0.72)
    worse = minimise_in_box(lambda u: jnp.abs(u - 0.72).sum(-1), start, 1)
    assert float(worse[0, 0]) == pytest.approx(0.72)


def test_variances_of_a_quadratic_in_closed_form():
    """objective = b'x - x'diag(h)x + c at mean 0: the formulas of docs/theory.md, section 2."""
    b, h = jnp.array([0.5, -1.0, 2.0]), jnp.array([0.3, 0.6, 0.9])
    sigma, samples, level = 0.3, 40_000, 50.0
    noise = jax.random.normal(jax.random.key(0), (samples, 3))
    value, advantage, slopes, signal = gradient_variances(
        lambda x: level + x @ b - jnp.square(x) @ h, jnp.zeros(3), sigma, noise
    )
    slope, curvature = float(b @ b), sigma**2 * float(h @ h)
    expected = slope * 4 + 2 * curvature * 7  # dim + 1 and dim + 4
    assert float(advantage) == pytest.approx(expected, rel=0.05)
    assert float(slopes) == pytest.approx(4 * curvature, rel=0.05)
    assert float(signal) == pytest.approx(slope, rel=0.05)
    # A constant added to Q: dim c^2 / sigma^2 more, which is where k/d comes from.
    level_less = level - sigma**2 * float(h.sum())
    assert float(value) == pytest.approx(3 * level_less**2 / sigma**2 + expected, rel=0.05)


@functools.cache  # the same functions: nothing is compiled again
def parts_of_rank(k):
    """d = 4, the first k actions are the latents; critics c + b'a with a large level c."""
    b = jnp.array([1.0, -1.0, 1.0, -1.0])
    return Parts(
        decode=Partial(lambda obs, u: jnp.pad(u, ((0, 0), (0, 4 - k)))),
        critics=Partial(lambda obs, a: jnp.stack([1_000.0 + a @ b, 1_001.0 + a @ b])),
        raw=Partial(lambda obs: jnp.zeros((len(obs), 4))),
        latent=Partial(lambda obs: jnp.zeros((len(obs), k))),
        discount=0.9,
    )


@pytest.mark.parametrize("k", [1, 2])
def test_ratio_is_k_over_d_where_weights_do_not_depend_on_the_action(k):
    study = TrainedVarianceStudy(states=40, samples=200, sigma=(0.05,))
    (found,) = study.run(parts_of_rank(k), states())
    assert (found.latents, found.actions) == (k, 4)
    mean, low, high = ratio_of_means(found.latent.score_value, found.raw.score_value)
    assert low <= mean <= high
    assert mean == pytest.approx(k / 4, rel=0.05)
    # A linear Q with slope b: ||b_k||^2 (k + 1) against 4 (4 + 1), as tanh is linear at 0.
    mean, _, _ = ratio_of_means(found.latent.score_advantage, found.raw.score_advantage)
    assert mean == pytest.approx(k * (k + 1) / 20, rel=0.15)


def test_same_seed_same_numbers_and_bad_flags():
    study = TrainedVarianceStudy(states=40, samples=200, sigma=(0.05,))
    first, second = (study.run(parts_of_rank(1), states())[0] for _ in range(2))
    assert np.array_equal(first.latent.reparameterised, second.latent.reparameterised)
    for bad, flag in (
        (TrainedVarianceStudy(sigma=()), "--sigma"),
        (TrainedVarianceStudy(sigma=(0.0,)), "--sigma"),
        (TrainedVarianceStudy(samples=1), "--samples"),
        (TrainedGapStudy(steps=0), "--steps"),
        (TrainedGapStudy(starts=-1), "--starts"),
    ):
        with pytest.raises(ConfigError, match=flag):
            bad.check()
