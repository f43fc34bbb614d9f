"""Exploration along what was done before: logged episodes, and the agent's own best.

What the data does one thing at a time is seldom tried in other orders by noise around a policy. A
logged episode, entered in the middle by another one's doings, tries it with purpose; and what once
went well is retraced, lest it stay one episode among hundreds. (First return, then explore: Ecoffet
et al., 2021; here by skills, without a simulator's reset.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spaars import seeding
from spaars.data import Dataset
from spaars.data.replay import window_rows
from spaars.training.envs import Episode

KEPT = 32
"""Best episodes of its own that a seed remembers, the newest."""
Excursion = tuple[bool, int, int]
"""Whether it is its own, the next window and where the episode ends: numbers of windows of the
dataset, or environment steps."""


class Follower:
    """Takes over the choice of skills of exploring seeds, and gives it back.

    An episode retraces from its beginning, with a probability `retrace_rate`, one of the seed's own
    that no other has beaten. Else every choice becomes, with a probability `rate`, the beginning of
    an excursion: a logged episode is drawn at random, entered at the window whose first observation
    is nearest, as observations are standardised, and followed to its end.
    """

    def __init__(
        self,
        rate: float,
        retrace_rate: float,
        skill_length: int,
        seeds: Sequence[int],
        dataset: Dataset,
        labels: np.ndarray,
        stored: Callable[[int, int], np.ndarray],
        capacity: int,
    ):
        """`labels` (S, w, k) are the skills that the dataset's windows are taken for, in the order
        of `window_rows`. `stored(i, step)` is the skill (k,) that seed number i ran at one of the
        last `capacity` environment steps.
        """
        self.rate, self.retrace_rate = rate, retrace_rate
        self.length, self.seeds = skill_length, seeds
        self.observations, self.labels = dataset.observations, labels
        self.stored, self.capacity = stored, capacity
        starts, stops = dataset.episode_bounds()
        self.rows = window_rows(starts, stops, skill_length)
        _, self.scale = dataset.observation_statistics()
        lengths = np.maximum(stops - skill_length + 1 - starts, 0)
        ends = np.cumsum(lengths)
        # First and one-past-last window of every episode that has one.
        self.episodes = np.stack([ends - lengths, ends], 1)[lengths > 0]
        self.following: list[Excursion | None] = [None] * len(seeds)
        self.best: list[list[tuple[float, int, int]]] = [[] for _ in seeds]
        """Return, first and one-past-last environment step of each seed's best episodes."""

    def __call__(
        self,
        skills: np.ndarray,
        observations: np.ndarray,
        explores: np.ndarray,
        fresh: np.ndarray,
        step: int,
        stored_until: int,
    ) -> np.ndarray:
        """The skills (S, k) to run from `step` on, given the agent's own for `observations`.

        `fresh` (S,): the episode has just begun, so that an excursion from before it is over.
        Steps before `stored_until` can be asked of `stored`.
        """
        skills = skills.copy()
        for i, seed in enumerate(self.seeds):
            now = self.following[i]
            if not explores[i]:
                now = None
            elif fresh[i]:
                now = self._retrace(i, step, stored_until)
            if now is None and explores[i]:
                now = self._enter(seed, observations[i], step)
            if now is not None:
                own, at, end = now
                skills[i] = self.stored(i, at) if own else self.labels[i, at]
                now = (own, at + self.length, end) if at + self.length < end else None
            self.following[i] = now
        return skills

    def note(self, i: int, episode: Episode) -> None:
        """Seed number i has ended an episode."""
        value = episode.episode_return
        if not self.best[i] or value >= self.best[i][-1][0]:
            kept = [one for one in self.best[i] if one[0] >= value]
            ended = (value, episode.env_step - episode.length, episode.env_step)
            self.best[i] = [*kept, ended][-KEPT:]

    def _retrace(self, i: int, step: int, stored_until: int) -> Excursion | None:
        rng = seeding.generator(self.seeds[i], seeding.RETRACE, step)
        oldest = step - self.capacity
        there = [one for one in self.best[i] if one[1] >= oldest and one[2] <= stored_until]
        if not there or rng.random() >= self.retrace_rate:
            return None
        _, first, end = there[rng.integers(len(there))]
        return True, first, end

    def _enter(self, seed: int, observation: np.ndarray, step: int) -> Excursion | None:
        rng = seeding.generator(seed, seeding.FOLLOW, step)
        if rng.random() >= self.rate:
            return None
        first, end = self.episodes[rng.integers(len(self.episodes))].tolist()
        seen = self.observations[self.rows[first:end]]
        distances = np.square((seen - observation) / self.scale).sum(1)
        return False, first + int(distances.argmin()), end

    def state(self) -> dict[str, Any]:
        """JSON: it travels in the checkpoint."""
        return {"following": self.following, "best": self.best}

    def restore(self, state: dict[str, Any]) -> None:
        self.following = [None if now is None else tuple(now) for now in state["following"]]
        self.best = [[tuple(one) for one in own] for own in state["best"]]
