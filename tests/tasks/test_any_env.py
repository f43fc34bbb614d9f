"""Any Gymnasium env as a task, by its id or a function."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.wrappers import RescaleAction

import toy
from spaars.cli.train import with_env
from spaars.data.description import Description
from spaars.deploy.export import export
from spaars.deploy.policy import load_policy
from spaars.errors import ConfigError, DataError
from spaars.tasks import env_task, get_task
from spaars.tasks.any_env import adapt, describe_env, env_name, time_limit
from spaars.training.checks import check
from spaars.training.config import preset_config
from spaars.training.run import check_parts, check_skills, train


class Arm(gymnasium.Env):
    """The toy, whose observations are a nested dict and whose actions have their own units."""

    def __init__(self, gain=2.0, actions=None, goal_seen=False):
        self.inner = toy.PointEnv()
        self.gain = gain
        self.action_space = actions or Box(np.float32([-gain, 0.0]), np.float32([gain, 1.0]))
        parts = {"velocity": Box(-2, 2, (2,)), "pose": Dict({"xy": Box(-2, 2, (1, 2))})}
        self.observation_space = Dict(parts | ({"goal": Discrete(3)} if goal_seen else {}))
        self.steps = 0

    def observed(self):
        x = self.inner.buffer
        return {"velocity": x[2:], "pose": {"xy": x[None, :2]}}

    def reset(self, *, seed=None, options=None):
        self.inner.reset(seed=seed)
        self.steps = 0
        return self.observed(), {}

    def step(self, action):
        self.last = np.array(action)
        scaled = [action[0] / self.gain, 2.0 * action[1] - 1.0]
        _, reward, terminated, _, info = self.inner.step(np.float32(scaled))
        self.steps += 1
        return self.observed(), reward, terminated, self.steps >= toy.STEPS, info


def test_observations_are_joined_by_name_and_actions_rescaled() -> None:
    task = env_task(Arm, {"gain": 4.0})
    env = task.make_env()
    observation, _ = env.reset(seed=3)
    assert observation.dtype == np.float32
    x = env.unwrapped.inner.buffer
    np.testing.assert_array_equal(observation, x)  # pose/xy before velocity
    assert env.observation_space.shape == (4,)
    env.step(np.array([0.5, -1.0], np.float32))
    np.testing.assert_allclose(env.unwrapped.last, [2.0, 0.0])
    assert describe_env(env) == {
        "observations": [["pose/xy", 2], ["velocity", 2]],
        "action_low": [-4.0, 0.0],
        "action_high": [4.0, 1.0],
    }
    np.testing.assert_allclose(task.score(np.array([3.5, -2.0])), [3.5, -2.0])


def test_the_name_says_it_all() -> None:
    assert env_name("MyEnv-v0", '{"b": 1, "a": [2]}') == 'MyEnv-v0 {"a": [2], "b": 1}'
    task = get_task('gymnasium.envs.mujoco:Hopper-v4 {"ctrl_cost_weight": 0.5}')
    assert task.env_id == "gymnasium.envs.mujoco:Hopper-v4"
    assert task.env_kwargs == {"ctrl_cost_weight": 0.5}
    plain = get_task("SpaarsPoint-v0").make_env()
    assert describe_env(plain) == {}
    by_module = get_task('toy:PointEnv {"falls": false}').make_env()
    assert by_module.unwrapped.falls is False


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hoper-medium", "Did you mean 'hopper-medium'"),
        ("Nowhere-v0", "cannot be made"),
        ("no_such_package:Arm-v0", "no_such_package"),
        ('toy:PointEnv {"fals": 1}', "fals"),
        ("CartPole-v1", "continuous control"),
    ],
)
def test_what_cannot_be_made_is_told(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        get_task(name).make_env()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"actions": Discrete(3)}, "continuous control"),
        ({"actions": Box(-np.inf, np.inf, (2,))}, r"must be bounded, but dimension\(s\) \[0, 1\]"),
        ({"goal_seen": True}, "observation 'goal' must be a Box"),
    ],
)
def test_spaces_are_refused_with_the_remedy(kwargs, words: str) -> None:
    def make():
        return Arm(**kwargs)

    make.__qualname__ = f"make {words}"
    with pytest.raises(ConfigError, match=words):
        env_task(make).make_env()


def test_words_of_the_command_line() -> None:
    argv = ["--preset", "smoke", "--env", "a:B-v0", '--env-kwargs={"k": 1}', "--seeds", "1"]
    assert with_env(argv) == ['a:B-v0 {"k": 1}', "--preset", "smoke", "--seeds", "1"]
    for wrong, words in (
        (["hopper-medium", "--env", "B-v0"], "not both"),
        (["--env-kwargs", "{}"], "needs --env"),
        (["--env", "B-v0", "--env-kwargs", "{k"], "no JSON"),
        (["--env", "B-v0", "--env-kwargs", "[1]"], "JSON object"),
    ):
        with pytest.raises(ConfigError, match=words):
            with_env(wrong)


FACTS = {
    "observations": [["pose/xy", 2], ["velocity", 2]],
    "action_low": [-2.0, 0.0],
    "action_high": [2.0, 1.0],
}


def described(**fields):
    description = Description(**({"action_low": (-2.0, 0.0), "action_high": (2.0, 1.0)} | fields))
    return dataclasses.replace(toy.blank_dataset(4, 2), description=description)


def test_functions_are_told_apart_by_name() -> None:
    with pytest.raises(ConfigError, match=r"its arguments as `spaars\.env_task\(function"):
        env_task(functools.partial(Arm, gain=3.0))

    def arm_of(gain):
        return lambda: Arm(gain)

    assert env_task(arm_of(1.0)).name == env_task(arm_of(1.0)).name  # as when a cell is run again
    with pytest.raises(ConfigError, match=r"another function was given as .*<lambda>"):
        env_task(arm_of(2.0))


def test_an_env_that_rescales_itself_is_described_as_its_user_knows_it() -> None:
    low, high = np.full(2, -90, np.float32), np.full(2, 90, np.float32)
    env = adapt(RescaleAction(Arm(actions=Box(-1.0, 1.0, (2,), np.float32)), low, high))
    facts = describe_env(env)
    assert (facts["action_low"], facts["action_high"]) == ([-90, -90], [90, 90])


def test_mismatches_are_told_by_dimension() -> None:
    check_parts(described(observations=(("pose/xy", 2), ("velocity", 2))), FACTS, "Arm")
    check_parts(described(observations=(("observations", 4),)), FACTS, "Arm")  # names nothing
    with pytest.raises(DataError, match=r"2: pose/xy\[2\] in the data, velocity\[0\] in the env"):
        check_parts(described(observations=(("pose/xy", 3), ("velocity", 1))), FACTS, "Arm")
    parts = (("pose/xy", 2), ("velocity", 2), ("extra", 1))
    with pytest.raises(DataError, match=r"4: extra\[0\] in the data, nothing in the env"):
        check_parts(described(observations=parts), FACTS, "Arm")
    with pytest.raises(DataError, match="dimension 1 has action_high 3 in the data, 1 in the env"):
        check_parts(described(action_high=(2.0, 3.0)), FACTS, "Arm")
    with pytest.warns(UserWarning, match="do not say what their actions"):
        check_parts(described(action_low=(), action_high=()), FACTS, "Arm")


def test_a_time_limit_is_known_by_spec_or_wrapper() -> None:
    assert time_limit(gymnasium.make("Hopper-v4")) == 1_000
    assert time_limit(adapt(gymnasium.wrappers.TimeLimit(Arm(), 30))) == 30
    assert time_limit(Arm()) is None


def unsaid():
    (Path(os.environ["MARK"])).touch()
    return Arm()


def other_than_said() -> int:
    return unsaid()


@pytest.mark.parametrize("name", ["unsaid", "other_than_said", "os.system", "Path"])
def test_what_a_file_names_is_called_only_if_it_says_that_it_makes_envs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    kwargs = {"command": f"touch {tmp_path / 'mark'}"} if name == "os.system" else {}
    with pytest.raises(ConfigError, match="does not say that it returns an env"):
        get_task(env_name(f"{__name__}:{name}", kwargs)).make_env()
    assert not (tmp_path / "mark").exists()
    assert get_task(env_name(f"{__name__}:limited_arm", {"steps": 3})).make_env()


def limited_arm(steps=40) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(Arm(), steps)


def test_skills_in_an_env_of_ones_own_need_data_that_never_terminate() -> None:
    def config(env, **kwargs):
        return preset_config(env_task(env, kwargs).name, "spaars-supe", "smoke")

    check(config(limited_arm))
    with pytest.raises(ConfigError, match="has no time limit that is known"):
        check(config(Arm))
    with pytest.raises(ConfigError, match=r"does not divide the 7 steps.*Choose 7"):
        check(config(limited_arm, steps=7))
    data = toy.point_dataset(200)
    ended = int(data.terminated.sum())
    with pytest.raises(DataError, match=f"{ended} of .* episodes terminated.*--method spaars;"):
        check_skills(config(limited_arm), data)
    check_skills(
        config(limited_arm), dataclasses.replace(data, terminated=np.zeros_like(data.terminated))
    )


@pytest.mark.filterwarnings("ignore:.*do not say what their actions")
def test_trained_and_exported(tmp_path) -> None:
    data = toy.point_file(tmp_path / "log.npz", 200)
    with pytest.raises(ConfigError, match="embeds no data"):
        train(env=Arm, out=tmp_path / "run", method="bc", preset="smoke")
    run = train(
        env=Arm,
        out=tmp_path / "run",
        method="bc",
        preset="smoke",
        dataset=data,
        checkpoint_every=50,
        log_every=50,
        bc={"updates": 50, "hidden": (8,)},
        evaluation={"episodes": 2, "every": 50},
    )
    saved = json.loads((run.path / "config.json").read_text())
    assert saved["config"]["task"] == "test_any_env:Arm"
    assert saved["env"] == FACTS
    (seed,) = run.summary["seeds"]
    assert 0.0 < seed["final_score"] < toy.STEPS  # a return
    policy = load_policy(export(run.path))
    x = {"velocity": np.ones(2), "pose": {"xy": np.zeros((1, 2))}}
    action = policy(x)
    np.testing.assert_allclose(action, policy([0.0, 0.0, 1.0, 1.0]))
    low, high = np.array(FACTS["action_low"]), np.array(FACTS["action_high"])
    np.testing.assert_allclose(policy.to_env(action), low + (action + 1) / 2 * (high - low))
