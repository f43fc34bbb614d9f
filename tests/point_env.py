"""The toy env alone: worker processes that make it need not import JAX for it."""

import gymnasium
import numpy as np

STEPS = 40
GOAL = np.array([0.5, 0.5], np.float32)


class PointEnv(gymnasium.Env):
    """Observation (position, velocity); a live buffer, as FrankaKitchen's is."""

    def __init__(self, falls=True, cost=False):
        self.falls, self.cost = falls, cost
        self.observation_space = gymnasium.spaces.Box(-2.0, 2.0, (4,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.buffer = np.zeros(4, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.buffer[:2] = self.np_random.uniform(-0.5, 0.5, 2)
        self.buffer[2:] = 0.0
        return self.buffer, {}

    def step(self, action):
        position, velocity = self.buffer[:2], self.buffer[2:]
        velocity *= np.float32(0.8)
        velocity += np.float32(0.04) * np.clip(action, -1.0, 1.0).astype(np.float32)
        position += velocity
        reward = 1.0 - float(np.linalg.norm(position - GOAL))
        fell = self.falls and np.abs(position).max() > 1.0
        info = {"cost": float(np.abs(position).max() > 0.6)} if self.cost else {}
        return self.buffer, reward, bool(fell), False, info


gymnasium.register(
    "SpaarsPoint-v0",
    entry_point=PointEnv,
    max_episode_steps=STEPS,
    disable_env_checker=True,  # it warns of live buffers
)
