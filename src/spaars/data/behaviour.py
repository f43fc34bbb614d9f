"""Recorded behaviour policies: the embedded source of offline data.

A behaviour policy is a small tanh-Gaussian MLP, stored as float16 in safetensors with its
provenance in the header. Rolling it out needs only numpy and the env. Every episode has its own
reset seed and noise stream, so the data do not depend on how many workers record them.
"""

import itertools
import json
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from spaars.data.processes import map_in_processes
from spaars.errors import DataError
from spaars.nn import TanhGaussianPolicy
from spaars.seeding import BEHAVIOUR_EPISODE, episode_seed
from spaars.tasks import Task

EPISODES_PER_BLOCK = 16


class BehaviourPolicy(NamedTuple):
    """a = tanh(mean(s) + std(s) noise), the MLP's hidden activations ReLU."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    log_std_range: tuple[float, float]
    provenance: dict[str, Any]

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One stochastic action (act,) float32 for one observation (obs,)."""
        x = observation.astype(np.float32)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.maximum(x @ weight + bias, 0.0)
        mean, log_std = np.split(x @ self.weights[-1] + self.biases[-1], 2)
        std = np.exp(np.clip(log_std, *self.log_std_range))
        return np.tanh(mean + std * rng.standard_normal(mean.shape, np.float32))

    @classmethod
    def from_policy(
        cls, policy: TanhGaussianPolicy, provenance: dict[str, Any]
    ) -> "BehaviourPolicy":
        """Round a trained policy to float16, the precision in which it is stored."""

        def rounded(x: Any) -> np.ndarray:
            return np.asarray(x, np.float16).astype(np.float32)

        return cls(
            tuple(rounded(layer.weight) for layer in policy.net.layers),
            tuple(rounded(layer.bias) for layer in policy.net.layers),
            policy.log_std_range,
            provenance,
        )

    def to_bytes(self) -> bytes:
        """The content of a behaviour file."""
        arrays = {}
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays[f"weight_{i}"] = weight.astype(np.float16)
            arrays[f"bias_{i}"] = bias.astype(np.float16)
        facts = {"log_std_range": self.log_std_range, "provenance": self.provenance}
        return save(arrays, {"spaars_behaviour": json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> "BehaviourPolicy":
        try:
            with safe_open(path, "numpy") as file:
                facts = json.loads(file.metadata()["spaars_behaviour"])
                n = len(file.keys()) // 2
                weights, biases = (
                    tuple(file.get_tensor(f"{kind}_{i}").astype(np.float32) for i in range(n))
                    for kind in ("weight", "bias")
                )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: not a behaviour policy of spaars ({error}). "
                "Make one with `spaars data make-behaviour`."
            ) from error
        return cls(weights, biases, tuple(facts["log_std_range"]), facts["provenance"])


class RecordedEpisode(NamedTuple):
    """Arrays of one episode; `next_observations[-1]` is the state it ended in."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    terminated: bool


def record_episode(policy: BehaviourPolicy, env: Any, seed: int, index: int) -> RecordedEpisode:
    """Episode `index` of recording `seed`, whole."""
    noise = np.random.Generator(np.random.Philox(key=[seed, index]))
    observation, _ = env.reset(seed=episode_seed(BEHAVIOUR_EPISODE, seed, index))
    observations, actions, rewards, next_observations = [], [], [], []
    done = False
    while not done:
        action = policy.act(observation, noise)
        next_observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(np.array(observation, np.float32))
        actions.append(action)
        rewards.append(reward)
        next_observations.append(np.array(next_observation, np.float32))
        observation, done = next_observation, terminated or truncated
    return RecordedEpisode(
        np.stack(observations),
        np.stack(actions),
        np.array(rewards, np.float32),
        np.stack(next_observations),
        bool(terminated),
    )


def _record_block(
    policy: BehaviourPolicy, task: Task, seed: int, first: int
) -> list[RecordedEpisode]:
    env = task.make_env()
    try:
        return [
            record_episode(policy, env, seed, i) for i in range(first, first + EPISODES_PER_BLOCK)
        ]
    finally:
        env.close()


def record(
    policy: BehaviourPolicy, task: Task, seed: int, workers: int
) -> Generator[RecordedEpisode, None, None]:
    """Episodes 0, 1, 2, ... without end, in order; close the iterator when you have enough."""
    firsts = itertools.count(0, EPISODES_PER_BLOCK)
    jobs = ((policy, task, seed, first) for first in firsts)
    with closing(map_in_processes(_record_block, jobs, workers)) as blocks:
        for episodes in blocks:
            yield from episodes
