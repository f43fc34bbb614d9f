"""Discounted linear-quadratic problems: returns, Q* and visitation in closed form.

    s' = A s + B a + w,    reward -(s'Qs + a'Ra),    J(pi) = E sum_t gamma^t reward_t

with w independent of everything, mean 0 and covariance W. A policy is its gain K, a = -K s. In
formulas a prime is the next state on s, a transpose on the left of a product. Everything is float64
numpy: the statements are checked to 1e-9, which float32 could not show. Source: Bertsekas, Dynamic
Programming and Optimal Control I, section 4.1 and II, section 4.2.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from spaars.errors import ConfigError

Matrix = Float[np.ndarray, "_ _"]

ROUNDS = 60
"""Doublings, hence a horizon of 2^60 steps: who has not converged then never will."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LQ:
    """A problem with n states and d actions. ConfigError names a matrix that does not fit."""

    A: Matrix
    """(n, n), dynamics."""
    B: Matrix
    """(n, d), effect of actions."""
    Q: Matrix
    """(n, n), cost of states, positive semidefinite."""
    R: Matrix
    """(d, d), cost of actions, positive definite."""
    gamma: float
    """Discount, in (0, 1)."""
    start: Matrix
    """(m, n), start states, equally likely."""
    noise: Matrix
    """(n, n), W, covariance of the process noise; zero where visited states must be bounded."""

    def __post_init__(self) -> None:
        n, d = self.B.shape
        shapes = {"A": (n, n), "Q": (n, n), "R": (d, d), "noise": (n, n)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ConfigError(
                    f"{name} has shape {getattr(self, name).shape}, but B, with {n} states and "
                    f"{d} actions, needs {shape}."
                )
        if self.start.shape[1] != n or not len(self.start):
            raise ConfigError(f"start has shape {self.start.shape}; give rows of {n} states.")
        for name in ("A", "B", "Q", "R", "start", "noise"):
            if not np.isfinite(getattr(self, name)).all():
                raise ConfigError(f"{name} holds values that are not finite.")
        for name, least in (("Q", "semidefinite"), ("noise", "semidefinite"), ("R", "definite")):
            value = getattr(self, name)
            lowest = np.linalg.eigvalsh(value).min(initial=1.0)
            if not np.allclose(value, value.T) or lowest < -1e-12:
                raise ConfigError(f"{name} must be symmetric and positive {least}.")
            if least == "definite" and lowest <= 0.0:
                raise ConfigError(f"{name} must be positive definite; its least eigenvalue is 0.")
        if not 0.0 < self.gamma < 1.0:
            raise ConfigError(f"gamma must be between 0 and 1, both excluded; got {self.gamma}.")

    @property
    def start_moment(self) -> Float[np.ndarray, "n n"]:
        """E[s s'] of the start states."""
        return self.start.T @ self.start / len(self.start)

    def closed_loop(self, K: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "n n"]:
        """M = A - B K: the next state is M s + w."""
        return self.A - self.B @ K


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """D(s, z) = U z - F s: at each state an affine image of the latents, of rank k."""

    U: Float[np.ndarray, "d k"]
    """Directions that latents reach, linearly independent."""
    F: Float[np.ndarray, "d n"]
    """Gain of the action for z = 0."""

    def project(self, V: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d n"]:
        """The part of each column of V within the range of U."""
        return self.U @ np.linalg.lstsq(self.U, V, rcond=None)[0] if self.U.size else 0.0 * V

    def nearest_gain(self, K: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d n"]:
        """Gain of pibar(s) = D(s, zbar(s)), zbar(s) = argmin_z ||-K s - D(s, z)||."""
        return self.F + self.project(K - self.F)


def quadratic(
    x: Float[np.ndarray, "m i"], form: Float[np.ndarray, "i i"]
) -> Float[np.ndarray, " m"]:
    """x'Fx of every row x."""
    return np.sum(x @ form * x, axis=1)


def spectral_radius(M: Float[np.ndarray, "n n"]) -> float:
    """Largest modulus of an eigenvalue."""
    return float(np.abs(np.linalg.eigvals(M)).max())


def discounted_sum(
    M: Float[np.ndarray, "n n"], C: Float[np.ndarray, "n n"], gamma: float
) -> Float[np.ndarray, "n n"]:
    """sum_t gamma^t (M^t)' C M^t, the solution of the Lyapunov equation X = C + gamma M'XM.

    By doubling (Smith, 1968): each round adds as many terms as all before. ConfigError where the
    sum is infinite.
    """
    N, X = math.sqrt(gamma) * M, C
    if spectral_radius(N) >= 1.0:
        raise ConfigError(
            f"the return is not finite: the closed loop's spectral radius {spectral_radius(M):.4g} "
            f"is not below gamma^-1/2 = {gamma**-0.5:.4g}."
        )
    for _ in range(ROUNDS):
        more = N.T @ X @ N
        X = X + more
        if np.abs(more).max() <= 1e-17 * np.abs(X).max():
            break
        N = N @ N
    return (X + X.T) / 2.0


def is_finite(problem: LQ, K: Float[np.ndarray, "d n"]) -> bool:
    """Whether the policy's discounted return is finite whatever the start states."""
    return math.sqrt(problem.gamma) * spectral_radius(problem.closed_loop(K)) < 1.0


def cost_matrix(problem: LQ, K: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "n n"]:
    """P of a policy: V(s) = -s'Ps - gamma/(1-gamma) tr(PW). ConfigError if it is infinite."""
    return discounted_sum(problem.closed_loop(K), problem.Q + K.T @ problem.R @ K, problem.gamma)


def optimal_cost_matrix(problem: LQ) -> Float[np.ndarray, "n n"]:
    """P* of the best policy: P = Q + gamma A'PA - gamma^2 A'PB (R + gamma B'PB)^-1 B'PA.

    By structure-preserving doubling (Chu, Fan, Lin, Wang, 2004). ConfigError where no policy has a
    finite return.
    """
    A = math.sqrt(problem.gamma) * problem.A
    G = problem.gamma * problem.B @ np.linalg.solve(problem.R, problem.B.T)
    P = problem.Q
    identity = np.eye(len(A))
    with np.errstate(over="ignore", invalid="ignore"):  # costs may grow without end: see below
        for _ in range(ROUNDS):
            shared = np.linalg.solve(identity + G @ P, np.hstack([A, G]))
            A_half, G_half = shared[:, : len(A)], shared[:, len(A) :]
            more = A.T @ P @ A_half
            A, G, P = A @ A_half, G + A @ G_half @ A.T, P + (more + more.T) / 2.0
            if not np.isfinite(P).all() or np.abs(more).max() <= 1e-16 * np.abs(P).max():
                break
    residual = np.inf
    if np.isfinite(P).all():
        K = greedy_gain(problem, P)
        M = problem.closed_loop(K)
        update = problem.Q + K.T @ problem.R @ K + problem.gamma * M.T @ P @ M
        residual = float(np.abs(update - P).max() / np.abs(P).max())
    if residual > 1e-8 or not is_finite(problem, K):
        raise ConfigError(
            "no policy with a finite return was found: actions cannot keep the state from growing "
            "by gamma^-1/2 a step, or the problem is too ill-conditioned (relative residual of the "
            f"Riccati equation {residual:.1e})."
        )
    return P


def greedy_gain(problem: LQ, P: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "d n"]:
    """K of the policy that is greedy for V(s) = -s'Ps; optimal for P = P*."""
    return np.linalg.solve(action_hessian(problem, P), problem.gamma * problem.B.T @ P @ problem.A)


def action_hessian(problem: LQ, P: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "d d"]:
    """H = R + gamma B'PB: Q(s, a) = Q(s, b) - (a - b)'H(a - b) for the greedy action b."""
    return problem.R + problem.gamma * problem.B.T @ P @ problem.B


def expected_return(problem: LQ, P: Float[np.ndarray, "n n"]) -> float:
    """J of the policy with cost matrix P."""
    spread = problem.start_moment + problem.gamma / (1.0 - problem.gamma) * problem.noise
    return -float(np.sum(P * spread))


def visitation_moment(problem: LQ, K: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "n n"]:
    """E[s s'] under d^pi, the normalised discounted state visitation of the policy."""
    spread = problem.start_moment + problem.gamma / (1.0 - problem.gamma) * problem.noise
    return (1.0 - problem.gamma) * discounted_sum(problem.closed_loop(K).T, spread, problem.gamma)


def best_latent_gain(problem: LQ, decoder: Decoder) -> Float[np.ndarray, "d n"]:
    """Gain of the best policy of Pi_D = {s -> D(s, z(s))}, of any z(.), random or not.

    Without its R-projection onto the range of U the offset is F_0 = F - U (U'RU)^-1 U'RF, which
    moves latents but leaves the decoder's image as it is. Now actions -F_0 s + U z cost
    s'F_0'RF_0 s + z'U'RU z, a linear-quadratic problem in z, solved exactly. ConfigError where no
    latent policy has a finite return.
    """
    U, R = decoder.U, problem.R
    F_0 = decoder.F - U @ np.linalg.solve(U.T @ R @ U, U.T @ R @ decoder.F)
    latent = dataclasses.replace(
        problem,
        A=problem.closed_loop(F_0),
        B=problem.B @ U,
        Q=problem.Q + F_0.T @ R @ F_0,
        R=U.T @ R @ U,
    )
    return F_0 + U @ greedy_gain(latent, optimal_cost_matrix(latent))


def random_problem(
    rng: np.random.Generator,
    *,
    states: int,
    actions: int,
    gamma: float,
    noise: float = 0.0,
    starts: int = 16,
) -> LQ:
    """Gaussian A and B, costs with eigenvalues from 0.1 to 10, start states from N(0, I).

    A's spectral radius is uniform from 0.5 to 1.05: some problems drift away unless acted upon.
    W = noise^2 I.
    """
    A = rng.normal(size=(states, states))
    A *= rng.uniform(0.5, 1.05) / spectral_radius(A)
    return LQ(
        A=A,
        B=rng.normal(size=(states, actions)) / math.sqrt(states),
        Q=_random_cost(rng, states),
        R=_random_cost(rng, actions),
        gamma=gamma,
        start=rng.normal(size=(starts, states)),
        noise=noise**2 * np.eye(states),
    )


def random_directions(rng: np.random.Generator, actions: int, latents: int) -> Matrix:
    """U with orthonormal columns, so that a unit of a latent is a unit of action."""
    return np.linalg.qr(rng.normal(size=(actions, actions)))[0][:, :latents]


def decoder_with_error(
    U: Float[np.ndarray, "d k"], K: Float[np.ndarray, "d n"], error: float
) -> Decoder:
    """D(s, z) = U z - (1 - error) K s, so eps(s) = error ||(I - UU^+) K s||.

    With error 0 it holds the actions -K s, with error 1 it is the plain linear image of z.
    """
    return Decoder(U=U, F=(1.0 - error) * K)


def _random_cost(rng: np.random.Generator, dim: int) -> Matrix:
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    cost = basis * 10.0 ** rng.uniform(-1.0, 1.0, dim) @ basis.T
    return (cost + cost.T) / 2.0
