"""d3rlpy IQL on data of Hopper's shape: updates, sampling of the batch included.

    python -m benchmarks.speed.peer_d3rlpy UPDATES ROWS

Two hidden layers of 256, batches of 256, two critics, its other settings as they come.
"""

import sys

import d3rlpy
import numpy as np
import torch

from benchmarks.speed import measure, worker


def main(updates: int, rows: int) -> None:
    torch.set_num_threads(measure.machine()["cores_used"])
    rng = np.random.default_rng(0)
    dataset = d3rlpy.dataset.MDPDataset(
        observations=rng.standard_normal((rows, 11), np.float32),
        actions=rng.uniform(-1.0, 1.0, (rows, 3)).astype(np.float32),
        rewards=rng.standard_normal(rows, np.float32),
        terminals=np.arange(1, rows + 1) % 500 == 0,
    )
    encoder = d3rlpy.models.VectorEncoderFactory([256, 256])
    iql = d3rlpy.algos.IQLConfig(
        batch_size=256,
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        value_encoder_factory=encoder,
    ).create(device=False)

    def fit() -> None:
        iql.fit(
            dataset,
            n_steps=updates,
            n_steps_per_epoch=updates,
            show_progress=False,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        )

    worker.serve(updates, fit)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
