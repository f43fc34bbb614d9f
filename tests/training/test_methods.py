"""Whole runs of every method and gate rule on the toy task."""

import json
from pathlib import Path

import numpy as np
import pytest

import toy
import toy_run
from spaars import load_policy
from spaars.errors import RunError
from spaars.training.config import preset_config
from spaars.training.run import resume, train
from spaars.training.trainer import Stopped

pytestmark = pytest.mark.usefixtures("point_task")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.point_file(tmp_path_factory.mktemp("data") / "point.npz")


@pytest.mark.parametrize("rule", ["never", pytest.param("always", marks=pytest.mark.slow)])
def test_gate_rules_run_through(rule: str, dataset: Path, tmp_path: Path) -> None:
    config = toy_run.config(
        dataset, gate={"rule": rule}, online={"steps": 500}, offline={"updates": 250}
    )
    run = train(config, tmp_path / "run")
    shares = [
        json.loads(line).get("raw_share")
        for line in (run.path / "metrics.jsonl").read_bytes().splitlines()
        if b'"evaluation"' in line
    ]
    assert set(shares) == {0.0 if rule == "never" else 1.0}
    assert run.summary["seeds"][0]["handover_step"] is None


SMALL = {
    "iql": {"iql": {"updates": 250, "hidden": (16,)}},
    "rlpd": {"sac": {"hidden": (16,), "critics": 3, "actor_every": 2}},
    "sac": {"sac": {"hidden": (16,)}},
    "bc": {"bc": {"updates": 500, "hidden": (16,)}},
    "supe": {
        "opal": {"updates": 250, "hidden": (16,), "recurrent": 8, "latent_dim": 2},
        "supe": {"hidden": (16,), "novelty_features": 8, "bonus_from": 200, "novelty_from": 0},
        "sac": {"hidden": (16,), "critics": 3, "actor_every": 2},
    },
    "spaars-supe": {
        "opal": {"updates": 250, "hidden": (16,), "recurrent": 8, "latent_dim": 2},
        "supe": {"hidden": (16,), "novelty_features": 8, "bonus_from": 200, "novelty_from": 0},
        "sac": {"hidden": (16,), "critics": 3, "actor_every": 2},
        "raw": {"hidden": (16,), "critics": 3},
        "gate": {
            "earliest_step": 240,
            "latest_step": 240,
            "plateau_window": 240,
            "ramp_steps": 40,
        },
        "deployment": {"trial_episodes": 1, "every": 40},
    },
}
# With skills, training episodes must not end inside one.
TASK = {"supe": "point-on", "spaars-supe": "point-on"}


@pytest.mark.parametrize(
    "method",
    # What these do, spaars-supe and rlpd do, too.
    [pytest.param(m, marks=pytest.mark.slow) if m in ("supe", "sac") else m for m in SMALL],
)
def test_every_peer_stops_and_goes_on_with_the_same_bits(
    method: str, dataset: Path, tmp_path: Path
) -> None:
    short = {"steps": 500, "learning_starts": 100, "random_steps": 100}
    stop = 240 if method in TASK else 250
    if method in TASK:
        short = {"steps": 480, "learning_starts": 120, "splice_rate": 0.3, "retrace_rate": 0.3}
        short["best_fraction"] = 0.5
    online = {} if method == "bc" else {"online": short}
    config = preset_config(
        TASK.get(method, "point"),
        method,
        "smoke",
        dataset=dataset,
        checkpoint_every=stop,
        log_every=stop,
        evaluation={"every": 2 * stop, "episodes": 2},
        **online,
        **SMALL[method],
    )
    whole = train(config, tmp_path / "whole")
    (seed,) = whole.summary["seeds"]
    assert (seed["offline_score"] is None) is (method in ("rlpd", "sac"))
    if config.deployment.rule == "latest":
        assert seed["newest_score"] == seed["final_score"]
    assert seed["env_steps"] == (0 if method == "bc" else short["steps"])

    # In the first offline phase, if there is one, and again online, if it learns there.
    stages = [phase.name for phase in config.agent().offline_phases()[:1]]
    stages += [] if method == "bc" else ["online"]
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", on_progress=toy_run.stop_at(stages[0], stop))
    for stage in stages[1:]:
        with pytest.raises(Stopped):
            resume(tmp_path / "run", on_progress=toy_run.stop_at(stage, stop))
    resume(tmp_path / "run")
    ours, theirs = (path / "metrics.jsonl" for path in (tmp_path / "run", whole.path))
    assert ours.read_bytes() == theirs.read_bytes()
    actions = load_policy(tmp_path / "run")(np.zeros((3, 4)))
    np.testing.assert_array_equal(actions, load_policy(whole.path)(np.zeros((3, 4))))


def test_a_run_begun_with_latest_does_not_go_on_with_proven(dataset: Path, tmp_path: Path) -> None:
    config = toy_run.config(
        dataset,
        deployment={"rule": "latest"},
        prior={"updates": 0},
        offline={"updates": 0},
        online={"steps": 1_000, "learning_starts": 900},
    )
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", on_progress=toy_run.stop_at("online", 250))
    file = tmp_path / "run" / "config.json"
    file.write_text(file.read_text().replace('"rule": "latest"', '"rule": "proven"'))
    with pytest.raises(RunError, match=r"begun with --deployment\.rule latest"):
        resume(tmp_path / "run")
