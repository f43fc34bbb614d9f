"""The embedded dataset of a task: its behaviour policy, rolled out here and cached."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from spaars.data.behaviour import BehaviourPolicy, RecordedEpisode, record
from spaars.data.dataset import DIMENSIONS, Dataset
from spaars.data.files import atomic_write, cache_dir, read_safetensors, write_safetensors
from spaars.data.processes import usable_cores
from spaars.errors import DataError
from spaars.tasks import Task

METADATA = "spaars_dataset"
SMALL = 20_000
"""Fewer transitions than this are recorded sooner than worker processes start."""


def recorded_dataset(
    task: Task,
    transitions: int,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    behaviour_file: Path | None = None,
) -> Dataset:
    """Exactly `transitions` rows of the task's behaviour policy, from the cache if they are there.

    The last episode is cut, and then truncated. The rows do not depend on `workers`, and the
    first rows do not depend on `transitions`. A damaged cache file is recorded again.

    Args:
        workers: processes that record; by default one per core, or none for small datasets.
            More than one needs a script guarded by `if __name__ == "__main__":`.
        progress: called with (rows so far, rows in all) after every episode.
        behaviour_file: instead of the task's own.

    Raises:
        DataError: no behaviour policy, one for another env, or senseless arguments.
        OSError: the cache cannot be written (disk full, no permission).
    """
    file = behaviour_file or task.behaviour_file
    path = cache_file(task, transitions, seed, behaviour_file=file)
    other = "" if file == task.behaviour_file else f", behaviour {file.name} {_digest(file)}"
    label = f"{task.name} (recorded by spaars, {transitions:,} transitions, seed {seed}{other})"
    if path.exists():
        try:
            return _read(path, label)
        except (OSError, KeyError, TypeError, ValueError, DataError) as error:
            warnings.warn(f"{path} is damaged ({error}): recording it again.", stacklevel=2)
    policy = BehaviourPolicy.load(file)
    _check_policy(policy, task, file)
    if workers is None:
        workers = 1 if transitions < SMALL else usable_cores()
    # Opened first: a cache that cannot be written is known before minutes of recording.
    recording: Any = record(policy, task, seed, workers)
    with atomic_write(path) as handle, closing(recording) as episodes:
        dataset = Dataset.build(**_collect(episodes, transitions, progress), label=label)
        facts = json.dumps({"label": label, "sha256": dataset.sha256})
        write_safetensors(handle, dataset.arrays, {METADATA: facts})
    return dataset


def cache_file(
    task: Task, transitions: int, seed: int, *, behaviour_file: Path | None = None
) -> Path:
    """Where `recorded_dataset` keeps these rows; another behaviour policy is another file."""
    if transitions < 1:
        raise DataError(f"transitions must be at least 1, got {transitions}.")
    if seed < 0:
        raise DataError(f"the recording's seed must be at least 0, got {seed}.")
    file = behaviour_file or task.behaviour_file
    if task.subtasks:
        raise DataError(
            f"{task.name} embeds no data: give a file of demonstrations, --dataset PATH (a D4RL "
            "HDF5, or replays made with `spaars data convert kitchen-demos`)."
        )
    if not file.is_file():
        raise DataError(
            f"{task.name} ships no behaviour policy ({file} is absent). Make one with `spaars data "
            f"make-behaviour {task.name}`, or give the path of a dataset file."
        )
    name = f"{task.name}-{transitions}-seed{seed}-{_digest(file)}.safetensors"
    return cache_dir() / "datasets" / name


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _check_policy(policy: BehaviourPolicy, task: Task, file: Path) -> None:
    env = task.make_env()
    observations, actions = env.observation_space.shape, env.action_space.shape
    env.close()
    takes, gives = policy.weights[0].shape[0], policy.weights[-1].shape[1] // 2
    if (takes,) != observations or (gives,) != actions:
        raise DataError(
            f"{file}: a policy from {takes} observations to {gives} actions, but {task.env_id} has "
            f"{observations} and {actions}. Make one with `spaars data make-behaviour {task.name}`."
        )


def _collect(
    episodes: Iterable[RecordedEpisode],
    transitions: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """The first `transitions` rows of the episodes, as arguments of `Dataset.build`."""
    kept, terminated, truncated = [], [], []
    rows = 0
    for episode in episodes:
        length = len(episode.rewards)
        ends = np.arange(length) == length - 1
        kept.append(episode[:4])
        terminated.append(ends & episode.terminated)
        truncated.append(ends & (not episode.terminated))
        rows += length
        if progress is not None:
            progress(min(rows, transitions), transitions)
        if rows >= transitions:
            break
    arrays = zip(DIMENSIONS, [*zip(*kept, strict=True), terminated, truncated], strict=True)
    # If the cut falls inside an episode, Dataset.build marks its last row truncated.
    return {name: np.concatenate(parts)[:transitions] for name, parts in arrays}


def _read(path: Path, label: str) -> Dataset:
    metadata, arrays = read_safetensors(path)
    facts = json.loads(metadata[METADATA])
    columns: dict[str, Any] = {name: arrays[name] for name in DIMENSIONS}
    dataset = Dataset.build(**columns, label=label, where=str(path))
    if dataset.sha256 != facts["sha256"]:
        raise ValueError("its contents do not match its sha256")
    return dataset
