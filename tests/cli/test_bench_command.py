"""`spaars bench`: what it prints, its exit codes, and one suite with real runs."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import spaars.cli.bench as command
from spaars.cli.main import main
from spaars.training import config as configs
from spaars.training.bench import run_cells
from spaars.training.suite import Cell, load_suite
from toy import blank_dataset

FAKE = (sys.executable, str(Path(__file__).parents[1] / "fake_spaars.py"))
SUITE = """
tasks = ["hopper-medium"]
seeds = [{}]
preset = "smoke"
[[variants]]
method = "spaars"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory; runs there are those of fake_spaars.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run_cells", functools.partial(run_cells, program=FAKE))
    return tmp_path


def write_suite(*seeds: int) -> None:
    Path("s.toml").write_text(SUITE.format(", ".join(map(str, seeds))))


def bench(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str], str]:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *argv])
    captured = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, captured.out.splitlines(), captured.err.strip()


def begin(cell: Cell, score: float | None = None) -> None:
    """A run as it was left: finished if there is a score."""
    cell.path.mkdir(parents=True)
    config = configs.to_json(configs.resolved(cell.config, blank_dataset(11, 3)))
    described = {"config": config, "dataset": {"sha256": ""}}
    (cell.path / "config.json").write_text(json.dumps(described))
    if score is not None:
        rows = [{"seed": cell.config.seeds[0], "final_score": score, "wall_seconds": 60.0}]
        (cell.path / "summary.json").write_text(json.dumps({"seeds": rows}))


def test_dry_run_lists_and_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_suite(5, 6, 7)
    cells = load_suite(Path("s.toml"), Path("runs/s"))
    begin(cells[0], score=1.0)
    begin(cells[1])
    before = sorted(place.rglob("*"))
    code, lines, _ = bench(capsys, "s.toml", "--dry-run")
    assert code == 0
    run = "runs/s/hopper-medium/spaars"
    flags = "--method spaars --preset smoke --seeds 7"
    assert lines == [
        "hopper-medium/spaars/s5  done",
        f"hopper-medium/spaars/s6  resume  spaars resume {run}/s6",
        f"hopper-medium/spaars/s7  train   spaars train hopper-medium {flags} --out {run}/s7",
    ]
    assert sorted(place.rglob("*")) == before


def test_a_line_per_run_and_the_report_command(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_suite(5, 6, 7)
    cells = load_suite(Path("s.toml"), Path("my runs"))
    begin(cells[0], score=1.0)
    begin(cells[1])
    code, lines, _ = bench(capsys, "s.toml", "--out", "my runs", "--jobs", "2")
    assert code == 0
    assert "1 done, 1 to resume, 1 to train, 2 at a time" in lines[0]
    assert lines[1] == "hopper-medium/spaars/s5  skipped  final    1.0     1.0 min  2 left"
    assert [line.split()[1] for line in lines[2:4]] in (["resumed", "done"], ["done", "resumed"])
    assert lines[3].endswith("0 left")
    runs = " ".join(f"'{cell.path}'" for cell in cells)
    assert lines[4:] == [f"compare them: spaars report {runs} --out 'my runs/report.html'"]


def test_failures_are_listed_at_the_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_suite(2, 1)
    code, lines, error = bench(capsys, "s.toml")
    assert (code, error) == (1, "")
    run = "runs/s/hopper-medium/spaars/s"
    assert lines[1].startswith("hopper-medium/spaars/s2  failed   final      -")
    assert lines[2].startswith("hopper-medium/spaars/s1  done     final   50.0")
    assert lines[3:] == [
        f"failed: hopper-medium/spaars/s2: spaars: error: the disk is on fire (log: {run}2.log)",
        "1 of 2 runs failed; once mended, go on with `spaars bench s.toml --out runs/s`",
        f"compare them: spaars report {run}1 --out runs/s/report.html",
    ]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["absent.toml"], ["absent.toml", "No such file"]),
        (["s.toml", "--jobs", "0"], ["--jobs"]),
        (["wrong.toml"], ["wrong.toml", "unknown method 'spars'", "'spaars'"]),
        (["s.toml", "--out", "other"], ["--online.steps is 200 there and 1500 in the suite"]),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_bad_input_begins_nothing(
    argv: list[str],
    words: list[str],
    flags: list[str],
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_suite(1, 2)
    Path("wrong.toml").write_text(SUITE.format(1) + "[[variants]]\nmethod = 'spars'")
    last = load_suite(Path("s.toml"), Path("other"))[-1]
    other = configs.override(last.config, {"online": {"steps": 200}})
    begin(Cell(variant="spaars", config=other, path=last.path))
    before = sorted(place.rglob("*"))
    code, lines, error = bench(capsys, *argv, *flags)
    assert (code, lines) == (2, [])
    assert error.startswith("spaars: error: ")
    assert "\n" not in error
    for word in words:
        assert word in error
    assert sorted(place.rglob("*")) == before


def test_ctrl_c_says_how_to_go_on(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_suite(1, 3, 2)

    def interrupted(*args: object, on_result, **options: object) -> object:
        def show(result: object) -> None:
            on_result(result)
            os.kill(os.getpid(), signal.SIGINT)  # after the first run

        return run_cells(*args, on_result=show, program=FAKE, **options)

    monkeypatch.setattr(command, "run_cells", interrupted)
    code, lines, error = bench(capsys, "s.toml")
    assert code == 130
    assert [line.split()[1] for line in lines[1:]] == ["done"]
    assert "2 of 3 runs left" in error
    assert "`spaars bench s.toml --out runs/s`" in error


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent the POSIX way")
def test_real_runs_are_interrupted_resumed_and_skipped(tmp_path: Path) -> None:
    n, rng = 300, np.random.default_rng(0)
    np.savez(
        tmp_path / "log.npz",
        observations=rng.normal(size=(n, 11)).astype(np.float32),
        next_observations=rng.normal(size=(n, 11)).astype(np.float32),
        actions=rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        rewards=np.ones(n, np.float32),
        terminated=np.arange(n) % 10 == 9,
        truncated=np.zeros(n, bool),
    )
    (tmp_path / "broken.npz").write_bytes(b"nonsense")
    (tmp_path / "tiny.toml").write_text(
        SUITE.format(1)
        + """
        [[variants]]
        name = "broken"
        method = "spaars"
        settings.dataset = "broken.npz"
        [settings]
        dataset = "log.npz"
        prior = { updates = 50, hidden = [8] }
        offline.updates = 50
        learner = { hidden = [8], critics = 2 }
        log_every = 50
        checkpoint_every = 50
        online = { steps = 200, learning_starts = 50 }
        gate = { earliest_step = 100, latest_step = 100, ramp_steps = 50, plateau_window = 50 }
        evaluation = { every = 100, episodes = 1 }
        """
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "spaars", "bench", "tiny.toml", "--out", "out"],
            cwd=tmp_path,
            env=os.environ | {"SPAARS_HOME": str(tmp_path / "home")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    run = tmp_path / "out" / "hopper-medium" / "spaars" / "s1"
    metrics = run / "metrics.jsonl"
    process = start()
    deadline = time.monotonic() + 400
    while not (metrics.exists() and b"prior" in metrics.read_bytes()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=400)
    assert process.returncode == 130, error
    assert "spaars/s1  stopped" in out.replace("   ", "  ")
    assert "go on with `spaars bench tiny.toml --out out`" in error
    assert "spaars resume" in run.with_name("s1.log").read_text().replace("\n", " ")
    assert not (run / "summary.json").exists()

    process = start()
    out, error = process.communicate(timeout=400)
    assert process.returncode == 1, error
    assert "hopper-medium/spaars/s1  resumed" in out
    assert "hopper-medium/broken/s1  failed" in out
    assert "broken.npz" in next(line for line in out.splitlines() if line.startswith("failed: "))
    described = json.loads((run / "config.json").read_text())
    assert described["command"].startswith("spaars train hopper-medium --method spaars --preset")
    assert json.loads((run / "summary.json").read_text())["seeds"][0]["env_steps"] == 200

    process = start()
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 1
    assert "hopper-medium/spaars/s1  skipped" in out
