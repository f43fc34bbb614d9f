"""SPAARS: take a policy from logged data to a better one online, safely.

>>> import spaars
>>> config = spaars.preset_config("hopper-medium", preset="smoke", seeds=(0,))
>>> run = spaars.train(config, out="runs/first")
>>> policy = spaars.load_policy(run.path)
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spaars.data import Dataset, load_dataset
    from spaars.deploy.policy import Policy, load_policy
    from spaars.errors import ConfigError, DataError, RunError, SpaarsError
    from spaars.own_loop import Acted, OnlineLearner
    from spaars.tasks import Task, env_task, get_task, register, task_names
    from spaars.training.config import TrainConfig, preset_config
    from spaars.training.run import resume, train
    from spaars.training.trainer import Progress, Run, Stopped

__version__ = version("spaars")

# Imported on first use (PEP 562): `spaars --help` must not wait seconds for JAX.
_HOME = {
    "spaars.data": ("Dataset", "load_dataset"),
    "spaars.deploy.policy": ("Policy", "load_policy"),
    "spaars.errors": ("ConfigError", "DataError", "RunError", "SpaarsError"),
    "spaars.own_loop": ("Acted", "OnlineLearner"),
    "spaars.tasks": ("Task", "env_task", "get_task", "register", "task_names"),
    "spaars.training.config": ("TrainConfig", "preset_config"),
    "spaars.training.run": ("resume", "train"),
    "spaars.training.trainer": ("Progress", "Run", "Stopped"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Acted",
    "ConfigError",
    "DataError",
    "Dataset",
    "OnlineLearner",
    "Policy",
    "Progress",
    "Run",
    "RunError",
    "SpaarsError",
    "Stopped",
    "Task",
    "TrainConfig",
    "env_task",
    "get_task",
    "load_dataset",
    "load_policy",
    "preset_config",
    "register",
    "resume",
    "task_names",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'spaars' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
