"""What the studies share: checks of their flags, and intervals over random problems."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from spaars.errors import ConfigError

RESAMPLES = 10_000


def require_at_least(least: int, flags: Mapping[str, int]) -> None:
    """ConfigError for the first flag whose value is below `least`."""
    for flag, value in flags.items():
        if value < least:
            raise ConfigError(f"{flag} must be at least {least}, got {value}.")


def require_positive(flags: Mapping[str, float]) -> None:
    """ConfigError for the first flag whose value is not above 0, or not finite."""
    for flag, value in flags.items():
        if not (value > 0.0 and math.isfinite(value)):
            raise ConfigError(f"{flag} must be above 0 and finite, got {value}.")


def require_not_negative(flags: Mapping[str, float]) -> None:
    """ConfigError for the first flag whose value is below 0, or not finite."""
    for flag, value in flags.items():
        if not (value >= 0.0 and math.isfinite(value)):
            raise ConfigError(f"{flag} must be at least 0 and finite, got {value}.")


def require_discount(gamma: float) -> None:
    """ConfigError unless 0 < gamma < 1."""
    if not 0.0 < gamma < 1.0:
        raise ConfigError(f"--gamma must be between 0 and 1, both excluded; got {gamma}.")


def bootstrap_interval(values: Float[np.ndarray, " m"], seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean of independent values, by the percentile method. Seeded."""
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[picked].mean(1), (2.5, 97.5))
    return float(low), float(high)
