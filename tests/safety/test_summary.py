import pytest

from spaars.safety.summary import summarise


def train(step, seed=0, **values):
    return {"kind": "train", "seed": seed, "step": step, "phase": "online", **values}


def test_only_what_was_measured_of_that_seed():
    records = [
        {"kind": "train", "seed": 0, "step": 5, "phase": "offline", "q_ensemble_std": 99.0},
        train(10, action_rate=0.2, q_minus_return=-4.0),
        train(20, action_rate=0.4),
        train(20, seed=1, action_rate=9.0),
        {"kind": "episode", "seed": 0, "step": 12, "cost": 1.5},
        {"kind": "episode", "seed": 0, "step": 13},
        {"kind": "episode", "seed": 1, "step": 13, "cost": 7.0},
        {"kind": "event", "seed": 0, "step": 14, "event": "rollback"},
        {"kind": "event", "seed": 0, "step": 15, "event": "kept"},
    ]
    assert summarise(records, 0) == {
        "action_rate": {"mean": pytest.approx(0.3), "max": 0.4},
        "q_minus_return": {"mean": -4.0, "max": -4.0},
        "rollbacks": 1,
        "cost": 1.5,
    }
    assert "cost" not in summarise(records[:4], 0)
    assert summarise(records[:1], 0) == {}
    assert summarise(records, 2) == {}
