"""Envs that talk, fail and die, as functions that another process can import."""

import os
import signal

import gymnasium

from point_env import STEPS, PointEnv


def limited(env: gymnasium.Env) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(env, STEPS)


class Odd(gymnasium.Wrapper):
    """Says who steps it; some actions break it, and so does every reset by an odd seed, once."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.resets = 0

    def reset(self, **kwargs):
        self.resets += 1
        if kwargs["seed"] % 2 and self.resets > 1:
            raise OSError("no\nconnection")
        return super().reset(**kwargs)

    def step(self, action):
        observation, reward, *rest, info = super().step(action)
        print("an env that talks")
        if action[0] == 0.5:
            reward = float("nan")
        if action[1] == 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        return observation, reward, *rest, info | {"cost": 1.0, "score_return": os.getpid()}


class Errands(gymnasium.Wrapper):
    """The toy with subtasks, of which one is out of reach; said of this moment only."""

    def step(self, action):
        observation, *rest, info = super().step(action)
        east, north = observation[:2] > 0.3
        return observation, *rest, info | {"subtasks": {"east": east, "north": north, "moon": 0.0}}


def errands() -> gymnasium.Env:
    return limited(Errands(PointEnv()))


def point() -> gymnasium.Env:
    return limited(PointEnv(cost=True))


def odd() -> gymnasium.Env:
    return limited(Odd(PointEnv()))


def broken() -> gymnasium.Env:
    raise ValueError("no such robot")
