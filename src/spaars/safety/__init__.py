"""Limits on what is executed, measurements of it, and budgets on what it may lose.

Nothing here is a guarantee; docs/safety.md says what it is not. The trainer calls it between
updates, never inside one.
"""

from spaars.safety.budget import Budget
from spaars.safety.config import SafetyConfig
from spaars.safety.envelope import ActionEnvelope
from spaars.safety.support import SupportMonitor

__all__ = ["ActionEnvelope", "Budget", "SafetyConfig", "SupportMonitor"]
