import numpy as np
import pytest

from spaars.safety.monitor import Ended, action_rate, ended_episodes, gate_flips, q_minus_return

NAN = float("nan")


def test_action_rate_within_episodes_only():
    # One dimension; seed 0 has an episode's end after its second step, seed 1 begins one.
    actions = np.array([[0.0, 0.5, -1.0, -0.5], [1.0, 0.0, 0.0, 0.0]], np.float32)[..., None]
    ends = np.array([[False, True, False, False], [False] * 4])
    rate = action_rate(actions, np.array([[0.25], [NAN]], np.float32), ends)
    # 0.25, 0.5, -, 0.5 and -, 1, 0, 0
    np.testing.assert_allclose(rate, [1.25 / 3, 1.0 / 3])
    assert np.isnan(
        action_rate(actions[:, :1], np.full((2, 1), NAN, np.float32), ends[:, :1])
    ).all()


def test_gate_flips_within_episodes_only():
    gate = np.array([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    ends = np.array([[False, False, True, False], [False] * 4])
    # 0 -> 1 of two pairs; the fall to 0 is another episode's
    np.testing.assert_allclose(gate_flips(gate, ends), [500.0, 0.0])
    assert np.isnan(gate_flips(gate[:, :1], ends[:, :1])).all()


def test_q_minus_return_golden():
    q = np.array([9.0, 5.0, 4.0, 3.0, 10.0, 10.0])
    rewards = np.array([7.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    fallen, cut = Ended(1, 4, True), Ended(4, 6, False)
    # Returns at discount 0.5: 1 + 0.5 (1 + 0.5 * 2) = 2, 2, 2; errors 3, 2, 1.
    assert q_minus_return(q, rewards, [fallen], 0.5) == pytest.approx(2.0)
    # 1 + 0.5 * Q = 6, so 4; its last step is not counted.
    assert q_minus_return(q, rewards, [cut], 0.5) == pytest.approx(4.0)
    assert q_minus_return(q, rewards, [fallen, cut], 0.5) == pytest.approx(10.0 / 4)
    assert np.isnan(q_minus_return(q, rewards, [], 0.5))
    assert np.isnan(q_minus_return(q, rewards, [Ended(5, 6, False)], 0.5))


def test_an_episode_begins_where_the_one_before_ended_or_the_env_failed():
    episodes = [
        (10, 1.0, True, "explore"),
        (25, 1.0, False, "explore"),  # after a failure at 18, which is no episode
        (30, 1.0, True, "deployed"),
        (42, 1.0, True, "explore"),
    ]
    ends = [10, 18, 25, 30, 42]
    assert ended_episodes(episodes, ends, 0, 0) == [
        Ended(0, 10, True),
        Ended(18, 25, False),
        Ended(30, 42, True),
    ]
    assert ended_episodes(episodes, ends, 20, 10) == [Ended(0, 5, False), Ended(10, 22, True)]
    assert ended_episodes([], [], 0, 0) == []
