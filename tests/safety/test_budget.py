"""A budget is passed when it must be, and not before."""

import pytest

from spaars.safety import Budget


def episodes(*entries):
    """(step, return) or (step, return, terminated, actor)."""
    return [(*entry, *(False, "explore")[len(entry) - 2 :]) for entry in entries]


FALLS = [(step, 1.0, True, "explore") for step in (100, 200, 300, 400)]


def test_nothing_is_limited_by_default():
    assert not Budget().limits
    assert Budget().passed(10**6, 0, FALLS * 100, [(1, 1e9)], 1.0) is None
    for limit in (Budget(falls=0), Budget(cost=0.0), Budget(dip=0.0)):
        assert limit.limits


@pytest.mark.parametrize(
    ("allowed", "step", "since", "passed"),
    [
        (3, 400, 0, True),
        (4, 400, 0, False),  # as many as allowed
        (3, 400, 100, False),  # the fall at 100 belongs to before
        (2, 500, 0, True),  # (200, 500] holds 300 and 400: see below
        (0, 2_000, 0, False),  # long ago
    ],
)
def test_falls_in_a_window(allowed, step, since, passed):
    budget = Budget(falls=allowed, window=401 if step == 500 else 1_000)
    reason = budget.passed(step, since, FALLS, [], None)
    assert (reason is not None) is passed
    if reason:
        assert "falls" in reason
        assert f"allowed {allowed}" in reason


def test_falls_of_any_actor_count_time_limits_do_not():
    mixed = [(10, 1.0, True, "candidate"), (20, 1.0, False, "explore"), (30, 1.0, True, "deployed")]
    assert "2 falls" in str(Budget(falls=1).passed(50, 0, mixed, [], None))
    assert Budget(falls=2).passed(50, 0, mixed, [], None) is None


def test_cost_in_a_window():
    costs = [(50, 1.0), (100, 2.0), (150, 0.5)]
    assert "cost 3.5" in str(Budget(cost=3.4).passed(150, 0, [], costs, None))
    assert Budget(cost=3.5).passed(150, 0, [], costs, None) is None
    assert Budget(cost=2.4, window=100).passed(150, 0, [], costs, None) is not None  # 2.5
    assert Budget(cost=2.5, window=100).passed(150, 0, [], costs, None) is None
    assert Budget(cost=0.4).passed(150, 100, [], costs, None) is not None
    assert Budget(cost=0.5).passed(150, 100, [], costs, None) is None


@pytest.mark.parametrize(
    ("returns", "offline", "passed"),
    [
        ([70, 50], 100.0, True),  # 60 < 75
        ([100, 50], 100.0, False),  # 75 is not below 75
        ([-130, -120], -100.0, False),  # -125 is not below -125
        ([-130, -121], -100.0, True),
    ],
)
def test_dip_below_the_offline_policy(returns, offline, passed):
    own = episodes(*((100 * i + 100, float(value)) for i, value in enumerate(returns)))
    reason = Budget(dip=0.25, window=200).passed(200, 0, own, [], offline)
    assert (reason is not None) is passed
    if passed:
        assert "2 exploring episodes" in str(reason)


def test_a_dip_needs_a_whole_window_and_an_offline_policy_and_explorations():
    budget, own = Budget(dip=0.25, window=200), episodes((100, 0.0))
    assert budget.passed(199, 0, own, [], 100.0) is None
    assert budget.passed(200, 0, own, [], None) is None
    assert budget.passed(200, 0, own, [], 100.0) is not None
    assert budget.passed(200, 50, own, [], 100.0) is None  # begun anew at 50
    assert budget.passed(200, 0, episodes((100, 0.0, True, "candidate")), [], 100.0) is None
    assert budget.passed(400, 0, own, [], 100.0) is None
