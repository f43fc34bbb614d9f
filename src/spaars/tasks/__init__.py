"""A task = env factory + dataset recipe + score normalisation, under a name."""

from spaars.tasks.registry import (
    BehaviourTarget,
    Task,
    check_spaces,
    env_task,
    get_task,
    register,
    task_names,
)

__all__ = [
    "BehaviourTarget",
    "Task",
    "check_spaces",
    "env_task",
    "get_task",
    "register",
    "task_names",
]
