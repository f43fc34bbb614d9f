"""FrankaKitchen-v1 as D4RL's kitchen tasks and SUPE use it (design sections 4 and 5).

The env of gymnasium-robotics reports a dictionary of live buffers; here an observation is a copy of
30 numbers: 9 robot joints and 21 object positions, the part of the state that D4RL's demonstrations
record. D4RL's further 30 columns, the goal, never change and are left out.

Two variants, because rewards mean two things:

    training     reward = tasks that are complete at this moment, as in D4RL's files; never ends
                 before 280 steps
    evaluation   reward = tasks completed in this step for the first time, so a return counts them,
                 0 to 4; ends when all are done
"""

from typing import Any

import gymnasium
import numpy as np

from spaars.tasks.packages import import_package

ENV_ID = "FrankaKitchen-v1"
PACKAGE = "gymnasium_robotics:robotics"
MIXED = ("microwave", "kettle", "bottom burner", "light switch")
COMPLETE = ("microwave", "kettle", "light switch", "slide cabinet")
PARTIAL = COMPLETE
"""The same subtasks (D4RL, kitchen/__init__.py); they differ in the demonstrations."""

OBSERVATION = np.r_[0:9, 18:39]
"""Columns of the env's 59 (robot qpos, qvel, object qpos, qvel) that are observed."""
# D4RL's; the env's own defaults are 0.01 and 0.0005.
NOISE = {"robot_noise_ratio": 0.1, "object_noise_ratio": 0.1}


def env_kwargs(subtasks: tuple[str, ...]) -> dict[str, Any]:
    """Of the evaluation variant."""
    return {
        "tasks_to_complete": list(subtasks),
        "terminate_on_tasks_completed": True,
        "remove_task_when_completed": True,
        "disable_env_checker": True,  # it warns of the live buffers
        **NOISE,
    }


SETTINGS: dict[str, dict[str, Any]] = {
    # A kitchen episode costs a second of simulation: evaluated half as often as locomotion.
    "": {"evaluation": {"every": 10_000}},
    # How a skill moves is a matter of the robot's joints, not of what else is open
    # (docs/lab-notebook.md).
    # Nor need subtasks be done in the data's orders, which only a spliced episode leaves; the
    # skill policy clones what came of it. The raw policy is held to it for good: let go, it climbs
    # to where all critics err (docs/lab-notebook.md).
    "spaars-supe": {
        "opal": {"decoder_columns": tuple(range(9))},
        "online": {"retrace_rate": 0.5, "splice_rate": 0.25, "best_fraction": 0.5},
        "easing": {"weight_end": 1.0},
        "raw": {"cloning_weight_end": 1.0},
        "gate": {"pessimism": 2.0},
    },
    # Published (IQL, appendix B): temperature 0.5, dropout in the actor, rewards as they are.
    "iql": {"iql": {"temperature": 0.5, "actor_dropout": 0.1, "reward_scale": 1.0}},
}
TRAINING_KWARGS = {"terminate_on_tasks_completed": False, "remove_task_when_completed": False}


def make_raw_env(subtasks: tuple[str, ...], steps: int) -> gymnasium.Env:
    """The training variant as gymnasium-robotics has it: 59 numbers in live buffers."""
    kwargs = {**env_kwargs(subtasks), **TRAINING_KWARGS}
    import_package(PACKAGE, "replaying kitchen demonstrations")
    return gymnasium.make(ENV_ID, max_episode_steps=steps, **kwargs)


class KitchenObservations(gymnasium.Wrapper):
    """Observations (30,) float32, copied; `info["score_return"]` counts the tasks done so far.

    `info["subtasks"]` tells of each whether it was done.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (len(OBSERVATION),))
        self.subtasks: tuple[str, ...] = ()

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self.subtasks = tuple(sorted(info["tasks_to_complete"]))  # of a set
        return observe(observation), self._done(info)

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observe(observation), float(reward), terminated, truncated, self._done(info)

    def _done(self, info: dict[str, Any]) -> dict[str, Any]:
        done = info["episode_task_completions"]
        subtasks = {name: name in done for name in self.subtasks}
        return {"subtasks": subtasks, "score_return": float(len(done))}


def observe(observation: dict[str, Any]) -> np.ndarray:
    """The 30 observed numbers of an observation of FrankaKitchen-v1."""
    return observation["observation"][OBSERVATION].astype(np.float32)
