"""The state-dependent advantage gate: who acts, the raw policy or the decoded latent one.

The comparison is *paired* over the critic ensemble: member e compares both actions itself, so
what the members disagree on at the state as such cancels (design section 2.5).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spaars.nn import Critics, Metrics

NOT_ARMED = -1
GateRule = Literal["advantage", "never", "always", "step"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The advantage gate and the hand-over."""

    rule: GateRule = "advantage"
    """advantage: by the critics, state by state; never: latent only; always: raw only; step: raw
    from --gate.step on (the fixed-switch ablation)."""
    step: int | None = None
    """Environment step of the switch; only with rule 'step'."""
    pessimism: float = 0.5
    """kappa: standard deviations of the paired advantage that are subtracted from its mean."""
    margin: float = 0.0
    """delta: advantage (units of return) that the raw action must win by."""
    raw_share_cap: float = 1.0
    """Largest probability with which an open gate hands control to the raw policy while exploring,
    by the rule 'advantage'. Who is on trial or deployed acts as in evaluation: always obeyed."""
    ramp_steps: int = 5_000
    """Environment steps after arming over which that probability rises from 0 to the cap."""
    shadow: bool = False
    """Compute and log the gate, but let the latent policy act, in training and in evaluation: what
    would have been handed over, before anything is."""
    earliest_step: int = 10_000
    """No hand-over before this environment step."""
    latest_step: int = 50_000
    """Hand-over at this environment step even without evidence."""
    bound_tolerance: float = 0.05
    """Hand over once the bound on the drop is below this fraction of the mean value."""
    plateau_window: int = 5_000
    """Environment steps of a window of training returns, for the plateau rule."""
    plateau_improvement: float = 0.05
    """Hand over once a window improves on the best earlier one by less than this fraction."""


def paired_advantage(
    q_raw: Float[Array, "ensemble *b"], q_decoded: Float[Array, "ensemble *b"], pessimism: float
) -> Float[Array, "*b"]:
    """mean_e Delta_e - pessimism std_e Delta_e, Delta_e = Q_e(s, a_raw) - Q_e(s, a_decoded)."""
    delta = q_raw - q_decoded
    return delta.mean(0) - pessimism * delta.std(0)


def gate_open(
    q_raw: Float[Array, "ensemble *b"],
    q_decoded: Float[Array, "ensemble *b"],
    pessimism: float,
    margin: float,
) -> Bool[Array, "*b"]:
    """Whether the raw action wins with confidence: paired advantage above `margin`."""
    return paired_advantage(q_raw, q_decoded, pessimism) > margin


# What both agents with a gate do. `armed_at` is the count of updates when the gate was armed,
# NOT_ARMED before.


def arm(
    armed_at: Int[Array, ""], armed: Bool[Array, ""], updates: Int[Array, ""]
) -> Int[Array, ""]:
    """From now on the gate may open, where `armed` and not yet so."""
    return jnp.where(armed & (armed_at == NOT_ARMED), updates, armed_at)


def disarm(armed_at: Int[Array, ""]) -> Int[Array, ""]:
    """The gate is shut until it is armed again; its ramp then begins anew."""
    return jnp.full_like(armed_at, NOT_ARMED)


def raw_share(config: GateConfig, steps_since_armed: Float[Array, ""]) -> Float[Array, ""]:
    """Probability with which an open gate is obeyed: by the critics, it rises to the cap."""
    if config.shadow:
        return jnp.zeros_like(steps_since_armed)
    if config.rule in ("always", "step"):
        return jnp.ones_like(steps_since_armed)
    ramp = jnp.clip(steps_since_armed / max(config.ramp_steps, 1), 0.0, 1.0)
    return config.raw_share_cap * ramp


def raw_wins(
    config: GateConfig,
    critics: Critics,
    observations: Float[Array, "b obs"],
    raw_actions: Float[Array, "b act"],
    decoded_actions: Float[Array, "b act"],
) -> Bool[Array, " b"]:
    """Whether an armed gate is open at these states."""
    if config.rule in ("always", "step"):
        return jnp.ones(observations.shape[:-1], bool)
    q_raw = critics(observations, raw_actions)
    q_decoded = critics(observations, decoded_actions)
    return gate_open(q_raw, q_decoded, config.pessimism, config.margin)


def handover_evidence(
    config: GateConfig,
    critics: Critics,
    observations: Float[Array, "b obs"],
    raw_actions: Float[Array, "b act"],
    decoded_actions: Float[Array, "b act"],
    discount: float,
) -> Metrics:
    """What the hand-over is decided on (design 2.7, statement 3), of both policies' modes.

    `handover_bound` is L_Q E||mu_a - D(mu_z)|| / (1 - gamma), L_Q the 95th percentile of
    ||grad_a min_e Q||, in units of discounted return like `value`.
    """
    cloning_error = jnp.linalg.norm(raw_actions - decoded_actions, axis=-1).mean()
    slope = jax.grad(lambda a: critics(observations, a).min(0).sum())(decoded_actions)
    lipschitz = jnp.quantile(jnp.linalg.norm(slope, axis=-1), 0.95)
    q_decoded = critics(observations, decoded_actions)
    advantage = paired_advantage(critics(observations, raw_actions), q_decoded, config.pessimism)
    return {
        "cloning_error": cloning_error,
        "lipschitz": lipschitz,
        "handover_bound": lipschitz * cloning_error / (1.0 - discount),
        "value": q_decoded.min(0).mean(),
        "gate_advantage": advantage.mean(),
        "gate_would_open": (advantage > config.margin).astype(jnp.float32).mean(),
    }
