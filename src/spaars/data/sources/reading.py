"""How to read a source: what it does not say itself, and a person must."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from spaars.data.dataset import DIMENSIONS
from spaars.errors import ConfigError, unknown_name

Progress = Callable[[int, int], None]
"""Called with (parts read, parts in all)."""

JOINABLE = ("observations", "actions", "next_observations")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The default takes a source as it is, under the format's own names."""

    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The source's names for our arrays; observations and actions may be joined from several."""
    rewards: Literal["recorded", "zero"] = "recorded"
    """zero: the source has none, and zeros are to stand in (imitation needs none)."""
    action_low: tuple[float, ...] = ()
    """The source's actions that mean -1: one number for all dimensions, or one for each."""
    action_high: tuple[float, ...] = ()
    """The source's actions that mean 1."""

    def __post_init__(self) -> None:
        for name, columns in self.columns.items():
            if name not in DIMENSIONS:
                raise unknown_name("array", name, DIMENSIONS)
            if not columns or not all(columns) or len(set(columns)) != len(columns):
                raise ConfigError(f"--columns {name}=: name its columns, each once, as in a,b.")
            if len(columns) > 1 and name not in JOINABLE:
                raise ConfigError(
                    f"--columns {name}={','.join(columns)}: only {', '.join(JOINABLE)} can be "
                    "joined from several columns. Name one."
                )
        if bool(self.action_low) != bool(self.action_high):
            raise ConfigError("--action-low and --action-high go together; give both or neither.")
        lengths = {len(self.action_low), len(self.action_high)} - {1}
        if len(lengths) > 1:
            raise ConfigError(
                f"--action-low has {len(self.action_low)} numbers, --action-high has "
                f"{len(self.action_high)}. Give one number, or one for each dimension, to both."
            )
        for i, (low, high) in enumerate(self.bounds(max(lengths, default=1))):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(
                    f"--action-low must be below --action-high, both finite; dimension {i} has "
                    f"{low:g} and {high:g}."
                )

    def bounds(self, dimensions: int) -> list[tuple[float, float]]:
        """Low and high of every dimension; empty if no bounds were given."""
        if not self.action_low:
            return []
        low, high = (
            x * dimensions if len(x) == 1 else x for x in (self.action_low, self.action_high)
        )
        return list(zip(low, high, strict=True))


def parse_columns(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`observations=qpos,qvel actions=act`, as the command line has it."""
    columns: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, names = word.partition("=")
        if not equals:
            near = difflib.get_close_matches(name, DIMENSIONS, n=1, cutoff=0.3)
            raise ConfigError(
                f"--columns {word}: write our array, =, and its name in the data, such as "
                f"{near[0] if near else 'observations'}={name}."
            )
        if name in columns:
            raise ConfigError(
                f"--columns {name}= is given twice. Join several columns with commas: {name}=a,b."
            )
        columns[name] = tuple(names.split(","))
    return columns
