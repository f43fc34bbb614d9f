"""Variance of policy gradients in latents and in raw actions (design section 2.7, item 2).

A Gaussian policy a = -K s + sigma U xi, xi ~ N(0, I), explores in U's orthonormal columns: U = I is
the raw policy, a d x k matrix a latent one of the same mean. At one state the gradient of its value
in the mean, U' grad_a Q(s, -K s), is estimated from one sample of xi by

    score function      weight xi / sigma,  weight = the exact advantage of the action,
                                            or a return less the exact value of the state
    reparameterisation  U' grad_a Q(s, -K s + sigma U xi)

All are unbiased, and the variance is E||g - E g||^2. E||g||^2 <= dim A_max^2 / sigma^2 bounds the
first two, and k/d is the ratio of the bounds; it is the ratio of the variances where the weight's
size has nothing to do with xi, as when the noise of later steps dominates the return.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spaars.errors import ConfigError
from spaars.theory.lq import (
    LQ,
    Matrix,
    action_hessian,
    cost_matrix,
    greedy_gain,
    is_finite,
    optimal_cost_matrix,
    quadratic,
    random_directions,
    random_problem,
)
from spaars.theory.study import (
    require_at_least,
    require_discount,
    require_not_negative,
    require_positive,
)


class Variances(NamedTuple):
    """Of the three estimators, E||g - E g||^2."""

    score_return: float
    score_advantage: float
    reparameterised: float


def measured_variances(
    problem: LQ,
    K: Float[np.ndarray, "d n"],
    U: Float[np.ndarray, "d k"],
    *,
    sigma: float,
    samples: int,
    steps: int,
    rng: np.random.Generator,
) -> Variances:
    """Means over `samples` draws, spread evenly over the start states.

    Returns are of `steps` steps and then the exact value of the state reached, so that cutting
    them adds no bias.
    """
    P = cost_matrix(problem, K)
    H = action_hessian(problem, P)
    states = problem.start[np.arange(samples) % len(problem.start)]
    slope = _mean_gradient(problem, K, P, states)  # grad_a Q at the policy's mean
    xi = rng.normal(size=(samples, U.shape[1]))
    moved = sigma * xi @ U.T
    truth = slope @ U

    constant = sigma**2 * float(np.trace(U.T @ H @ U))  # E[(sigma U xi)' H (sigma U xi)]
    advantage = np.sum(moved * slope, 1) - quadratic(moved, H) + constant
    returned = _returns(problem, K, U, states, moved, P, sigma, steps, rng)
    value = -quadratic(states, P) - _value_constant(problem, P, constant)
    score = xi / sigma
    estimates = (
        (returned - value)[:, None] * score,
        advantage[:, None] * score,
        truth - 2.0 * moved @ H @ U,
    )
    return Variances(*(float(np.sum((g - truth) ** 2, 1).mean()) for g in estimates))


def exact_variances(
    problem: LQ,
    K: Float[np.ndarray, "d n"],
    U: Float[np.ndarray, "d k"],
    sigma: float,
) -> tuple[float, float]:
    """`score_advantage` and `reparameterised` in closed form, averaged over the start states.

    With b = U' grad_a Q and H_U = U'HU: ||b||^2 (k + 1) + 2 sigma^2 tr(H_U^2) (k + 4) by Stein's
    E[f ||xi||^2] = k E f + E lap f, and 4 sigma^2 tr(H_U^2).
    """
    P = cost_matrix(problem, K)
    H_U = U.T @ action_hessian(problem, P) @ U
    b = _mean_gradient(problem, K, P, problem.start) @ U
    k, curvature = U.shape[1], sigma**2 * float(np.sum(H_U * H_U))
    slope = float(np.sum(b * b, 1).mean())
    return slope * (k + 1) + 2.0 * curvature * (k + 4), 4.0 * curvature


def _mean_gradient(
    problem: LQ,
    K: Float[np.ndarray, "d n"],
    P: Float[np.ndarray, "n n"],
    states: Float[np.ndarray, "m n"],
) -> Float[np.ndarray, "m d"]:
    """grad_a Q(s, -K s) = 2 (R K - gamma B'P M) s."""
    gain = problem.R @ K - problem.gamma * problem.B.T @ P @ problem.closed_loop(K)
    return 2.0 * states @ gain.T


def _value_constant(problem: LQ, P: Float[np.ndarray, "n n"], exploration: float) -> float:
    """What process noise, and exploration at every step, cost: V(s) = -s'Ps - this.

    `exploration` is sigma^2 tr(U'HU): R's share now, and B'PB's at the next step.
    """
    later = problem.gamma * float(np.sum(P * problem.noise))
    return (later + exploration) / (1.0 - problem.gamma)


def _returns(
    problem: LQ,
    K: Float[np.ndarray, "d n"],
    U: Float[np.ndarray, "d k"],
    states: Float[np.ndarray, "m n"],
    moved: Float[np.ndarray, "m d"],
    P: Float[np.ndarray, "n n"],
    sigma: float,
    steps: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " m"]:
    """Sampled returns of the policy whose first actions are `moved` from its mean."""
    noise_root = np.linalg.cholesky(problem.noise) if problem.noise.any() else problem.noise
    total = np.zeros(len(states))
    for t in range(steps):
        if t:
            moved = sigma * rng.normal(size=(len(states), U.shape[1])) @ U.T
        actions = moved - states @ K.T
        cost = quadratic(states, problem.Q) + quadratic(actions, problem.R)
        total -= problem.gamma**t * cost
        noise = rng.normal(size=states.shape) @ noise_root.T
        states = states @ problem.A.T + actions @ problem.B.T + noise
    exploration = sigma**2 * float(np.trace(U.T @ action_hessian(problem, P) @ U))
    last = quadratic(states, P) + _value_constant(problem, P, exploration)
    return total - problem.gamma**steps * last


class Cell(NamedTuple):
    """Ratio of latent to raw variance on each problem, for one (k, d)."""

    latents: int
    actions: int
    score_return: Float[np.ndarray, " m"]
    score_advantage: Float[np.ndarray, " m"]
    reparameterised: Float[np.ndarray, " m"]
    exact_advantage: Float[np.ndarray, " m"]
    exact_reparameterised: Float[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VarianceStudy:
    """A grid of latents k and actions d; the policy's mean is half way to the optimal one."""

    problems: int = 24
    """Random problems for each number of actions; intervals are over them."""
    states: int = 6
    """n, dimensions of the state."""
    actions: tuple[int, ...] = (2, 4, 8, 16)
    """d, the grid's numbers of raw actions."""
    latents: tuple[int, ...] = (1, 2, 4, 8)
    """k, the grid's numbers of latents; pairs with k < d are measured."""
    gamma: float = 0.9
    """Discount."""
    sigma: float = 0.1
    """Standard deviation of exploration, the same for a latent and a raw action."""
    noise: float = 1.0
    """Standard deviation of the process noise in every state dimension."""
    samples: int = 2_000
    """Gradient estimates for each variance."""
    steps: int = 30
    """Steps of a sampled return before the exact value takes over."""
    seed: int = 0
    """Seed of problems and samples."""

    def check(self) -> None:
        """ConfigError names the flag that is out of range."""
        require_at_least(2, {"--problems": self.problems, "--samples": self.samples})
        require_at_least(1, {"--states": self.states, "--steps": self.steps})
        require_at_least(0, {"--seed": self.seed})
        require_discount(self.gamma)
        require_positive({"--sigma": self.sigma})
        require_not_negative({"--noise": self.noise})
        for flag, grid in (("--actions", self.actions), ("--latents", self.latents)):
            if not grid or min(grid) < 1 or len(set(grid)) != len(grid):
                raise ConfigError(f"{flag} must be distinct numbers from 1 on, got {grid}.")
        if min(self.latents) >= max(self.actions):
            raise ConfigError(
                f"no pair has fewer latents than actions: --latents {self.latents}, "
                f"--actions {self.actions}."
            )

    def run(self) -> list[Cell]:
        """The measured cells, by actions, then latents."""
        self.check()
        cells = []
        for d in sorted(self.actions):
            ranks = [k for k in sorted(self.latents) if k < d]
            problems = [self._ratios(d, ranks, i) for i in range(self.problems)] if ranks else []
            for j, k in enumerate(ranks):
                columns = np.array([rows[j] for rows in problems]).T
                cells.append(Cell(k, d, *columns))
        return cells

    def _ratios(self, d: int, ranks: list[int], index: int) -> Matrix:
        """(ranks, estimators): latent over raw variance on one problem."""
        rng = np.random.default_rng([self.seed, d, index])
        while True:
            problem = random_problem(
                rng, states=self.states, actions=d, gamma=self.gamma, noise=self.noise
            )
            K = greedy_gain(problem, optimal_cost_matrix(problem)) / 2.0
            if is_finite(problem, K):  # half an optimal gain may stabilise less than none
                break
        basis = random_directions(rng, d, d)

        def variances(U: Matrix) -> Float[np.ndarray, " estimators"]:
            measured = measured_variances(
                problem,
                K,
                U,
                sigma=self.sigma,
                samples=self.samples,
                steps=self.steps,
                rng=rng,
            )
            return np.array([*measured, *exact_variances(problem, K, U, self.sigma)])

        raw = variances(np.eye(d))
        return np.stack([variances(basis[:, :k]) for k in ranks]) / raw
