import pytest

from spaars.algos.gate import GateConfig
from spaars.training.handover import reason_to_hand_over

GATE = GateConfig(
    earliest_step=100,
    latest_step=1_000,
    bound_tolerance=0.05,
    plateau_window=100,
    plateau_improvement=0.05,
)
NOT_YET = {"handover_bound": 10.0, "value": 100.0}
IMPROVING = [(50, 10.0), (150, 20.0), (250, 30.0), (350, 40.0)]


def test_the_bound():
    # tolerance 0.05 of a value of 100 or -100: 5
    for value in (100.0, -100.0):
        below, at = ({"handover_bound": b, "value": value} for b in (4.9, 5.0))
        assert "the bound on the drop, 4.9, is below" in reason_to_hand_over(GATE, 150, below, [])
        assert reason_to_hand_over(GATE, 150, at, []) is None


def test_nothing_counts_before_the_earliest_step():
    sure = {"handover_bound": 0.0, "value": 100.0}
    assert reason_to_hand_over(GATE, 99, sure, []) is None
    assert reason_to_hand_over(GATE, 100, sure, []) is not None


def test_the_latest_step():
    assert reason_to_hand_over(GATE, 999, NOT_YET, []) is None
    assert "latest step 1000" in reason_to_hand_over(GATE, 1_000, NOT_YET, [])


@pytest.mark.parametrize(
    ("newest", "plateau"),
    [
        # best earlier window 40, so an improvement is above 42
        (43.0, False),
        (42.0, True),
        (41.0, True),
        (5.0, True),
    ],
)
def test_the_plateau(newest, plateau):
    reason = reason_to_hand_over(GATE, 500, NOT_YET, [*IMPROVING, (450, newest)])
    assert (reason is not None) == plateau
    if plateau:
        assert f"training return no longer improves: {newest:.4g}" in reason
        assert "40 at best before" in reason


def test_plateau_windows_are_averaged():
    # last window (30 + 60)/2 = 45 > 42; the best earlier one (20 + 60)/2 = 40, not the episode 60
    episodes = [(310, 20.0), (400, 60.0), (401, 30.0), (500, 60.0)]
    assert reason_to_hand_over(GATE, 500, NOT_YET, episodes) is None


def test_plateau_of_negative_returns():
    # best -40: an improvement is above -40 + 0.05 * 40 = -38
    assert reason_to_hand_over(GATE, 200, NOT_YET, [(50, -40.0), (150, -37.0)]) is None
    assert reason_to_hand_over(GATE, 200, NOT_YET, [(50, -40.0), (150, -39.0)]) is not None


@pytest.mark.parametrize(
    ("step", "episodes"),
    [
        (450, [(50, 10.0), (440, 1.0)]),  # not at a window's end
        (100, [(50, 10.0)]),  # no earlier window
        (500, [(50, 10.0)]),  # no episode ended in the newest window
        (500, []),
    ],
)
def test_no_plateau_without_two_whole_windows(step, episodes):
    assert reason_to_hand_over(GATE, step, NOT_YET, episodes) is None


def test_a_fixed_step_waits_for_nothing_else():
    gate = GateConfig(rule="step", step=300, earliest_step=900)
    sure = {"handover_bound": 0.0, "value": 100.0}
    assert reason_to_hand_over(gate, 299, sure, []) is None
    assert reason_to_hand_over(gate, 300, NOT_YET, IMPROVING) == "fixed step 300"


@pytest.mark.parametrize("rule", ["never", "always"])
def test_rules_without_a_hand_over(rule):
    gate = GateConfig(rule=rule, earliest_step=0, latest_step=10)
    sure = {"handover_bound": 0.0, "value": 100.0}
    assert reason_to_hand_over(gate, 10**6, sure, [(1, 1.0)]) is None
