import json
from pathlib import Path

import numpy as np
import pytest

from spaars.cli.data_inspect import run
from spaars.data import Dataset, describe, load_file, problems
from spaars.tasks import get_task

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def healthy(episodes=20, length=30, seed=0):
    """Random walks; every other episode terminates early."""
    rng = np.random.default_rng(seed)
    parts = []
    for i in range(episodes):
        n = length if i % 2 else length - 1 - i
        walk = rng.normal(size=(n + 1, 4)).cumsum(0)
        last = np.arange(n) == n - 1
        parts.append(
            {
                "observations": walk[:-1],
                "actions": rng.uniform(-1, 1, (n, 2)),
                "rewards": rng.normal(size=n),
                "next_observations": walk[1:],
                "terminated": last & (i % 2 == 0),
                "truncated": last & (i % 2 == 1),
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def build(arrays):
    return Dataset.build(**arrays, label="a [log]")


def test_a_healthy_dataset_has_no_problems():
    assert problems(build(healthy())) == []


def test_describe():
    dataset = build(healthy())
    task = get_task("hopper-medium")
    facts = describe(dataset, task)
    assert json.loads(json.dumps(facts)) == facts
    assert "scores" not in describe(dataset)
    assert facts["transitions"] == len(dataset)
    assert facts["episodes"] == 20
    assert facts["terminated"] == facts["truncated"] == 10
    assert facts["lengths"]["max"] == 30
    assert facts["returns"]["mean"] == pytest.approx(dataset.episode_returns().mean())
    assert facts["scores"]["median"] == pytest.approx(
        np.median(task.score(dataset.episode_returns()))
    )
    assert len(facts["observations"]["std"]) == 4
    assert len(facts["actions"]["at_bounds"]) == 2
    assert facts["actions_at_bounds"] == pytest.approx(0.01, abs=0.01)
    assert facts["constant_dimensions"] == []
    assert facts["duplicates"] == 0
    assert facts["rewards"]["nonzero_fraction"] == 1.0


def test_effective_dimensions():
    rng = np.random.default_rng(0)
    independent = rng.normal(size=(20_000, 5)) * [1, 10, 100, 0.1, 1]
    arrays = {
        "actions": np.zeros((20_000, 1)),
        "rewards": np.zeros(20_000),
        "terminated": np.zeros(20_000, bool),
        "truncated": np.zeros(20_000, bool),
    }

    def effective(x):
        return describe(build(arrays | {"observations": x, "next_observations": x}))[
            "effective_dimensions"
        ]

    assert effective(independent) == pytest.approx(5.0, abs=0.01)
    assert effective(independent[:, :1] * [1, -2, 3]) == pytest.approx(1.0, abs=1e-5)
    assert effective(np.ones((20_000, 3))) == 0.0


def _constant_dimensions(x):
    for name in ("observations", "next_observations"):
        x[name][:, 1:3] = 0.1


def _shuffled(x):
    order = np.random.default_rng(1).permutation(len(x["observations"]))
    x["observations"] = x["observations"][order]


def _duplicated(x):
    # -0.0 and 0.0 are the same number
    x["rewards"][:5] = 0.0
    for name in x:
        x[name] = np.concatenate([x[name], x[name][:5]])
    x["rewards"][-5:] = -0.0


def _short(x):
    x["truncated"][:8] = True


def _time_limits_as_terminals(x):
    x["terminated"], x["truncated"] = (
        x["terminated"] | x["truncated"],
        np.zeros_like(x["truncated"]),
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: x.update(rewards=0 * x["rewards"]), "All rewards are zero"),
        (lambda x: x.update(rewards=0 * x["rewards"] - 1), "All rewards are -1"),
        (_constant_dimensions, "Observation dimensions that never change: 1-2."),
        (lambda x: x["actions"][:, 1:].fill(0.5), "Action dimensions that never change: 1."),
        (lambda x: np.sign(x["actions"], out=x["actions"]), "at their bounds"),
        (lambda x: x.update(terminated=x["terminated"] & False), "No row is terminated"),
        (lambda x: x.update(truncated=x["truncated"] & False), "the episode goes on"),
        (_shuffled, "next observation is not the following"),
        (_duplicated, "5 transitions are exact copies"),
        (_short, "fewer than 5 steps"),
        (_time_limits_as_terminals, "10 episodes of 20 terminate after exactly 30 steps"),
    ],
)
def test_each_problem_is_found(spoil, words):
    arrays = healthy()
    spoil(arrays)
    assert any(words in problem for problem in problems(build(arrays)))


def test_one_episode_only():
    assert any("one episode only" in p for p in problems(build(healthy(episodes=1))))
    assert describe(build(healthy(episodes=1)))["episodes"] == 1


def test_one_row():
    arrays = {name: array[:1] for name, array in healthy().items()}
    assert describe(build(arrays))["effective_dimensions"] == 0.0
    assert problems(build(arrays))


def test_the_real_kitchen_demonstrations(capsys):
    path = REAL_DATA / "kitchen_mixed_44_d4rl_format.hdf5"
    if not path.exists():
        pytest.skip(f"needs the real data at {path}")
    facts = describe(load_file(path))
    assert facts["constant_dimensions"] == list(range(30, 60))  # the goal columns
    assert problems(load_file(path)) == ["Observation dimensions that never change: 30-59."]
    assert run([str(path)]) == 0
    printed = capsys.readouterr().out
    assert "9,876" in printed
    assert "30-59" in printed
