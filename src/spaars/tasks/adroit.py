"""The door of the Adroit hand as D4RL's door tasks have it: open it within 200 steps.

AdroitHandDoor-v1 of gymnasium-robotics observes what D4RL's files do (39 numbers), takes the same
28 actions and never terminates. One thing differs: since it was ported, its dense reward *adds* 0.1
times the palm's distance from the handle, which D4RL subtracts (pull request 220 of
gymnasium-robotics; a repaired v2 is in no release up to 1.4.2). An agent would learn to stay away
from the door, and D4RL's scores would not be comparable, so the sign is turned here.
"""

from typing import Any

import gymnasium
import numpy as np

ENV_ID = "AdroitHandDoor-v1"
PACKAGE = "gymnasium_robotics:robotics"
PALM_FROM_HANDLE = slice(35, 38)
"""Columns of an observation: palm less handle, in metres."""

SETTINGS: dict[str, dict[str, Any]] = {
    # Published (IQL, appendix B): temperature 0.5, dropout in the actor, rewards as they are.
    "iql": {"iql": {"temperature": 0.5, "actor_dropout": 0.1, "reward_scale": 1.0}},
}


class DoorReward(gymnasium.Wrapper):
    """D4RL's reward: 0.1 |palm - handle| is a cost."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        distance = float(np.linalg.norm(observation[PALM_FROM_HANDLE]))
        return observation, float(reward) - 0.2 * distance, terminated, truncated, info
