"""The safety section of a run's configuration."""

import dataclasses

import gymnasium

from spaars.safety.budget import Budget
from spaars.safety.envelope import ActionEnvelope


@dataclasses.dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """Limits on what is executed; docs/safety.md says what they do not guarantee."""

    action_low: tuple[float, ...] | None = dataclasses.field(
        default=None, metadata={"signed": True}
    )
    """Lowest action executed, one number for all dimensions or one for each; None: the env's."""
    action_high: tuple[float, ...] | None = dataclasses.field(
        default=None, metadata={"signed": True}
    )
    """Highest action executed, likewise."""
    rate_limit: tuple[float, ...] | None = None
    """Largest change of an action from one environment step to the next, likewise; None: any."""
    budget: Budget = Budget()

    @property
    def limits_actions(self) -> bool:
        """Whether actions are limited by more than the env's own bounds."""
        return (self.action_low, self.action_high, self.rate_limit) != (None, None, None)

    def envelope(self, space: gymnasium.Space) -> ActionEnvelope:
        """Raises ConfigError, naming the flag, if the limits do not fit the action space."""
        return ActionEnvelope(space, self.action_low, self.action_high, self.rate_limit)
