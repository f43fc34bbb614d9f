"""Errors that a person can mend: one clear line, exit code 2, no traceback unless --debug."""

import difflib
from collections.abc import Iterable


class SpaarsError(Exception):
    """Bad input. The message says what is wrong, where, and how to mend it."""


class DataError(SpaarsError):
    """A dataset that cannot be used as it is."""


class ConfigError(SpaarsError):
    """A configuration that contradicts itself or names something unknown."""


class RunError(SpaarsError):
    """A run directory that cannot be used as asked."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """`unknown task 'hoper-medium'. Did you mean 'hopper-medium'? Known tasks: ...`"""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return ConfigError(f"unknown {kind} '{name}'.{hint} Known {kind}s: {', '.join(known)}.")
