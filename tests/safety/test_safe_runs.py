"""Whole runs on the toy task under limits: an injected collapse, a shadow, an interruption."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import toy
from spaars import load_policy
from spaars.errors import DataError
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import TrainConfig, preset_config
from spaars.training.run import resume, train
from spaars.training.trainer import Progress, Run, Stopped, Trainer

SEEDS = (0, 3)
LOW, HIGH, RATE = -0.9, 0.8, 0.5
COLLAPSE_AT = 150
pytestmark = pytest.mark.usefixtures("point_task")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.point_file(tmp_path_factory.mktemp("data") / "point.npz")


def config(dataset: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "dataset": dataset,
        "seeds": SEEDS,
        "prior": {"updates": 500, "hidden": (32,)},
        "offline": {"updates": 500},
        "learner": {"hidden": (32,), "critics": 2},
        "online": {"steps": 400, "learning_starts": 100},
        "log_every": 100,
        "checkpoint_every": 200,
        "evaluation": {"every": 400, "episodes": 1},
        "gate": {"earliest_step": 100, "latest_step": 100, "plateau_window": 100},
        "deployment": {"caution": None},
        "safety": {
            "action_low": (LOW,),
            "action_high": (HIGH,),
            "rate_limit": (RATE,),
            "budget": {"falls": 4, "window": 150},
        },
    }
    return preset_config("point-cost", preset="smoke", **(settings | changes))


def collapse(trainer: Trainer) -> None:
    """Seed 0's policies run off to the upper right from now on."""
    assert trainer.loop is not None
    state = trainer.loop.state

    def run_off(policy: Any) -> Any:
        bias = policy.net.layers[-1].bias
        width = bias.shape[-1] // 2  # means, then log stds
        return eqx.tree_at(lambda p: p.net.layers[-1].bias, policy, bias.at[0, :width].set(5.0))

    trainer.loop.state = state._replace(
        latent=state.latent._replace(params=run_off(state.latent.params)),
        raw=state.raw._replace(params=run_off(state.raw.params)),
    )


def sabotage(patch: pytest.MonkeyPatch, rolled_back: list[Any]) -> None:
    """Injects the collapse; `rolled_back` gets what seed 0's policies and gate are after one."""
    after_chunk, keep_budget = Trainer.after_chunk, Trainer.keep_budget

    def sabotaged(self: Trainer, loop: Any, metrics: Any) -> None:
        if self.envs.env_steps == COLLAPSE_AT:
            collapse(self)
        after_chunk(self, loop, metrics)

    def watched(self: Trainer, loop: Any) -> None:
        before = len(self.progress["rollbacks"][0])
        keep_budget(self, loop)
        if len(self.progress["rollbacks"][0]) > before:
            acting, deployed = loop.acting(), loop.deployed
            same = [
                eqx.tree_equal(*(jax.tree.map(lambda x: x[0], policy) for policy in (mine, theirs)))
                for mine, theirs in (
                    (acting.latent, deployed.latent_average),
                    (acting.raw, deployed.raw_average),
                )
            ]
            actor = loop.deployment.trials[0].actor
            rolled_back.append((bool(all(same)), bool(acting.armed[0]), actor))

    patch.setattr(Trainer, "after_chunk", sabotaged)
    patch.setattr(Trainer, "keep_budget", watched)


def records(run: Path, kind: str, **fields: Any) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        record
        for line in lines
        if (record := json.loads(line))["kind"] == kind
        and all(record.get(name) == value for name, value in fields.items())
    ]


@pytest.fixture(scope="module")
def rolled_back() -> list[Any]:
    return []


@pytest.fixture(scope="module")
def collapsed(
    dataset: Path,
    tmp_path_factory: pytest.TempPathFactory,
    point_task: object,
    rolled_back: list[Any],
) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        sabotage(patch, rolled_back)
        return train(config(dataset), tmp_path_factory.mktemp("collapsed") / "run")


@pytest.fixture(scope="module")
def sound(dataset: Path, tmp_path_factory: pytest.TempPathFactory, point_task: object) -> Run:
    return train(config(dataset), tmp_path_factory.mktemp("sound") / "run")


def test_a_collapse_is_rolled_back_and_nothing_else(collapsed: Run, sound: Run) -> None:
    events = records(collapsed.path, "event", event="rollback")
    assert {event["seed"] for event in events} == {0}
    first = events[0]
    assert COLLAPSE_AT < first["step"] <= COLLAPSE_AT + 150
    assert "5 falls from step" in first["reason"]
    assert "the gate is shut" in first["reason"]
    assert not records(sound.path, "event", event="rollback")
    assert [row["safety"]["rollbacks"] for row in sound.summary["seeds"]] == [0, 0]
    assert collapsed.summary["seeds"][0]["safety"]["rollbacks"] == len(events)
    # The other seed goes its own way, whatever its neighbour does.
    for kind in ("train", "episode", "evaluation", "event"):
        assert records(collapsed.path, kind, seed=3) == records(sound.path, kind, seed=3)


def test_the_gate_opens_again_a_window_later_with_a_new_ramp(collapsed: Run) -> None:
    steps = [r["step"] for r in records(collapsed.path, "event", event="handover", seed=0)]
    back = records(collapsed.path, "event", event="rollback")[-1]["step"]
    assert steps[0] == 100
    assert all(not back <= step < back + 150 for step in steps)
    shares = {
        r["step"]: r["raw_share_limit"]
        for r in records(collapsed.path, "train", seed=0)
        if r["phase"] == "online"
    }
    after = min(step for step in shares if step >= back)
    assert shares[after] == 0.0
    assert collapsed.summary["seeds"][0]["handover_step"] == 100  # of the first


def test_policies_are_the_deployed_ones_after_the_rollback(
    collapsed: Run, rolled_back: list[Any]
) -> None:
    assert len(rolled_back) == collapsed.summary["seeds"][0]["safety"]["rollbacks"] > 0
    for same, armed, actor in rolled_back:
        assert same
        assert not armed
        assert actor in ("explore", "deployed")


def test_interrupted_and_resumed_is_the_same_bits(
    collapsed: Run, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch, [])

    def interrupt(progress: Progress) -> None:
        if progress.stage == "online" and progress.done == 300:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        train(config(dataset), tmp_path / "run", on_progress=interrupt)
    summary = resume(tmp_path / "run").summary
    expected = (collapsed.path / "metrics.jsonl").read_bytes()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == expected
    assert summary["stops"] == [300]
    assert "resumed at step 300" in (tmp_path / "run" / "report.html").read_text()
    for ours, theirs in zip(summary["seeds"], collapsed.summary["seeds"], strict=True):
        assert ours["safety"] == theirs["safety"]


def test_what_is_stored_was_executed_within_the_envelope(sound: Run) -> None:
    checkpoint = load_checkpoint(sound.path)
    assert checkpoint is not None
    actions = checkpoint.arrays["ring/actions"]
    assert actions.shape == (2, 400, 2)
    assert actions.min() >= np.float32(LOW)
    assert actions.max() <= np.float32(HIGH)
    for own, ends in zip(actions, checkpoint.progress["episode_ends"], strict=True):
        for episode in np.split(own, ends):
            assert (np.abs(np.diff(episode.astype(np.float64), axis=0)) <= RATE + 1e-6).all()
    # The running episode's, which the env has got, are the last stored.
    for i in range(2):
        running = checkpoint.arrays[f"actions/{i}"]
        np.testing.assert_array_equal(actions[i, len(actions[i]) - len(running) :], running)
    clipped = [r["clipped_steps"] for r in records(sound.path, "train") if r["phase"] == "online"]
    assert all(0.0 < share <= 1.0 for share in clipped)
    assert all("clipped_steps" in r for r in records(sound.path, "evaluation"))


def test_the_policy_of_the_run_keeps_to_the_envelope(sound: Run) -> None:
    policy = load_policy(sound.path)
    far = np.array([[-0.9, -0.9, 0.0, 0.0], [0.9, 0.9, 0.0, 0.0]])
    first = policy(far)
    jump = policy(far[::-1])
    assert np.abs(jump - first).max() <= RATE + 1e-6
    with pytest.raises(DataError, match="rate limit follows 2 envs"):
        policy(far[0])
    policy.reset()
    np.testing.assert_array_equal(policy(far[::-1]), first[::-1])


def test_measurements_are_in_every_line_the_summary_and_the_report(sound: Run) -> None:
    names = {
        "action_rate", "clipped_dimensions", "clipped_steps", "gate", "knn_distance", "knn_outside",
        "latent_norm", "q_ensemble_std", "raw_share", "raw_share_limit", "support_distance",
    }  # fmt: skip
    for record in records(sound.path, "train"):
        if record["phase"] == "online":
            assert names <= record.keys()
    for row in sound.summary["seeds"]:
        assert names | {"rollbacks", "cost", "q_minus_return"} <= row["safety"].keys()
        costs = [r["cost"] for r in records(sound.path, "episode", seed=row["seed"])]
        assert row["safety"]["cost"] == sum(costs)
        assert any(cost > 0 for cost in costs)
    page = (sound.path / "report.html").read_text()
    for words in ("<h2>Safety</h2>", "Action rate", "Reconstruction distance", "Rollbacks", "Cost"):
        assert words in page


def test_a_shadow_never_hands_over(dataset: Path, tmp_path: Path) -> None:
    gate = {
        "earliest_step": 100,
        "latest_step": 100,
        "plateau_window": 100,
        "ramp_steps": 1,
        "shadow": True,
        "pessimism": 0.0,
    }
    untrained = {"prior": {"updates": 0, "hidden": (32,)}, "offline": {"updates": 0}}
    shadowed = config(dataset, gate=gate, safety={}, seeds=(0,), **untrained)
    run = train(shadowed, tmp_path / "run")
    online = [r for r in records(run.path, "train") if r["phase"] == "online"]
    assert max(r["gate"] for r in online) > 0.0
    lines = online + records(run.path, "evaluation")
    assert {r["raw_share"] for r in lines} == {0.0}
    assert {r["raw_share_limit"] for r in online} == {0.0}
    assert records(run.path, "event", event="handover")
