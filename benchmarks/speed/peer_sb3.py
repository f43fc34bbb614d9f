"""Stable-Baselines3 SAC on Hopper-v4: environment steps of the whole loop, an update each.

    python -m benchmarks.speed.peer_sb3 STEPS CHUNK

Two hidden layers of 256, batches of 256, two critics, its other settings as they come; CHUNK
steps, then as many updates (its default: 1).
"""

import sys
import warnings

import torch
from stable_baselines3 import SAC

from benchmarks.speed import measure, worker


def main(steps: int, chunk: int) -> None:
    warnings.simplefilter("ignore")  # Hopper-v4 is said to be out of date
    torch.set_num_threads(measure.machine()["cores_used"])
    model = SAC(
        "MlpPolicy",
        "Hopper-v4",
        learning_starts=1_000,
        train_freq=chunk,
        gradient_steps=chunk,
        batch_size=256,
        buffer_size=300_000,
        policy_kwargs={"net_arch": [256, 256]},
        seed=0,
        device="cpu",
    )
    model.learn(1_100)
    worker.serve(steps, lambda: model.learn(steps, reset_num_timesteps=False))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
