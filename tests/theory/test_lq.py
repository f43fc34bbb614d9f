"""Returns, Riccati solutions and visitation against numbers by hand and brute-force rollouts."""

import dataclasses
import math

import numpy as np
import pytest

from lq_scalar import SCALAR
from spaars.errors import ConfigError
from spaars.theory.lq import (
    Decoder,
    best_latent_gain,
    cost_matrix,
    decoder_with_error,
    expected_return,
    greedy_gain,
    is_finite,
    optimal_cost_matrix,
    random_directions,
    random_problem,
    visitation_moment,
)


def problems(count, **sizes):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        n, d = (int(size) for size in rng.integers(1, 6, 2))
        defaults = {"states": n, "actions": d, "gamma": float(rng.uniform(0.5, 0.95))}
        yield rng, random_problem(rng, **(defaults | sizes))


def rollout_return(problem, K, steps=600, noise=None):
    """Mean over start states of the discounted sum of rewards, nothing clever."""
    total, states = 0.0, problem.start
    for t in range(steps):
        actions = -states @ K.T
        cost = np.einsum("mi,ij,mj->m", states, problem.Q, states)
        cost += np.einsum("mi,ij,mj->m", actions, problem.R, actions)
        total -= problem.gamma**t * cost.mean()
        states = states @ problem.A.T + actions @ problem.B.T
        if noise is not None:
            states = states + noise[t]
    return total


def test_scalar_problem_by_hand():
    P = optimal_cost_matrix(SCALAR)
    np.testing.assert_allclose(P, [[2.0]], rtol=1e-13)
    np.testing.assert_allclose(greedy_gain(SCALAR, P), [[0.5]], rtol=1e-13)
    assert expected_return(SCALAR, P) == pytest.approx(-2.0)
    # Doing nothing: s stays 1 and costs 3/2 a step, -3 in all; with w of variance 1 another
    # gamma/(1-gamma) tr(P W) = 3.
    idle = cost_matrix(SCALAR, np.zeros((1, 1)))
    assert expected_return(SCALAR, idle) == pytest.approx(-3.0)
    noisy = dataclasses.replace(SCALAR, noise=np.eye(1))
    assert expected_return(noisy, idle) == pytest.approx(-6.0)
    # E[s^2] is 1, 2, 3, ... : (1 - g) sum g^t (1 + t) = 1 / (1 - g) = 2.
    np.testing.assert_allclose(visitation_moment(noisy, np.zeros((1, 1))), [[2.0]])


def test_optimal_return_is_what_rollouts_return_and_no_gain_near_it_does_better():
    for rng, problem in problems(15):
        P = optimal_cost_matrix(problem)
        K = greedy_gain(problem, P)
        best = expected_return(problem, P)
        assert rollout_return(problem, K) == pytest.approx(best, rel=1e-9)
        for size in (1e-3, 0.1):
            other = K + size * rng.normal(size=K.shape)
            if is_finite(problem, other):
                value = expected_return(problem, cost_matrix(problem, other))
                assert value <= best * (1.0 - 1e-12)
                assert rollout_return(problem, other) == pytest.approx(value, rel=1e-6)


def test_riccati_equals_value_iteration():
    for _, problem in problems(10):
        P = problem.Q
        for _ in range(600):
            K = greedy_gain(problem, P)
            M = problem.closed_loop(K)
            P = problem.Q + K.T @ problem.R @ K + problem.gamma * M.T @ P @ M
        np.testing.assert_allclose(optimal_cost_matrix(problem), P, rtol=1e-9, atol=1e-10)


def test_noisy_return_and_visitation_against_sampled_rollouts():
    rng = np.random.default_rng(0)
    problem = random_problem(rng, states=3, actions=2, gamma=0.8, noise=0.5, starts=20_000)
    K = greedy_gain(problem, optimal_cost_matrix(problem)) + 0.1
    noise = 0.5 * rng.normal(size=(60, 20_000, 3))
    value = expected_return(problem, cost_matrix(problem, K))
    assert rollout_return(problem, K, 60, noise) == pytest.approx(value, rel=0.02)
    moment, states = np.zeros((3, 3)), problem.start
    for t in range(60):
        moment += 0.2 * 0.8**t * states.T @ states / len(states)
        states = states @ problem.closed_loop(K).T + noise[t]
    np.testing.assert_allclose(visitation_moment(problem, K), moment, atol=0.03 * moment.max())


def test_no_latent_policy_beats_the_best_one():
    for rng, problem in problems(30, actions=4):
        K = greedy_gain(problem, optimal_cost_matrix(problem))
        U = rng.normal(size=(4, 2)) * 3.0  # neither orthonormal nor of unit length
        decoder = Decoder(U=U, F=K + rng.normal(size=K.shape) / 4.0)
        try:
            best = best_latent_gain(problem, decoder)
        except ConfigError:  # two latents cannot hold every state that four actions can
            continue
        inside = decoder.project(best - decoder.F)
        np.testing.assert_allclose(inside, best - decoder.F, atol=1e-9)  # it is a latent policy
        value = expected_return(problem, cost_matrix(problem, best))
        for size in (1e-3, 0.1, 1.0):
            other = best + size * U @ rng.normal(size=(2, K.shape[1]))
            if is_finite(problem, other):
                assert expected_return(problem, cost_matrix(problem, other)) < value


def test_nearest_gain_is_the_closest_decoded_action():
    rng = np.random.default_rng(0)
    U, F, K = rng.normal(size=(4, 2)), rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    decoder, s = Decoder(U=U, F=F), rng.normal(size=3)
    nearest = -decoder.nearest_gain(K) @ s
    error = np.linalg.norm(nearest + K @ s)
    for _ in range(100):
        z = rng.normal(size=2) + np.linalg.lstsq(U, nearest + F @ s, rcond=None)[0]
        assert np.linalg.norm(U @ z - F @ s + K @ s) >= error


def test_decoder_error_scales_the_distance_to_optimal_actions():
    rng = np.random.default_rng(0)
    U, K = random_directions(rng, 4, 2), rng.normal(size=(4, 3))
    np.testing.assert_allclose(U.T @ U, np.eye(2), atol=1e-12)
    full = K - decoder_with_error(U, K, 1.0).nearest_gain(K)
    np.testing.assert_allclose(full, K - U @ U.T @ K, atol=1e-12)
    half = K - decoder_with_error(U, K, 0.5).nearest_gain(K)
    np.testing.assert_allclose(half, full / 2.0, atol=1e-12)


def test_infinite_returns_are_refused():
    fast = dataclasses.replace(SCALAR, A=2.0 * np.eye(1))  # gamma^-1/2 is 1.41
    assert not is_finite(fast, np.zeros((1, 1)))
    with pytest.raises(ConfigError, match=r"not finite.*radius 2 .*1\.414"):
        cost_matrix(fast, np.zeros((1, 1)))
    assert is_finite(fast, greedy_gain(fast, optimal_cost_matrix(fast)))  # can be held
    helpless = dataclasses.replace(fast, B=np.zeros((1, 1)))
    with pytest.raises(ConfigError, match="no policy with a finite return"):
        optimal_cost_matrix(helpless)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"A": np.eye(2)}, r"A has shape \(2, 2\).*\(1, 1\)"),
        ({"R": np.zeros((1, 1))}, "R must be positive definite"),
        ({"Q": -np.eye(1)}, "Q must be symmetric and positive semidefinite"),
        ({"noise": np.array([[math.nan]])}, "noise holds values that are not finite"),
        ({"gamma": 1.0}, "gamma must be between 0 and 1"),
        ({"start": np.ones((3, 2))}, r"start has shape \(3, 2\)"),
        ({"start": np.ones((0, 1))}, r"start has shape \(0, 1\)"),
    ],
)
def test_problems_that_are_none(change, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(SCALAR, **change)
