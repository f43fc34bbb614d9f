"""Which rows of the dataset and of the ring are drawn from, worked out on the host.

Episodes are given by where they begin and end: those of the dataset by their rows, those that a
seed lived through online by environment steps, which are the rows of a ring that keeps them all.
"""

import itertools
from collections.abc import Sequence

import numpy as np


def start_rows(starts: np.ndarray, stops: np.ndarray, steps: int) -> np.ndarray:
    """Rows of the first `steps` transitions of every episode; episode i is [starts_i, stops_i)."""
    lengths = np.minimum(stops - starts, steps)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + within


def window_rows(starts: np.ndarray, stops: np.ndarray, length: int) -> np.ndarray:
    """Rows at which `length` rows of one episode begin; episode i is [starts_i, stops_i)."""
    return start_rows(starts, np.maximum(stops - length + 1, starts), np.iinfo(np.int64).max)


def recent_episodes(ends: Sequence[Sequence[int]], inserted: int, count: int) -> np.ndarray:
    """First and one-past-last rows (seeds, count, 2) of the newest episodes, the running one too.

    `ends` are the steps at which each seed's episodes ended, oldest first. Where there are fewer
    episodes, they repeat.
    """
    table = np.empty((len(ends), count, 2), np.int32)
    for seed, own in enumerate(ends):
        bounds = [0, *own][-count - 1 :]
        bounds += [inserted] if bounds[-1] < inserted else []
        episodes = np.array(list(itertools.pairwise(bounds)), np.int32).reshape(-1, 2)
        if len(episodes):
            table[seed] = episodes[np.arange(-count, 0) % len(episodes)]
        else:
            table[seed] = (0, max(inserted, 1))
    return table


def unbeaten(
    ends: Sequence[int],
    returns: Sequence[float],
    oldest: int,
    count: int = 1,
    above: float = -np.inf,
) -> list[tuple[int, int]]:
    """First and one-past-last rows of one seed's best episodes, of equals the newest first.

    These are the `count` best and all that equal the last of them, if their return is `above` what
    is asked. An episode ended at each of `ends`, with the return beside it, NaN where that is not
    known; rows before `oldest` are gone, and none are left of one that was cut in its first skill.
    """
    firsts = [0, *ends][: len(ends)]
    known = [
        (value, first, end)
        for value, first, end in zip(returns, firsts, ends, strict=True)
        if value > above and oldest <= first < end
    ]
    known.sort(key=lambda one: (one[0], one[2]), reverse=True)
    least = known[min(count, len(known)) - 1][0] if known else 0.0
    return [(first, end) for value, first, end in known if value >= least]


BEST_KEPT = 128
"""Of a seed's best episodes, so many are drawn from: of equals the newest."""


def best_episodes(
    ends: Sequence[Sequence[int]],
    returns: Sequence[Sequence[float]],
    inserted: int,
    capacity: int,
    count: int,
) -> np.ndarray:
    """First and one-past-last rows (seeds, BEST_KEPT, 2) of the best episodes (`unbeaten`).

    Where there are fewer, they repeat, the newest perhaps once more than others; where there are
    more, the oldest equals are left out. Before one has ended, all rows so far stand for it.
    """
    oldest = max(inserted - capacity, 0)
    table = np.empty((len(ends), BEST_KEPT, 2), np.int32)
    for seed in range(len(ends)):
        best = unbeaten(ends[seed], returns[seed], oldest, count)[:BEST_KEPT]
        best = best or [(oldest, max(inserted, 1))]
        table[seed] = np.array(best, np.int32)[np.arange(BEST_KEPT) % len(best)]
    return table
