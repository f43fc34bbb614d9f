"""What a gate costs whose critic errs (design section 2.7, item 4).

Where the gate is open the raw policy acts, else the latent one. If no critic is wrong by more than
eta and the gate opens where the estimated advantage exceeds a margin, the true advantage there
exceeds margin - 2 eta, and by the performance difference lemma

    J(gated) - J(latent) >= (margin - 2 eta) P(g = 1) / (1 - gamma)

with P under the discounted visitation of the gated policy. A margin of 2 eta never loses.

Problems are without noise and the gate stays closed from step T on, where the latent policy's value
is known exactly. So returns, P and the bound are those of the policy that is run: nothing is
sampled, nothing is cut off.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float

from spaars.errors import ConfigError
from spaars.theory.lq import (
    LQ,
    action_hessian,
    best_latent_gain,
    cost_matrix,
    decoder_with_error,
    expected_return,
    greedy_gain,
    optimal_cost_matrix,
    quadratic,
    random_directions,
    random_problem,
)
from spaars.theory.study import require_at_least, require_discount, require_not_negative

ErrorKind = Literal["independent", "adversarial"]
GateKind = Literal["advantage", "pessimistic", "margin"]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
GATE_KINDS: tuple[GateKind, ...] = get_args(GateKind)

FORGOTTEN = 1e-3
"""The gate closes for good once a step's discount is below this."""

Critics = Callable[
    [Float[np.ndarray, "m n"], Float[np.ndarray, "m d"], Float[np.ndarray, "m d"]],
    tuple[Float[np.ndarray, "ensemble m"], Float[np.ndarray, "ensemble m"]],
]
"""Estimates of Q^latent for the raw and the latent action at states."""


class Gated(NamedTuple):
    """One gated policy against the latent policy, in units of return."""

    improvement: float
    """J(gated) - J(latent), from returns."""
    improvement_by_advantages: float
    """The same by the lemma: sum over open steps of gamma^t A(s_t, raw action)."""
    open_share: float
    """P(g = 1) under the normalised discounted visitation of the gated policy."""
    bound: float
    """(margin - 2 eta) P(g = 1) / (1 - gamma)."""


def gate_open(
    q_raw: Float[np.ndarray, "ensemble m"],
    q_latent: Float[np.ndarray, "ensemble m"],
    pessimism: float,
    margin: float,
) -> Bool[np.ndarray, " m"]:
    """`algos.gate.gate_open` in float64: mean - pessimism std of the paired advantage > margin."""
    delta = q_raw - q_latent
    return delta.mean(0) - pessimism * delta.std(0) > margin


def gated_improvement(
    problem: LQ,
    K_latent: Float[np.ndarray, "d n"],
    K_raw: Float[np.ndarray, "d n"],
    critics: Critics,
    *,
    eta: float,
    pessimism: float,
    margin: float,
    steps: int,
) -> Gated:
    """Run the gated policy for `steps` steps from every start state, then the latent one.

    ConfigError for a problem with process noise, where returns would have to be sampled.
    """
    if problem.noise.any():
        raise ConfigError("gated improvement is exact only without process noise; set noise to 0.")
    gamma = problem.gamma
    P = cost_matrix(problem, K_latent)
    N = P - _cost_of_switching(problem, K_raw, P)  # A(s, raw action) = s'Ns
    states = problem.start
    returns = advantages = opened = 0.0
    for t in range(steps):
        raw, latent = -states @ K_raw.T, -states @ K_latent.T
        g = gate_open(*critics(states, raw, latent), pessimism, margin)
        actions = np.where(g[:, None], raw, latent)
        costs = quadratic(states, problem.Q) + quadratic(actions, problem.R)
        returns -= gamma**t * float(costs.mean())
        advantages += gamma**t * float((g * quadratic(states, N)).mean())
        opened += gamma**t * float(g.mean())
        states = states @ problem.A.T + actions @ problem.B.T
    returns -= gamma**steps * float(quadratic(states, P).mean())
    return Gated(
        improvement=returns - expected_return(problem, P),
        improvement_by_advantages=advantages,
        open_share=(1.0 - gamma) * opened,
        bound=(margin - 2.0 * eta) * opened,
    )


def exact_q(
    problem: LQ,
    P: Float[np.ndarray, "n n"],
    states: Float[np.ndarray, "m n"],
    actions: Float[np.ndarray, "m d"],
) -> Float[np.ndarray, " m"]:
    """Q(s, a) = -(s'Qs + a'Ra) - gamma s''P s'' of the policy with cost matrix P, without noise."""
    following = states @ problem.A.T + actions @ problem.B.T
    now = quadratic(states, problem.Q) + quadratic(actions, problem.R)
    return -now - problem.gamma * quadratic(following, P)


def critics_that_err(
    problem: LQ,
    P: Float[np.ndarray, "n n"],
    kind: ErrorKind,
    eta: float,
    *,
    members: int,
    rng: np.random.Generator,
) -> Critics:
    """An ensemble wrong by at most eta at every state and action.

    independent: member e errs by eta sin(w_e . (s, a) + phase_e). adversarial: all members err by
    eta alike, so that the gate opens where the advantage is within (-2 eta, 0), and does not where
    it is within (0, 2 eta).
    """
    n, d = problem.B.shape
    waves = 3.0 * rng.normal(size=(n + d, members))
    phases = rng.uniform(0.0, 2.0 * math.pi, members)

    def wave(
        states: Float[np.ndarray, "m n"], actions: Float[np.ndarray, "m d"]
    ) -> Float[np.ndarray, "ensemble m"]:
        return eta * np.sin(np.hstack([states, actions]) @ waves + phases).T

    def critics(
        states: Float[np.ndarray, "m n"],
        raw: Float[np.ndarray, "m d"],
        latent: Float[np.ndarray, "m d"],
    ) -> tuple[Float[np.ndarray, "ensemble m"], Float[np.ndarray, "ensemble m"]]:
        q_raw, q_latent = (exact_q(problem, P, states, a) for a in (raw, latent))
        if kind == "independent":
            return q_raw + wave(states, raw), q_latent + wave(states, latent)
        error = np.where(q_raw < q_latent, eta, -eta)
        alike = np.ones((members, 1))
        return alike * (q_raw + error), alike * (q_latent - error)

    return critics


def raw_gain_better_in_half(
    problem: LQ, K_latent: Float[np.ndarray, "d n"], rng: np.random.Generator
) -> Float[np.ndarray, "d n"]:
    """A raw policy whose action beats the latent one, by Q^latent, in half of the start states.

    It is the greedy policy for Q^latent with an error c G s, G Gaussian: A(s, raw action) is
    ||latent action - greedy action||_H^2 - c^2 ||G s||_H^2, and c^2 the median ratio.
    """
    P = cost_matrix(problem, K_latent)
    H, K_greedy = action_hessian(problem, P), greedy_gain(problem, P)
    G = rng.normal(size=K_latent.shape)
    gained = quadratic(problem.start @ (K_latent - K_greedy).T, H)
    lost = quadratic(problem.start @ G.T, H)
    return K_greedy + math.sqrt(float(np.median(gained / lost))) * G


def _cost_of_switching(
    problem: LQ, K: Float[np.ndarray, "d n"], P: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, "n n"]:
    """Cost matrix of acting by K once, and then by the policy with cost matrix P."""
    M = problem.closed_loop(K)
    return problem.Q + K.T @ problem.R @ K + problem.gamma * M.T @ P @ M


class Measured(NamedTuple):
    """One problem under one error and gate; returns as shares of |J(latent)|."""

    errors: ErrorKind
    gate: GateKind
    eta: float
    """In units of the mean |A(s, raw action)| over the start states."""
    improvement: float
    bound: float
    open_share: float
    holds: bool
    """Whether the improvement reaches the bound, up to rounding of the returns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedStudy:
    """Random problems, each with critics of growing error and three gates."""

    problems: int = 40
    """Random problems; intervals are over them."""
    states: int = 6
    """n, dimensions of the state."""
    actions: int = 6
    """d, dimensions of the action."""
    latents: int = 3
    """k, rank of the decoder whose best policy is the latent one."""
    gamma: float = 0.9
    """Discount."""
    eta: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0)
    """Critic errors, in units of the mean absolute advantage of the raw action at start states."""
    members: int = 5
    """Critics in the ensemble."""
    pessimism: float = 0.5
    """kappa of the pessimistic gate: standard deviations off the mean advantage."""
    starts: int = 64
    """Start states of a problem."""
    seed: int = 0
    """Seed of problems and errors."""

    def check(self) -> None:
        """ConfigError names the flag that is out of range."""
        require_at_least(2, {"--problems": self.problems, "--actions": self.actions})
        positive = {"--states": self.states, "--latents": self.latents}
        require_at_least(1, positive | {"--members": self.members, "--starts": self.starts})
        require_at_least(0, {"--seed": self.seed})
        require_discount(self.gamma)
        if self.latents >= self.actions:
            raise ConfigError(
                f"--latents must be below --actions ({self.actions}), or the latent policy is "
                f"optimal and no gate can gain; got {self.latents}."
            )
        if not self.eta or len(set(self.eta)) != len(self.eta):
            raise ConfigError(f"--eta must be distinct numbers, at least one; got {self.eta}.")
        for eta in self.eta:
            require_not_negative({"--eta": eta})
        require_not_negative({"--pessimism": self.pessimism})

    def run(self) -> list[Measured]:
        """Every problem under every error, gate and eta."""
        self.check()
        return [row for i in range(self.problems) for row in self._problem(i)]

    def _problem(self, index: int) -> list[Measured]:
        rng = np.random.default_rng([self.seed, index])
        problem = random_problem(
            rng, states=self.states, actions=self.actions, gamma=self.gamma, starts=self.starts
        )
        K_best = greedy_gain(problem, optimal_cost_matrix(problem))
        U = random_directions(rng, self.actions, self.latents)
        K_latent = best_latent_gain(problem, decoder_with_error(U, K_best, 1.0))
        K_raw = raw_gain_better_in_half(problem, K_latent, rng)
        P = cost_matrix(problem, K_latent)
        scale = abs(expected_return(problem, P))
        advantage = exact_q(problem, P, problem.start, -problem.start @ K_raw.T) + quadratic(
            problem.start, P
        )
        unit = float(np.abs(advantage).mean())
        steps = math.ceil(math.log(FORGOTTEN) / math.log(self.gamma))
        rows = []
        for kind in ERROR_KINDS:
            for eta in sorted(self.eta):
                critics = critics_that_err(
                    problem, P, kind, eta * unit, members=self.members, rng=rng
                )
                for gate in GATE_KINDS:
                    found = gated_improvement(
                        problem,
                        K_latent,
                        K_raw,
                        critics,
                        eta=eta * unit,
                        pessimism=self.pessimism if gate == "pessimistic" else 0.0,
                        margin=2.0 * eta * unit if gate == "margin" else 0.0,
                        steps=steps,
                    )
                    rows.append(
                        Measured(
                            errors=kind,
                            gate=gate,
                            eta=eta,
                            improvement=found.improvement / scale,
                            bound=found.bound / scale,
                            open_share=found.open_share,
                            holds=found.improvement >= found.bound - 1e-9 * scale,
                        )
                    )
        return rows
