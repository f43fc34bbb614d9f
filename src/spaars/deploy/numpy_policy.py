"""An exported policy in numpy alone.

This file needs nothing but numpy and the standard library: `pip install spaars`, or copy it to the
robot beside what `spaars export RUN --format npz` wrote.

    policy = NumpyPolicy("policy-s0.npz")
    policy.reset()                 # an episode begins
    action = policy(observation)   # (act,) float32 in [-1, 1]

The .npz holds float32 arrays and `policy.json`, the computation as a list of steps in order:

    {"op": "linear", "inputs": ["observations"], "arrays": ["raw/0/weight", "raw/0/bias"],
     "output": "raw.0"}

Nothing in it is ever unpickled or executed; a file that is not whole is refused.
"""

from __future__ import annotations

import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "spaars policy 1"
DESCRIPTION = "policy.json"
MAX_DESCRIPTION = 2**20
"""Bytes; what is longer was not written by us."""
MAX_WIDTH = 2**16
"""Numbers side by side in a step's output; a few steps could ask for terabytes."""
NORM_EPSILON = 1e-6


class PolicyError(ValueError):
    """A file that holds no policy, or an observation that the policy cannot take."""


# ------------------------------------------------------------------ the operations
# Each works on inputs (n, width) and gives (n, width), float32 throughout, in the order in which
# training computes it.


def _standardise(x: list, a: list, s: dict) -> np.ndarray:
    return (x[0] - a[0]) / a[1]


def _linear(x: list, a: list, s: dict) -> np.ndarray:
    return x[0] @ a[0] + a[1]


def _layer_norm(x: list, a: list, s: dict) -> np.ndarray:
    centred = x[0] - x[0].mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(NORM_EPSILON)) * a[0] + a[1]


def _paired_advantage(x: list, a: list, s: dict) -> np.ndarray:
    """mean_e Delta_e - pessimism std_e Delta_e - margin of critics' Q (raw ..., decoded ...)."""
    half = len(x) // 2
    delta = np.concatenate(x[:half], -1) - np.concatenate(x[half:], -1)
    mean, std = delta.mean(-1, keepdims=True), delta.std(-1, keepdims=True)
    return mean - np.float32(s["pessimism"]) * std - np.float32(s["margin"])


def _limit_rate(x: list, a: list, s: dict) -> np.ndarray:
    """Actions at most `a[0]` away from the previous ones, which are NaN where there are none."""
    actions, previous = x
    limited = np.clip(actions, previous - a[0], previous + a[0])
    return np.where(np.isnan(previous), actions, limited)


OPERATIONS: dict[str, Callable[[list, list, dict], np.ndarray]] = {
    "standardise": _standardise,
    "linear": _linear,
    "layer_norm": _layer_norm,
    "relu": lambda x, a, s: np.maximum(x[0], np.float32(0.0)),
    "tanh": lambda x, a, s: np.tanh(x[0]),
    "arctanh": lambda x, a, s: np.arctanh(x[0]),
    "scale": lambda x, a, s: np.float32(s["by"]) * x[0],
    "clip": lambda x, a, s: np.clip(x[0], np.float32(s["low"]), np.float32(s["high"])),
    "bound": lambda x, a, s: np.clip(x[0], a[0], a[1]),
    "limit_rate": _limit_rate,
    "concatenate": lambda x, a, s: np.concatenate(x, -1),
    "paired_advantage": _paired_advantage,
    "where_positive": lambda x, a, s: np.where(x[0] > 0.0, x[1], x[2]),
}
_SETTINGS = {"scale": ("by",), "clip": ("low", "high"), "paired_advantage": ("pessimism", "margin")}


def _output_width(op: str, widths: list[int], shapes: list[tuple[int, ...]]) -> int | None:
    """Width of a step's output; None if inputs and arrays do not fit the operation."""
    one, two = len(widths) == 1, len(shapes) == 2
    if op == "linear" and one and two and len(shapes[0]) == 2:
        fits = shapes[0][0] == widths[0] and shapes[1] == (shapes[0][1],)
        return shapes[0][1] if fits else None
    if op in ("standardise", "layer_norm", "bound") and one:
        return widths[0] if shapes == [(widths[0],)] * 2 else None
    if op == "limit_rate" and len(widths) == 2 and shapes:
        return widths[0] if widths[1] == widths[0] and shapes == [(widths[0],)] else None
    if shapes:
        return None
    if op == "concatenate" and widths:
        return sum(widths)
    if op == "paired_advantage" and widths and len(widths) % 2 == 0:
        return 1 if set(widths) == {1} else None
    if op == "where_positive" and len(widths) == 3:
        return widths[1] if widths[0] == 1 and widths[1] == widths[2] else None
    return widths[0] if op in ("relu", "tanh", "arctanh", "scale", "clip") and one else None


# ------------------------------------------------------------------ the policy


class NumpyPolicy:
    """Deterministic actions of an exported policy. Call it with raw observations.

    A policy with skills remembers the running one, and one with a rate limit its last actions: call
    it once per env step, for the same envs, and `reset()` it when their episodes begin.
    """

    about: dict[str, Any]
    """What the policy is: task, method, seed, data, scores, action bounds, versions."""
    observation_dim: int
    action_dim: int
    skill_length: int | None
    """Steps that a skill lasts; None for policies without skills."""

    def __init__(self, path: str | Path):
        """Raises PolicyError if `path` is no whole exported policy."""
        description, self._arrays = _read(Path(path))
        try:
            self._describe(description)
            self._graphs = _checked_graphs(description, self._arrays, self._inputs())
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise PolicyError(
                f"{path}: its {DESCRIPTION} describes no policy ({_one_line(error)}). "
                "Export the run again with `spaars export`."
            ) from error
        steps = self._graphs["actions"]
        self._limits_rate = any("previous" in step["inputs"] for step in steps)
        self.reset()

    _limits_rate = False
    """Whether actions depend on those before them."""

    def _describe(self, description: Mapping[str, Any]) -> None:
        """Take what every exported policy says of itself. Raises ValueError, KeyError or so."""
        self.observation_dim = _count(description["observation_dim"])
        self.action_dim = _count(description["action_dim"])
        self.skill_length = self.skill_dim = None
        if "skill_length" in description:
            self.skill_length = _count(description["skill_length"])
            self.skill_dim = _count(description["skill_dim"])
        self.layout = [(_text(name), _count(n)) for name, n in description.get("observations", [])]
        if self.layout and sum(n for _, n in self.layout) != self.observation_dim:
            raise ValueError("its columns of observations are not as many as its inputs")
        if not isinstance(description["about"], dict):
            raise TypeError("'about' is no object")
        self.about = description["about"]

    def _inputs(self) -> dict[str, tuple[dict[str, int], int]]:
        """Of each graph: widths of its inputs, and of its output."""
        observations = {"observations": self.observation_dim}
        acting = {**observations, "previous": self.action_dim}
        if self.skill_dim is None:
            return {"actions": (acting, self.action_dim)}
        return {
            "skills": (observations, self.skill_dim),
            "actions": ({**acting, "skills": self.skill_dim}, self.action_dim),
        }

    def reset(self) -> None:
        """An episode begins: what was going on is forgotten."""
        self._calls = 0
        self._skills: np.ndarray | None = None
        self._previous: np.ndarray | None = None

    def __call__(self, observation: Any) -> np.ndarray:
        """Actions in [-1, 1], (act,) or (n, act) float32, for observations (obs,) or (n, obs).

        Where the policy was trained on named parts (`layout`), a mapping of them is flattened in
        their order. Raises PolicyError if the shape is wrong or a number is not finite.
        """
        if isinstance(observation, Mapping):
            observation = self._flattened(observation)
        actions = self.compute(np.atleast_2d(observation))["actions"]
        return actions[0] if np.ndim(observation) == 1 else actions

    def compute(self, observations: Any) -> dict[str, np.ndarray]:
        """`actions` (n, act) for observations (n, obs), and what else the policy computes.

        `gate_advantage` (n, 1), where there is a gate: by how much the raw action wins in the
        pessimistic judgement of the critics; above 0 the raw policy acts.
        """
        observations = self._checked(observations)
        values = {"observations": observations}
        if self._limits_rate:
            if self._previous is None:
                nothing = np.full((len(observations), self.action_dim), np.nan, np.float32)
                self._previous = nothing
            self._same_envs("last actions", self._previous, observations)
            values["previous"] = self._previous
        if self.skill_length is not None:
            if self._calls % self.skill_length == 0:
                self._skills = self._run("skills", {"observations": observations})["skills"]
            assert self._skills is not None
            self._same_envs("skills", self._skills, observations)
            self._calls += 1
            values["skills"] = self._skills
        computed = self._run("actions", values)
        if self._limits_rate:
            self._previous = computed["actions"].copy()  # the caller may change theirs
        return computed

    def _same_envs(self, what: str, kept: np.ndarray, observations: np.ndarray) -> None:
        if len(kept) != len(observations):
            raise PolicyError(
                f"the policy follows {what} of {len(kept)} envs, got observations of "
                f"{len(observations)}. Call `reset()` before other episodes."
            )

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions in [-1, 1] in the units that the robot takes, if the policy knows its bounds."""
        low, high = self.about.get("action_low"), self.about.get("action_high")
        if not low or not high:
            return actions
        low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        # Rounding must not pass a limit that a driver checks.
        return np.clip(
            low + (np.asarray(actions, np.float32) + 1.0) * 0.5 * (high - low), low, high
        )

    def _flattened(self, observation: Mapping[str, Any]) -> np.ndarray:
        if not self.layout:
            raise PolicyError(
                f"the policy takes a vector of {self.observation_dim} numbers, no mapping."
            )
        return flattened(observation, self.layout)

    def _checked(self, observations: Any) -> np.ndarray:
        try:
            array = np.asarray(observations, np.float32)
        except (TypeError, ValueError) as error:
            raise PolicyError(f"observations must be numbers ({error}).") from error
        if array.ndim != 2 or array.shape[1] != self.observation_dim:
            raise PolicyError(
                f"the policy takes observations of {self.observation_dim} numbers, got shape "
                f"{array.shape[1:] if array.ndim > 1 else array.shape}."
            )
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise PolicyError(
                f"the observation has {array[row, column]} in dimension {column}; the policy knows "
                "no action for it."
            )
        return array

    def _run(self, graph: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = dict(values)
        for step in self._graphs[graph]:
            inputs = [values[name] for name in step["inputs"]]
            arrays = [self._arrays[name] for name in step["arrays"]]
            values[step["output"]] = OPERATIONS[step["op"]](inputs, arrays, step)
        if not np.isfinite(values[graph]).all():
            raise PolicyError(
                f"the {graph} for this observation overflow; it is far from the data."
            )
        return {name: values[name] for name in (graph, "gate_advantage") if name in values}


def flattened(observation: Mapping[str, Any], layout: list[tuple[str, int]]) -> np.ndarray:
    """Named parts, nested ones as `outer/inner`, in the order and widths of `layout`."""
    parts = []
    for name, width in layout:
        part: Any = observation
        for key in [name] if name in observation else name.split("/"):
            if not isinstance(part, Mapping) or key not in part:
                names = ", ".join(name for name, _ in layout)
                raise PolicyError(f"the observation has no '{name}'; the policy takes {names}.")
            part = part[key]
        parts.append(np.asarray(part, np.float32).ravel())
        if parts[-1].size != width:
            raise PolicyError(f"'{name}' must have {width} numbers, got {parts[-1].size}.")
    return np.concatenate(parts)


# ------------------------------------------------------------------ reading and checking


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with zipfile.ZipFile(path) as file:
            members = {info.filename: info for info in file.infolist()}
            if DESCRIPTION not in members:
                raise PolicyError(
                    f"{path}: no exported policy; it has no {DESCRIPTION}. "
                    "Make one with `spaars export RUN --format npz`."
                )
            for info in members.values():
                # As they are written: so no file declares more than it holds.
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{info.filename} is compressed")
            if members[DESCRIPTION].file_size > MAX_DESCRIPTION:
                raise ValueError(f"{DESCRIPTION} of {members[DESCRIPTION].file_size:,} bytes")
            description = json.loads(file.read(DESCRIPTION))
            if not isinstance(description, dict) or description.get("format") != FORMAT:
                raise ValueError(f"{DESCRIPTION} is not of format '{FORMAT}'")
            arrays = {
                name[: -len(".npy")]: _read_array(file, info)
                for name, info in members.items()
                if name != DESCRIPTION
            }
    except PolicyError:
        raise
    except FileNotFoundError as error:
        raise PolicyError(f"{path}: no such file.") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        RuntimeError,  # encrypted, or nested too deep
        NotImplementedError,
        KeyError,
        TypeError,
        ValueError,
        SyntaxError,  # from a header that is no literal
        tokenize.TokenError,
        MemoryError,
        OverflowError,
    ) as error:
        raise PolicyError(
            f"{path}: not a whole exported policy ({_one_line(error)}). Copy or export it again."
        ) from error
    return description, arrays


def _read_array(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    name = info.filename
    if not name.endswith(".npy"):
        raise ValueError(f"'{name}' is no array")
    with file.open(info) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError(f"'{name}' has another npy format than 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        if dtype != np.dtype("<f4") or fortran:
            raise ValueError(f"'{name}' is {dtype}, not float32 in C order")
        contents = member.read()
    if min(shape, default=0) < 1 or math.prod(shape) * 4 != len(contents):
        raise ValueError(f"'{name}' of shape {shape} in {len(contents)} bytes")
    array = np.frombuffer(contents, "<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"'{name}' has NaN or infinity")
    return array


def _checked_graphs(
    description: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[dict[str, int], int]],
) -> dict[str, list[dict[str, Any]]]:
    """The steps of each graph, every one of which fits the others. Raises ValueError otherwise."""
    graphs = description["graphs"]
    if set(graphs) != set(wanted):
        raise ValueError(f"graphs {sorted(map(str, graphs))}, not {sorted(wanted)}")
    for graph, (inputs, output) in wanted.items():
        widths = dict(inputs)
        for step in graphs[graph]:
            op, out = _text(step["op"]), _text(step["output"])
            listed = isinstance(step["inputs"], list) and isinstance(step["arrays"], list)
            if op not in OPERATIONS or out in widths or not listed:
                raise ValueError(f"a step '{op}' to '{out}'")
            for name in _SETTINGS.get(op, ()):
                if type(step[name]) not in (int, float) or not abs(step[name]) < 1e9:
                    raise ValueError(f"step '{out}' with {name} {str(step[name])[:40]}")
            width = _output_width(
                op,
                [widths[_text(name)] for name in step["inputs"]],
                [arrays[_text(name)].shape for name in step["arrays"]],
            )
            if width is None or width > MAX_WIDTH:
                raise ValueError(f"step '{out}' does not fit its inputs or arrays")
            if op == "standardise" and not (arrays[step["arrays"][1]] > 0.0).all():
                raise ValueError("a standard deviation that is not positive")
            widths[out] = width
        if widths.get(graph) != output or widths.get("gate_advantage", 1) != 1:
            raise ValueError(f"{widths.get(graph)} {graph}, not {output}")
    return dict(graphs)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"{value!r} where a count is expected")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a name is expected")
    return value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
