"""Whether a dataset is uploaded to the device or stays in the computer's memory."""

import jax

from spaars.data import Dataset
from spaars.training.config import TrainConfig

SHARE = 0.8
"""Of an accelerator's memory: the rest is for networks and what updates compute."""


def reason_to_stay_on_host(config: TrainConfig, dataset: Dataset) -> str | None:
    """Why the dataset is not uploaded, as a notice; None if it is."""
    room = device_room(config)
    row = 4 * (2 * dataset.observation_dim + dataset.action_dim + 2)  # float32
    capacity = min(config.online.replay_capacity or config.online.steps, config.online.steps)
    logged, online = row * len(dataset), row * capacity * len(config.seeds)
    if room is None or logged + online <= room:
        return None
    return (
        f"the dataset's {logged / 2**30:,.2f} GiB and the replay's {online / 2**30:,.2f} GiB are "
        f"more than the {room / 2**30:,.2f} GiB that the device has for them: the dataset stays in "
        "the computer's memory, and the rows of the next updates are uploaded each time. The "
        "result is the same, the updates take longer."
    )


def device_room(config: TrainConfig) -> float | None:
    """Bytes for dataset and replay; None: no limit, as on a CPU."""
    if config.device_memory_gib is not None:
        return config.device_memory_gib * 2**30
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return None if limit is None else SHARE * limit
