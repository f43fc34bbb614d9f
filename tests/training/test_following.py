import json

import numpy as np

from spaars.training.following import Follower

H = 2
# Two episodes of one column: 0 1 2 3 4 5 and 10 11 12 13; windows begin at all rows but the last.
OBSERVATIONS = np.array([0, 1, 2, 3, 4, 5, 10, 11, 12, 13], np.float32)[:, None]
BOUNDS = np.array([0, 6]), np.array([6, 10])
# The label of a window is the row where it begins.
LABELS = np.array([[0, 1, 2, 3, 4, 6, 7, 8]], np.float32)[..., None]
OWN = np.full((1, 1), -1.0, np.float32)


def follower(rate: float = 1.0) -> Follower:
    return Follower(rate, H, [5], OBSERVATIONS, BOUNDS, LABELS)


def ask(follower: Follower, at: float, step: int, explores=True, fresh=False) -> float:
    flags = np.array([explores]), np.array([fresh])
    return follower(OWN, np.array([[at]], np.float32), *flags, step)[0, 0]


def test_it_enters_where_the_episode_is_nearest_and_stays_until_its_end():
    entered = set()
    for step in range(20):
        one = follower()
        first = ask(one, 2.2, step)
        entered.add(first)
        if first == 2:  # of the first episode; what is seen later is of no matter
            assert ask(one, 9.0, step + 2) == 4
            assert one.following == [None]  # its last window: the next choice is free again
        else:
            assert first == 6  # of the second, whose first observation is nearest
            assert ask(one, 0.0, step + 2) == 8
    assert entered == {2, 6}  # every episode is drawn


def test_it_leaves_the_choice_alone_without_luck_or_where_nobody_explores():
    assert ask(follower(0.0), 2.0, 0) == -1
    assert ask(follower(), 2.0, 0, explores=False) == -1
    half = follower(0.5)
    begun = [ask(half, 4.1, step, fresh=True) >= 0 for step in range(200)]
    assert 60 < sum(begun) < 140


def test_an_excursion_does_not_outlive_its_episode():
    one = follower()
    ask(one, 0.1, 0)
    assert one.following[0] is not None
    one.rate = 0.0
    assert ask(one, 0.1, 2, fresh=True) == -1
    one.following = [(2, 5)]
    assert ask(one, 0.1, 2, explores=False) == -1
    assert one.following == [None]


def test_it_goes_on_after_a_resume():
    one, other = follower(), follower(0.0)
    ask(one, 0.1, 3)
    other.restore(json.loads(json.dumps(one.state())))
    assert ask(other, 0.1, 5) == ask(one, 0.1, 5) >= 0


def test_episodes_shorter_than_a_skill_are_never_entered():
    bounds = np.array([0, 1, 6]), np.array([1, 6, 10])
    labels = np.array([[1, 2, 3, 4, 6, 7, 8]], np.float32)[..., None]
    one = Follower(1.0, H, [5], OBSERVATIONS, bounds, labels)
    assert {ask(one, 0.0, step, fresh=True) for step in range(20)} == {1, 6}
