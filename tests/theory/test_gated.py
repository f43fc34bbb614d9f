"""The gate's guarantee under critics that err, and the bound's tightness."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from lq_scalar import IDLE, SCALAR
from spaars.algos import gate
from spaars.errors import ConfigError
from spaars.theory.gated import (
    ERROR_KINDS,
    GatedStudy,
    critics_that_err,
    exact_q,
    gate_open,
    gated_improvement,
    raw_gain_better_in_half,
)
from spaars.theory.lq import (
    best_latent_gain,
    cost_matrix,
    decoder_with_error,
    greedy_gain,
    optimal_cost_matrix,
    random_directions,
    random_problem,
)

# SCALAR: idle it stays at 1 and P = 3. Acting -K s once and then nothing
# costs 3/2 + K^2 + 3/2 (1 - K)^2, so A(s, -K s) = (3 K - 5/2 K^2) s^2.


def measure(
    problem, K_latent, K_raw, kind="adversarial", *, eta, pessimism=0.0, margin=0.0, **more
):
    P = cost_matrix(problem, K_latent)
    rng = np.random.default_rng(0)
    critics = critics_that_err(problem, P, kind, eta, members=3, rng=rng)
    return gated_improvement(
        problem,
        K_latent,
        K_raw,
        critics,
        eta=eta,
        pessimism=pessimism,
        margin=margin,
        steps=12,
    )


def random_case(seed):
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 5)), int(rng.integers(2, 5))
    problem = random_problem(
        rng, states=n, actions=d, gamma=float(rng.choice([0.5, 0.8])), starts=5
    )
    K = greedy_gain(problem, optimal_cost_matrix(problem))
    U = random_directions(rng, d, int(rng.integers(1, d)))
    K_latent = best_latent_gain(problem, decoder_with_error(U, K, 1.0))
    return rng, problem, K_latent, raw_gain_better_in_half(problem, K_latent, rng)


def test_by_hand():
    # K = 1 ends at 0 after one step: -5/2 instead of -3; open for the first step only, P = 1 - g.
    found = measure(SCALAR, IDLE, np.eye(1), eta=0.0)
    assert found.improvement == pytest.approx(0.5)
    assert found.improvement_by_advantages == pytest.approx(0.5)
    assert found.open_share == pytest.approx(0.5)
    assert found.bound == 0.0


def test_bound_is_attained():
    # K = -1/5 loses 0.7 s^2. Critics wrong by just over 0.35 let it act once, to s = 1.2; there it
    # would lose 1.008 and the gate stays closed.
    found = measure(SCALAR, IDLE, np.array([[-0.2]]), eta=0.3501)
    assert found.improvement == pytest.approx(-0.7)
    assert found.bound == pytest.approx(-0.7002)
    assert found.open_share == pytest.approx(0.5)
    for eta, margin in ((0.3499, 0.0), (0.3501, 2 * 0.3501)):
        closed = measure(SCALAR, IDLE, np.array([[-0.2]]), eta=eta, margin=margin)
        assert closed.open_share == 0.0
        assert closed.improvement == pytest.approx(0.0, abs=1e-12)


def test_never_below_the_bound_and_the_lemma_is_exact():
    losses = 0
    for seed in range(300):
        rng, problem, K_latent, K_raw = random_case(seed)
        P = cost_matrix(problem, K_latent)
        A = exact_q(problem, P, problem.start, -problem.start @ K_raw.T) - exact_q(
            problem, P, problem.start, -problem.start @ K_latent.T
        )
        eta = float(rng.choice([0.0, 0.3, 1.0, 3.0]) * np.abs(A).mean())
        kind = ERROR_KINDS[seed % 2]
        pessimism, margin = float(rng.choice([0.0, 0.5])), float(rng.choice([0.0, eta, 2 * eta]))
        found = measure(problem, K_latent, K_raw, kind, eta=eta, pessimism=pessimism, margin=margin)
        slack = 1e-9 * abs(np.einsum("mi,ij,mj->m", problem.start, P, problem.start).mean())
        assert found.improvement >= found.bound - slack, seed
        lemma = found.improvement_by_advantages
        assert found.improvement == pytest.approx(lemma, rel=1e-6, abs=slack), seed
        assert 0.0 <= found.open_share <= 1.0
        if margin == 2 * eta:
            assert found.improvement >= -slack
        losses += found.improvement < -slack
    assert losses > 10  # the guarantee is not met by gates that never hurt


def test_raw_policy_is_better_in_half_of_the_start_states():
    _, problem, K_latent, K_raw = random_case(1)
    P = cost_matrix(problem, K_latent)
    q_raw, q_latent = (
        exact_q(problem, P, problem.start, -problem.start @ K.T) for K in (K_raw, K_latent)
    )
    assert np.sum(q_raw > q_latent + 1e-9) == 2  # of five; the median one is level
    # Q of the policy's own action is its value.
    value = -np.einsum("mi,ij,mj->m", problem.start, P, problem.start)
    np.testing.assert_allclose(q_latent, value, rtol=1e-9)


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_critics_err_by_at_most_eta(kind):
    rng, problem, K_latent, K_raw = random_case(2)
    P = cost_matrix(problem, K_latent)
    critics = critics_that_err(problem, P, kind, 0.4, members=4, rng=rng)
    states = rng.normal(size=(500, problem.A.shape[0]))
    actions = [-states @ K.T for K in (K_raw, K_latent)]
    for estimate, action in zip(critics(states, *actions), actions, strict=True):
        error = np.abs(estimate - exact_q(problem, P, states, action))
        assert error.shape == (4, 500)
        assert 0.38 < error.max() <= 0.4 + 1e-12


def test_gate_is_the_one_that_is_shipped():
    # Multiples of 1/8, exact in float32 too; members of even number and spread.
    rng = np.random.default_rng(0)
    q_raw, q_latent = rng.integers(-40, 40, (2, 4, 200)) / 8.0
    for pessimism, margin in ((0.0, 0.0), (0.5, 0.0), (1.0, 0.51)):
        shipped = gate.gate_open(jnp.asarray(q_raw), jnp.asarray(q_latent), pessimism, margin)
        ours = gate_open(q_raw, q_latent, pessimism, margin)
        np.testing.assert_array_equal(ours, np.asarray(shipped))
        assert 0 < ours.sum() < 200


def test_pessimism_opens_less_often_for_independent_errors_and_is_blind_to_shared_ones():
    rows = GatedStudy(problems=6, states=3, actions=3, latents=1, eta=(1.0,), starts=16).run()
    share = {
        (row.errors, row.gate): np.mean([r.open_share for r in rows if r[:2] == row[:2]])
        for row in rows
    }
    assert share["independent", "pessimistic"] < 0.8 * share["independent", "advantage"]
    assert share["adversarial", "pessimistic"] == share["adversarial", "advantage"]
    assert all(row.holds for row in rows)


def test_noise_is_refused():
    noisy = dataclasses.replace(SCALAR, noise=np.eye(1))
    with pytest.raises(ConfigError, match="noise to 0"):
        measure(noisy, IDLE, np.eye(1), eta=0.0)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"problems": 1}, "--problems"),
        ({"states": 0}, "--states"),
        ({"latents": 6}, "--latents"),
        ({"latents": 0}, "--latents"),
        ({"members": 0}, "--members"),
        ({"starts": 0}, "--starts"),
        ({"gamma": 1.2}, "--gamma"),
        ({"eta": ()}, "--eta"),
        ({"eta": (0.1, -0.1)}, "--eta"),
        ({"eta": (math.inf,)}, "--eta"),
        ({"eta": (math.nan,)}, "--eta"),
        ({"pessimism": -0.5}, "--pessimism"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_studies_that_are_refused(change, flag):
    with pytest.raises(ConfigError, match=flag):
        GatedStudy(**change).run()
