"""What a suite's cells still need, and the processes that do it."""

import json
import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from spaars.cli.train import parse
from spaars.errors import RunError
from spaars.training import config as configs
from spaars.training.bench import Result, command_of, run_cells, state_of, train_words
from spaars.training.config import METHODS, PRESETS, TrainConfig, preset_config
from spaars.training.suite import Cell
from toy import blank_dataset

FAKE = (sys.executable, str(Path(__file__).parents[1] / "fake_spaars.py"))


def cell(out: Path, seed: int = 1, **changes: object) -> Cell:
    config = preset_config("hopper-medium", preset="smoke", seeds=(seed,), **changes)
    return Cell(variant="v", config=config, path=out / "hopper-medium" / "v" / f"s{seed}")


def write_config(run: Path, config: TrainConfig) -> None:
    run.mkdir(parents=True, exist_ok=True)
    described = {
        "config": configs.to_json(configs.resolved(config, blank_dataset(11, 3))),
        "dataset": {"sha256": ""},
    }
    (run / "config.json").write_text(json.dumps(described))


def write_summary(run: Path, score: float = 12.0) -> None:
    rows = [{"seed": 1, "final_score": score, "wall_seconds": 60.0}]
    (run / "summary.json").write_text(json.dumps({"seeds": rows}))


def outcomes(results: list[Result]) -> list[str]:
    return [result.outcome for result in results]


# ---------------------------------------------------------------------- commands


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_the_command_makes_the_very_configuration(method: str, preset: str) -> None:
    plain = preset_config("hopper-medium", method, preset, seeds=(7,))
    words = train_words(plain)
    assert len(words) == 8  # nothing but task, method, preset and seed
    assert parse(words[1:]).config == plain
    changed = configs.override(
        plain,
        {
            "dataset": Path("a b.npz"),
            "transitions": 123,
            "prior": {"hidden": (8, 4), "latent_dim": 5},
            "learner": {"tau": 0.1 + 0.2, "learning_rate": 1e-7},
            "online": {"replay_capacity": 77},
        },
    )
    assert parse(train_words(changed)[1:]).config == changed


def test_the_command_can_be_pasted(tmp_path: Path) -> None:
    one = cell(tmp_path / "a b")
    args = parse(shlex.split(shlex.join(command_of(one, "train")))[1:])
    assert (args.config, args.out) == (one.config, one.path)
    write_config(one.path, one.config)
    assert command_of(one, "resume") == ["resume", str(one.path)]


# ---------------------------------------------------------------------- states


def test_states(tmp_path: Path) -> None:
    one = cell(tmp_path)
    assert state_of(one) == "train"
    one.path.mkdir(parents=True)
    assert state_of(one) == "train"  # a run that was killed while it recorded its data
    one.path.rmdir()
    write_config(one.path, one.config)
    assert state_of(one) == "resume"
    write_summary(one.path)
    assert state_of(one) == "done"
    # What changes no result is no other run, nor is one that did not know it an older one.
    assert state_of(cell(tmp_path, online={"env_processes": 2}, device_memory_gib=1.0)) == "done"
    described = json.loads((one.path / "config.json").read_text())
    del described["config"]["online"]["env_processes"], described["config"]["device_memory_gib"]
    (one.path / "config.json").write_text(json.dumps(described))
    assert state_of(one) == "done"


def test_a_run_of_fewer_steps_is_gone_on_with(tmp_path: Path) -> None:
    there, asked = cell(tmp_path), cell(tmp_path, online={"steps": 90_000})
    write_config(there.path, there.config)
    write_summary(there.path)
    with pytest.raises(RunError, match=r"--online.steps is .* there and 90000 in the suite"):
        state_of(asked)  # only its results are left
    (there.path / "checkpoints").mkdir()
    assert state_of(asked) == "resume"
    assert command_of(asked, "resume") == ["resume", str(there.path), "--online.steps", "90000"]
    write_config(there.path, asked.config)
    with pytest.raises(RunError, match=r"settings: --online.steps is 90000 there and"):
        state_of(there)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    there, asked = cell(tmp_path), cell(tmp_path, prior={"latent_dim": 2}, learner={"tau": 0.5})
    write_config(there.path, there.config)
    for _ in range(2):
        with pytest.raises(RunError) as caught:
            state_of(asked)
        message = str(caught.value)
        assert str(there.path) in message
        assert "--prior.latent-dim is 3 there and 2 in the suite" in message
        assert "--learner.tau is 0.01 there and 0.5 in the suite" in message
        assert "--out" in message
        assert message.count(" there and ") == 2
        write_summary(there.path)  # a finished run is no less of a mix


def test_a_run_of_an_older_version_is_refused_if_its_method_cares(tmp_path: Path) -> None:
    def without(run: Path, *flag: str) -> None:
        described = json.loads((run / "config.json").read_text())
        del described["config"][flag[0]][flag[1]]
        (run / "config.json").write_text(json.dumps(described))

    one, two = cell(tmp_path, 1), cell(tmp_path, 2, method="bc", online={"steps": 0})
    for each in (one, two):
        write_config(each.path, each.config)
        write_summary(each.path)
        without(each.path, "learner", "tau")  # which bc does not read
    with pytest.raises(RunError, match=r"did not know --learner\.tau\. Choose another"):
        state_of(one)
    without(two.path, "online", "start_steps")
    with pytest.raises(RunError, match=r"did not know --online\.start-steps\."):
        state_of(two)


def test_anything_else_in_the_way_is_refused(tmp_path: Path) -> None:
    one = cell(tmp_path)
    one.path.mkdir(parents=True)
    (one.path / "notes.txt").touch()
    with pytest.raises(RunError, match="no run directory"):
        state_of(one)
    (one.path / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        state_of(one)
    (one.path / "config.json").unlink()
    (one.path / "notes.txt").unlink()
    one.path.rmdir()
    write_config(one.path, one.config)
    (one.path / "summary.json").write_text("{}")
    with pytest.raises(RunError, match=r"summary\.json"):
        state_of(one)


# ---------------------------------------------------------------------- processes


def test_skips_resumes_trains_and_survives_failures(tmp_path: Path) -> None:
    done, other = cell(tmp_path / "x"), cell(tmp_path / "y")
    write_config(done.path, done.config)
    write_summary(done.path)
    write_config(other.path, other.config)
    cells = [done, cell(tmp_path, 2), other, cell(tmp_path, 4), cell(tmp_path, 1)]
    seen: list[Result] = []
    results = run_cells(cells, on_result=seen.append, program=FAKE)
    assert seen == results
    assert [result.cell for result in results] == cells
    assert outcomes(results) == ["skipped", "failed", "resumed", "failed", "done"]
    assert [result.score for result in results] == [12.0, None, 50.0, None, 50.0]
    assert results[4].seconds == 90.0
    assert results[1].reason == "spaars: error: the disk is on fire"
    assert results[3].reason.startswith("killed by SIGKILL")
    assert not done.log.exists()
    assert other.log.read_text() == f"$ spaars resume {other.path}\n"
    assert cells[4].log.read_text().startswith("$ spaars train hopper-medium ")
    write_config(cells[4].path, cells[4].config)
    again = run_cells([cells[4]], program=FAKE)
    assert outcomes(again) == ["skipped"]


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(tmp_path: Path) -> None:
    there, asked = cell(tmp_path), cell(tmp_path, online={"steps": 90_000})
    write_config(there.path, there.config)
    write_summary(there.path)
    (there.path / "checkpoints").mkdir()
    assert outcomes(run_cells([there], program=FAKE)) == ["skipped"]
    assert outcomes(run_cells([asked], program=FAKE)) == ["resumed"]
    assert asked.log.read_text() == f"$ spaars resume {asked.path} --online.steps 90000\n"
    (result,) = run_cells([cell(tmp_path, learner={"tau": 0.5})], program=FAKE)
    assert result.outcome == "failed"
    assert "--learner.tau" in result.reason


def test_settings_are_compared_again_when_a_cell_begins(tmp_path: Path) -> None:
    there, asked = cell(tmp_path), cell(tmp_path, learner={"tau": 0.5})
    write_config(there.path, there.config)
    (result,) = run_cells([asked], program=FAKE)
    assert result.outcome == "failed"
    assert "--learner.tau" in result.reason


def stop_when_waiting(runs: list[Path], number: int) -> threading.Thread:
    """Signals this process once all runs wait."""

    def stop() -> None:
        deadline = time.monotonic() + 60
        while not all((run / "waiting").exists() for run in runs):
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_handed_on_once_and_awaited(number: int, tmp_path: Path) -> None:
    waiting = [cell(tmp_path / name, 3) for name in "ab"]
    before = signal.getsignal(number)
    thread = stop_when_waiting([one.path for one in waiting], number)
    messages: list[str] = []
    results = run_cells([*waiting, cell(tmp_path, 1)], 2, on_message=messages.append, program=FAKE)
    thread.join()
    assert outcomes(results) == ["stopped", "stopped"]  # and the third never began
    for one in waiting:
        assert json.loads((one.path / "heard").read_text()) == [number]
    assert len(messages) == 2
    assert not (tmp_path / "hopper-medium").exists()
    assert signal.getsignal(number) is before


def test_jobs_run_side_by_side(tmp_path: Path) -> None:
    cells = [cell(tmp_path / name) for name in "abcde"]
    assert outcomes(run_cells(cells, jobs=3, program=FAKE)) == ["done"] * 5


@pytest.mark.skipif(sys.platform == "win32", reason="logs are locked on POSIX systems only")
def test_a_run_is_never_written_by_two(tmp_path: Path) -> None:
    import fcntl

    one = cell(tmp_path)
    one.log.parent.mkdir(parents=True)
    with one.log.open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        (result,) = run_cells([one], program=FAKE)
    assert result.outcome == "failed"
    assert "another process" in result.reason
    assert not one.path.exists()
    assert outcomes(run_cells([one], program=FAKE)) == ["done"]


def test_an_error_here_leaves_no_process_behind(tmp_path: Path) -> None:
    waiting = cell(tmp_path, 3)

    def closed_terminal(result: Result) -> None:
        while not (waiting.path / "waiting").exists():
            time.sleep(0.01)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_cells([waiting, cell(tmp_path, 1)], 2, on_result=closed_terminal, program=FAKE)
    assert (waiting.path / "heard").exists()
