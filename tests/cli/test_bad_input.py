"""Every kind of bad input: one clear line, exit code 2, no traceback, nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spaars.cli.main import main
from spaars.data import load_dataset
from spaars.tasks import get_task
from spaars.training.config import preset_config
from spaars.training.run import check_skills


def fails(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """Run the command line in this process; it must exit 2 with one line, which is returned."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in argv])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("spaars: error: ")
    assert "\n" not in error
    assert "Traceback" not in error
    return error


def write_npz(path: Path, **changes: np.ndarray) -> Path:
    n = 30
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(n, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        "rewards": np.ones(n, np.float32),
        "next_observations": rng.normal(size=(n, 11)).astype(np.float32),
        "terminated": np.arange(n) % 10 == 9,
        "truncated": np.zeros(n, bool),
    } | changes
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train", "hoper-medium"], ["unknown task", "hopper-medium"]),
        (["train", "hopper-medium", "--method", "spars"], ["unknown method", "'spaars'"]),
        (["train", "hopper-medium", "--preset", "quik"], ["unknown preset", "'quick'"]),
        (["train"], ["name a task"]),
        (["tran", "hopper-medium"], ["unknown command", "'train'"]),
        (["data", "mak"], ["unknown command", "data make"]),
        (["data", "inspect", "hoper-medium"], ["hopper-medium"]),
        (["data", "make", "hoper-medium"], ["unknown task", "hopper-medium"]),
        (["train", "hopper-medium", "--seeds", "1", "1"], ["--seeds", "distinct"]),
        (["train", "hopper-medium", "--online.steps", "77"], ["multiple of --online.chunk"]),
        (["train", "hopper-medium", "--gate.rule", "step"], ["--gate.step"]),
        (["train", "hopper-medium", "--learner.hidden", "0"], ["--learner.hidden", "at least 1"]),
        (["train", "hopper-medium", "--learner.tau", "nan"], ["--learner.tau", "finite"]),
        (["train", "hopper-medium", "--seeds", str(2**40)], ["--seeds", "2^32"]),
        (["train", "--preset", "smoke", "hopper-medium"], ["name a task first"]),
        (["data", "make-behaviour", "hopper-medium", "--screen-every", "0"], ["--screen-every"]),
        (["train", "hopper-medium", "--dataset", "absent.hdf5"], ["absent.hdf5"]),
        (["resume", "absent"], ["absent", "not a run directory"]),
        (["eval", "absent"], ["absent", "not a run directory"]),
        (["report", "absent"], ["absent"]),
    ],
)
def test_wrong_words(
    argv: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    error = fails(capsys, *argv)
    for word in words:
        assert word in error
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewards": np.full(30, np.nan)}, ["rewards", "nan"]),
        ({"actions": np.full((30, 3), 3.0)}, ["actions", "[-1, 1]"]),
        ({"observations": np.zeros((30, 12), np.float32)}, ["next_observations", "observations"]),
        (
            {name: np.zeros((30, 12)) for name in ("observations", "next_observations")},
            ["12", "11", "Hopper-v4"],
        ),
        ({"actions": np.zeros((30, 4), np.float32)}, ["4", "3", "Hopper-v4"]),
        ({"rewards": np.zeros(29)}, ["rewards", "29"]),
    ],
)
def test_wrong_data(
    changes: dict[str, np.ndarray],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = write_npz(tmp_path / "log.npz", **changes)
    out = tmp_path / "run"
    error = fails(capsys, "train", "hopper-medium", "--dataset", path, "--out", out)
    for word in words:
        assert word in error.lower() if word == "nan" else word in error
    assert not out.exists()


def write_replays(path: Path, **changes: np.ndarray) -> Path:
    """Two episodes of 6 and 4 steps in which the microwave is open and the kettle in its place."""
    arrays = {
        "observation": np.zeros((10, 59), np.float32),
        "action": np.zeros((10, 9), np.float32),
        "at_goal": np.full((10, 1), 0b00000110, np.uint8),
        "final_observation": np.zeros((2, 59), np.float32),
        "ep_start": np.array([0, 6]),
        "ep_len": np.array([6, 4]),
    } | changes
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (3, "--opal.skill-length (3) does not divide the 280 steps of an episode of kitchen-mixed"),
        (7, "--online.chunk (40) must be a multiple of --opal.skill-length (7), such as 35."),
        (1, "--opal.skill-length must be at least 2, got 1"),
    ],
)
def test_skills_that_do_not_fit_the_kitchens_episodes(
    length: int, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data, out = write_replays(tmp_path / "replays.npz"), tmp_path / "run"
    argv = ["train", "kitchen-mixed", "--method", "spaars-supe", "--opal.skill-length", length]
    assert words in fails(capsys, *argv, "--dataset", data, "--out", out)
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:.*no episode completes")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "no episode has the 8 steps of a skill; the longest has 6. Lower --opal.skill-length"),
        ({"observation": np.zeros((10, 58))}, "'observation' has shape (10, 58), "),
        (
            {"action": np.zeros((10, 8))},
            "actions have 8 dimensions, those of FrankaKitchen-v1 have 9",
        ),
        ({"at_goal": np.zeros((10, 7), bool)}, "'at_goal' must be bits of shape (10, 1)"),
    ],
)
def test_wrong_kitchen_data(
    changes: dict[str, np.ndarray],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    data, out = write_replays(tmp_path / "replays.npz", **changes), tmp_path / "run"
    argv = ["train", "kitchen-mixed", "--method", "supe", "--opal.skill-length", "8"]
    assert words in fails(capsys, *argv, "--dataset", data, "--out", out)
    assert not out.exists()


def test_kitchen_data_of_other_tasks_are_told(tmp_path: Path) -> None:
    data = write_replays(tmp_path / "replays.npz")
    task = get_task("kitchen-mixed")
    with pytest.warns(UserWarning, match="completes bottom burner, light switch, which kitchen-m"):
        dataset = load_dataset(task, data, 0)
    config = preset_config(task.name, "supe", opal={"skill_length": 5})
    with pytest.warns(UserWarning, match="1 of 2 episodes are shorter than the 5 steps of a skill"):
        check_skills(config, dataset)


def test_missing_key_suggests_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "log.npz"
    np.savez(path, observation=np.zeros((3, 11)), actions=np.zeros((3, 3)), rewards=np.zeros(3))
    error = fails(capsys, "train", "hopper-medium", "--dataset", path, "--out", tmp_path / "r")
    assert "observations" in error
    assert "'observation'" in error


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_truncated_file(suffix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_npz(tmp_path / "log.npz")
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(path.read_bytes()[:200])
    error = fails(capsys, "train", "hopper-medium", "--dataset", broken, "--out", tmp_path / "r")
    assert "broken" in error
    assert not (tmp_path / "r").exists()


def test_existing_run_is_not_touched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    error = fails(capsys, "train", "hopper-medium", "--out", tmp_path)
    assert "exists" in error
    assert "resume" in error
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_broken_config_of_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"config": {"task": "hopper-medium", "sees": [0]}}')
    error = fails(capsys, "resume", tmp_path)
    assert "sees" in error
    assert "'seeds'" in error
    (tmp_path / "config.json").write_text('{"config": {"ta')
    assert "cannot be read" in fails(capsys, "eval", tmp_path)
    (tmp_path / "config.json").write_text(
        '{"config": {"task": "hopper-medium", "transitions": -5}, "dataset": {"sha256": ""}}'
    )
    assert "--transitions" in fails(capsys, "resume", tmp_path)


@pytest.mark.parametrize("flags", [["--online.steps", "many"], ["--no-such-flag", "1"]])
def test_wrong_flags_exit_with_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "hopper-medium", *flags])
    assert stopped.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_finished_run_is_not_resumed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    described = {"config": {"task": "hopper-medium"}, "dataset": {"sha256": ""}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "report.html").write_text("")
    assert "finished" in fails(capsys, "resume", tmp_path)


def run_limited(setup: str, argv: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, after the lines of Python in `setup`."""
    code = f"import os, resource, signal\n{setup}\nfrom spaars.cli.main import main\nmain({argv!r})"
    env = os.environ | {"SPAARS_HOME": str(home)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def as_ordinary_user() -> list[str]:
    """What to put before a command so that file permissions bind it, also if root runs it.

    Not another user: the interpreter and its libraries may lie where only root can read.
    """
    if os.name != "posix":
        pytest.skip("file permissions are told the POSIX way")
    if os.getuid() != 0:
        return []
    prefix = ["setpriv", "--bounding-set", "-dac_override"]
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"]).returncode:
        pytest.skip("root may write anywhere, and setpriv cannot take that right away here")
    return prefix


def test_no_write_permission(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    code = "from spaars.cli.main import main\nmain()"
    argv = ["train", "hopper-medium", "--out", str(closed / "run")]
    result = subprocess.run(
        [*as_ordinary_user(), sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        env=os.environ | {"SPAARS_HOME": str(tmp_path / "home")},
    )
    assert result.returncode == 2, result.stderr
    assert "ermission denied" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(closed.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits file sizes the Linux way")
def test_full_disk_while_recording(tmp_path: Path) -> None:
    # A file-size limit fails a write as a full disk does: OSError in the middle of the file.
    setup = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    )
    out = tmp_path / "run"
    argv = ["train", "hopper-medium", "--preset", "smoke", "--out", str(out)]
    result = run_limited(setup, argv, tmp_path / "home")
    assert result.returncode == 2, result.stderr
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists()
    assert [p for p in (tmp_path / "home").rglob("*") if p.is_file()] == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = run_limited("", ["train", "hoper", "--debug"], tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    """As with `spaars bench SUITE.toml --dry-run | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "spaars", "--help"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")
