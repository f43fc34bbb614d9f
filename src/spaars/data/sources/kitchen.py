"""Kitchen data: human demonstrations replayed in the simulator, and D4RL's own files.

Rewards are those of the training env (tasks/kitchen.py): how many of the task's subtasks are
complete at this moment. D4RL's files hold the same; an online return that counts *newly* completed
subtasks, as D4RL's evaluation does, must not be mixed with them.

A replay file (npz) has rows in time order, episodes one after another:

    observation        (N, 59)  FrankaKitchen-v1: robot qpos 9, qvel 9, object qpos 21, qvel 20
    action             (N, 9)   normalised joint velocities in [-1, 1]
    at_goal            (N, 1)   bits: which of the seven subtasks are complete after the step
    final_observation  (E, 59)  after the last step of each episode
    ep_start, ep_len   (E,)     rows of the episodes
    demo               (E,)     number of the demonstration that was replayed; may be missing
"""

import dataclasses
import itertools
import warnings
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spaars.data.dataset import Dataset
from spaars.data.files import atomic_write
from spaars.data.processes import map_in_processes
from spaars.data.sources import npz
from spaars.data.sources.reading import Progress
from spaars.errors import DataError, unknown_name
from spaars.seeding import DEMONSTRATION, episode_seed
from spaars.tasks import Task
from spaars.tasks.kitchen import OBSERVATION, make_raw_env

SUBTASKS = (
    "bottom burner",
    "top burner",
    "light switch",
    "slide cabinet",
    "hinge cabinet",
    "microwave",
    "kettle",
)
"""In the order of the bits."""
STATE, GOAL = 30, 30
REPLAY_ARRAYS = (
    "observation",
    "action",
    "at_goal",
    "final_observation",
    "ep_start",
    "ep_len",
)


def load(path: Path, task: Task) -> Dataset | None:
    """A replay file as a kitchen task's data; None for what is none.

    Raises:
        DataError: as `load_file`; also for demonstrations that were not replayed yet.
    """
    unknown = [name for name in task.subtasks if name not in SUBTASKS]
    if unknown:
        raise unknown_name("kitchen subtask", unknown[0], SUBTASKS)
    if is_replay(path):
        return _replays(path, task)
    if npz.claims(path) and path.is_file() and "ctrl_target" in npz.names_in(path):
        raise DataError(
            f"{path}: recorded joint targets, not yet what the simulator makes of them. Replay "
            f"them first: `spaars data convert kitchen-demos {path} REPLAYS.npz`."
        )
    return None


def is_replay(path: Path) -> bool:
    """Whether it is a replay file, whose rewards depend on the task."""
    return npz.claims(path) and path.is_file() and {"at_goal", "ep_start"} <= npz.names_in(path)


def without_goal(dataset: Dataset, where: str) -> Dataset:
    """D4RL's 60 columns without the goal, its `terminals` as what they are: ends of recordings.

    The last row of a demonstration has no next observation and is dropped.

    Raises:
        DataError: observations of another width.
    """
    width = dataset.observation_dim
    if width not in (STATE, STATE + GOAL):
        raise DataError(
            f"{where}: kitchen observations have {STATE} columns, {STATE + GOAL} with D4RL's goal; "
            f"got {width}. Log 9 joint and 21 object positions, columns 0-8 and 18-38 of "
            "FrankaKitchen-v1."
        )
    description = dataset.description
    if width != STATE:
        description = dataclasses.replace(description, observations=())
    ends = dataset.terminated
    kept = ~ends
    truncated = dataset.truncated | np.append(ends[1:], False)
    return Dataset.build(
        observations=dataset.observations[kept, :STATE],
        actions=dataset.actions[kept],
        rewards=dataset.rewards[kept],
        next_observations=dataset.next_observations[kept, :STATE],
        terminated=np.zeros(kept.sum(), bool),
        truncated=truncated[kept],
        label=dataset.label,
        where=where,
        description=description,
    )


def _replays(path: Path, task: Task) -> Dataset:
    told = ("demo",) if "demo" in npz.names_in(path) else ()
    raw = npz.read_arrays(path, (*REPLAY_ARRAYS, *told))
    observation, final = raw["observation"], raw["final_observation"]
    for name, array in (("observation", observation), ("final_observation", final)):
        if array.ndim != 2 or array.shape[1] != 59:
            raise DataError(
                f"{path}: '{name}' has shape {array.shape}, FrankaKitchen-v1 has 59 columns. Write "
                "its whole 'observation'; training picks what it needs."
            )
    n = len(observation)
    bounds = _episode_bounds(raw["ep_start"], raw["ep_len"], n, path)
    if len(final) != len(bounds) - 1:
        raise DataError(
            f"{path}: {len(bounds) - 1} episodes, but 'final_observation' has {len(final)} rows. "
            "Each episode needs the observation after its last step."
        )
    at_goal = raw["at_goal"]
    if at_goal.shape != (n, 1) or at_goal.dtype != np.uint8:
        raise DataError(
            f"{path}: 'at_goal' must be bits of shape ({n}, 1), got {at_goal.dtype} "
            f"{at_goal.shape}. Write numpy.packbits of the seven subtasks, row by row."
        )
    label = f"{path.stem} ({len(final)} replays)"
    if told:
        demo = raw["demo"]
        if demo.shape != (len(final),) or demo.dtype.kind not in "iu":
            raise DataError(
                f"{path}: 'demo' must be {len(final)} whole numbers, one for each episode, got "
                f"{demo.dtype} {demo.shape}. Leave it out if it is not known."
            )
        # However often each was replayed: what there is to learn from are the demonstrations.
        label = f"{task.name} ({len(np.unique(demo))} demos)"
    wanted = [SUBTASKS.index(name) for name in task.subtasks]
    complete = np.unpackbits(at_goal, axis=1)[:, wanted]
    never = [name for i, name in enumerate(task.subtasks) if not complete[:, i].any()]
    if never:
        warnings.warn(
            f"{path}: no episode completes {', '.join(never)}, which {task.name} asks for",
            stacklevel=2,
        )
    observations = observation[:, OBSERVATION]
    last = np.zeros(n, bool)
    last[bounds[1:] - 1] = True
    next_observations = np.roll(observations, -1, axis=0)
    next_observations[last] = final[:, OBSERVATION]
    return Dataset.build(
        observations=observations,
        actions=raw["action"],
        rewards=complete.sum(1).astype(np.float32),
        next_observations=next_observations,
        terminated=np.zeros(n, bool),  # a demonstration ends, the kitchen does not
        truncated=last,
        label=label,
        where=str(path),
        keys={"actions": "action", "observations": "observation"},
    )


def _episode_bounds(starts: np.ndarray, lengths: np.ndarray, rows: int, path: Path) -> np.ndarray:
    """(episodes + 1,) first rows, and the number of rows at the end."""
    whole = all(array.ndim == 1 and array.dtype.kind in "iu" for array in (starts, lengths))
    bounds = np.concatenate([[0], np.cumsum(lengths.astype(np.int64))]) if whole else starts
    if not (
        whole
        and len(lengths) > 0
        and np.array_equal(starts.astype(np.int64), bounds[:-1])
        and lengths.min() > 0
        and bounds[-1] == rows
    ):
        raise DataError(
            f"{path}: 'ep_start' and 'ep_len' do not part the {rows} rows into episodes. Each "
            "must begin where the one before ends, the last end with the file."
        )
    return bounds


# --- replaying demonstrations ---------------------------------------------------------------------

DEMO_ARRAYS = ("ctrl_target", "ep_start", "ep_len")
# An action of 1 moves a joint target by 2 rad/s for one step of 0.08 s.
FULL_ACTION = 0.16


class Replay(NamedTuple):
    """One demonstration as the simulator plays it."""

    observation: np.ndarray
    """(T + 1, 59): before every step, and after the last."""
    action: np.ndarray
    """(T, 9) float32."""
    at_goal: np.ndarray
    """(T, 7) bool, after every step."""


def replay_demonstrations(
    path: Path,
    destination: Path,
    *,
    repeats: int = 8,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Replay human demonstrations closed loop and write a replay file.

    At every step the action is the velocity that leads from the observed joints to the recorded
    target. Each demonstration is replayed `repeats` times with other observation noise.

    Returns:
        Episodes, steps, and in how many episodes each subtask was completed.

    Raises:
        DataError: `path` holds no demonstrations.
    """
    if "ctrl_target" not in npz.names_in(path):
        raise DataError(
            f"{path}: no array 'ctrl_target'. Demonstrations need the recorded joint targets "
            "(N, 9) and 'ep_start', 'ep_len' (E,)."
        )
    raw = npz.read_arrays(path, DEMO_ARRAYS)
    targets = raw["ctrl_target"]
    if targets.ndim != 2 or targets.shape[1] != 9 or not np.isfinite(targets).all():
        raise DataError(
            f"{path}: 'ctrl_target' must be finite joint targets (N, 9), got {targets.shape}."
        )
    bounds = _episode_bounds(raw["ep_start"], raw["ep_len"], len(targets), path)
    demos = [targets[a:b] for a, b in itertools.pairwise(bounds)]
    jobs = [
        (demo, episode_seed(DEMONSTRATION, seed, repeat * len(demos) + i))
        for repeat in range(repeats)
        for i, demo in enumerate(demos)
    ]
    replays = []
    # Opened first: that the file cannot be written is known before minutes of replaying.
    with atomic_write(destination) as file:
        with closing(map_in_processes(_replay, jobs, workers)) as done:
            for number, replay in enumerate(done, 1):
                replays.append(replay)
                if progress is not None:
                    progress(number, len(jobs))
        lengths = np.array([len(replay.action) for replay in replays], np.int32)
        np.savez(
            file,
            observation=np.concatenate([r.observation[:-1] for r in replays]),
            action=np.concatenate([r.action for r in replays]),
            at_goal=np.packbits(np.concatenate([r.at_goal for r in replays]), axis=1),
            final_observation=np.stack([r.observation[-1] for r in replays]),
            ep_start=(np.cumsum(lengths) - lengths).astype(np.int32),
            ep_len=lengths,
            demo=np.tile(np.arange(len(demos), dtype=np.int16), repeats),
            task_names=np.array(SUBTASKS),
        )
    done_in = np.stack([replay.at_goal.any(0) for replay in replays]).sum(0)
    completed = {name: int(n) for name, n in zip(SUBTASKS, done_in, strict=True)}
    return {"episodes": len(replays), "steps": int(lengths.sum()), **completed}


def _replay(targets: np.ndarray, reset_seed: int) -> Replay:
    env = make_raw_env(SUBTASKS, len(targets))
    try:
        observation = env.reset(seed=reset_seed)[0]["observation"]
        observations, actions, at_goal = [observation], [], []
        for target in targets:
            action = np.clip((target - observation[:9]) / FULL_ACTION, -1.0, 1.0)
            action = action.astype(np.float32)
            following, *_, info = env.step(action)
            observation = following["observation"]
            observations.append(observation)
            actions.append(action)
            at_goal.append([name in info["step_task_completions"] for name in SUBTASKS])
    finally:
        env.close()
    return Replay(np.array(observations, np.float32), np.stack(actions), np.array(at_goal, bool))
