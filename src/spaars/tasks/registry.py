"""Tasks: an env factory, a dataset recipe and a score normalisation under one name."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from spaars.errors import ConfigError, unknown_name
from spaars.tasks import adroit, any_env, kitchen
from spaars.tasks.packages import import_package

BEHAVIOURS = Path(__file__).parent / "behaviours"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BehaviourTarget:
    """When a SAC run is good enough to record: what D4RL's data of that name look like."""

    score_mean: tuple[float, float]
    """Normalised score of the stochastic policy must lie between these."""
    score_std: tuple[float, float]
    """So must the standard deviation of its episodes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A named problem. Scores are 100 (J - reference_min) / (reference_max - reference_min)."""

    name: str
    env_id: str
    reference_min: float
    """Return of a random policy (D4RL's constant)."""
    reference_max: float
    """Return of an expert (D4RL's constant)."""
    behaviour: BehaviourTarget | None = None
    """What the embedded behaviour policy was stopped at; None if the task ships none."""
    env_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of `gymnasium.make`."""
    training_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """On top of these where an agent trains, if its env is another variant than evaluation's. An
    episode's return is then what `info["score_return"]` says at its end, in evaluation's units."""
    whole_episodes: bool | None = False
    """Training episodes always last until their time limit, as methods with skills need it; None:
    nobody knows, and the data are asked whether theirs do."""
    slow: bool = False
    """A step of its env takes milliseconds: envs are stepped in parallel processes."""
    success_ends: bool = False
    """An evaluation episode that terminates is a success, not a fall."""
    wrap: Callable[[gymnasium.Env], gymnasium.Env] | None = None
    """Brings observations into the form of the task's data."""
    factory: Callable[..., gymnasium.Env] | None = None
    """Makes the env instead of its id."""
    subtasks: tuple[str, ...] = ()
    """Of a kitchen task: what its rewards count, in the env and in its data."""
    package: str | None = None
    """What registers the env, if not gymnasium itself: a module and, after a colon, our extra."""
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Changes of a method's configuration on this task, by the method's name; "" for all."""

    def make_env(self, *, training: bool = False, **kwargs: Any) -> gymnasium.Env:
        """A fresh env with its time limit, for evaluation or for training.

        Its actions are bounded by [-1, 1]. `kwargs` go to `gymnasium.make`, such as `render_mode`.
        """
        if self.package:
            import_package(self.package, self.name)
        variant = {**self.env_kwargs, **(self.training_kwargs if training else {}), **kwargs}
        with warnings.catch_warnings():
            # "v4 is out of date": D4RL's v2 data were made with exactly these dynamics.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", message=".*out of date.*")
            env = (self.factory or partial(any_env.make, self.env_id))(**variant)
        if self.wrap:
            env = self.wrap(env)
        check_spaces(env, self.env_id)
        return env

    def score(self, returns: np.ndarray) -> np.ndarray:
        """Normalised score(s): 0 is random, 100 is D4RL's expert."""
        span = self.reference_max - self.reference_min
        return np.asarray(100.0 * (np.asarray(returns, np.float64) - self.reference_min) / span)

    @property
    def behaviour_file(self) -> Path:
        return BEHAVIOURS / f"{self.name}.safetensors"


def check_spaces(env: gymnasium.Env, name: str) -> None:
    """Refuse what the algorithms cannot handle, with the remedy."""
    box = gymnasium.spaces.Box
    if not (isinstance(env.observation_space, box) and len(env.observation_space.shape) == 1):
        raise ConfigError(
            f"{name}: observations must be a flat Box, got {env.observation_space}. "
            "Wrap the env in gymnasium.wrappers.FlattenObservation."
        )
    space = env.action_space
    if not (isinstance(space, box) and len(space.shape) == 1):
        raise ConfigError(
            f"{name}: actions must be a flat Box, got {space}. SPAARS is for continuous control: "
            "wrap the env so that it takes a vector of numbers, or use a method for discrete ones."
        )
    if not np.isfinite([space.low, space.high]).all():
        unbounded = np.flatnonzero(~np.isfinite([space.low, space.high]).all(0)).tolist()
        raise ConfigError(
            f"{name}: actions must be bounded, but dimension(s) {unbounded} are not (low "
            f"{space.low}, high {space.high}). Give the action space the robot's true limits."
        )
    if not (np.all(space.low == -1.0) and np.all(space.high == 1.0)):
        raise ConfigError(
            f"{name}: actions must be bounded by [-1, 1], got low {space.low} high {space.high}. "
            "Wrap the env in gymnasium.wrappers.RescaleAction(env, -1.0, 1.0) and rescale the "
            "dataset's actions alike."
        )


_TASKS = {
    task.name: task
    for task in (
        # Reference returns: D4RL, infos.py. Spread: D4RL's medium data have 12 and 24 points.
        Task(
            name="hopper-medium",
            env_id="Hopper-v4",
            reference_min=-20.272305,
            reference_max=3234.3,
            behaviour=BehaviourTarget(score_mean=(40.0, 48.0), score_std=(7.0, 17.0)),
        ),
        Task(
            name="walker2d-medium",
            env_id="Walker2d-v4",
            reference_min=1.629008,
            reference_max=4592.3,
            behaviour=BehaviourTarget(score_mean=(58.0, 66.0), score_std=(12.0, 33.0)),
        ),
        Task(
            name="door-human",
            env_id=adroit.ENV_ID,
            reference_min=-56.512833,
            reference_max=2880.5693087298737,
            wrap=adroit.DoorReward,
            package=adroit.PACKAGE,
            settings=adroit.SETTINGS,
        ),
        *(
            Task(
                name=name,
                env_id=kitchen.ENV_ID,
                reference_min=0.0,
                reference_max=float(len(subtasks)),
                env_kwargs=kitchen.env_kwargs(subtasks),
                training_kwargs=kitchen.TRAINING_KWARGS,
                whole_episodes=True,
                slow=True,
                success_ends=True,
                wrap=kitchen.KitchenObservations,
                subtasks=subtasks,
                package=kitchen.PACKAGE,
                settings=kitchen.SETTINGS,
            )
            for name, subtasks in (
                ("kitchen-mixed", kitchen.MIXED),
                ("kitchen-partial", kitchen.PARTIAL),
                ("kitchen-complete", kitchen.COMPLETE),
            )
        ),
    )
}


def get_task(name: str) -> Task:
    """The task of that name, or of the Gymnasium env (`spaars.tasks.any_env`) that it names.

    Raises ConfigError for any other name; a misspelt one gets the nearest suggested.
    """
    if name in _TASKS:
        return _TASKS[name]
    if (env := any_env.parse_name(name)) is not None:
        return _of_env(name, *env)
    raise unknown_name("task", name, _TASKS)


def env_task(
    env: str | Callable[..., gymnasium.Env], kwargs: Mapping[str, Any] | None = None
) -> Task:
    """The task of any env: a Gymnasium id, or a function that makes it; its scores are returns.

    A function is known under the task's name in this process. In another one, as for `spaars
    resume`, it is imported if it stands in a module, and must be given here again if it does not.
    """
    if isinstance(env, str):
        return get_task(any_env.env_name(env, kwargs))
    if not hasattr(env, "__qualname__"):
        raise ConfigError(
            f"env must be a function or class with a name, got {type(env).__name__}. Give the "
            "function, and its arguments as `spaars.env_task(function, {...})`."
        )
    env_id = f"{env.__module__}:{env.__qualname__}"
    name = any_env.env_name(env_id, kwargs)
    known = _TASKS.get(name)
    if known is not None and "<" in env_id and _facts(known.factory) != _facts(env):
        raise ConfigError(
            f"another function was given as {env_id}, and runs are told apart by that name. Write "
            "one with a name; what differs can be its arguments: `spaars.env_task(function, "
            "{...})`."
        )
    _TASKS[name] = _of_env(name, env_id, dict(kwargs or {}), factory=env)
    return _TASKS[name]


def _facts(function: Any) -> tuple[Any, ...]:
    """What a function made twice in one place does alike, if what it was made with is alike."""
    cells = tuple(cell.cell_contents for cell in getattr(function, "__closure__", None) or ())
    names = ("__code__", "__defaults__", "__kwdefaults__")
    return (*(getattr(function, name, function) for name in names), cells)


def _of_env(name: str, env_id: str, kwargs: dict[str, Any], **fields: Any) -> Task:
    # No reference returns are known: 0 and 100 make the score the return itself.
    return Task(
        name=name,
        env_id=env_id,
        reference_min=0.0,
        reference_max=100.0,
        env_kwargs=kwargs,
        whole_episodes=None,
        wrap=any_env.adapt,
        **fields,
    )


def register(task: Task) -> None:
    """Make a task known under its name. Raises ConfigError if the name is taken."""
    if task.name in _TASKS:
        raise ConfigError(f"task '{task.name}' exists already; choose another name.")
    _TASKS[task.name] = task


def task_names() -> list[str]:
    """Tasks that come with the package or were registered, sorted by name."""
    return sorted(_TASKS)
