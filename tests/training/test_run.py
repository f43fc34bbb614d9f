"""Whole runs on the toy task: it learns, repeats bit for bit, and survives being killed."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import toy
import toy_run
from spaars import load_policy
from spaars.errors import DataError, RunError
from spaars.tasks import register
from spaars.training.checkpoint import load_checkpoint, save_checkpoint
from spaars.training.run import resume, train
from spaars.training.trainer import Run, Stopped

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.point_file(tmp_path_factory.mktemp("data") / "point.npz")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def reference(dataset: Path, tmp_path_factory: pytest.TempPathFactory, point_task: object) -> Run:
    """The run that is never interrupted."""
    return train(toy_run.config(dataset), tmp_path_factory.mktemp("reference") / "run")


@pytest.fixture(scope="module")
def stopped(dataset: Path, tmp_path_factory: pytest.TempPathFactory, point_task: object) -> Path:
    """The same run, stopped three quarters through its online phase: copy it."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stopped):
        train(toy_run.config(dataset), run, on_progress=toy_run.stop_at("online", 750))
    return run


def start(home: Path, *args: str | Path) -> subprocess.Popen[str]:
    env = os.environ | {
        "PYTHONPATH": str(TESTS),
        "JAX_COMPILATION_CACHE_DIR": str(home / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, str(TESTS / "toy_run.py"), *map(str, args)]
    return subprocess.Popen(
        command, env=env, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )


def metrics(run: Path) -> bytes:
    path = run / "metrics.jsonl"
    return path.read_bytes() if path.exists() else b""


def assert_same_run(run: Path, reference: Run) -> None:
    """Interrupted or not: so trained twice is the same, too."""
    assert metrics(run) == metrics(reference.path)
    ours, theirs = (
        load_file(p / "checkpoints" / "latest.safetensors") for p in (run, reference.path)
    )
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_learns_the_task(reference: Run) -> None:
    (seed,) = reference.summary["seeds"]
    # Uniformly random actions score 0, a noiseless pull to the goal 100, the data about 8.
    assert seed["offline_score"] > 40
    assert seed["final_score"] > seed["offline_score"] + 8
    assert seed["final_score"] > 75
    assert seed["handover_step"] is not None
    assert seed["env_steps"] == 1_000


def test_run_directory_is_complete(reference: Run) -> None:
    names = {path.name for path in reference.path.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "figures",
        "tensorboard",
        "checkpoints",
    }
    summary = json.loads((reference.path / "summary.json").read_text())
    assert summary == reference.summary
    assert summary["dataset"].keys() == {"label", "sha256", "transitions", "description"}
    assert summary["dataset"]["description"]["observations"] == [["observations", 4]]
    kinds = {json.loads(line)["kind"] for line in metrics(reference.path).splitlines()}
    assert kinds == {"train", "evaluation", "episode", "event"}


def test_a_finished_run_takes_more_steps_as_if_begun_with_them(
    reference: Run, dataset: Path, tmp_path: Path
) -> None:
    online = {"steps": 750, "learning_starts": 100}
    run = train(
        toy_run.config(dataset, online=online, gate={"latest_step": 740}), tmp_path / "run"
    ).path
    short = json.loads((run / "config.json").read_text())["config"]["online"]
    assert short["replay_capacity"] == 750
    extended = resume(run, steps=1_000)
    assert extended.summary["seeds"][0]["env_steps"] == 1_000
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["online"]["replay_capacity"] == 1_000
    assert [earlier["online.steps"] for earlier in config["extended"]] == [750]

    def without_the_old_end(path: Path) -> list[dict[str, object]]:
        records = [json.loads(line) for line in metrics(path).splitlines()]
        return [
            {name: value for name, value in r.items() if name != "reason"}
            for r in records
            if not (r["kind"] == "evaluation" and r["step"] == 750 and r["label"] == "final")
        ]

    assert without_the_old_end(run) == without_the_old_end(reference.path)
    ours, theirs = (
        load_file(p / "checkpoints" / "latest.safetensors") for p in (run, reference.path)
    )
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.mark.usefixtures("point_task")
def test_the_end_of_a_run_hands_nothing_over(dataset: Path, tmp_path: Path) -> None:
    """It may go on, and is then as if begun with more steps."""
    config = toy_run.config(
        dataset,
        prior={"updates": 0},
        offline={"updates": 0},
        online={"steps": 300, "learning_starts": 250},
        gate={"earliest_step": 275, "latest_step": 275},
    )
    (seed,) = train(config, tmp_path / "run").summary["seeds"]
    assert (seed["env_steps"], seed["handover_step"]) == (300, None)


def test_more_steps_are_refused_where_there_is_nothing_to_go_on_from(
    reference: Run, tmp_path: Path
) -> None:
    before = {p: p.read_bytes() for p in reference.path.iterdir() if p.is_file()}
    with pytest.raises(RunError, match=r"--online.steps 1000: .* has taken 1000 already"):
        resume(reference.path, steps=1_000)
    assert {p: p.read_bytes() for p in before} == before
    moved = tmp_path / "moved"
    shutil.copytree(reference.path, moved)
    config = json.loads((moved / "config.json").read_text())
    config["config"]["dataset"] = str(tmp_path / "gone.npz")
    (moved / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"gone.npz"):
        resume(moved, steps=2_000)
    assert json.loads((moved / "config.json").read_text()) == config
    assert (moved / "summary.json").exists()
    committed = tmp_path / "committed"
    shutil.copytree(reference.path, committed, ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(RunError, match="no checkpoint to go on from: train anew"):
        resume(committed, steps=2_000)
    assert (committed / "summary.json").exists()


def test_a_seed_depends_neither_on_its_companions_nor_on_env_processes(
    reference: Run, dataset: Path, tmp_path: Path
) -> None:
    """Stopped and resumed on the way; workers find the env by the module in its id."""
    elsewhere = dataclasses.replace(
        toy.POINT, name="point-elsewhere", env_id="point_env:SpaarsPoint-v0"
    )
    register(elsewhere)
    online = {"steps": 1_000, "learning_starts": 100, "env_processes": 2}
    config = toy_run.config(dataset, seeds=(3, 0), online=online)
    run = tmp_path / "run"
    config = dataclasses.replace(config, task=elsewhere.name)
    with pytest.raises(Stopped):
        train(config, run, on_progress=toy_run.stop_at("online", 500))
    resume(run)
    records = [json.loads(line) for line in metrics(run).splitlines()]
    alone = [json.loads(line) for line in metrics(reference.path).splitlines()]
    assert [r for r in records if r["seed"] == 0] == alone
    assert {r["seed"] for r in records} == {0, 3}


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param(b'"phase": "prior"', marks=pytest.mark.slow),  # as offline
        b'"phase": "offline"',
        # Latent phase, in the middle of the next episode; as at the hand-over.
        pytest.param(b'"event": "measured"', marks=pytest.mark.slow),
        b'"event": "handover"',
    ],
)
def test_killed_and_resumed_is_the_same_bits(
    sign: bytes, reference: Run, dataset: Path, home: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(home, run, dataset)
    deadline = time.monotonic() + 400
    while sign not in metrics(run) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert sign in metrics(run)
    assert not (run / "summary.json").exists()
    again = start(home, run, dataset, "--resume")
    _, errors = again.communicate(timeout=400)
    assert again.returncode == 0, errors
    assert_same_run(run, reference)


@pytest.mark.parametrize(
    ("stage", "done"), [pytest.param("offline", 250, marks=pytest.mark.slow), ("online", 500)]
)
def test_ctrl_c_saves_and_says_how_to_go_on(
    stage: str, done: int, reference: Run, dataset: Path, home: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(home, run, dataset, "--interrupt-at", stage, str(done))
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 130, errors
    assert f"spaars resume {run}" in errors
    assert "Traceback" not in errors
    resume(run)
    assert_same_run(run, reference)


def test_full_disk_while_training(dataset: Path, home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(home, run, dataset, "--limit-file-size", "3000")
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 2, errors
    assert "File too large" in errors
    assert "Traceback" not in errors
    assert not list(run.rglob("*.tmp"))


@pytest.mark.skipif(sys.platform == "win32", reason="locked on POSIX systems only")
@pytest.mark.usefixtures("point_task")
def test_a_run_that_another_process_writes_is_refused(dataset: Path, tmp_path: Path) -> None:
    """Such as one that outlived its terminal; once it is killed, nothing hinders."""
    hold = "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); "
    hold += "fcntl.flock(fd, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"another process is at {tmp_path}"):
            train(toy_run.config(dataset), tmp_path)
        with pytest.raises(RunError, match=f"another process is at {tmp_path}"):
            resume(tmp_path)
        assert list(tmp_path.iterdir()) == []
    finally:
        other.kill()
        other.communicate()
    with pytest.raises(RunError, match=r"no config\.json"):
        resume(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="locked on POSIX systems only")
@pytest.mark.usefixtures("point_task")
def test_a_run_is_held_while_it_is_trained(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tried = tmp_path / "run", []

    class Trains:
        def __init__(self, *args: object) -> None:
            pass

        def run(self, *args: object, **options: object) -> Run:
            with pytest.raises(RunError, match="another process is at"):
                resume(run)
            tried.append(True)
            return Run(run, {})

    monkeypatch.setattr("spaars.training.run.Trainer", Trains)
    train(toy_run.config(dataset), run)
    resume(run)
    assert len(tried) == 2
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_killed_between_two_renames(stopped: Path, tmp_path: Path) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    checkpoints = run / "checkpoints"
    latest = load_checkpoint(run)
    (checkpoints / "latest.safetensors").rename(checkpoints / "previous.safetensors")
    found = load_checkpoint(run)
    assert latest is not None
    assert found is not None
    assert found.progress == latest.progress
    assert found.progress["env_steps"] == 750
    assert found.arrays.keys() == latest.arrays.keys()
    (checkpoints / ".0123456789abcdef.tmp").write_bytes(b"killed while it was written")
    save_checkpoint(run, found)
    assert sorted(file.name for file in checkpoints.iterdir()) == [
        "latest.safetensors",
        "previous.safetensors",
    ]


def test_a_lost_report_is_made_by_resume(reference: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference.path, run)
    (run / "report.html").unlink()
    assert resume(run).summary == reference.summary
    assert (run / "report.html").exists()


def test_a_broken_checkpoint_falls_back_to_the_previous(
    reference: Run, stopped: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    latest = run / "checkpoints" / "latest.safetensors"
    latest.write_bytes(latest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="going back to previous"):
        resume(run)
    assert_same_run(run, reference)
    for name in ("latest", "previous"):
        (run / "checkpoints" / f"{name}.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="no readable checkpoint"):
        load_policy(run)


@pytest.mark.usefixtures("point_task")
def test_resume_refuses_another_dataset(dataset: Path, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved.npz"
    moved.write_bytes(dataset.read_bytes())
    with pytest.raises(Stopped):
        train(toy_run.config(moved), run, on_progress=toy_run.stop_at("prior", 250))
    toy.point_file(moved, seed=1)
    with pytest.raises(RunError, match="dataset has changed"):
        resume(run)


def test_a_run_of_an_older_version_is_not_gone_on_with(reference: Run, tmp_path: Path) -> None:
    run = shutil.copytree(reference.path, tmp_path / "run")
    described = json.loads((run / "config.json").read_text())
    del described["config"]["online"]["start_steps"]
    (run / "config.json").write_text(json.dumps(described))
    with pytest.raises(RunError, match="finished"):
        resume(run)
    load_policy(run)  # what acts does not depend on it
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match=r"older spaars .* did not know --online\.start-steps\."):
        resume(run)


def test_policy_of_a_run(reference: Run) -> None:
    policy = load_policy(reference.path)
    one = policy(np.zeros(4))
    assert one.shape == (2,)
    assert np.abs(one).max() <= 1.0
    many = policy(np.zeros((5, 4)))
    np.testing.assert_allclose(many, np.tile(one, (5, 1)), rtol=1e-6)
    with pytest.raises(DataError, match="4 numbers"):
        policy(np.zeros(3))
    with pytest.raises(RunError, match="seeds"):
        load_policy(reference.path, seed=7)
