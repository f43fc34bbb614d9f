"""Gradient variances against closed forms, and the ratio k/d where theory promises it."""

import dataclasses
import math

import numpy as np
import pytest

from lq_scalar import IDLE, SCALAR
from spaars.errors import ConfigError
from spaars.theory.lq import (
    LQ,
    action_hessian,
    cost_matrix,
    greedy_gain,
    optimal_cost_matrix,
    random_directions,
    random_problem,
)
from spaars.theory.study import bootstrap_interval
from spaars.theory.variance import VarianceStudy, exact_variances, measured_variances

# SCALAR, idle: P = 3, H = 5/2, grad_a Q(1, 0) = -gamma 2 P = -3.
# Four actions, one for each state, all alike: H is a multiple of the identity.
ALIKE = LQ(
    A=0.9 * np.eye(4),
    B=np.eye(4),
    Q=np.eye(4),
    R=np.eye(4),
    gamma=0.9,
    start=np.random.default_rng(0).normal(size=(8, 4)),
    noise=np.zeros((4, 4)),
)


def case(noise=1.0, gamma=0.9):
    rng = np.random.default_rng(0)
    problem = random_problem(rng, states=3, actions=4, gamma=gamma, noise=noise, starts=8)
    K = greedy_gain(problem, optimal_cost_matrix(problem)) / 2.0
    return rng, problem, K, random_directions(rng, 4, 2)


def test_exact_variances_by_hand():
    # b^2 (k + 1) + 2 sigma^2 H^2 (k + 4) = 9 * 2 + 2 * 4 * 6.25 * 5; 4 sigma^2 H^2 = 4 * 4 * 6.25
    score, reparameterised = exact_variances(SCALAR, IDLE, np.eye(1), sigma=2.0)
    assert score == pytest.approx(18.0 + 250.0)
    assert reparameterised == pytest.approx(100.0)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_measured_are_the_exact_ones(sigma):
    rng, problem, K, U = case()
    for directions in (np.eye(4), U):
        found = measured_variances(
            problem, K, directions, sigma=sigma, samples=100_000, steps=1, rng=rng
        )
        score, reparameterised = exact_variances(problem, K, directions, sigma)
        assert found.score_advantage == pytest.approx(score, rel=0.05)
        assert found.reparameterised == pytest.approx(reparameterised, rel=0.02)


def test_a_one_step_return_without_noise_is_the_advantage():
    # r + gamma V(s') - V(s): every constant of V, that of exploration too, must be right.
    rng, problem, K, U = case(noise=0.0)
    found = measured_variances(problem, K, U, sigma=0.7, samples=500, steps=1, rng=rng)
    assert found.score_return == pytest.approx(found.score_advantage, rel=1e-9)


def test_returns_add_the_noise_of_later_steps_and_no_bias():
    # One step, sigma -> 0: the weight is -gamma (w'Pw - tr PW + 2 w'P M s), of variance
    # gamma^2 (2 tr (PW)^2 + 4 s'M'PWPM s), apart from xi; a biased V would add its square.
    sigma = 1e-4
    rng, problem, K, U = case(gamma=0.3)  # short-sighted, so that a wrong constant shows
    P, M, W = cost_matrix(problem, K), problem.closed_loop(K), problem.noise
    linear = np.einsum("mi,ij,mj->m", problem.start, M.T @ P @ W @ P @ M, problem.start).mean()
    weight = problem.gamma**2 * (2.0 * np.trace(P @ W @ P @ W) + 4.0 * linear)
    found = measured_variances(problem, K, U, sigma=sigma, samples=200_000, steps=1, rng=rng)
    assert found.score_return == pytest.approx(2 * weight / sigma**2, rel=0.03)
    # Longer returns are noisier, and still unbiased: exactly the value is subtracted.
    longer = measured_variances(problem, K, U, sigma=sigma, samples=20_000, steps=20, rng=rng)
    assert longer.score_return > found.score_return


def test_equal_curvature_gives_exactly_k_over_d_when_reparameterised():
    U = random_directions(np.random.default_rng(1), 4, 1)
    K = greedy_gain(ALIKE, optimal_cost_matrix(ALIKE))
    raw, latent = (exact_variances(ALIKE, K, V, sigma=0.3) for V in (np.eye(4), U))
    assert latent[1] / raw[1] == pytest.approx(1 / 4)
    # At the optimum the advantage is all curvature: (k/d) (k + 4)/(d + 4), less than k/d.
    assert latent[0] / raw[0] == pytest.approx(1 / 4 * 5 / 8)


def test_advantages_of_equal_size_do_not_give_k_over_d():
    # k/d bounds neither side: scaled to the same E[A^2] the ratio is (k + 4)/(d + 4) here, above.
    U = random_directions(np.random.default_rng(1), 4, 1)
    K = greedy_gain(ALIKE, optimal_cost_matrix(ALIKE))
    H = action_hessian(ALIKE, optimal_cost_matrix(ALIKE))
    raw, latent = (exact_variances(ALIKE, K, V, sigma=0.3)[0] for V in (np.eye(4), U))
    scale = np.trace(H @ H) / np.trace(U.T @ H @ U @ U.T @ H @ U)  # of E[A^2] = 2 sigma^4 tr H^2
    assert latent * scale / raw == pytest.approx(5 / 8)


def test_ratio_is_k_over_d_where_noise_dominates_returns():
    study = VarianceStudy(
        problems=8, states=4, actions=(3, 6), latents=(1, 2), sigma=0.05, samples=3000, steps=20
    )
    cells = study.run()
    assert [(cell.actions, cell.latents) for cell in cells] == [(3, 1), (3, 2), (6, 1), (6, 2)]
    for cell in cells:
        share = cell.latents / cell.actions
        assert cell.score_return.mean() == pytest.approx(share, rel=0.12)
        # Exact advantages gain more than k/d on average; measured and exact ratios agree.
        assert cell.score_advantage.mean() < share
        np.testing.assert_allclose(cell.score_advantage, cell.exact_advantage, rtol=0.35)
        np.testing.assert_allclose(cell.reparameterised, cell.exact_reparameterised, rtol=0.2)


def test_same_seed_same_numbers():
    study = VarianceStudy(problems=2, actions=(2,), latents=(1,), samples=100, steps=3)
    first, second = study.run(), study.run()
    other = dataclasses.replace(study, seed=1).run()
    for one, again in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(one, again)
    assert np.all(first[0].score_return != other[0].score_return)


def test_bootstrap_interval_covers_as_the_normal_one_does():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = bootstrap_interval(values)
    margin = 1.96 * values.std() / 20.0
    assert low == pytest.approx(values.mean() - margin, abs=0.01)
    assert high == pytest.approx(values.mean() + margin, abs=0.01)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"problems": 1}, "--problems"),
        ({"samples": 1}, "--samples"),
        ({"steps": 0}, "--steps"),
        ({"states": 0}, "--states"),
        ({"actions": (2, 2)}, "--actions"),
        ({"actions": ()}, "--actions"),
        ({"latents": (0, 1)}, "--latents"),
        ({"actions": (2,), "latents": (2, 4)}, "fewer latents than actions"),
        ({"gamma": 0.0}, "--gamma"),
        ({"sigma": 0.0}, "--sigma"),
        ({"noise": math.nan}, "--noise"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_studies_that_are_refused(change, flag):
    with pytest.raises(ConfigError, match=flag):
        VarianceStudy(**change).run()
