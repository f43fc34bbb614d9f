"""`spaars data convert`, and `inspect` of what is no single file."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from make_sources import write_episodes, write_lerobot, write_minari
from spaars.cli.main import main
from spaars.data import load_file


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*left out, no vectors.*")
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in argv])
    out, error = capsys.readouterr()
    assert stopped.value.code == 0, error
    return out


def fails(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in argv])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("spaars: error: ")
    assert "\n" not in error
    return error


@pytest.mark.parametrize("write", [write_episodes, write_minari, write_lerobot])
@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ""])
def test_convert_says_what_it_did(write, suffix, capsys, tmp_path: Path) -> None:
    source, out = write(tmp_path / "logs"), tmp_path / f"out{suffix}"
    said = run(capsys, "data", "convert", source, out)
    converted = load_file(out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = load_file(source)
    assert converted.sha256 == original.sha256
    assert converted.description.source == original.label
    parts = " + ".join(f"{name} ({n})" for name, n in original.description.observations)
    for line in (
        f"from          {original.label}",
        f"wrote         {out}",
        f"rows          {len(original)}",
        "episodes      3 (",
        f"observations  {parts}",
        f"sha256        {original.sha256}",
    ):
        assert line in said
    assert parts in " ".join(run(capsys, "data", "inspect", out).split())


def test_convert_with_every_flag(capsys, tmp_path: Path) -> None:
    n = 4
    out = tmp_path / "out.npz"
    (tmp_path / "logs").mkdir()
    np.savez(
        tmp_path / "logs" / "a.npz",
        qpos=np.ones((n, 2)),
        qvel=np.zeros((n, 1)),
        cmd=np.full((n, 2), 30.0),
    )
    flags = ["--columns", "observations=qvel,qpos", "actions=cmd", "--rewards", "zero"]
    flags += ["--action-low", "-60", "0", "--action-high", "60", "60"]
    said = run(capsys, "data", "convert", tmp_path / "logs", out, *flags)
    assert "observations  qvel (1) + qpos (2)" in said
    assert "actions       cmd (2); from [-60, 0] and [60, 60] to -1 and 1" in said
    assert "rewards       zeros; none were recorded" in said
    converted = load_file(out)
    np.testing.assert_allclose(converted.actions, np.tile([0.5, 0.0], (3, 1)))
    np.testing.assert_allclose(converted.observations, np.tile([0.0, 1.0, 1.0], (3, 1)))
    # The same flags show the same before anything is written.
    assert "qvel (1) + qpos (2)" in run(capsys, "data", "inspect", tmp_path / "logs", *flags)


def test_nothing_is_overwritten_or_half_written(capsys, tmp_path: Path) -> None:
    source, out = write_episodes(tmp_path / "logs"), tmp_path / "out.npz"
    out.write_text("mine")
    assert "--overwrite" in fails(capsys, "data", "convert", source, out)
    assert out.read_text() == "mine"
    (source / "episode_001.npz").write_bytes(b"broken")
    assert "episode_001.npz" in fails(capsys, "data", "convert", source, out, "--overwrite")
    assert out.read_text() == "mine"
    (source / "episode_001.npz").unlink()
    run(capsys, "data", "convert", source, out, "--overwrite")
    assert len(load_file(out)) == 7
    # A file may be converted onto itself.
    run(capsys, "data", "convert", out, out, "--overwrite")
    assert len(load_file(out)) == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "out.npz"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits file sizes the Linux way")
@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ""])
def test_full_disk(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_bad_input import run_limited

    n = 3_000
    source = tmp_path / "log.npz"
    flag, rows = np.zeros(n, bool), np.zeros((n, 4))
    np.savez(
        source, observations=rows, next_observations=rows, actions=rows, rewards=rows[:, 0],
        terminated=flag, truncated=flag,
    )  # fmt: skip
    setup = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    )
    out = tmp_path / "out"
    out.mkdir()
    argv = ["data", "convert", str(source), str(out / f"log{suffix}")]
    result = run_limited(setup, argv, tmp_path / "home")
    assert result.returncode == 2, result.stderr
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["convert", "logs", "out.csv"], ["out.csv", ".npz"]),
        (["convert", "logs", "out.npz", "--columns", "observation=x"], ["'observations'"]),
        (["convert", "logs", "out.npz", "--action-low", "-1"], ["--action-high"]),
        (["convert", "absent", "out.npz"], ["absent", "no such file or directory"]),
        (["convert", "minari:../x", "out.npz"], ["minari:../x", "no Minari id"]),
        (["convert", "logs", "out.npz", "--columns", "actions=act"], ["'act'", "'actions'"]),
        (["inspect", "hopper-medium", "--rewards", "zero"], ["hopper-medium", "needs none"]),
        (["inspect", "absent"], ["absent"]),
    ],
)
def test_wrong_words(argv, words, capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_episodes(tmp_path / "logs")
    error = fails(capsys, "data", *argv)
    for word in words:
        assert word in error
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]


def test_train_takes_a_directory(capsys, tmp_path: Path) -> None:
    """As far as the checks that come before any compute."""
    source = write_episodes(tmp_path / "logs")
    error = fails(capsys, "train", "hopper-medium", "--dataset", source, "--out", tmp_path / "run")
    assert "logs (3 npz episodes): observations have 5 dimensions" in error
    assert not (tmp_path / "run").exists()
