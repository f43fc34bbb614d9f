"""A point mass in a square arena: the smallest task with falls, time limits and a better policy.

v' = 0.8 v + 0.04 a,   x' = x + v',   reward 1 - |x' - goal|
terminated: x' leaves [-1, 1]^2;   truncated: after 40 steps
"""

import dataclasses
from pathlib import Path

import numpy as np

from point_env import GOAL, STEPS, PointEnv
from spaars.data import Dataset
from spaars.data.sources import save_npz
from spaars.tasks import Task

__all__ = ["GOAL", "STEPS", "PointEnv"]

POINT = Task(name="point", env_id="SpaarsPoint-v0", reference_min=5.5, reference_max=37.2)
"""5.5: the mean return of uniformly random actions; 37.2: of `controller(GOAL)` without noise."""
POINT_ON = dataclasses.replace(
    POINT, name="point-on", training_kwargs={"falls": False}, whole_episodes=True
)
"""In training its episodes go on after a fall, as methods with skills need it."""
POINT_COST = dataclasses.replace(POINT, name="point-cost", env_kwargs={"cost": True})
"""It costs 1 to be near the arena's edge."""


def controller(observation, goal):
    """A damped pull towards `goal`."""
    return np.clip(4.0 * (goal - observation[:2]) - 8.0 * observation[2:], -1.0, 1.0)


def point_dataset(transitions=2_000, seed=0) -> Dataset:
    """A mediocre, noisy controller: each episode it aims elsewhere, sometimes out of the arena."""
    rng = np.random.default_rng(seed)
    env = POINT.make_env()
    rows, observation, aim = [], env.reset(seed=seed)[0].copy(), rng.normal(0.1, 0.5, 2)
    for _ in range(transitions):
        noise = rng.normal(0.0, 0.8, 2)
        action = np.clip(controller(observation, aim) + noise, -1.0, 1.0).astype(np.float32)
        following, reward, terminated, truncated, _ = env.step(action)
        following = following.copy()
        rows.append((observation, action, reward, following, terminated, truncated))
        observation = following
        if terminated or truncated:
            observation, aim = env.reset()[0].copy(), rng.normal(0.1, 0.5, 2)
    env.close()
    names = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
    columns = zip(*rows, strict=True)
    return Dataset.build(
        label="point, mediocre",
        **{name: np.array(column) for name, column in zip(names, columns, strict=True)},
    )


def point_file(path: Path, transitions=2_000, seed=0) -> Path:
    """The same data as an npz file, as `--dataset` takes it."""
    save_npz(point_dataset(transitions, seed), path)
    return path


def blank_dataset(observation_dim: int, action_dim: int) -> Dataset:
    """Ten transitions of another task's shape, for tests of what only reads the shape."""
    n, rng = 10, np.random.default_rng(0)
    return Dataset.build(
        label="blank",
        observations=rng.normal(size=(n, observation_dim)).astype(np.float32),
        actions=rng.uniform(-1.0, 1.0, (n, action_dim)).astype(np.float32),
        rewards=rng.normal(size=n).astype(np.float32),
        next_observations=rng.normal(size=(n, observation_dim)).astype(np.float32),
        terminated=np.arange(n) % 5 == 4,
        truncated=np.zeros(n, bool),
    )
