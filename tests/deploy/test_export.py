"""`spaars export`, `eval` and `video` on a run directory."""

import dataclasses
import json
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import toy
from spaars import load_policy
from spaars.cli.main import main
from spaars.deploy.export import export
from spaars.deploy.numpy_policy import NumpyPolicy, PolicyError
from spaars.errors import ConfigError, DataError, RunError
from spaars.safety import SafetyConfig
from spaars.tasks import register
from spaars.training.checkpoint import collect, save_checkpoint
from spaars.training.config import to_json
from spaars.training.run_directory import write_json
from toy_policies import fresh_state, observations, redrawn, toy_config

SEEDS = (3, 8)
POINT_ACTIONS = gymnasium.spaces.Box(-1.0, 1.0, (2,))
EVALUATIONS = [
    {"step": 0, "label": "offline", "score": 20.0, "score_std": 2.0, "newest_score": 20.0},
    {"step": 500, "label": "periodic", "score": 61.5, "score_std": 3.0, "newest_score": 44.0},
]


class Drawn(toy.PointEnv):
    """The toy, painted where it is."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, render_mode=None, falls=True):
        super().__init__(falls)
        self.render_mode = render_mode

    def render(self):
        image = np.zeros((21, 33, 3), np.uint8)
        row, column = np.clip((self.buffer[:2] + 1.0) * [10, 16], 0, [20, 32]).astype(int)
        image[row, column] = 255
        return image


def a_run(path: Path, method: str, **changes) -> Path:
    """What training leaves, of two seeds, without training: weights are drawn at random."""
    config = toy_config(method, seeds=SEEDS, **changes)
    agent = config.agent()
    states = [redrawn(fresh_state(method), seed) for seed in SEEDS]
    deployed = [
        redrawn(agent.acting(state), seed + 1) for seed, state in zip(SEEDS, states, strict=True)
    ]
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    trees = {"state": stack(states), "deployed": stack(deployed)}
    lines = [
        json.dumps(
            {"kind": "evaluation", "seed": seed, "return_mean": 25.0, "falls": 1}
            | {"episodes": 3, **record}
        )
        for record in EVALUATIONS
        for seed in SEEDS
    ]
    (path / "checkpoints").mkdir(parents=True)
    whole = "".join(f"{line}\n" for line in lines)
    late = json.dumps({"kind": "evaluation", "seed": 3, "score": 99.9})
    (path / "metrics.jsonl").write_text(f"{whole}{late}\n")  # after the checkpoint
    progress = {"trials": [], "env_steps": 500, "metrics_offset": len(whole)}
    save_checkpoint(path, collect(progress, trees, None, None))
    write_json(
        path / "config.json",
        {
            "config": to_json(config),
            "dataset": {
                "label": "point, mediocre",
                "sha256": "ab12",
                "transitions": 10,
                "description": {"observations": [["position", 2], ["velocity", 2]]},
            },
            "git_revision": "cafe",
            "command": "spaars train point",
            "versions": {"jax": "0.1"},
        },
    )
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, point_task) -> Path:
    gymnasium.register(
        "SpaarsDrawn-v0", Drawn, max_episode_steps=toy.STEPS, disable_env_checker=True
    )
    register(dataclasses.replace(toy.POINT, name="drawn", env_id="SpaarsDrawn-v0"))
    return a_run(tmp_path_factory.mktemp("runs") / "run", "bc", deployment={"rule": "proven"})


@pytest.fixture(scope="module")
def policy_file(run: Path, tmp_path_factory) -> Path:
    return export(run, out=tmp_path_factory.mktemp("policy") / "policy.npz")


def words(capsys, *argv, code=0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in argv])
    printed = capsys.readouterr()
    assert stopped.value.code == code, printed.err
    return printed.err if code else printed.out


def test_export_and_card(run: Path, capsys, tmp_path: Path) -> None:
    assert f"wrote {run / 'policy-s3.npz'}" in words(capsys, "export", run)
    x = observations(200)
    policy = load_policy(run / "policy-s3.npz")
    assert isinstance(policy, NumpyPolicy)
    np.testing.assert_allclose(policy(x), load_policy(run)(x), atol=1e-5)
    assert np.abs(policy(x) - load_policy(run, newest=True)(x)).max() > 0.1
    about = policy.about
    assert about["scores"] == {
        "step": 500,
        "episodes": 3,
        "offline": 20.0,
        "score": 61.5,
        "score_std": 3.0,
        "return_mean": 25.0,
        "falls": 1,
    }
    assert (about["task"], about["method"], about["seed"]) == ("point", "bc", 3)
    assert about["data"] == "point, mediocre"
    assert about["trained"]["git_revision"] == "cafe"
    assert "safety" not in about  # there is no summary yet
    card = (run / "policy-s3.npz.md").read_text()
    for piece in (
        "61.5 +- 3.0",
        "| offline policy | 20.0 |",
        "point, mediocre",
        "position[1]",
        "cafe",
        "not finished",
        "`bc`",
    ):
        assert piece in card
    assert "99.9" not in card

    out = tmp_path / "deep" / "other.npz"
    words(capsys, "export", run, "--seed", "8", "--newest", "--out", out)
    other = load_policy(out)
    np.testing.assert_allclose(other(x), load_policy(run, 8, newest=True)(x), atol=1e-5)
    assert other.about["policy"] == "newest"
    assert other.about["scores"]["score"] == 44.0
    assert "score_std" not in other.about["scores"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["other.npz", "other.npz.md"]


def test_safety_figures_of_a_finished_run(run: Path, capsys, tmp_path: Path) -> None:
    own = {"seed": 3, "dip_worst": None, "drop_below_offline": 1.25, "falls_per_1k": 4.0}
    (run / "summary.json").write_text(json.dumps({"seeds": [own, own]}))
    try:
        words(capsys, "export", run, "--out", tmp_path / "p.npz")
    finally:
        (run / "summary.json").unlink()
    policy = load_policy(tmp_path / "p.npz")
    assert policy.about["safety"] == {"drop_below_offline": 1.25, "falls_per_1k": 4.0}
    card = (tmp_path / "p.npz.md").read_text()
    assert "| 1.25 |" in card
    assert "worst dip" not in card


@pytest.mark.parametrize("format", ["npz", "onnx"])
def test_eval_of_a_file_is_that_of_its_run(format: str, run: Path, capsys, tmp_path) -> None:
    if format == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    out = tmp_path / f"policy.{format}"
    words(capsys, "export", run, "--format", format, "--seed", "8", "--out", out)
    flags = ("--episodes", "4", "--offset", "2", "--json")
    ours = json.loads(words(capsys, "eval", out, *flags))
    theirs = json.loads(words(capsys, "eval", run, *flags))
    assert ours["task"] == theirs["task"] == "point"
    expected = theirs["seeds"][1]
    assert ours["seeds"][0] == pytest.approx(expected, rel=1e-4)
    assert expected["score_std"] > 0.0  # other episodes, not one four times


def test_policies_with_skills(tmp_path: Path, capsys, point_task) -> None:
    run = a_run(tmp_path / "run", "supe", deployment={"rule": "proven"})
    words(capsys, "export", run)
    flags = ("--episodes", "3", "--json")
    ours = json.loads(words(capsys, "eval", run / "policy-s3.npz", *flags))
    theirs = json.loads(words(capsys, "eval", run, *flags))
    assert ours["seeds"][0] == pytest.approx(theirs["seeds"][0], rel=1e-4)
    error = words(capsys, "export", run, "--format", "onnx", code=2)
    assert "--format npz" in error
    assert not (run / "policy-s3.onnx").exists()


def test_video(policy_file: Path, capsys, tmp_path: Path) -> None:
    out = tmp_path / "film.gif"
    flags = ("--task", "drawn", "--out", out)
    printed = words(capsys, "video", policy_file, *flags, "--episode", "1")
    steps = int(printed.split(": ")[1].split()[0])
    with Image.open(out) as image:
        assert image.size == (33, 21)
        assert image.info["duration"] == 40
        # 50 steps a second, 25 frames, the first and the last one included. Equal neighbours are
        # stored as one.
        assert 1 < image.n_frames <= 2 + steps // 2
    assert ": 5 steps" in words(capsys, "video", policy_file, *flags, "--seconds", "0.1")


@pytest.mark.parametrize(
    ("argv", "piece"),
    [
        (("export", "RUN", "--seed", "4"), "has seeds [3, 8], not 4"),
        (("export", "RUN", "--out", "policy.onnx"), "must end in .npz"),
        (("export", "absent"), "not a run directory"),
        (("eval", "absent.npz"), "no such file"),
        (("eval", "DATA"), "no exported policy"),
        (("eval", "RUN", "--task", "point"), "--task is for exported policies"),
        (("eval", "POLICY", "--task", "poinnt"), "Did you mean"),
        (("eval", "POLICY", "--task", "hopper-medium"), "observations of 4 dimensions"),
        (("eval", "POLICY", "--newest"), "are for runs"),
        (("video", "RUN"), "cannot be rendered"),
        (("video", "POLICY", "--out", "film.avi"), ".gif or .mp4"),
        (("video", "POLICY", "--episode", "-1"), "--episode"),
    ],
)
def test_bad_words(
    argv, piece: str, run: Path, policy_file: Path, capsys, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"RUN": run, "DATA": tmp_path / "data.npz", "POLICY": policy_file}
    if "DATA" in argv:
        toy.point_file(places["DATA"], 50)
    error = words(capsys, *(places.get(word, word) for word in argv), code=2)
    assert piece in error
    assert "Traceback" not in error


def test_a_foreign_onnx_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "policy.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(DataError, match="not a whole ONNX file"):
        load_policy(path)
    helper = onnx.helper
    value = [helper.make_tensor_value_info(n, 1, ["n", 4]) for n in ("observations", "actions")]
    node = helper.make_node("Tanh", ["observations"], ["actions"])
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    with pytest.raises(DataError, match="no policy of `spaars export`"):
        load_policy(path)
    for text in ("{}", "[", '{"format": "spaars policy 1", "observation_dim": 5}'):
        helper.set_model_props(model, {"policy.json": text})
        onnx.save(model, path)
        with pytest.raises(DataError, match="no policy of `spaars export`"):
            load_policy(path)


def test_load_policy_of_a_file_takes_no_seed(policy_file: Path) -> None:
    with pytest.raises(RunError, match="one policy"):
        load_policy(policy_file, seed=3)


def test_without_onnx_the_remedy_is_named(run: Path, capsys, monkeypatch, tmp_path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    out = tmp_path / "p.onnx"
    error = words(capsys, "export", run, "--format", "onnx", "--out", out, code=2)
    assert 'pip install "spaars[onnx]"' in error
    assert not out.exists()


LIMITS = {"action_low": (-0.5, -0.25), "action_high": (0.75,)}


@pytest.mark.parametrize("rate_limit", [None, (0.1, 0.3)])
def test_limited_actions_are_limited_in_the_file(rate_limit, tmp_path: Path, point_task) -> None:
    """Bounds and rate limit go along, as the run itself applies them."""
    run = a_run(tmp_path / "run", "bc", safety=LIMITS | {"rate_limit": rate_limit})
    policy, theirs = load_policy(export(run)), load_policy(run)
    free = load_policy(export(a_run(tmp_path / "free", "bc")))
    envelope = SafetyConfig(**LIMITS, rate_limit=rate_limit).envelope(POINT_ACTIONS)
    executed = None
    for batch in np.split(observations(200), 10):
        ours, runs_own = policy(batch), theirs(batch)
        np.testing.assert_allclose(ours, runs_own, atol=1e-5)
        # Not almost but exactly what the envelope makes of what the policy asks for.
        executed = envelope(free(batch), executed)
        np.testing.assert_array_equal(ours, executed)
        for actions in (ours, runs_own):
            actions *= 90.0  # in place, as a robot's units may ask for
    assert (executed != free(batch)).any(0).all()  # every dimension was limited
    assert policy.about["envelope"]["low"] == [-0.5, -0.25]
    card = (run / "policy-s3.npz.md").read_text()
    assert "| 0 | -1 | 1 | -0.5 | 0.75 |" in card
    assert ("largest change" in card) == (rate_limit is not None)
    if rate_limit is None:
        return
    with pytest.raises(PolicyError, match=r"last actions of 20 envs, got observations of 3.*reset"):
        policy(observations(3))
    policy.reset()
    first = policy(observations(3))
    np.testing.assert_array_equal(first, envelope(free(observations(3))))


def test_onnx_holds_bounds_and_refuses_what_it_cannot_remember(tmp_path: Path, point_task) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    run, x = a_run(tmp_path / "run", "bc", safety=LIMITS), observations(500)
    limited = load_policy(export(run, "onnx"))(x)
    np.testing.assert_allclose(limited, load_policy(run)(x), atol=1e-5)
    assert limited[:, 0].min() == -0.5
    assert limited.max() == 0.75
    slow = a_run(tmp_path / "slow", "bc", safety=LIMITS | {"rate_limit": (0.1,)})
    with pytest.raises(ConfigError, match=r"remembers its last action.*Use --format npz"):
        export(slow, "onnx")
    assert not list(slow.glob("policy*"))
