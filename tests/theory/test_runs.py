"""`spaars theory gap | variance RUN` and `benchmarks.collapse` on a run of the toy task."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from spaars.algos import spaars_supe, supe
from spaars.cli.main import main
from spaars.data.replay import Normaliser
from spaars.deploy.policy import state_shapes
from spaars.deploy.trained import Trained, load_trained
from spaars.errors import RunError
from spaars.nn import MLP, Critics, TanhGaussianPolicy
from spaars.priors.opal import SkillDecoder
from spaars.training.checkpoint import collect, save_checkpoint
from spaars.training.config import preset_config
from spaars.training.run import train
from spaars.training.run_directory import describe_run

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks import collapse  # noqa: E402

SEEDS, STEPS = (0, 3), 60
RESULTS = ROOT / "results" / "locomotion-quick" / "hopper-medium"
TINY = ["--states", "20", "--seed", "1"]


def settings(dataset: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "seeds": SEEDS,
        "prior": {"hidden": (16,), "latent_dim": 1},
        "learner": {"hidden": (16,), "critics": 2},
        "evaluation": {"every": 200, "episodes": 2},
        **changes,
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.point_file(tmp_path_factory.mktemp("data") / "point.npz")


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory, point_task: object) -> Path:
    """A run directory with a checkpoint at 60 steps, gate armed, whose networks never learned."""
    config = preset_config("point", preset="smoke", **settings(dataset))
    path = tmp_path_factory.mktemp("runs") / "trained"
    path.mkdir()
    described = describe_run(config, toy.point_dataset(), "0123abc", {})
    (path / "config.json").write_text(json.dumps(described))
    lines = [
        {"kind": "evaluation", "seed": s, "step": STEPS, "score": 1.0, "newest_score": 2.0 + s}
        for s in SEEDS
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    agent, statistics = config.agent(), (jnp.zeros(4), jnp.full(4, 2.0))
    states = [agent.init(jax.random.key(s), *statistics, 2) for s in SEEDS]  # quicker than a jit
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    acting = jax.vmap(agent.acting)(state._replace(armed_at=0 * state.armed_at))
    rng = np.random.default_rng(0)
    progress = {"env_steps": STEPS, "trials": [{}, {}]}
    trees = {"state": state._replace(armed_at=0 * state.armed_at), "deployed": acting}
    saved = collect(progress, trees, None, None)
    saved.arrays["ring/observations"] = rng.normal(size=(2, STEPS, 4)).astype(np.float32)
    saved.arrays["ring/actions"] = rng.uniform(-1, 1, (2, STEPS, 2)).astype(np.float32)
    save_checkpoint(path, saved)
    return path


def theory(capsys: Any, *argv: object, code: int = 0) -> Any:
    with pytest.raises(SystemExit) as stopped:
        main(["theory", *map(str, argv)])
    assert stopped.value.code == code
    return capsys.readouterr()


def test_gap_of_a_run(run: Path, tmp_path: Path, capsys: Any) -> None:
    flags = [*TINY, "--steps", "20", "--starts", "1", "--episodes", "2"]
    for place in ("a", "b"):
        printed = theory(capsys, "gap", run, *flags, "--out", tmp_path / place).out
    for name in ("gap-run.json", "gap-run.png"):  # the same seed, the same bytes
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    content = json.loads((tmp_path / "a" / "gap-run.json").read_text())
    assert content["command"] == "spaars theory gap RUN"
    assert (content["run"], content["method"], content["env_steps"]) == ("trained", "spaars", STEPS)
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


def test_states_are_the_replays(run: Path) -> None:
    trained = load_trained(run)
    states, actions = trained.draw(0, 10, seed=0)
    mean, std = (np.asarray(leaf) for leaf in trained.seed(0).normaliser)
    back = states * std + mean
    rows = [np.abs(trained.observations[0] - state).max(1).argmin() for state in back]
    assert np.allclose(trained.observations[0, rows], back, atol=1e-5)
    assert np.array_equal(trained.actions[0, rows], actions)
    assert len(trained.draw(0, 10_000, seed=0)[0]) == STEPS  # all there are


def test_variance_of_a_run(run: Path, tmp_path: Path, capsys: Any) -> None:
    flags = [*TINY, "--samples", "20", "--sigma", "0.1"]
    theory(capsys, "variance", run, *flags, "--out", tmp_path)
    content = json.loads((tmp_path / "variance-run.json").read_text())
    assert [(row["seed"], row["latents"], row["actions"]) for row in content["rows"]] == [
        (seed, 1, 2) for seed in SEEDS
    ]
    for row in content["rows"]:
        assert 0.0 < row["score_value"]["low"] <= row["score_value"]["high"]
    assert (tmp_path / "variance-run.png").exists()


def test_against_a_latent_only_run(run: Path, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other"
    other.mkdir()
    described = json.loads((run / "config.json").read_text())
    described["config"]["method"] = "latent-only"
    (other / "config.json").write_text(json.dumps(described))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (other / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    # Sizes of the test above: nothing is compiled again.
    sizes = [*TINY, "--steps", "20", "--starts", "1"]
    flags = [*sizes, "--episodes", "0", "--latent-only", other]
    out = theory(capsys, "gap", run, *flags, "--out", tmp_path / "out").out
    assert "difference 0.0 points" in " ".join(out.split())
    content = json.loads((tmp_path / "out" / "gap-run.json").read_text())
    assert [row["step"] for row in content["latent_only"]] == [STEPS, STEPS]
    assert content["rows"][0]["gates"] is None
    described["dataset"]["sha256"] = "0" * 64
    (other / "config.json").write_text(json.dumps(described))
    error = theory(capsys, "gap", run, *flags, "--out", tmp_path / "no", code=2).err
    assert "another dataset" in error
    flags[-1] = run
    error = theory(capsys, "gap", run, *flags, "--out", tmp_path / "no", code=2).err
    assert "whose gate may open" in " ".join(error.split())
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["gap", RESULTS / "spaars" / "s1"], ["has no checkpoint", "train the run again"]),
        (["variance", RESULTS / "spaars" / "s1"], ["has no checkpoint"]),
        (["gap", RESULTS / "rlpd" / "s1"], ["has no checkpoint"]),
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


def test_half_of_a_checkpoint_is_none(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "spaars" / "s1", tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "next.safetensors").touch()
    with pytest.raises(RunError, match="has no checkpoint"):
        load_trained(tmp_path / "run")


def test_other_methods_are_refused(run: Path, tmp_path: Path, capsys: Any) -> None:
    peer = tmp_path / "peer"
    shutil.copytree(run, peer)
    described = json.loads((peer / "config.json").read_text())
    described["config"]["method"] = "rlpd"
    (peer / "config.json").write_text(json.dumps(described))
    error = theory(capsys, "variance", peer, "--out", tmp_path / "out", code=2).err
    assert "is a run of rlpd, which has no behaviour prior" in error
    assert "Give a run of spaars, latent-only, spaars-supe." in error


def test_skills_are_taken_apart_too(dataset: Path, point_task: object) -> None:
    """spaars-supe: the decoder is the low-level policy at one step, the latent a skill."""
    config = preset_config(
        "point-on",
        method="spaars-supe",
        preset="smoke",
        dataset=dataset,
        opal={"latent_dim": 3},
    )
    agent, keys = config.agent(), jax.random.split(jax.random.key(0), 5)
    one = spaars_supe.Acting(
        skill=supe.Acting(
            normaliser=Normaliser(jnp.zeros(4), jnp.full(4, 2.0)),
            prior=SkillDecoder(MLP(4, 6, (8,), key=keys[0]), MLP(7, 4, (8,), key=keys[4])),
            actor=TanhGaussianPolicy(4, 3, (8,), key=keys[1]),
            untrained=jnp.array(False),
        ),
        raw=TanhGaussianPolicy(4, 2, (8,), key=keys[2]),
        critics=Critics(4, 2, (8,), 2, key=keys[3]),
        armed=jnp.array(True),
        raw_share=jnp.float32(1.0),
    )
    acting = jax.tree.map(lambda leaf: leaf[None], one)
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
    states = jnp.asarray(states)
    skills = agent.choose(one, 2.0 * states, None)
    assert np.allclose(parts.latent(states), skills, atol=1e-6)
    decoded, _ = agent.skills.act_deterministic((one.skill, skills), 2.0 * states)
    assert np.allclose(parts.decode(states, skills), decoded, atol=1e-6)
    assert parts.critics(states, jnp.asarray(actions)).shape == (2, 8)


# ---------------------------------------------------------------------- collapse


def test_a_mirrored_critic_reverses_the_order_and_keeps_the_mean(run: Path) -> None:
    trained = load_trained(run)
    centres = collapse.centres_of(trained)
    assert centres.shape == (2, 2)
    checkpoint = collapse.load_checkpoint(run)
    assert checkpoint is not None
    arrays = collapse.mirrored(checkpoint.arrays, centres, range(1))
    changed = {name for name in arrays if not np.array_equal(arrays[name], checkpoint.arrays[name])}
    assert changed == {
        f"{root}/members/0/layers/1/{leaf}"
        for root in collapse.CRITICS
        for leaf in ("weight", "bias")
    }
    like = state_shapes(trained.config, 4, 2)
    state = checkpoint._replace(arrays=arrays).tree("state", like)
    for i in range(2):
        states, actions = map(jnp.asarray, trained.draw(i, STEPS, 0))
        before = np.asarray(trained.parts(i).critics(states, actions))
        critics = jax.tree.map(lambda leaf, i=i: leaf[i], state.critics.params)
        after = np.asarray(critics(states, actions))
        assert after[0] == pytest.approx(2.0 * before[0].mean() - before[0], abs=1e-3)
        assert np.array_equal(after[1], before[1])


def test_what_became_of_a_collapse(run: Path, tmp_path: Path) -> None:
    """By hand: what counts as recovered, and what is counted since the corruption."""
    start = {"seeds": [0], "step": 1_000, "newest": [90.0], "deployed": [80.0]}
    curve = {1_000: 90.0, 2_000: 10.0, 3_000: 86.0, 4_000: 40.0, 5_000: 85.5, 6_000: 99.0}
    lines: list[dict[str, Any]] = [
        {"kind": "evaluation", "step": s, "label": "x", "score": 80.0, "newest_score": value}
        for s, value in curve.items()
    ]
    for step in (900, 1_500, 2_500):  # the first fell before
        lines.append({"kind": "episode", "step": step, "terminated": True})
    event = {"kind": "event", "event": "rollback"}
    lines += [event | {"step": s, "reason": "budget: 5 falls"} for s in (800, 2_100)]
    arm = tmp_path / "budget"
    arm.mkdir()
    (arm / "config.json").write_bytes((run / "config.json").read_bytes())
    text = "".join(json.dumps(line | {"seed": 0}) + "\n" for line in lines)
    (arm / "metrics.jsonl").write_text(text)
    (row,) = collapse.after(arm, start)
    assert (row["newest_lowest"], row["newest_final"], row["deployed_final"]) == (10.0, 99.0, 80.0)
    assert row["recovered_from"] == 4_000  # within 5 points at 2,000, too, but it did not last
    assert (row["falls"], row["steps"]) == (2, 5_000)
    assert row["rollbacks"] == [[1_100, "budget: 5 falls"]]
    assert "| budget | 0 | 90.0 | 10.0 | 99.0 | 4,000 |" in collapse.table({"budget": [row]})


@pytest.mark.slow
def test_collapse_goes_on_with_and_without_the_budget(
    dataset: Path, tmp_path: Path, capsys: Any, point_task: object
) -> None:
    out, source = tmp_path / "out", tmp_path / "trained"
    quick = settings(
        dataset,
        prior={"updates": 500, "hidden": (32,)},
        offline={"updates": 500},
        learner={"hidden": (32,), "critics": 2},
        online={"steps": 1_000, "learning_starts": 100},
        log_every=100,
        gate={"earliest_step": 100, "latest_step": 100, "plateau_window": 100},
    )
    trained = train(preset_config("point", preset="smoke", **quick), source)
    flags = ["--steps", "1000", "--every", "200", "--members", "2", "--falls", "2"]
    argv = [str(source), "--out", str(out), *flags, "--window", "200"]
    files = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    collapse.main([*argv, "--arms", "budget"])
    collapse.main([*argv, "--arms", "none"])
    printed = capsys.readouterr().out
    assert {path: path.read_bytes() for path in files} == files  # the run stays as it is
    content = json.loads((out / "collapse.json").read_text())
    assert list(content["arms"]) == ["budget", "none"]
    before = [row["newest_score"] for row in trained.summary["seeds"]]
    assert content["before"]["newest"] == pytest.approx(before)
    for name, rows in content["arms"].items():
        for row in rows:
            assert [step for step, *_ in row["evaluations"]] == [200, 400, 600, 800, 1_000]
            budget = [reason for _, reason in row["rollbacks"] if reason.startswith("budget")]
            assert name == "budget" or not budget
            assert row["deployed_final"] >= row["deployed_before"] - collapse.WITHIN
    assert printed.count("| none |") == 2
    config = json.loads((out / "none" / "config.json").read_text())["config"]
    assert config["safety"]["budget"]["falls"] is None
    assert config["deployment"]["rollback"] is None


def test_collapse_refuses(run: Path, tmp_path: Path) -> None:
    for flags, words in (
        (["--members", "3"], "--members must be from 1 to the run's 2"),
        (["--every", "7"], "--every must be a multiple"),
        (["--steps", "0"], "--steps is too small"),
    ):
        with pytest.raises(collapse.ConfigError, match=words):
            collapse.main([str(run), "--out", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()
