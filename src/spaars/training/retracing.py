"""Exploration along what was done before: the agent's own best episodes, and spliced logged ones.

What the data does one thing after the other is seldom tried in another order by noise around a
policy. One logged episode, gone over to in the middle of another, tries it with purpose; and what
once went well is retraced, so that one good episode becomes many to learn from. (First return, then
explore: Ecoffet et al., 2021; here by skills, without a simulator's reset.)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from spaars import seeding
from spaars.data import Dataset
from spaars.data.rows import window_rows
from spaars.training.deployment import ROUTES

Best = Sequence[Sequence[tuple[int, int]]]
"""First and one-past-last environment step of each seed's episodes that are worth retracing."""


class Route(NamedTuple):
    """Skills to run: environment steps if they are its own, else windows of the dataset."""

    own: bool
    at: int
    """The next one."""
    end: int
    splices: bool
    """Whether a logged episode is to follow."""


class Retracer:
    """Takes over the choice of skills in exploring episodes from their beginning.

    With a probability `retrace_rate` an episode runs the skills of one of the seed's own best, if
    it has any that is worth it. Else, and with a probability `splice_rate`, it runs those of a
    logged one drawn at random, until just after one of the steps at which its reward rose to a new
    height, to its end if it never did; and then those of a logged one drawn anew and entered at the
    window whose first observation is nearest, as observations are standardised. Where these end,
    the agent goes on.
    """

    def __init__(
        self,
        retrace_rate: float,
        splice_rate: float,
        skill_length: int,
        seeds: Sequence[int],
        dataset: Dataset,
        labels: np.ndarray,
        stored: Callable[[int, int], np.ndarray],
    ):
        """`labels` (S, w, k) are the skills that the dataset's windows are taken for, in the order
        of `window_rows`. `stored(i, step)` is the skill (k,) that seed number i ran at a step.
        """
        self.retrace_rate, self.splice_rate = retrace_rate, splice_rate
        self.length, self.seeds = skill_length, seeds
        self.observations, self.labels = dataset.observations, labels
        self.stored = stored
        starts, stops = dataset.episode_bounds()
        self.rows = window_rows(starts, stops, skill_length)
        _, self.scale = dataset.observation_statistics()
        lengths = np.maximum(stops - skill_length + 1 - starts, 0)
        ends = np.cumsum(lengths)
        whole = lengths > 0
        self.episodes = np.stack([ends - lengths, ends], 1)[whole]
        """First and one-past-last window of every episode that has one."""
        self.rewards = [
            dataset.rewards[a:b] for a, b in zip(starts[whole], stops[whole], strict=True)
        ]
        self.routes: list[Route | None] = [None] * len(seeds)
        self.guided: list[str | None] = [None] * len(seeds)
        """On which of `ROUTES` each seed's running episode began, if any."""

    def __call__(
        self,
        skills: np.ndarray,
        observations: np.ndarray,
        explores: np.ndarray,
        fresh: np.ndarray,
        step: int,
        best: Best,
    ) -> np.ndarray:
        """The skills (S, k) to run from `step` on, given the agent's own for `observations`.

        `fresh` (S,): the episode has just begun. What is in `best` can be asked of `stored`.
        """
        skills = skills.copy()
        for i, route in enumerate(self.routes):
            if fresh[i]:
                route = self._begin(i, step, best[i]) if explores[i] else None
                self.guided[i] = None if route is None else ROUTES[not route.own]
            if not explores[i]:
                route = None
            if route is not None and route.at >= route.end:
                route = self._enter(i, observations[i], step) if route.splices else None
            if route is not None:
                skills[i] = self.stored(i, route.at) if route.own else self.labels[i, route.at]
                route = route._replace(at=route.at + self.length)
            self.routes[i] = route
        return skills

    def _begin(self, i: int, step: int, best: Sequence[tuple[int, int]]) -> Route | None:
        rng = seeding.generator(self.seeds[i], seeding.RETRACE, step)
        luck = rng.random()
        if luck >= self.retrace_rate + self.splice_rate:
            return None
        if luck < self.retrace_rate and best:
            return Route(True, *best[int(rng.integers(len(best)))], splices=False)
        episode = int(rng.integers(len(self.episodes)))
        first, end = self.episodes[episode].tolist()
        turns = [first + self.length * k for k in self._turns(episode)]
        cuts = [at for at in turns if at < end]
        return Route(False, first, int(rng.choice(cuts)) if cuts else end, splices=True)

    def _turns(self, episode: int) -> list[int]:
        """Counts of skills after which an episode's reward has just risen to a new height."""
        height = np.maximum.accumulate(self.rewards[episode])
        return sorted({int(t) // self.length + 1 for t in np.flatnonzero(np.diff(height)) + 1})

    def _enter(self, i: int, observation: np.ndarray, step: int) -> Route:
        rng = seeding.generator(self.seeds[i], seeding.SPLICE, step)
        first, end = self.episodes[rng.integers(len(self.episodes))].tolist()
        seen = self.observations[self.rows[first:end]]
        distances = np.square((seen - observation) / self.scale).sum(1)
        return Route(False, first + int(distances.argmin()), end, splices=False)

    def state(self) -> dict[str, Any]:
        """JSON: it travels in the checkpoint."""
        return {"routes": self.routes, "guided": self.guided}

    def restore(self, state: dict[str, Any]) -> None:
        self.routes = [None if route is None else Route(*route) for route in state["routes"]]
        self.guided = list(state["guided"])
