"""Any Gymnasium env as a task: by its id, or by a function that makes it.

The task's name says it all, so that whatever reads a run's config.json can make the env again:

    MyEnv-v0    my_pkg:MyEnv-v0    my_pkg.envs:make_arm    MyEnv-v0 {"gain": 2}
"""

import importlib
import inspect
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import RescaleAction

from spaars.errors import ConfigError

NAME = re.compile(r"(?P<id>(?:[\w.]+:)?[\w./-]+)(?:\s+(?P<kwargs>\{.*\}))?", re.DOTALL)
VERSIONED = re.compile(r"[\w./-]+-v\d+")


def env_name(env_id: str, kwargs: Mapping[str, Any] | str | None = None) -> str:
    """The task name of an env. Raises ConfigError if `kwargs` are no JSON object."""
    if isinstance(kwargs, str):
        try:
            kwargs = json.loads(kwargs)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"--env-kwargs is no JSON ({error}), such as '{{\"k\": 1}}'."
            ) from error
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ConfigError(
            f"--env-kwargs must be a JSON object, such as '{{\"k\": 1}}', got {kwargs}."
        )
    return f"{env_id} {json.dumps(dict(kwargs), sort_keys=True)}" if kwargs else env_id


def parse_name(name: str) -> tuple[str, dict[str, Any]] | None:
    """Env id and arguments of a task name; None if it is no env's."""
    found = NAME.fullmatch(name)
    if found is None or not (":" in found["id"] or VERSIONED.fullmatch(found["id"])):
        return None
    try:
        return found["id"], json.loads(found["kwargs"] or "{}")
    except (ValueError, RecursionError):
        return None


def make(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """The env of a Gymnasium id, or what the function `module:name` returns."""
    module_name, _, name = env_id.rpartition(":")
    try:
        if module_name:
            made: Any = importlib.import_module(module_name)
            for part in name.split("."):
                made = getattr(made, part, None)
            if _makes_envs(made):
                return made(**kwargs)
            if callable(made):
                raise ConfigError(
                    f"env {env_id}: the function does not say that it returns an env. Annotate it, "
                    "`-> gymnasium.Env`: files name it too, and nothing else is called for them."
                )
        return gymnasium.make(env_id, **kwargs)
    except ImportError as error:
        raise ConfigError(
            f"env {env_id}: {error}. Install what holds it, or put its folder on PYTHONPATH; a "
            "function defined elsewhere is made known by `spaars.env_task(function)`."
        ) from error
    except (gymnasium.error.Error, TypeError) as error:
        raise ConfigError(
            f"env {env_id} cannot be made ({' '.join(str(error).split())[:300]}). "
            "Check its id, the module before the colon, and --env-kwargs."
        ) from error


def _makes_envs(made: Any) -> bool:
    """An Env class, or a function whose annotation says that it returns one.

    The name may come from a file (a run's configuration, an exported policy): `os:system` must not
    be called for it.
    """
    kind = made
    if inspect.isfunction(made) or inspect.ismethod(made):
        try:
            kind = typing.get_type_hints(made).get("return")
        except NameError:  # an annotation of what is imported for type checkers only
            return False
        kind = typing.get_origin(kind) or kind
    return inspect.isclass(kind) and issubclass(kind, gymnasium.Env)


class NamedObservations(gymnasium.ObservationWrapper):
    """A dict of vectors as one vector: its parts in the order of their names, nested ones as
    `outer/inner`, each in C order. Datasets whose observations are dicts are read alike."""

    observation_parts: tuple[tuple[str, int], ...]
    """Names and widths."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.paths = dict(sorted(_leaves(env.observation_space, ())))
        self.observation_parts = tuple((name, n) for name, (_, n) in self.paths.items())
        width = sum(n for _, n in self.observation_parts)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,))

    def observation(self, observation: Any) -> np.ndarray:
        parts = []
        for path, _ in self.paths.values():
            part = observation
            for key in path:
                part = part[key]
            parts.append(np.asarray(part, np.float32).ravel())
        return np.concatenate(parts)


def _leaves(space: Any, path: tuple[str, ...]) -> list[tuple[str, tuple[tuple[str, ...], int]]]:
    if isinstance(space, gymnasium.spaces.Dict):
        return [leaf for key, part in space.items() for leaf in _leaves(part, (*path, str(key)))]
    name = "/".join(path)
    if not isinstance(space, gymnasium.spaces.Box):
        raise ConfigError(
            f"observation '{name}' must be a Box, got {space}. Wrap the env so that it gives "
            "vectors of numbers."
        )
    return [(name, (path, int(np.prod(space.shape))))]


def adapt(env: gymnasium.Env) -> gymnasium.Env:
    """Dicts of observations flattened; bounded actions rescaled to [-1, 1]."""
    if isinstance(env.observation_space, gymnasium.spaces.Dict):
        env = NamedObservations(env)
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.Box):
        return env
    bounds = np.array([space.low, space.high])
    if np.isfinite(bounds).all() and not (bounds == [[-1.0], [1.0]]).all():
        env = RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    return env


def time_limit(env: gymnasium.Env) -> int | None:
    """Steps after which Gymnasium truncates an episode; None where it does not."""
    if env.spec is not None and env.spec.max_episode_steps is not None:
        return env.spec.max_episode_steps
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return env._max_episode_steps
        env = env.env
    return None


def describe_env(env: gymnasium.Env) -> dict[str, Any]:
    """How `adapt` brought the env into form: names of observations, what actions -1 and 1 mean."""
    facts: dict[str, Any] = {}
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, NamedObservations):
            facts["observations"] = [list(part) for part in env.observation_parts]
        elif isinstance(env, RescaleAction):
            inner: Any = env.env.action_space
            # The outermost: behind it is the env as its user knows it.
            facts.setdefault("action_low", [float(x) for x in inner.low])
            facts.setdefault("action_high", [float(x) for x in inner.high])
        env = env.env
    return facts
