"""Which rows are drawn from: the numbers alone, without a replay."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spaars.data.rows import BEST_KEPT, best_episodes, recent_episodes, start_rows, unbeaten


def test_start_rows_golden():
    """Episodes of 3, 1 and 4 rows, their first two."""
    rows = start_rows(np.array([0, 3, 4]), np.array([3, 4, 8]), 2)
    np.testing.assert_array_equal(rows, [0, 1, 3, 4, 5])


@given(st.lists(st.integers(1, 9), max_size=6), st.integers(0, 5), st.integers(1, 4))
def test_recent_episodes_are_the_newest_and_the_running_one(lengths, running, count):
    ends = np.cumsum(lengths).tolist()
    inserted = sum(lengths) + running
    table = recent_episodes([ends], inserted, count)
    assert table.shape == (1, count, 2)
    if not inserted:
        return
    bounds = [0, *ends] + ([inserted] if running else [])
    newest = list(itertools.pairwise(bounds))[-count:]
    assert set(map(tuple, table[0].tolist())) == set(newest)


def test_the_best_episodes_are_the_highest_returns_and_their_equals():
    ends, returns = [4, 8, 12, 16, 20, 24], [3.0, 1.0, 4.0, np.nan, 3.0, 2.0]
    assert unbeaten(ends, returns, 0) == [(8, 12)]
    # The second best is 3, and another one equals it: of equals the newest first.
    assert unbeaten(ends, returns, 0, count=2) == [(8, 12), (16, 20), (0, 4)]
    assert unbeaten(ends, returns, 1, count=2) == [(8, 12), (16, 20)]  # that one is overwritten
    assert unbeaten(ends, returns, 0, count=9, above=2.0) == [(8, 12), (16, 20), (0, 4)]
    assert unbeaten([4, 4], [1.0, 9.0], 0) == [(0, 4)]  # of the other no row was stored
    assert unbeaten(ends, returns, 24) == unbeaten([], [], 0) == []
    table = best_episodes([ends, []], [returns, []], 25, 24, count=2)
    assert table.shape == (2, BEST_KEPT, 2)
    assert set(map(tuple, table[0].tolist())) == {(8, 12), (16, 20)}
    assert set(map(tuple, table[1].tolist())) == {(1, 25)}
    many = best_episodes([range(1, 301)], [[1.0] * 300], 300, 300, count=10)
    assert {last for _, last in many[0].tolist()} == set(range(301 - BEST_KEPT, 301))
