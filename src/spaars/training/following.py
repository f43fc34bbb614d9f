"""Exploration along the data: enter a logged episode where it comes nearest, and follow its skills.

What the data does one thing at a time is seldom tried in other orders by noise around a policy. A
logged episode, entered in the middle by another one's doings, tries it with purpose.
"""

from collections.abc import Sequence

import numpy as np

from spaars import seeding
from spaars.data.replay import window_rows


class Follower:
    """Takes over the choice of skills of exploring seeds, and gives it back.

    At every choice an own one becomes the beginning of such an excursion with a probability `rate`.
    The logged episode is drawn at random; it is entered at the window whose first observation is
    nearest, in units of the dataset's standard deviations, and followed to its end.
    """

    def __init__(
        self,
        rate: float,
        skill_length: int,
        seeds: Sequence[int],
        observations: np.ndarray,
        bounds: tuple[np.ndarray, np.ndarray],
        labels: np.ndarray,
    ):
        """`observations` (n, obs) of the dataset, its episodes' `bounds` (m,), (m,), and the
        skills `labels` (S, w, k) that its windows are taken for, in the order of `window_rows`.
        """
        self.rate, self.length, self.seeds = rate, skill_length, seeds
        self.observations, self.labels = observations, labels
        starts, stops = bounds
        self.rows = window_rows(starts, stops, skill_length)
        self.scale = observations.std(0) + 1e-6
        lengths = np.maximum(stops - skill_length + 1 - starts, 0)
        ends = np.cumsum(lengths)
        # First and one-past-last window of every episode that has one.
        self.episodes = np.stack([ends - lengths, ends], 1)[lengths > 0]
        self.following: list[tuple[int, int] | None] = [None] * len(seeds)
        """The next window of each seed's excursion, and where its logged episode ends; JSON."""

    def __call__(
        self,
        skills: np.ndarray,
        observations: np.ndarray,
        explores: np.ndarray,
        fresh: np.ndarray,
        step: int,
    ) -> np.ndarray:
        """The skills (S, k) to run from `step` on, given the agent's own for `observations`.

        `fresh` (S,): the episode has just begun, so that an excursion from before it is over.
        """
        skills = skills.copy()
        for i, seed in enumerate(self.seeds):
            now = self.following[i]
            if not explores[i]:
                now = None
            elif now is None or fresh[i]:
                now = self._enter(seed, observations[i], step)
            if now is not None:
                window, end = now
                skills[i] = self.labels[i, window]
                now = (window + self.length, end) if window + self.length < end else None
            self.following[i] = now
        return skills

    def _enter(self, seed: int, observation: np.ndarray, step: int) -> tuple[int, int] | None:
        rng = seeding.generator(seed, seeding.FOLLOW, step)
        if rng.random() >= self.rate:
            return None
        first, end = self.episodes[rng.integers(len(self.episodes))].tolist()
        seen = self.observations[self.rows[first:end]]
        distances = np.square((seen - observation) / self.scale).sum(1)
        return first + int(distances.argmin()), end

    def state(self) -> list[list[int] | None]:
        return [None if now is None else list(now) for now in self.following]

    def restore(self, state: Sequence[Sequence[int] | None]) -> None:
        self.following = [None if now is None else (now[0], now[1]) for now in state]
