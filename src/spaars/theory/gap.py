"""The exploitation gap of a decoder and the bounds on it (design section 2.7, item 1).

    0 <= J(pi*) - max_{pi in Pi_D} J(pi)
      <= E_{s ~ d^pibar}[Q*(s, a*) - Q*(s, pibar(s))] / (1 - gamma)
      <= L_Q E_{s ~ d^pibar}[eps(s)] / (1 - gamma)

On a linear-quadratic problem with e(s) = pibar(s) - a*(s), eps = ||e||, the loss of an action is
e'He exactly, so everything but the last line is in closed form, with process noise too. The last
line is taken on the states that noise-free rollouts visit: a quadratic Q has no Lipschitz constant
on all of R^n.
"""

import dataclasses
import itertools
import math

import numpy as np
from jaxtyping import Float

from spaars.errors import ConfigError
from spaars.theory.lq import (
    LQ,
    Decoder,
    action_hessian,
    best_latent_gain,
    cost_matrix,
    decoder_with_error,
    discounted_sum,
    expected_return,
    greedy_gain,
    is_finite,
    optimal_cost_matrix,
    random_directions,
    random_problem,
    spectral_radius,
    visitation_moment,
)
from spaars.theory.study import require_at_least, require_discount

FORGOTTEN = 1e-12
"""Rollouts end once a step's discount is below this."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gap:
    """The chain of inequalities on one problem, in units of return."""

    best_return: float
    """J(pi*)."""
    gap: float
    """J(pi*) - max over Pi_D, from two Riccati equations."""
    nearest_gap: float
    """J(pi*) - J(pibar), from the definition of J; equal to `difference` by the lemma."""
    difference: float
    """E_{d^pibar}[Q*(s, a*) - Q*(s, pibar(s))] / (1 - gamma), from the moments of d^pibar."""
    quadratic: float
    """lambda_max(H) E_{d^pibar}[eps^2] / (1 - gamma): the sharper bound that curvature gives."""
    lipschitz: float
    """L_Q E_{d^pibar}[eps] / (1 - gamma); inf where visited states are not bounded."""
    lipschitz_constant: float
    """L_Q: largest ||grad_a Q*|| between a*(s) and pibar(s) over visited states."""
    mean_error: float
    """E_{d^pibar}[eps], in units of action."""
    truncation: float
    """Certified: at most this much of `mean_error` lies beyond the rollouts' end."""

    def holds(self) -> bool:
        """Whether the chain holds, up to rounding of the returns that it subtracts."""
        slack = 1e-9 * abs(self.best_return)
        chain = (0.0, self.gap, self.difference, self.lipschitz)
        ordered = all(low <= high + slack for low, high in itertools.pairwise(chain))
        return ordered and self.difference <= self.quadratic * (1.0 + 1e-9) + slack


def exploitation_gap(problem: LQ, decoder: Decoder) -> Gap:
    """The gap and its bounds. ConfigError where even the best latent return is not finite.

    If pibar's own return is infinite, so are the bounds: they hold and say nothing.
    """
    horizon = 1.0 / (1.0 - problem.gamma)
    P_best = optimal_cost_matrix(problem)
    K_best = greedy_gain(problem, P_best)
    J_best = expected_return(problem, P_best)
    P_latent = cost_matrix(problem, best_latent_gain(problem, decoder))
    gap = J_best - expected_return(problem, P_latent)

    K_near = decoder.nearest_gain(K_best)
    if not is_finite(problem, K_near):
        return Gap(
            best_return=J_best,
            gap=gap,
            nearest_gap=math.inf,
            difference=math.inf,
            quadratic=math.inf,
            lipschitz=math.inf,
            lipschitz_constant=math.inf,
            mean_error=math.inf,
            truncation=0.0,
        )
    H = action_hessian(problem, P_best)
    E = K_best - K_near  # e(s) = E s
    moment = visitation_moment(problem, K_near)
    constant, mean_error, truncation = _visited(problem, K_near, E, H)
    return Gap(
        best_return=J_best,
        gap=gap,
        nearest_gap=J_best - expected_return(problem, cost_matrix(problem, K_near)),
        difference=horizon * float(np.sum(E.T @ H @ E * moment)),
        quadratic=horizon * float(np.linalg.eigvalsh(H)[-1] * np.sum(E.T @ E * moment)),
        lipschitz=horizon * constant * mean_error,
        lipschitz_constant=constant,
        mean_error=mean_error,
        truncation=truncation,
    )


def _visited(
    problem: LQ,
    K: Float[np.ndarray, "d n"],
    E: Float[np.ndarray, "d n"],
    H: Float[np.ndarray, "d d"],
) -> tuple[float, float, float]:
    """L_Q, E[eps] and a bound on what E[eps] lacks, from rollouts that end when all is forgotten.

    Both are sums or maxima over fewer states than are visited: never more than their true values,
    so a bound that holds with them holds.
    """
    M, gamma = problem.closed_loop(K), problem.gamma
    if problem.noise.any() or spectral_radius(M) >= 1.0:
        return math.inf, math.inf, 0.0
    steps = math.ceil(math.log(FORGOTTEN) / math.log(gamma))
    states, constant, total = problem.start, 0.0, 0.0
    for t in range(steps):
        errors = states @ E.T
        # On the way from a* to a* + e the gradient of Q* grows to -2He.
        constant = max(constant, float(np.linalg.norm(2.0 * errors @ H, axis=1).max()))
        total += gamma**t * float(np.linalg.norm(errors, axis=1).mean())
        states = states @ M.T
    # Cauchy-Schwarz on the tail: (sum gamma^t eps)^2 <= sum gamma^t sum gamma^t eps^2.
    tail = np.einsum("mi,ij,mj->m", states, discounted_sum(M, E.T @ E, gamma), states)
    truncation = gamma**steps * math.sqrt((1.0 - gamma) * max(float(tail.mean()), 0.0))
    return constant, (1.0 - gamma) * total, truncation


@dataclasses.dataclass(frozen=True, kw_only=True)
class GapStudy:
    """Random problems, each with nested decoders of every rank below the number of actions."""

    problems: int = 200
    """Random problems."""
    states: int = 6
    """n, dimensions of the state."""
    actions: int = 6
    """d, dimensions of the action; decoders have ranks 1 to d - 1."""
    gamma: float = 0.9
    """Discount."""
    error: float = 1.0
    """Size of the decoder's error: 0 holds the optimal actions, 1 is a plain linear image,
    2 at most."""
    seed: int = 0
    """Seed of the problems."""

    def check(self) -> None:
        """ConfigError names the flag that is out of range."""
        require_at_least(1, {"--problems": self.problems, "--states": self.states})
        require_at_least(0, {"--seed": self.seed})
        require_discount(self.gamma)
        if not 0.0 < self.error <= 2.0:
            raise ConfigError(
                f"--error must be above 0 and at most 2 (the optimal actions' opposite), "
                f"got {self.error}."
            )
        if self.actions < 2:
            raise ConfigError(
                f"--actions must be at least 2, or no decoder has a lower rank; got {self.actions}."
            )

    def run(self) -> dict[int, list[Gap]]:
        """For each rank k the gap on every problem, in the same order."""
        self.check()
        found: dict[int, list[Gap]] = {k: [] for k in range(1, self.actions)}
        for i in range(self.problems):
            rng = np.random.default_rng([self.seed, i])
            problem = random_problem(
                rng, states=self.states, actions=self.actions, gamma=self.gamma
            )
            basis = random_directions(rng, self.actions, self.actions)
            K = greedy_gain(problem, optimal_cost_matrix(problem))
            for k, gaps in found.items():
                gaps.append(
                    exploitation_gap(problem, decoder_with_error(basis[:, :k], K, self.error))
                )
        return found
