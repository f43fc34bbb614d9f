"""Flags of the commands that read data which do not speak for themselves."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spaars.data.dataset import Dataset
from spaars.data.description import Description, Parts
from spaars.data.sources import Reading, load_file, parse_columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingArgs:
    """How to read a source; nothing is needed where it uses its format's own names."""

    columns: tuple[str, ...] = ()
    """Names where they differ, ours first: observations=qpos,qvel actions=act. Several are joined
    in the order given. Ours: observations, actions, rewards, next_observations, terminated,
    truncated."""
    rewards: Literal["recorded", "zero"] = "recorded"
    """zero: no rewards were recorded; write zeros, from which only imitation can learn."""
    action_low: tuple[float, ...] = ()
    """What the robot calls its lowest action: one number, or one for each dimension. It becomes
    -1."""
    action_high: tuple[float, ...] = ()
    """What the robot calls its highest action. It becomes 1."""

    def reading(self) -> Reading:
        return Reading(
            columns=parse_columns(self.columns),
            rewards=self.rewards,
            action_low=self.action_low,
            action_high=self.action_high,
        )


def load_with_bar(console: Console, source: str, reading: Reading) -> Dataset:
    """`load_file` under a progress bar."""
    with progress_bar(console, "reading") as progress:
        return load_file(source, reading, progress)


@contextmanager
def progress_bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar, and the function to call with (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def rules(description: Description) -> dict[str, str]:
    """How the arrays were made, a line each; empty if nothing is known."""
    lines = {}
    if description.observations:
        lines["observations"] = _joined(description.observations)
    if description.actions:
        lines["actions"] = _joined(description.actions)
    if description.action_low:
        lows, highs = (
            ", ".join(f"{x:g}" for x in bound)
            for bound in (description.action_low, description.action_high)
        )
        lines["actions"] += f"; from [{lows}] and [{highs}] to -1 and 1"
    if description.rewards == "zero":
        lines["rewards"] = "zeros; none were recorded"
    return lines


def _joined(parts: Parts) -> str:
    return " + ".join(f"{name} ({width})" for name, width in parts)
