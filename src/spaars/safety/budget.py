"""What may be lost within a window of online steps before control goes back."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be lost before the policies go back to the deployed ones and the gate is shut; all
    off by default."""

    falls: int | None = None
    """Falls (training episodes that the env ended) that a window may hold; None: any number."""
    cost: float | None = None
    """Sum of `info["cost"]` that a window may hold; None: any."""
    dip: float | None = None
    """Share of the offline policy's return by which the mean return of a window's exploring
    episodes may fall short of it; None: any."""
    window: int = 5_000
    """Environment steps of a window. It reaches back no further than the last rollback, and as long
    after it the gate stays shut."""

    @property
    def limits(self) -> bool:
        """Whether anything is limited."""
        return any(limit is not None for limit in (self.falls, self.cost, self.dip))

    def passed(
        self,
        env_step: int,
        since: int,
        episodes: Sequence[Sequence[Any]],
        costs: Sequence[Sequence[Any]],
        offline_return: float | None,
    ) -> str | None:
        """Which budget is passed at `env_step`, in words; None if none is.

        Args:
            since: step of the last rollback, 0 before.
            episodes: (step at the end, return, fell, actor) of training episodes, oldest
                first.
            costs: (step, cost since the entry before), oldest first.
            offline_return: of the offline policy in training episodes; None while it is measured.
        """
        start = max(since, env_step - self.window)
        newest = list(_after(episodes, start))
        over = f"from step {start} to {env_step}"
        if self.falls is not None:
            falls = sum(bool(fell) for _, _, fell, _ in newest)
            if falls > self.falls:
                return f"budget: {falls} falls {over}, allowed {self.falls}"
        if self.cost is not None:
            cost = sum(value for _, value in _after(costs, start))
            if cost > self.cost:
                return f"budget: cost {cost:.4g} {over}, allowed {self.cost:.4g}"
        # Unlike a sum, a mean says little before its window is full: one bad episode is no dip.
        full = env_step - since >= self.window
        if self.dip is not None and full and offline_return is not None:
            explored = [value for _, value, _, actor in newest if actor == "explore"]
            lowest = offline_return - self.dip * abs(offline_return)
            if explored and (mean := float(np.mean(explored))) < lowest:
                return (
                    f"budget: mean return {mean:.4g} of {len(explored)} exploring episodes {over}, "
                    f"offline policy {offline_return:.4g}, allowed {lowest:.4g}"
                )
        return None


def _after(entries: Sequence[Sequence[Any]], start: int) -> Iterator[Sequence[Any]]:
    """The entries after step `start`, newest first: a run has thousands, a window has few."""
    for entry in reversed(entries):
        if entry[0] <= start:
            return
        yield entry
