"""A trained run as a policy."""

from spaars.deploy.policy import Policy, load_policy

__all__ = ["Policy", "load_policy"]
