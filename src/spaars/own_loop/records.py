"""What passes between acting and learning: steps, ends of episodes, wishes to go back."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spaars.data.replay import Batch
from spaars.own_loop.snapshot import Snapshot


@dataclasses.dataclass(frozen=True, eq=False)
class Acted:
    """What an action came with, and the ticket that `observe` wants back."""

    step: int
    """Steps observed before it."""
    episode: int
    """Episodes finished before it."""
    observation: np.ndarray
    """(obs,), as the policy read it."""
    action: np.ndarray
    """(act,) in [-1, 1], within the envelope."""
    actor: str
    """explore, or whose policy acts deterministically: deployed or candidate."""
    gate: bool | None
    """Whether the gate was open; None where nothing compares."""
    raw: bool | None
    """Whether the raw policy acted; None for methods without a gate."""
    clipped: bool
    """Whether the envelope changed what the policy asked for."""
    updates: int
    """Of the learner, when the acting policy was taken from it."""
    skill: np.ndarray | None = None
    """(k,), the running one; None for methods without skills."""


class Row(NamedTuple):
    """A step that was executed, with a skill and what the gate did where there are such."""

    observation: np.ndarray
    executed: np.ndarray
    reward: float
    next_observation: np.ndarray
    terminated: bool
    skill: np.ndarray | None
    gate: float
    raw: float


class End(NamedTuple):
    """An episode's end, after its last row; `entry` is None where it was cut."""

    entry: list[Any] | None


class RollBack(NamedTuple):
    """The learner's policies are to go back to `policy`; if by a budget, the gate is shut, too."""

    policy: Snapshot
    step: int
    shut_gate: bool


def batch_of(rows: Sequence[Row]) -> Batch:
    """Leaves (n, ...), on the host."""
    arrays: dict[str, Any] = dict(arrays_of(rows, ended=False))
    return Batch(
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        next_observations=arrays["next_observations"],
        terminated=arrays["terminated"].astype(np.float32),
        latents=arrays.get("skills"),
    )


def arrays_of(rows: Sequence[Row], ended: bool) -> dict[str, np.ndarray]:
    """An episode's rows by the names that datasets have; empty for none."""
    if not rows:
        return {}
    arrays = {
        "observations": np.stack([row.observation for row in rows]),
        "actions": np.stack([row.executed for row in rows]),
        "rewards": np.array([row.reward for row in rows], np.float32),
        "next_observations": np.stack([row.next_observation for row in rows]),
        "terminated": np.array([row.terminated for row in rows]),
        "truncated": np.zeros(len(rows), bool),
        "gate": np.array([row.gate for row in rows], np.float32),
        "raw_share": np.array([row.raw for row in rows], np.float32),
    }
    if ended:
        arrays["truncated"][-1] = not rows[-1].terminated
    if (skills := [row.skill for row in rows if row.skill is not None]) != []:
        arrays["skills"] = np.stack(skills)
    return arrays


def rows_of(arrays: Mapping[str, np.ndarray]) -> list[Row]:
    """The inverse of `arrays_of`."""
    return [
        Row(
            arrays["observations"][i],
            arrays["actions"][i],
            float(arrays["rewards"][i]),
            arrays["next_observations"][i],
            bool(arrays["terminated"][i]),
            arrays["skills"][i] if "skills" in arrays else None,
            float(arrays["gate"][i]),
            float(arrays["raw_share"][i]),
        )
        for i in range(len(arrays.get("rewards", ())))
    ]


def explored_in(history: Sequence[Sequence[Any]]) -> list[tuple[int, float]]:
    """Step at the end, and return, of exploring episodes whose return is known."""
    return [(e[0], e[1]) for e in history if e[3] == "explore" and not np.isnan(e[1])]


def frozen(array: Any) -> np.ndarray:
    """A float32 copy that cannot be written to."""
    copy = np.array(array, np.float32)
    copy.flags.writeable = False
    return copy
