"""`spaars theory gap | variance RUN` and `benchmarks.collapse` on a run of the toy task."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import toy
from spaars.cli.main import main
from spaars.deploy.trained import Trained, load_trained, play
from spaars.theory.trained import TrainedGapStudy
from spaars.training.config import preset_config
from spaars.training.run import train
from spaars.training.trainer import Run, initial_state

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks import collapse  # noqa: E402

SEEDS = (0, 3)
RESULTS = ROOT / "results" / "locomotion-quick" / "hopper-medium"
TINY = ["--states", "20", "--seed", "1"]


def settings(dataset: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "seeds": SEEDS,
        "prior": {"updates": 300, "hidden": (32,), "latent_dim": 1},
        "offline": {"updates": 300},
        "learner": {"hidden": (32,), "critics": 2},
        "online": {"steps": 400, "learning_starts": 100},
        "log_every": 100,
        "checkpoint_every": 200,
        "evaluation": {"every": 200, "episodes": 2},
        "gate": {"earliest_step": 100, "latest_step": 100, "plateau_window": 100},
        **changes,
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.point_file(tmp_path_factory.mktemp("data") / "point.npz")


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory, point_task: object) -> Run:
    config = preset_config("point", preset="smoke", **settings(dataset))
    return train(config, tmp_path_factory.mktemp("runs") / "trained")


def theory(capsys: Any, *argv: object, code: int = 0) -> Any:
    with pytest.raises(SystemExit) as stopped:
        main(["theory", *map(str, argv)])
    assert stopped.value.code == code
    return capsys.readouterr()


def test_gap_of_a_run(run: Run, tmp_path: Path, capsys: Any) -> None:
    flags = [*TINY, "--steps", "20", "--starts", "1", "--episodes", "2"]
    for place in ("a", "b"):
        printed = theory(capsys, "gap", run.path, *flags, "--out", tmp_path / place).out
    for name in ("gap-run.json", "gap-run.png"):  # the same seed, the same bytes
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    content = json.loads((tmp_path / "a" / "gap-run.json").read_text())
    assert content["command"] == "spaars theory gap RUN"
    assert (content["run"], content["method"], content["env_steps"]) == ("trained", "spaars", 400)
    assert [row["seed"] for row in content["rows"]] == list(SEEDS)
    for row in content["rows"]:
        assert row["armed"]
        assert 0.0 < row["slope_95"] <= row["slope_max"]
        for name in ("raw", "best"):
            found = row[name]
            assert 0.0 < found["eps_mean"] <= found["eps_max"]  # k = 1 of d = 2 is a ceiling
            low, middle, high = (found[f"difference{end}"] for end in ("_low", "", "_high"))
            assert low <= middle <= high
        gates = row["gates"]
        assert (gates["shut"]["raw_share"], gates["raw"]["raw_share"]) == (0.0, 1.0)
        gain = row["gain"]["score"]
        difference = gates["open"]["score"] - gates["shut"]["score"]
        assert gain["mean"] == pytest.approx(difference, abs=1e-9)
    assert "Same policies and episodes, three gates" in printed
    assert str(tmp_path) not in json.dumps(content)


def test_gates_differ_in_who_acts_alone(run: Run, point_task: Any) -> None:
    """Deployed and evaluated as the run itself did: the open gate is the run's own policy."""
    trained = load_trained(run.path, deployed=True)
    played = play(trained, point_task, 2)
    open_or_not = played["open" if trained.armed[0] else "shut"]
    score = point_task.score(open_or_not.returns[0]).mean()
    assert score == pytest.approx(run.summary["seeds"][0]["final_score"])
    assert (played["open"].discounted < played["open"].returns).all()


def test_states_are_the_replays(run: Run) -> None:
    trained = load_trained(run.path)
    states, actions = trained.draw(0, 10, seed=0)
    mean, std = (np.asarray(leaf) for leaf in trained.seed(0).normaliser)
    back = states * std + mean
    rows = [np.abs(trained.observations[0] - state).max(1).argmin() for state in back]
    assert np.allclose(trained.observations[0, rows], back, atol=1e-5)
    assert np.array_equal(trained.actions[0, rows], actions)
    assert len(trained.draw(0, 10_000, seed=0)[0]) == 400  # all there are


def test_variance_of_a_run(run: Run, tmp_path: Path, capsys: Any) -> None:
    flags = [*TINY, "--samples", "20", "--sigma", "0.1"]
    theory(capsys, "variance", run.path, *flags, "--out", tmp_path)
    content = json.loads((tmp_path / "variance-run.json").read_text())
    assert [(row["seed"], row["latents"], row["actions"]) for row in content["rows"]] == [
        (seed, 1, 2) for seed in SEEDS
    ]
    for row in content["rows"]:
        assert 0.0 < row["score_value"]["low"] <= row["score_value"]["high"]
    assert (tmp_path / "variance-run.png").exists()


def test_against_a_latent_only_run(run: Run, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other"
    other.mkdir()
    described = json.loads((run.path / "config.json").read_text())
    described["config"]["method"] = "latent-only"
    (other / "config.json").write_text(json.dumps(described))
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    (other / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    flags = [*TINY, "--steps", "2", "--starts", "0", "--episodes", "0", "--latent-only", other]
    out = theory(capsys, "gap", run.path, *flags, "--out", tmp_path / "out").out
    assert "difference 0.0 points" in " ".join(out.split())
    content = json.loads((tmp_path / "out" / "gap-run.json").read_text())
    assert [row["step"] for row in content["latent_only"]] == [400, 400]
    assert content["rows"][0]["gates"] is None
    described["dataset"]["sha256"] = "0" * 64
    (other / "config.json").write_text(json.dumps(described))
    error = theory(capsys, "gap", run.path, *flags, "--out", tmp_path / "no", code=2).err
    assert "another dataset" in error
    flags[-1] = run.path
    error = theory(capsys, "gap", run.path, *flags, "--out", tmp_path / "no", code=2).err
    assert "whose gate may open" in " ".join(error.split())
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["gap", RESULTS / "spaars" / "s1"], ["has no checkpoint", "train the run again"]),
        (["variance", RESULTS / "spaars" / "s1"], ["has no checkpoint"]),
        (["gap", RESULTS / "rlpd" / "s1"], ["rlpd", "spaars, latent-only, spaars-supe"]),
        (["gap", RESULTS / "spaars" / "s1", "--episodes", "1"], ["--episodes"]),
        (["gap", RESULTS / "nothing"], ["not a run directory"]),
    ],
)
def test_what_cannot_be_measured(
    argv: list[Any], words: list[str], tmp_path: Path, capsys: Any
) -> None:
    error = theory(capsys, *argv, "--out", tmp_path / "out", code=2).err
    for word in words:
        assert word in error
    assert not (tmp_path / "out").exists()


def test_skills_are_taken_apart_too(dataset: Path, point_task: object) -> None:
    """spaars-supe: the decoder is the low-level policy at one step, the latent a skill."""
    config = preset_config(
        "point-on",
        method="spaars-supe",
        preset="smoke",
        dataset=dataset,
        opal={"latent_dim": 3, "hidden": (16,), "recurrent": 8},
        sac={"hidden": (16,), "critics": 2},
        raw={"hidden": (16,), "critics": 2},
    )
    agent, zeros = config.agent(), np.zeros(4, np.float32)
    acting = jax.vmap(agent.acting)(initial_state(config, zeros, zeros + 2.0, 2))
    rng = np.random.default_rng(0)
    trained = Trained(
        path=Path("run"),
        config=config,
        described={},
        agent=agent,
        acting=acting,
        env_steps=30,
        observations=rng.normal(size=(1, 30, 4)).astype(np.float32),
        actions=rng.uniform(-1, 1, (1, 30, 2)).astype(np.float32),
    )
    parts, (states, actions) = trained.parts(0), trained.draw(0, 8, seed=0)
    raw = trained.observations[0]
    assert np.abs(raw / 2.0 - states[0]).max(1).min() < 1e-6
    one = trained.seed(0)
    skills = agent.choose(one, 2.0 * states, None)
    assert np.allclose(parts.latent(states), skills, atol=1e-6)
    decoded, _ = agent.skills.act_deterministic((one.skill, skills), 2.0 * states)
    assert np.allclose(parts.decode(states, skills), decoded, atol=1e-6)
    found = TrainedGapStudy(states=8, starts=1, steps=3).run(parts, states, actions)
    assert np.isfinite(found.best.lipschitz_max)


# ---------------------------------------------------------------------- collapse


def test_a_mirrored_critic_reverses_the_order_and_keeps_the_mean(run: Run) -> None:
    trained = load_trained(run.path)
    centres = collapse.centres_of(trained)
    assert centres.shape == (2, 2)
    checkpoint = collapse.load_checkpoint(run.path)
    assert checkpoint is not None
    arrays = collapse.mirrored(checkpoint.arrays, centres, range(1))
    changed = {name for name in arrays if not np.array_equal(arrays[name], checkpoint.arrays[name])}
    assert changed == {
        f"{root}/members/0/layers/1/{leaf}"
        for root in collapse.CRITICS
        for leaf in ("weight", "bias")
    }
    zeros = np.zeros(4, np.float32)
    state = checkpoint._replace(arrays=arrays).tree(
        "state", initial_state(trained.config, zeros, zeros, 2)
    )
    for i in range(2):
        states, actions = trained.draw(i, 400, 0)
        before = np.asarray(trained.parts(i).critics(states, actions))
        critics = jax.tree.map(lambda leaf, i=i: leaf[i], state.critics.params)
        after = np.asarray(critics(states, actions))
        assert after[0] == pytest.approx(2.0 * before[0].mean() - before[0], abs=1e-3)
        assert np.array_equal(after[1], before[1])


def test_collapse_goes_on_with_and_without_the_budget(
    run: Run, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    flags = ["--steps", "200", "--every", "100", "--members", "2", "--falls", "0"]
    argv = [str(run.path), "--out", str(out), *flags, "--window", "100"]
    files = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    collapse.main([*argv, "--arms", "budget"])
    collapse.main([*argv, "--arms", "none"])
    printed = capsys.readouterr().out
    assert {path: path.read_bytes() for path in files} == files  # the run stays as it is
    content = json.loads((out / "collapse.json").read_text())
    assert list(content["arms"]) == ["budget", "none"]
    before = [row["newest_score"] for row in run.summary["seeds"]]
    assert content["before"]["newest"] == pytest.approx(before)
    for name, rows in content["arms"].items():
        for row in rows:
            assert [step for step, *_ in row["evaluations"]] == [100, 200]
            newest = [score for _, score, _ in row["evaluations"]]
            assert row["newest_lowest"] == min(newest)
            late = newest[-1] >= row["newest_before"] - collapse.WITHIN
            assert (row["recovered_from"] is not None) == late
            budget = [reason for _, reason in row["rollbacks"] if reason.startswith("budget")]
            # Not a fall is allowed: every window with one is rolled back, and only there.
            assert (len(budget) > 0) == (name == "budget" and row["falls"] > 0)
    assert printed.count("| none |") == 2
    config = json.loads((out / "none" / "config.json").read_text())["config"]
    assert config["safety"]["budget"]["falls"] is None
    assert config["deployment"]["rollback"] is None


def test_collapse_refuses(run: Run, tmp_path: Path) -> None:
    for flags, words in (
        (["--members", "3"], "--members must be from 1 to the run's 2"),
        (["--every", "7"], "--every must be a multiple"),
        (["--steps", "0"], "--steps is too small"),
    ):
        with pytest.raises(collapse.ConfigError, match=words):
            collapse.main([str(run.path), "--out", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()
