"""examples/own_loop.py, really killed."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from robot import tiny

import toy
from spaars import OnlineLearner

TESTS = Path(__file__).parents[1]
ENV = "toy:SpaarsPoint-v0"
EPISODE = re.compile(r"episode (\d+) returned (\S+) \(\w+\)")


@pytest.fixture
def learner(tmp_path, point_task):
    """After its offline phases, of an env and data that another process finds again."""
    changes = {"task": ENV, "dataset": toy.point_file(tmp_path / "point.npz", 400)}
    config = dataclasses.replace(tiny(), **changes)
    return OnlineLearner.from_dataset(config, tmp_path / "own", capacity=20_000)


def start(directory, cache, *flags):
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    example = TESTS.parent / "examples" / "own_loop.py"
    command = [sys.executable, str(example), "unused", str(directory), *map(str, flags)]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE)


def test_a_killed_example_loses_no_finished_episode(learner, tmp_path):
    process = start(learner.directory, tmp_path / "xla", "--steps", 10**6, "--save-every", 0.1)
    told, saves = {}, 0
    for line in process.stdout:
        if found := EPISODE.match(line):
            told[int(found[1])] = float(found[2])
        saves += line.startswith("saved")
        if len(told) >= 5 and saves >= 2:
            os.kill(process.pid, signal.SIGKILL)
            break
    rest, _ = process.communicate()
    told |= {int(n): float(value) for n, value in EPISODE.findall(rest)}
    assert process.returncode == -signal.SIGKILL

    found = OnlineLearner.load(learner.directory)
    # Two threads print, so a line of one may begin in the middle of the other's and not be told.
    assert found.episodes > max(told)
    assert len(told) >= 5
    journal = found._acting.journal
    for number, total in told.items():
        rewards = journal.read(number).arrays["rewards"]
        assert abs(float(rewards.sum()) - total) < 1e-2
    stored = sum(len(journal.read(n).arrays["rewards"]) for n in range(found.episodes))
    running = len(found._acting.episode)
    assert found.env_steps == stored + running == found._learning.rows
    assert found.updates > 0

    # And the same line goes on.
    last = found.env_steps + 60
    again = start(learner.directory, tmp_path / "xla", "--steps", last)
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 0
    assert f"going on at step {found.env_steps}" in out
    assert "act took" in out
    done = OnlineLearner.load(learner.directory)
    assert done.env_steps == last
    assert done.updates > found.updates
