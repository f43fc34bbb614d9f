"""The exploitation gap and the gradient variances of a trained agent (design section 2.7).

Q* and pi* are unknown there. In their place stand the run's own critics and two candidates for the
better action: the raw policy's, and the best that ascent on the critics finds. States are those of
the online replay, not d^pibar. So everything here is an estimate, and no bound is proven by it.

    eps(s)      = min_u ||a - D(s, u)||, u in [-1, 1]^k           by descent from several starts
    difference  = E[Q(s, a) - Q(s, D(s, u))] / (1 - gamma)        performance difference
    Lipschitz   = L_Q E[eps] / (1 - gamma)                        L_Q from ||grad_a min_e Q||

`u` is a latent over its bound, as policies act in it. Descent may end above the true minimum: eps
is never too small, and with it neither is the Lipschitz line.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from spaars.nn.distributions import MAX_SQUASHED
from spaars.theory.study import RESAMPLES, require_at_least, require_positive

RATE = 0.1
"""First step size of descent in the box, annealed to 0: a twentieth of its width."""
TARGETS = ("raw", "best")


class Parts(NamedTuple):
    """What is read of one trained agent; observations are standardised, actions in [-1, 1]^d.

    A pytree: its functions are modules, or `jax.tree_util.Partial` with the networks as arguments,
    so that seeds share what is compiled.
    """

    decode: Callable[[Float[Array, "n obs"], Float[Array, "n k"]], Float[Array, "n d"]]
    """D(s, u), u in [-1, 1]^k."""
    critics: Callable[[Float[Array, "n obs"], Float[Array, "n d"]], Float[Array, "ensemble n"]]
    """Q of every member, in discounted return."""
    raw: Callable[[Float[Array, "n obs"]], Float[Array, "n d"]]
    """The raw policy's deterministic action."""
    latent: Callable[[Float[Array, "n obs"]], Float[Array, "n k"]]
    """The latent policy's deterministic u."""
    discount: float


# ---------------------------------------------------------------------- exploitation gap


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetGap:
    """What the decoder costs against one better action; in discounted return where not said."""

    eps_mean: float
    """Mean distance of the action to the decoder's image, in units of action."""
    eps_95: float
    """95th percentile of it."""
    eps_max: float
    """Largest of it."""
    difference: float
    """Performance difference by the critics, where the latent is the nearest; their mean."""
    difference_low: float
    """By the critic that finds least."""
    difference_high: float
    """By the critic that finds most."""
    difference_chosen: float
    """The same where the latent is chosen by the critics instead of by distance."""
    lipschitz_95: float
    """Lipschitz bound with the 95th percentile as L_Q."""
    lipschitz_max: float
    """Lipschitz bound with the maximum as L_Q."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedGap:
    """Estimates at the states of a run's replay."""

    slope_95: float
    """L_Q as 95th percentile of ||grad_a min_e Q|| at executed actions."""
    slope_max: float
    """L_Q as their maximum."""
    value: float
    """Mean over states of min_e Q of the latent policy's action: the scale of the others."""
    raw: TargetGap
    """Against the raw policy's action."""
    best: TargetGap
    """Against the action of highest min_e Q that was found."""
    eps: dict[str, Float[np.ndarray, " n"]]
    """eps(s) of every state, for both."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedGapStudy:
    """Where and how finely a trained run is looked at."""

    states: int = 512
    """States drawn from the online replay, per seed."""
    starts: int = 4
    """Random starts of every descent, beside those that the policies give."""
    steps: int = 100
    """Descent steps from every start."""
    seed: int = 0
    """Seed of the draws."""

    def check(self) -> None:
        """ConfigError names the flag that is out of range."""
        require_at_least(1, {"--states": self.states, "--steps": self.steps})
        require_at_least(0, {"--starts": self.starts, "--seed": self.seed})

    def run(
        self,
        parts: Parts,
        observations: Float[np.ndarray, "n obs"],
        actions: Float[np.ndarray, "n d"],
    ) -> TrainedGap:
        """Of one seed, at standardised states and the actions executed there."""
        self.check()
        key = jax.random.key(self.seed)
        found = _gap(self, parts, jnp.asarray(observations), jnp.asarray(actions), key)
        slopes, value, targets = jax.device_get(found)
        slope_95, slope_max = float(np.quantile(slopes, 0.95)), float(slopes.max())
        horizon = 1.0 / (1.0 - parts.discount)

        def target(eps: np.ndarray, nearest: np.ndarray, chosen: np.ndarray) -> TargetGap:
            members = horizon * nearest.mean(1)  # paired over the ensemble, as the gate is
            return TargetGap(
                eps_mean=float(eps.mean()),
                eps_95=float(np.quantile(eps, 0.95)),
                eps_max=float(eps.max()),
                difference=float(members.mean()),
                difference_low=float(members.min()),
                difference_high=float(members.max()),
                difference_chosen=horizon * float(chosen.mean()),
                lipschitz_95=horizon * slope_95 * float(eps.mean()),
                lipschitz_max=horizon * slope_max * float(eps.mean()),
            )

        return TrainedGap(
            slope_95=slope_95,
            slope_max=slope_max,
            value=float(value),
            eps={name: targets[name][0] for name in TARGETS},
            **{name: target(*targets[name]) for name in TARGETS},
        )


@partial(jax.jit, static_argnums=0)
def _gap(
    study: TrainedGapStudy, parts: Parts, observations: Array, actions: Array, key: PRNGKeyArray
) -> tuple[Array, Array, dict[str, tuple[Array, Array, Array]]]:
    """Slopes (n,), value (), and for each target eps (n,), differences (E, n) twice."""
    u, raw = parts.latent(observations), parts.raw(observations)
    decoded = parts.decode(observations, u)

    def lowest(a: Array) -> Array:
        return parts.critics(observations, a).min(0)

    slopes = jnp.linalg.norm(jax.grad(lambda a: lowest(a).sum())(actions), axis=-1)
    action_key, latent_key = jax.random.split(key)

    def starts(key: PRNGKeyArray, *given: Array) -> Array:
        shape = (study.starts, *given[0].shape)
        drawn = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
        return jnp.concatenate([jnp.stack(given), drawn])

    best = minimise_in_box(
        lambda a: -lowest(a), starts(action_key, raw, decoded, actions), study.steps
    )
    # What the critics would choose among decoded actions; never worse than what the policy does.
    chosen = minimise_in_box(
        lambda u: -lowest(parts.decode(observations, u)), starts(latent_key, u), study.steps
    )
    q_chosen = parts.critics(observations, parts.decode(observations, chosen))

    targets = {}
    for name, wanted in (("raw", raw), ("best", best)):

        def distance(u: Array, wanted: Array = wanted) -> Array:
            return jnp.square(wanted - parts.decode(observations, u)).sum(-1)

        near = minimise_in_box(distance, starts(latent_key, u, chosen), study.steps)
        q = parts.critics(observations, wanted)
        q_near = parts.critics(observations, parts.decode(observations, near))
        targets[name] = jnp.sqrt(distance(near)), q - q_near, q - q_chosen
    return slopes, lowest(decoded).mean(), targets


def minimise_in_box(
    objective: Callable[[Float[Array, "n m"]], Float[Array, " n"]],
    starts: Float[Array, "starts n m"],
    steps: int,
) -> Float[Array, "n m"]:
    """For each of n problems the best point of [-1, 1]^m that projected Adam meets.

    `objective` gives the n values at n points. A start itself counts as met.
    """
    tx = optax.adam(1.0)
    values_of = jax.vmap(objective)

    def keep_better(x: Array, value: Array, best: Array, best_value: Array) -> tuple[Array, Array]:
        better = value < best_value
        return jnp.where(better[..., None], x, best), jnp.where(better, value, best_value)

    def step(carry: tuple, rate: Array) -> tuple[tuple, None]:
        x, opt_state, best, best_value = carry
        value, pull = jax.vjp(values_of, x)
        best, best_value = keep_better(x, value, best, best_value)
        updates, opt_state = tx.update(pull(jnp.ones_like(value))[0], opt_state)
        return (jnp.clip(x + rate * updates, -1.0, 1.0), opt_state, best, best_value), None

    x = jnp.clip(starts, -1.0, 1.0)
    first = (x, tx.init(x), x, jnp.full(x.shape[:-1], jnp.inf))
    rates = RATE * (1.0 - jnp.arange(steps, dtype=jnp.float32) / steps)
    (x, _, best, best_value), _ = jax.lax.scan(step, first, rates)
    points, values = keep_better(x, values_of(x), best, best_value)
    winner = jnp.argmin(values, axis=0)
    return jnp.take_along_axis(points, winner[None, :, None], axis=0)[0]


# ---------------------------------------------------------------------- variance


class Variances(NamedTuple):
    """E||g - E g||^2 of single-sample gradients in a Gaussian's mean, at each state."""

    score_value: Float[np.ndarray, " n"]
    """Score function, weight Q."""
    score_advantage: Float[np.ndarray, " n"]
    """Score function, weight Q less its mean over the other samples."""
    reparameterised: Float[np.ndarray, " n"]
    """Reparameterisation."""
    signal: Float[np.ndarray, " n"]
    """||E g||^2, unbiased."""


def gradient_variances(
    objective: Callable[[Float[Array, "samples m"]], Float[Array, " samples"]],
    mean: Float[Array, " m"],
    sigma: float | Float[Array, ""],
    noise: Float[Array, "samples m"],
) -> tuple[Array, Array, Array, Array]:
    """`Variances` at one state: x = mean + sigma noise, noise ~ N(0, I)."""
    samples = noise.shape[0]
    values, pull = jax.vjp(objective, mean + sigma * noise)
    slopes = pull(jnp.ones_like(values))[0]
    others = (values.sum() - values) / (samples - 1)

    def variance(g: Array) -> Array:
        return g.var(0, ddof=1).sum()

    spread = variance(slopes)
    return (
        variance(values[:, None] * noise / sigma),
        variance((values - others)[:, None] * noise / sigma),
        spread,
        jnp.square(slopes.mean(0)).sum() - spread / samples,
    )


class RunVariances(NamedTuple):
    """Both policies at one sigma."""

    sigma: float
    latents: int
    actions: int
    latent: Variances
    raw: Variances


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedVarianceStudy:
    """Latent and raw Gaussian policies of the same mean action and the same sigma.

    Both are tanh-Gaussians, as the agent's are: sigma and the gradient belong to the mean before
    tanh, of u = tanh(x) and of a = tanh(x).
    """

    states: int = 256
    """States drawn from the online replay, per seed; intervals are over them."""
    samples: int = 256
    """Gradient estimates at each state."""
    sigma: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Standard deviations of exploration, before tanh."""
    seed: int = 0
    """Seed of states and samples."""

    def check(self) -> None:
        """ConfigError names the flag that is out of range."""
        require_at_least(2, {"--states": self.states, "--samples": self.samples})
        require_at_least(1, {"number of --sigma": len(self.sigma)})
        require_at_least(0, {"--seed": self.seed})
        for sigma in self.sigma:
            require_positive({"--sigma": sigma})

    def run(self, parts: Parts, observations: Float[np.ndarray, "n obs"]) -> list[RunVariances]:
        """Of one seed, at standardised states."""
        self.check()
        states = jnp.asarray(observations)
        k, d = (x.shape[1] for x in _means(parts, states))
        found = []
        for sigma in self.sigma:
            latent, raw = (
                Variances(*(np.asarray(part, np.float64) for part in one))
                for one in _variances(self, parts, states, jnp.float32(sigma))
            )
            found.append(RunVariances(sigma, k, d, latent, raw))
        return found


def _means(parts: Parts, observations: Array) -> tuple[Array, Array]:
    """The latent policy's mean before tanh, in u and in a: one action, two frames."""
    u = parts.latent(observations)
    decoded = parts.decode(observations, u)

    def before_tanh(x: Array) -> Array:
        return jnp.arctanh(jnp.clip(x, -MAX_SQUASHED, MAX_SQUASHED))

    return before_tanh(u), before_tanh(decoded)


@partial(jax.jit, static_argnums=0)
def _variances(
    study: TrainedVarianceStudy, parts: Parts, states: Array, sigma: Array
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """`gradient_variances` at every state, of latents and of raw actions."""

    def value(state: Array, actions: Array) -> Array:
        shared = jnp.broadcast_to(state, (len(actions), len(state)))
        return parts.critics(shared, actions).min(0)

    def latent_value(state: Array, x: Array) -> Array:
        shared = jnp.broadcast_to(state, (len(x), len(state)))
        return value(state, parts.decode(shared, jnp.tanh(x)))

    def raw_value(state: Array, x: Array) -> Array:
        return value(state, jnp.tanh(x))

    def over_states(
        value: Callable[[Array, Array], Array], means: Array, key: PRNGKeyArray
    ) -> tuple[Array, ...]:
        def one(x: tuple[Array, Array, Array]) -> tuple[Array, ...]:
            state, mean, key = x
            noise = jax.random.normal(key, (study.samples, len(mean)))
            return gradient_variances(lambda x: value(state, x), mean, sigma, noise)

        # One state after another: all at once would hold every sample's hidden layers.
        return jax.lax.map(one, (states, means, jax.random.split(key, len(states))))

    latent_key, raw_key = jax.random.split(jax.random.key(study.seed))
    u, actions = _means(parts, states)
    return over_states(latent_value, u, latent_key), over_states(raw_value, actions, raw_key)


def ratio_of_means(
    above: Float[np.ndarray, " n"], below: Float[np.ndarray, " n"], seed: int = 0
) -> tuple[float, float, float]:
    """mean(above) / mean(below) over the same states, and its 95% bootstrap interval. Seeded."""
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(above), size=(RESAMPLES, len(above)))
    ratios = above[picked].mean(1) / below[picked].mean(1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(above.mean() / below.mean()), float(low), float(high)
