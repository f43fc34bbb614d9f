import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from spaars.cli.main import main
from spaars.data import BehaviourPolicy, load_dataset, load_file, recorded_dataset
from spaars.data.files import atomic_write, cache_dir
from spaars.data.recorded import cache_file
from spaars.errors import DataError
from spaars.tasks import Task, get_task

TASK = get_task("hopper-medium")


def write_policy(path, observation_dim=11, seed=0):
    rng = np.random.default_rng(seed)
    sizes = ((observation_dim, 8), (8, 6))
    policy = BehaviourPolicy(
        tuple(rng.normal(0, 0.3, size).astype(np.float32) for size in sizes),
        tuple(np.zeros(size[1], np.float32) for size in sizes),
        (-5.0, 2.0),
        {"made": "by a test"},
    )
    path.write_bytes(policy.to_bytes())
    return path


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAARS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def behaviour(tmp_path):
    return write_policy(tmp_path / "behaviour.safetensors")


@pytest.fixture
def embedded(behaviour, monkeypatch):
    """The same policy, as if the package shipped it."""
    monkeypatch.setattr(Task, "behaviour_file", behaviour)
    return behaviour


def cached(home):
    return sorted((home / "datasets").iterdir())


def test_recording_is_exact_and_cached(embedded, home):
    calls = []
    dataset = load_dataset(TASK, None, 150, progress=lambda *args: calls.append(args))
    assert (len(dataset), dataset.observation_dim, dataset.action_dim) == (150, 11, 3)
    assert dataset.label == "hopper-medium (recorded by spaars, 150 transitions, seed 0)"
    assert calls[-1] == (150, 150)
    assert dataset.truncated[-1] or dataset.terminated[-1]
    inside = ~(dataset.terminated | dataset.truncated)[:-1]
    np.testing.assert_array_equal(
        dataset.next_observations[:-1][inside], dataset.observations[1:][inside]
    )
    (path,) = cached(home)
    assert path == cache_file(TASK, 150, 0)
    assert path.name.startswith("hopper-medium-150-seed0-")

    again = recorded_dataset(TASK, 150, progress=lambda *_: pytest.fail("recorded again"))
    assert (again.sha256, again.label) == (dataset.sha256, dataset.label)


def test_prefix_and_seed(behaviour):
    short, long, other = (
        recorded_dataset(TASK, n, seed, behaviour_file=behaviour)
        for n, seed in ((100, 0), (150, 0), (100, 1))
    )
    np.testing.assert_array_equal(short.observations, long.observations[:100])
    np.testing.assert_array_equal(short.terminated, long.terminated[:100])
    assert short.sha256 != other.sha256
    assert "behaviour.safetensors" in short.label  # not the task's own policy, and it says so


def test_workers_do_not_change_a_bit(behaviour, home):
    one = recorded_dataset(TASK, 1000, workers=1, behaviour_file=behaviour)
    cached(home)[0].unlink()
    two = recorded_dataset(TASK, 1000, workers=2, behaviour_file=behaviour)
    assert one.sha256 == two.sha256


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "another file"])
def test_a_damaged_cache_is_recorded_again(behaviour, home, damage):
    sha256 = recorded_dataset(TASK, 50, behaviour_file=behaviour).sha256
    (path,) = cached(home)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        path.write_bytes(behaviour.read_bytes())
    with pytest.warns(UserWarning, match="damaged") as caught:
        dataset = recorded_dataset(TASK, 50, behaviour_file=behaviour)
    assert "\n" not in str(caught[0].message)
    assert dataset.sha256 == sha256
    assert path.read_bytes() == whole
    assert cached(home) == [path]


def test_another_policy_is_another_cache_file(behaviour, tmp_path, home):
    recorded_dataset(TASK, 50, behaviour_file=behaviour)
    other = write_policy(tmp_path / "other.safetensors", seed=1)
    recorded_dataset(TASK, 50, behaviour_file=other)
    assert len(cached(home)) == 2


def test_errors(behaviour, tmp_path, home):
    with pytest.raises(DataError, match="make-behaviour hopper-medium"):
        recorded_dataset(TASK, 50, behaviour_file=tmp_path / "absent.safetensors")
    with pytest.raises(DataError, match="transitions must be at least 1, got 0"):
        recorded_dataset(TASK, 0, behaviour_file=behaviour)
    with pytest.raises(DataError, match="seed must be at least 0"):
        recorded_dataset(TASK, 50, seed=-1, behaviour_file=behaviour)
    wrong = write_policy(tmp_path / "wrong.safetensors", observation_dim=17)
    with pytest.raises(DataError, match=r"17 observations .* Hopper-v4 has"):
        recorded_dataset(TASK, 50, behaviour_file=wrong)
    assert not home.exists()


def test_an_interrupted_recording_leaves_nothing(behaviour, home):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded_dataset(TASK, 500, behaviour_file=behaviour, progress=interrupt)
    assert cached(home) == []


def test_no_worker_outlives_a_killed_parent(tmp_path):
    """One that did would hold the log that it inherited, and `spaars bench` its lock."""
    code = """
import itertools, os, time
from spaars.data.processes import map_in_processes
if __name__ == "__main__":
    for pid in map_in_processes(os.getpid, ((),) * 2, 2):
        print(pid, flush=True)
    list(map_in_processes(time.sleep, ((60,),) * 2, 2))
"""
    script = tmp_path / "recording.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline()
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    with process.stdout:
        # The end of what is read: nobody is left who could write.
        assert process.stdout.read() == b""
    process.wait()


def test_a_cache_that_cannot_be_written_is_known_before_recording(behaviour, home):
    home.mkdir()
    (home / "datasets").write_text("a file where a directory should be")
    with pytest.raises(OSError) as error:  # noqa: PT011
        recorded_dataset(
            TASK, 50, behaviour_file=behaviour, progress=lambda *_: pytest.fail("recorded")
        )
    assert str(home) in error.value.filename


# --- files --------------------------------------------------------------------------------------


def test_cache_dir(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "home"
    monkeypatch.delenv("SPAARS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "spaars"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "spaars"


def test_atomic_write_replaces_whole_files_only(tmp_path):
    path = tmp_path / "a" / "file"
    with atomic_write(path) as file:
        file.write(b"old")
        assert not path.exists()

    def interrupted(error):
        with atomic_write(path) as file:
            file.write(b"new")
            raise error

    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            interrupted(error)
        assert path.read_bytes() == b"old"
        assert os.listdir(path.parent) == ["file"]
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_atomic_write_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "file"
    monkeypatch.setattr(os, "fsync", lambda _: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    with pytest.raises(OSError, match="No space") as error, atomic_write(path) as file:
        file.write(b"x")
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)
    assert os.listdir(tmp_path) == []


def test_atomic_write_names_the_target_not_the_temporary(tmp_path):
    (tmp_path / "dir").mkdir()
    with pytest.raises(IsADirectoryError) as error, atomic_write(tmp_path / "dir") as file:
        file.write(b"x")
    assert error.value.filename == str(tmp_path / "dir")
    assert os.listdir(tmp_path) == ["dir"]


# --- commands -----------------------------------------------------------------------------------


def command(*args):
    with pytest.raises(SystemExit) as stop:
        main(["data", *args])
    return stop.value.code


def test_data_make_then_inspect(embedded, tmp_path, capsys):
    out = tmp_path / "out.npz"
    arguments = ("make", "hopper-medium", "--transitions", "60", "--out", str(out))
    assert command(*arguments) == 0
    printed = capsys.readouterr().out
    dataset = load_file(out)
    assert len(dataset) == 60
    assert dataset.sha256 in printed
    assert "steps/s" in printed
    assert str(cache_file(TASK, 60, 0)) in printed

    cache_file(TASK, 60, 0).write_bytes(b"")
    assert command(*arguments) == 0
    assert "damaged" in capsys.readouterr().out
    assert command(*arguments) == 0
    assert "in the cache" in capsys.readouterr().out

    assert command("inspect", "hopper-medium", "--transitions", "60") == 0
    assert "score" in capsys.readouterr().out
    assert command("inspect", str(out)) == 0
    assert "out.npz" in capsys.readouterr().out


def test_command_errors(embedded, capsys):
    assert command("make", "hoper-medium") == 2
    assert "'hopper-medium'" in capsys.readouterr().err
    assert command("make", "hopper-medium", "--out", "a.txt") == 2
    assert ".npz" in capsys.readouterr().err
    assert command("inspect", "hoper-medium") == 2
    assert "no file is called 'hoper-medium'" in capsys.readouterr().err
