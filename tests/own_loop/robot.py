"""The toy arena as a robot: nothing but readings and commands; and tiny learners for it."""

import dataclasses

import numpy as np

import toy
from spaars import OnlineLearner
from spaars.training.config import preset_config

SMALL = {"hidden": (4,)}  # the fewer layers, the sooner compiled


def tiny(method="spaars", **changes):
    settings = {
        "spaars": {
            "prior": SMALL | {"updates": 4, "latent_dim": 2},
            "offline": {"updates": 4, "batch_size": 32},
            "learner": SMALL
            | {
                "critics": 2,
                "batch_size": 32,
                "warmup_steps": 10,
                "regression_steps": 20,
                "cloning_steps": 20,
            },
            "gate": {
                "earliest_step": 40,
                "latest_step": 60,
                "plateau_window": 20,
                "ramp_steps": 20,
            },
            "deployment": {"trial_episodes": 1, "every": 20},
        },
        "rlpd": {"sac": SMALL | {"critics": 2, "batch_size": 16}},
        "supe": {
            "opal": SMALL | {"recurrent": 2, "latent_dim": 2, "updates": 0},
            "supe": SMALL | {"novelty_features": 2},
            "sac": SMALL | {"critics": 2, "batch_size": 8},
        },
    }[method]
    online = {"steps": 400, "chunk": 20, "learning_starts": 20} | (
        {"random_steps": 5} if method == "rlpd" else {}
    )
    return preset_config(
        "point-on" if method == "supe" else "point",
        method,
        "smoke",
        **settings
        | {
            "seeds": (3,),
            "online": online,
            "log_every": 20,
            "checkpoint_every": 100,
            "evaluation": {"every": 100, "episodes": 1},
        }
        | changes,
    )


def make(directory, method="spaars", **changes):
    data = toy.point_dataset(400)
    return OnlineLearner.from_dataset(tiny(method, **changes), directory, data, capacity=200)


@dataclasses.dataclass
class Robot:
    """Its episodes last `length` steps, and no longer than it stays within the arena."""

    length: int = 8

    def __post_init__(self):
        self.env, self.episode, self.log = toy.PointEnv(falls=False), 0, []
        self.begin()

    def begin(self):
        self.observation = self.env.reset(seed=self.episode)[0].copy()
        self.time, self.episode = 0, self.episode + 1

    def move(self, learner, acted, action):
        """Execute, tell the learner, and begin anew where the episode ended."""
        following, reward, *_ = self.env.step(action)
        self.time += 1
        ended = self.time == self.length
        learner.observe(acted, action, reward, following, False, ended)
        self.log.append((self.observation, action, np.float32(reward), following.copy()))
        self.observation = following.copy()
        if ended:
            self.begin()


def drive(learner, robot, steps, every=4, updates=0):
    """Act and observe, with `updates` updates after every so many steps. Returns the actions."""
    actions = []
    for i in range(steps):
        action, acted = learner.act(robot.observation)
        robot.move(learner, acted, action)
        actions.append(action)
        if updates and i % every == every - 1:
            learner.update(updates)
    return actions
