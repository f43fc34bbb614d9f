"""Packages that register further envs; they come with an extra of ours."""

import contextlib
import importlib
import io

import gymnasium

from spaars.errors import ConfigError


def import_package(package: str, what: str) -> None:
    """Register the envs of `module:extra`. Raises ConfigError if it is not installed."""
    module, _, extra = package.partition(":")
    try:
        # Some print news of envs that nobody asked for.
        with contextlib.redirect_stderr(io.StringIO()):
            gymnasium.register_envs(importlib.import_module(module))
    except ImportError as error:
        raise ConfigError(
            f"{what} needs the package {module} ({error}). "
            f"Install it with `pip install 'spaars[{extra}]'`."
        ) from error
