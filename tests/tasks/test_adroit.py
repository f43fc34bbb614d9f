"""The Adroit door: D4RL's rewards and scores, and a whole run from a file in D4RL's format.

No door demonstrations are at hand here: the file holds what slow random motions of the hand do.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from spaars.cli.main import main
from spaars.tasks import get_task

DOOR = get_task("door-human")
EPISODES, STEPS = 3, 50


def d4rl_file(path: Path) -> Path:
    """Every column that D4RL's `hand_dapg_demos.py` writes; no next observations, no terminals."""
    env = DOOR.make_env()
    rng = np.random.default_rng(0)
    hand = env.unwrapped
    columns: dict[str, list] = {}
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=episode)
        action = np.zeros(28)
        for t in range(STEPS):
            action = np.clip(0.9 * action + 0.3 * rng.normal(size=28), -1.0, 1.0)
            state = hand.get_env_state()
            row = {"observations": observation, "actions": action, "terminals": False}
            row |= {f"infos/{name}": value for name, value in state.items()}
            observation, row["rewards"], *_ = env.step(action)
            row["timeouts"] = t == STEPS - 1
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    env.close()
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            dtype = bool if name in ("terminals", "timeouts") else np.float32
            file.create_dataset(name, data=np.array(column, dtype), compression="gzip")
    return path


def test_rewards_are_d4rls() -> None:
    """By D4RL's formula (hand_manipulation_suite/door_v0.py), with the door shut and wide open."""
    env = DOOR.make_env()
    hand = env.unwrapped
    for hinge in (0.0, 0.3, 1.2, 1.5):
        env.reset(seed=3)
        hand.data.qpos[hand.door_hinge_addrs] = hinge
        observation, reward, terminated, truncated, info = env.step(np.full(28, 0.1))
        door, palm, handle = observation[28], observation[29:32], observation[32:35]
        bonus = 2.0 * (door > 0.2) + 8.0 * (door > 1.0) + 10.0 * (door > 1.35)
        distance, speed = np.linalg.norm(palm - handle), np.sum(hand.data.qvel**2)
        expected = -0.1 * distance - 0.1 * (door - 1.57) ** 2 - 1e-5 * speed + bonus
        assert reward == pytest.approx(expected, abs=1e-9)
        assert not terminated
        assert not truncated
        assert bool(info["success"]) == (door >= 1.35)
    env.close()


def test_random_actions_score_zero() -> None:
    """D4RL's constant for a random policy is what this env gives: -56.5 in 200 steps."""
    env = DOOR.make_env()
    returns = []
    for episode in range(3):
        env.reset(seed=episode)
        env.action_space.seed(episode)
        total, steps, over = 0.0, 0, False
        while not over:
            _, reward, _, over, _ = env.step(env.action_space.sample())
            total, steps = total + reward, steps + 1
        assert steps == 200
        returns.append(total)
    env.close()
    assert DOOR.score(np.array(returns)).mean() == pytest.approx(0.0, abs=0.05)
    assert DOOR.score(np.array([2880.5693087298737]))[0] == pytest.approx(100.0)


def words(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in argv])
    printed = capsys.readouterr()
    assert stopped.value.code == 0, printed.err
    return printed.out


SIZES = {
    "iql": ("--iql.updates", "100", "--online.steps", "200"),
    "spaars": (
        *("--prior.updates", "100", "--offline.updates", "100", "--online.utd", "1"),
        *("--gate.earliest-step", "200", "--gate.latest-step", "300"),
        *("--gate.plateau-window", "100", "--online.steps", "400"),
    ),
}


@pytest.mark.parametrize("method", ["iql", pytest.param("spaars", marks=pytest.mark.slow)])
def test_a_d4rl_file_to_an_exported_policy_by_configuration_alone(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = d4rl_file(tmp_path / "door-v0_demos_clipped.hdf5"), tmp_path / "run"
    shown = words(capsys, "data", "inspect", data, "--task", "door-human")
    assert "39 dimensions" in shown
    assert "28 dimensions" in shown
    assert f"{EPISODES}  (0 terminated, {EPISODES} truncated)" in shown

    words(
        capsys,
        *("train", "door-human", "--method", method, "--preset", "smoke", *SIZES[method]),
        *("--dataset", data, "--out", run, "--log-every", "50", "--checkpoint-every", "200"),
        *("--evaluation.every", "400", "--evaluation.episodes", "1"),
    )
    config = json.loads((run / "config.json").read_text())
    # The last row of each episode has no next observation.
    assert config["dataset"]["transitions"] == EPISODES * (STEPS - 1)
    if method == "iql":
        assert config["config"]["iql"]["temperature"] == 0.5  # as published for Adroit
    (seed,) = json.loads((run / "summary.json").read_text())["seeds"]
    assert seed["env_steps"] == int(SIZES[method][-1])
    assert seed["falls_per_1k"] == 0.0
    assert -3.0 < seed["final_score"] < 3.0  # nobody opens a door in 400 steps

    words(capsys, "export", run)
    exported = run / "policy-s0.npz"
    evaluated = json.loads(words(capsys, "eval", exported, "--episodes", "1", "--json"))
    assert evaluated["task"] == "door-human"
    (own,) = evaluated["seeds"]
    assert own["length_mean"] == 200.0
    # The same episode as the run's own last evaluation.
    assert own["score"] == pytest.approx(seed["final_score"], abs=1e-2)
    assert "door-v0_demos_clipped.hdf5" in exported.with_name("policy-s0.npz.md").read_text()


def test_without_data_the_remedy_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "door-human"])
    assert stopped.value.code == 2
    assert "door-human embeds no data: give --dataset PATH." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
