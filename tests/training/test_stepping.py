"""Envs in processes of their own give the same bits, and end when they should."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from odd_envs import broken, odd, point
from spaars.errors import ConfigError, RunError
from spaars.tasks import get_task
from spaars.training.envs import EnvPopulation, processes_for
from spaars.training.evaluate import evaluation_seed, run_episodes
from spaars.training.stepping import EnvProcesses, Failure, LocalEnvs, Outcome, open_envs
from toy import controller

TESTS = Path(__file__).parents[1]


def population(make_env, processes: int) -> EnvPopulation:
    return EnvPopulation(make_env, (0, 5, 7), 100, processes)


@pytest.mark.parametrize(
    ("terminated", "subtasks", "fell"),
    [
        (True, None, True),
        (False, None, False),
        (True, {"success": True}, False),
        (True, {"success": False}, True),
        (True, {"pick": True, "place": False}, True),
    ],
)
def test_success_is_no_fall(terminated, subtasks, fell) -> None:
    outcome = Outcome(np.zeros(1), terminated=terminated, subtasks=subtasks)
    assert outcome.fell is fell


def advance(envs: EnvPopulation, steps: int, first: int = 0, scale: float = 1.0) -> list:
    """All that `steps` steps by random actions gave, failures stepped once more."""
    seen = []
    for step in range(first, first + steps):
        actions = scale * np.random.default_rng(step).uniform(-1, 1, (3, envs.action_dim))
        if step % 9 == 4:
            actions[1, 0] = 0.5
        found = envs.step(actions)
        while (failed := envs.failed.copy()).any():
            again = envs.step(np.full_like(actions, 0.1), again=failed)
            for first_try, second in zip(found[:4], again[:4], strict=True):
                first_try[failed] = second[failed]
            found[4].extend(again[4])
        seen += [*found, envs.costs.copy()]
        seen.append(envs.observations.copy())
    return seen


def assert_same(ours: list, theirs: list) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_processes_give_the_same_bits_and_are_restored_with_them() -> None:
    here, there = population(odd, 1), population(odd, 2)
    try:
        pids = []
        for a, b in zip(advance(here, 70), advance(there, 70), strict=True):
            if isinstance(a, list) and a:  # episodes; their return is who stepped them
                assert {e.episode_return for e in a} == {os.getpid()}
                pids += [e.episode_return for e in b]
                a, b = ([e._replace(episode_return=0.0) for e in x] for x in (a, b))
            np.testing.assert_array_equal(a, b)
        assert pids
        assert os.getpid() not in pids
        assert here.failures == there.failures
        assert {f.reason for f in here.failures} == {
            "OSError: no connection",
            "ValueError: nan in its observation or reward",
        }
        saved = there.state()
        assert saved["env_steps"] == 70
        assert here.state()["episode_ends"] == saved["episode_ends"]
    finally:
        here.close()
        there.close()


@pytest.mark.parametrize("make_env", [point, get_task("hopper-medium").make_env])
def test_restored_in_processes_from_this_one_and_back(make_env) -> None:
    here, there = population(make_env, 1), population(make_env, 2)
    try:
        advance(here, 33, scale=0.2)
        there.restore(here.state())
        np.testing.assert_array_equal(here.observations, there.observations)
        assert here.returns == there.returns
        assert here.episode_costs == there.episode_costs
        np.testing.assert_array_equal(here.costs, there.costs)
        assert_same(advance(here, 40, 33), advance(there, 40, 33))
        assert sum(here.episode_index) > 0
        for a, b in zip(here.state()["actions"], there.state()["actions"], strict=True):
            np.testing.assert_array_equal(a, b)
    finally:
        here.close()
        there.close()


def test_evaluation_in_processes_is_that_in_this_one() -> None:
    seeds = [[evaluation_seed(s, i) for i in range(3)] for s in (4, 9)]
    goals = np.array([[0.5, 0.5], [3.0, 0.0]])

    def act(observations, step):
        rows = [
            [controller(o, goal) for o in row]
            for row, goal in zip(observations, goals, strict=True)
        ]
        return np.array(rows, np.float32), {"east": observations[..., 0]}

    results = []
    for processes in (1, 2):
        envs = open_envs(point, 6, processes)
        results.append(run_episodes(envs, seeds, act))
        envs.close()
    assert_same(list(results[0][:3]), list(results[1][:3]))
    np.testing.assert_array_equal(results[0].facts["east"], results[1].facts["east"])
    assert len(set(results[0].lengths[1])) > 1  # they end one by one
    assert isinstance(envs, EnvProcesses)


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_does_not_leave_a_failed_episode_out(processes: int) -> None:
    envs = open_envs(odd, 2, processes)
    try:
        with pytest.raises(RunError, match=r"evaluation: the env failed at step 2 \(ValueError"):
            run_episodes(
                envs, [[2, 4]], lambda obs, step: (np.tile([0.5 * step, 0.0], (1, 2, 1)), {})
            )
    finally:
        envs.close()


def test_a_killed_worker_is_told_at_once_and_takes_the_others_along() -> None:
    envs = EnvProcesses(odd, 4, 2)
    envs.reset({i: 2 * i for i in range(4)})
    workers = list(envs.workers)
    with pytest.raises(RunError, match=r"killed by SIGKILL.*spaars resume RUN"):
        envs.step({0: np.array([0.0, 0.5]), 1: np.zeros(2)})
    envs.close()
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0]


def test_an_env_that_does_not_return_is_killed_at_the_end(monkeypatch) -> None:
    envs = EnvProcesses(odd, 1, 1)
    envs.reset({0: 2})
    found = envs.step({0: np.array([0.5, 0.0])})[0]
    assert isinstance(found, Failure)
    assert "_finite" in str(found.error)  # the traceback comes along
    (worker,) = envs.workers
    os.kill(worker.pid, signal.SIGSTOP)
    wait = worker.wait
    monkeypatch.setattr(worker, "wait", lambda timeout=None: wait(timeout and 0.1))
    envs.close()
    assert worker.returncode == -signal.SIGKILL


def test_what_cannot_be_made_elsewhere_is_refused(monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"cannot be sent .*<lambda>.*top level of a module"):
        EnvProcesses(lambda: point(), 2, 2)

    def in_script():
        return point()

    in_script.__module__, in_script.__qualname__ = "__main__", "in_script"
    monkeypatch.setattr(sys.modules["__main__"], "in_script", in_script, raising=False)
    with pytest.raises(ConfigError, match="defined in the script itself"):
        EnvProcesses(in_script, 2, 2)


def test_an_env_that_no_process_can_make_is_told_once(capfd) -> None:
    with pytest.raises(ConfigError, match=r"cannot make the env \(ValueError: no such robot\)"):
        EnvProcesses(broken, 4, 4)
    # The first answer is enough: the others find nobody who listens, and say nothing.
    assert capfd.readouterr().err == ""


def test_processes_are_left_to_slow_envs_unless_asked_for(monkeypatch) -> None:
    monkeypatch.setattr("spaars.training.envs.usable_cores", lambda: 4)
    hopper, kitchen = get_task("hopper-medium"), get_task("kitchen-mixed")
    assert [processes_for(hopper, n) for n in (None, 3)] == [1, 3]
    assert [processes_for(kitchen, n) for n in (None, 1)] == [4, 1]
    monkeypatch.setattr("spaars.training.envs.usable_cores", lambda: 64)
    assert processes_for(kitchen, None) == 8
    envs = open_envs(point, 1, 8)
    assert isinstance(envs, LocalEnvs)  # one env gains nothing


def test_an_env_that_cannot_be_closed_is_left_at_that() -> None:
    closed = []

    class Stuck(gymnasium.Wrapper):
        def close(self):
            closed.append(self)
            raise OSError("the connection is gone")

    LocalEnvs(lambda: Stuck(point()), 2).close()
    assert len(closed) == 2


def test_no_worker_outlives_a_killed_parent_and_none_hears_ctrl_c(tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
import numpy as np
from odd_envs import odd
from spaars.training.stepping import EnvProcesses
envs = EnvProcesses(odd, 2, 2)
signal.signal(signal.SIGINT, lambda *_: None)
for worker in envs.workers:
    os.kill(worker.pid, signal.SIGTERM)
os.killpg(0, signal.SIGINT)  # as a terminal does
envs.reset({0: 0, 1: 2})
envs.step({0: np.zeros(2), 1: np.zeros(2)})
print(*(worker.pid for worker in envs.workers), flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
