"""What acts, frozen at one moment, and run by numpy alone.

Acting in numpy shares nothing with learning in JAX: no queue of the device, no thread pool, no
buffer that an update donates. So there is nothing of an update's to wait for (docs/own-loop.md).
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from spaars.algos.agent import Agent
from spaars.deploy.graph import SHARE, Step, exploring_graphs_of, graphs_of
from spaars.deploy.numpy_policy import OPERATIONS


def _gaussian(x: list, a: list, s: dict) -> np.ndarray:
    mean, log_std, noise = x
    return mean + np.exp(np.clip(np.float32(s["by"]) * log_std, s["low"], s["high"])) * noise


def _obeyed(x: list, a: list, s: dict) -> np.ndarray:
    """Above 0 where the gate is open (all of x[1:] above 0) and the draw x[0] below the share."""
    use = x[0] < np.float32(s["share"])
    for advantage in x[1:]:
        use = use & (advantage > 0.0)
    return use.astype(np.float32)


_OPERATIONS = OPERATIONS | {
    "columns": lambda x, a, s: x[0][:, s["start"] : s["stop"]],
    "gaussian": _gaussian,
    "add_noise": lambda x, a, s: x[0] + a[0] * x[1],
    "obeyed": _obeyed,
}


class Decision(NamedTuple):
    """An action (act,) in [-1, 1], and whether the gate was open and obeyed; None: no gate."""

    action: np.ndarray
    gate: bool | None
    raw: bool | None


class _Graph:
    """Steps with all look-ups done."""

    def __init__(self, steps: list[Step], arrays: Mapping[str, np.ndarray]):
        self.steps = [
            (
                _OPERATIONS[step["op"]],
                step["inputs"],
                [arrays[name] for name in step["arrays"]],
                step,
                step["output"],
            )
            for step in steps
        ]

    def __call__(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for operation, inputs, arrays, step, output in self.steps:
            values[output] = operation([values[name] for name in inputs], arrays, step)
        return values


class Snapshot:
    """Acting parameters at one moment. Immutable: threads may share it without a lock."""

    def __init__(self, agent: Agent, tree: Any, action_dim: int, updates: int, rollbacks: int):
        """`tree` is `Agent.acting` of one seed, in buffers that nothing else writes to."""
        self.agent, self.tree, self.action_dim = agent, tree, action_dim
        self.updates = updates
        """Of the learner, when this was taken."""
        self.rollbacks = rollbacks
        """How many the learner had carried out by then."""
        self._arrays = jax.tree.map(np.asarray, tree)
        armed = getattr(self._arrays, "armed", None)
        self._gated = armed is not None
        self._shadow = self._gated and agent.gate.shadow  # type: ignore[attr-defined]
        self._armed = bool(armed) if armed is not None else False
        self.exploring  # noqa: B018  now, by who learns, not when it is first acted with

    @cached_property
    def exploring(self) -> tuple[dict[str, _Graph], dict[str, dict[str, int]]]:
        graphs, arrays, noises = exploring_graphs_of(self.agent, self._arrays, self.action_dim)
        return {name: _Graph(steps, arrays) for name, steps in graphs.items()}, noises

    @cached_property
    def deterministic(self) -> dict[str, _Graph]:
        graphs, arrays = graphs_of(self.agent, self._arrays, self.action_dim)
        return {name: _Graph(steps, arrays) for name, steps in graphs.items()}

    def choose(self, observation: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """A skill (k,) for the next steps; without `rng` as evaluation chooses."""
        values = {"observations": observation[None]}
        if rng is None:
            return self.deterministic["skills"](values)["skills"][0]
        return self._explored("skills", values, rng)["skills"][0]

    def act(
        self, observation: np.ndarray, skill: np.ndarray | None, rng: np.random.Generator | None
    ) -> Decision:
        """As `Agent.act`, or without `rng` as `Agent.act_deterministic`."""
        values = {"observations": observation[None]}
        if skill is not None:
            values["skills"] = skill[None]
        if rng is None:
            values = self.deterministic["actions"](values)
        else:
            values = self._explored("actions", values, rng)
        action = values["actions"][0]
        if not self._gated:
            return Decision(action, None, None)
        if not self._armed:
            return Decision(action, False, False)
        if rng is None and self._shadow:
            return Decision(action, None, False)  # nobody compares what is not obeyed
        advantage = values.get("gate_advantage")
        is_open = bool(advantage[0, 0] > 0.0) if advantage is not None else True
        if rng is None:
            return Decision(action, is_open, is_open)
        return Decision(action, is_open, bool(values["use_raw"][0, 0] > 0.0))

    def _explored(
        self, graph: str, values: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        graphs, noises = self.exploring
        for name, width in noises[graph].items():
            draw = rng.random if name == SHARE else rng.standard_normal
            values[name] = draw((1, width), np.float32)
        return graphs[graph](values)
