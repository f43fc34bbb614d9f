"""The chain of inequalities on the exploitation gap, and each of its terms by other means."""

import dataclasses
import math

import numpy as np
import pytest

from spaars.errors import ConfigError
from spaars.theory import gap as gap_module
from spaars.theory.gap import GapStudy, exploitation_gap
from spaars.theory.gated import exact_q
from spaars.theory.lq import (
    LQ,
    Decoder,
    cost_matrix,
    decoder_with_error,
    expected_return,
    greedy_gain,
    optimal_cost_matrix,
    random_directions,
    random_problem,
)

# Two actions that do the same, each at cost 2: together as the scalar problem of test_lq, P* = 2,
# K* = (1/4, 1/4), H = [[3, 1], [1, 3]]. The decoder holds the first one only.
TWO_ACTIONS = LQ(
    A=np.eye(1),
    B=np.ones((1, 2)),
    Q=np.array([[1.5]]),
    R=2.0 * np.eye(2),
    gamma=0.5,
    start=np.ones((1, 1)),
    noise=np.zeros((1, 1)),
)
FIRST_ONLY = Decoder(U=np.array([[1.0], [0.0]]), F=np.zeros((2, 1)))


def random_case(seed):
    """A problem and a decoder of any size, discount, rank and error."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 7)), int(rng.integers(2, 7))
    gamma = float(rng.choice([0.5, 0.8, 0.9, 0.95]))
    problem = random_problem(rng, states=n, actions=d, gamma=gamma, starts=4)
    K = greedy_gain(problem, optimal_cost_matrix(problem))
    U = random_directions(rng, d, int(rng.integers(1, d)))
    return problem, decoder_with_error(U, K, float(rng.uniform(0.05, 1.5)))


def test_by_hand():
    found = exploitation_gap(TWO_ACTIONS, FIRST_ONLY)
    # pibar takes a_1 = -s/4: s_t = 3^t/4^t, J = -(3/2 + 2/16) / (1 - 9/32) = -52/23.
    assert found.best_return == pytest.approx(-2.0)
    assert found.nearest_gap == pytest.approx(52 / 23 - 2)
    # e = (0, 1/4) s, e'He = 3/16 s^2, and sum g^t s_t^2 = 32/23.
    assert found.difference == pytest.approx(3 / 16 * 32 / 23)
    # Best latent: P = 3/2 + P / (2 + P/2), so P^2 + P/2 = 6.
    assert found.gap == pytest.approx((-0.5 + math.sqrt(24.25)) / 2 - 2)
    # E eps = 1/2 * 1/4 / (1 - 3/8) = 1/5; slope at the start 2 ||He|| = ||(1, 3)|| / 2.
    assert found.mean_error == pytest.approx(0.2)
    assert found.lipschitz_constant == pytest.approx(math.sqrt(10) / 2)
    assert found.lipschitz == pytest.approx(2 * 0.2 * math.sqrt(10) / 2)
    # lambda_max(H) = 4 instead of the 3 along e.
    assert found.quadratic == pytest.approx(found.difference * 4 / 3)
    assert found.holds()


def test_no_latents_at_all():
    # Doing nothing returns -3, the optimum -2, and the lemma is exact where pibar is Pi_D's best.
    nothing = Decoder(U=np.zeros((2, 0)), F=np.zeros((2, 1)))
    found = exploitation_gap(TWO_ACTIONS, nothing)
    assert found.gap == pytest.approx(1.0)
    assert found.difference == pytest.approx(1.0)


def test_chain_holds_in_a_thousand_random_problems():
    finite = 0
    for seed in range(1000):
        found = exploitation_gap(*random_case(seed))
        assert found.holds(), (seed, found)
        if not math.isfinite(found.lipschitz):
            continue
        finite += 1
        assert found.difference == pytest.approx(found.nearest_gap, rel=1e-6, abs=1e-9)
        # The slope of a quadratic Q* vanishes at a*: half of the Lipschitz bound is enough.
        assert found.difference <= 0.5 * found.lipschitz * (1.0 + 1e-9)
        assert found.truncation <= 1e-9 * found.mean_error
    assert finite > 900


def test_holds_sees_each_broken_link():
    good = exploitation_gap(TWO_ACTIONS, FIRST_ONLY)
    for change in (
        {"gap": -1e-6},
        {"gap": good.difference * 1.001},
        {"lipschitz": good.difference * 0.999},
        {"quadratic": good.difference * 0.999},
    ):
        assert not dataclasses.replace(good, **change).holds()


def test_lipschitz_constant_bounds_slopes_of_q_and_is_attained():
    for seed in range(6):
        problem, decoder = random_case(seed)
        found = exploitation_gap(problem, decoder)
        if not math.isfinite(found.lipschitz):
            continue
        P = optimal_cost_matrix(problem)
        K = greedy_gain(problem, P)
        K_near = decoder.nearest_gain(K)
        states, steepest = problem.start, 0.0
        for _ in range(60):
            best, near = -states @ K.T, -states @ K_near.T
            for a, b in ((0.0, 0.5), (0.3, 0.4), (0.999, 1.0)):
                low, high = (best + part * (near - best) for part in (a, b))
                # Along the segment; the gradient's norm is at least the slope in any direction.
                rise = np.abs(exact_q(problem, P, states, low) - exact_q(problem, P, states, high))
                length = np.linalg.norm(high - low, axis=1)
                seen = length > 1e-6
                assert np.all(rise[seen] <= found.lipschitz_constant * length[seen] * (1 + 1e-6))
            ends = [near + 1e-5 * unit for unit in np.eye(near.shape[1])]
            starts = [near - 1e-5 * unit for unit in np.eye(near.shape[1])]
            gradient = [
                (exact_q(problem, P, states, x) - exact_q(problem, P, states, y)) / 2e-5
                for x, y in zip(ends, starts, strict=True)
            ]
            steepest = max(steepest, np.linalg.norm(gradient, axis=0).max())
            states = states @ problem.closed_loop(K_near).T
        assert steepest == pytest.approx(found.lipschitz_constant, rel=1e-5)


def test_truncation_is_certified(monkeypatch):
    for seed in range(50):
        case = random_case(seed)
        full = exploitation_gap(*case)
        monkeypatch.setattr(gap_module, "FORGOTTEN", 1e-2)
        cut = exploitation_gap(*case)
        monkeypatch.undo()
        if math.isfinite(full.lipschitz):
            missing = full.mean_error - cut.mean_error
            assert -1e-15 <= missing <= cut.truncation + 1e-15
            assert cut.lipschitz <= full.lipschitz  # what is checked is never the easier bound


def test_with_noise_the_lemma_stays_exact_and_no_lipschitz_constant_is_claimed():
    noisy = dataclasses.replace(TWO_ACTIONS, noise=np.eye(1))
    found = exploitation_gap(noisy, FIRST_ONLY)
    assert found.difference == pytest.approx(found.nearest_gap)
    assert 0.0 < found.gap < found.difference < found.quadratic < math.inf
    assert found.lipschitz == math.inf
    assert found.holds()


def test_bounds_of_a_policy_that_runs_away_are_infinite():
    # With z = 0 the second action pushes s from 1 to 1 + 3/2, and the nearest first action, -1/4,
    # brings it only to 2.25 > gamma^-1/2; a first action of -2 would hold it.
    found = exploitation_gap(
        TWO_ACTIONS, Decoder(U=np.array([[1.0], [0.0]]), F=np.array([[0.0], [-1.5]]))
    )
    assert found.difference == found.lipschitz == math.inf
    assert math.isfinite(found.gap)
    assert found.holds()


def test_more_latents_never_widen_the_gap():
    gaps = GapStudy(problems=20, states=4, actions=4).run()
    for fewer, more in ((1, 2), (2, 3)):
        for low, high in zip(gaps[fewer], gaps[more], strict=True):
            assert high.gap <= low.gap + 1e-9 * abs(low.best_return)


def test_gap_by_gradient_ascent():
    """The best latent policy by search on returns, without its Riccati equation."""
    rng = np.random.default_rng(3)
    problem = random_problem(rng, states=3, actions=3, gamma=0.8)
    K = greedy_gain(problem, optimal_cost_matrix(problem))
    decoder = decoder_with_error(random_directions(rng, 3, 1), K, 1.0)
    found = exploitation_gap(problem, decoder)
    G = decoder.U.T @ decoder.nearest_gain(K)
    value = -math.inf
    for _ in range(100):
        value = expected_return(problem, cost_matrix(problem, decoder.U @ G))
        gradient = np.zeros_like(G)
        for i in range(G.size):
            step = np.zeros_like(G)
            step.flat[i] = 1e-5
            up, down = (
                expected_return(problem, cost_matrix(problem, decoder.U @ (G + x)))
                for x in (step, -step)
            )
            gradient.flat[i] = (up - down) / 2e-5
        size = 1.0
        while size > 1e-12:
            better = G + size * gradient
            M = problem.closed_loop(decoder.U @ better)
            if 0.8**0.5 * np.abs(np.linalg.eigvals(M)).max() < 1.0 and (
                expected_return(problem, cost_matrix(problem, decoder.U @ better)) > value
            ):
                G = better
                break
            size /= 2.0
    assert found.best_return - value == pytest.approx(found.gap, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"problems": 0}, "--problems"),
        ({"states": 0}, "--states"),
        ({"actions": 1}, "--actions"),
        ({"gamma": 1.0}, "--gamma"),
        ({"error": 0.0}, "--error"),
        ({"error": 2.1}, "--error"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_studies_that_are_refused(change, flag):
    with pytest.raises(ConfigError, match=flag):
        GapStudy(**change).run()
