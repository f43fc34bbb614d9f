"""When the gate may open: by evidence, not by a step count (design section 2.5)."""

from collections.abc import Mapping, Sequence

import numpy as np

from spaars.algos.gate import GateConfig


def reason_to_hand_over(
    config: GateConfig,
    env_step: int,
    evidence: Mapping[str, float],
    episodes: Sequence[tuple[int, float]],
) -> str | None:
    """Why the gate is to be armed now, in words; None if it is not time yet.

    `evidence` holds `handover_bound` and `value` of `Spaars.evidence`; `episodes` the (env step
    at the end, return) of the training episodes so far, oldest first.
    """
    if config.rule == "step":
        return f"fixed step {config.step}" if env_step >= (config.step or 0) else None
    if config.rule != "advantage" or env_step < config.earliest_step:
        return None
    bound, value = evidence["handover_bound"], abs(evidence["value"])
    if bound < config.bound_tolerance * value:
        return (
            f"the bound on the drop, {bound:.3g}, is below "
            f"{config.bound_tolerance:.0%} of the value {value:.3g}"
        )
    plateau = _plateau(config, env_step, episodes)
    if plateau:
        return plateau
    if env_step >= config.latest_step:
        return f"latest step {config.latest_step} reached without other evidence"
    return None


def _plateau(
    config: GateConfig, env_step: int, episodes: Sequence[tuple[int, float]]
) -> str | None:
    """The newest window of training returns against the best of the earlier ones."""
    if env_step % config.plateau_window:
        return None
    window = config.plateau_window
    by_window: dict[int, list[float]] = {}
    for step, episode_return in episodes:
        by_window.setdefault((env_step - step) // window, []).append(episode_return)
    newest = by_window.pop(0, None)
    if newest is None or not by_window:
        return None
    best = max(float(np.mean(returns)) for returns in by_window.values())
    now = float(np.mean(newest))
    if now > best + config.plateau_improvement * abs(best):
        return None
    return (
        f"training return no longer improves: {now:.4g} in the last {window} steps, "
        f"{best:.4g} at best before"
    )
