"""What lies in a run directory, and what made it.

config.json  metrics.jsonl  summary.json  report.html  figures/  tensorboard/  checkpoints/
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import jax

from spaars.data import Dataset
from spaars.data.description import Description
from spaars.data.files import atomic_write
from spaars.errors import RunError
from spaars.training import checks
from spaars.training import config as configs
from spaars.training.config import TrainConfig
from spaars.training.provenance import command_line, versions

if sys.platform != "win32":
    import fcntl


def default_run_dir(config: TrainConfig) -> Path:
    """runs/TASK-METHOD-PRESET-sSEEDS[-N], the first that does not exist."""
    seeds = "-".join(str(seed) for seed in config.seeds)
    task = re.sub(r"[^\w.-]+", "_", config.task).strip("_")
    base = Path("runs") / f"{task}-{config.method}-{config.preset}-s{seeds}"
    path, n = base, 2
    while path.exists():
        path, n = base.with_name(f"{base.name}-{n}"), n + 1
    return path


def make_directories(path: Path) -> list[Path]:
    """`mkdir -p`; returns what had to be made, innermost first."""
    made = []
    parent = path
    while not parent.exists():
        made.append(parent)
        parent = parent.parent
    path.mkdir(parents=True, exist_ok=True)
    return made


def lock(file: int | IO[Any]) -> bool:
    """Whether nobody else holds it; then it is held until it is closed, at the latest by the end of
    all processes that have it open. On POSIX systems only: elsewhere nothing is held.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system that knows no locks
    return True


@contextmanager
def only_writer(run_dir: Path) -> Iterator[None]:
    """While inside, no other process trains into this directory: RunError if one is at it.

    The directory itself is locked, which leaves no file behind. A path that is no directory is not
    refused here.
    """
    if sys.platform == "win32" or not run_dir.is_dir():
        yield
        return
    held = os.open(run_dir, os.O_RDONLY)
    try:
        if not lock(held):
            raise RunError(
                f"another process is at {run_dir}, perhaps one that outlived its terminal. Wait "
                "for it, or end it."
            )
        yield
    finally:
        os.close(held)


def read_config(run_dir: Path, *, complete: bool = False) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration of a run and everything else in its config.json.

    What an older version did not know gets its present default; if `complete`, as for training
    on, that is an error instead.
    """
    path = run_dir / "config.json"
    try:
        described = json.loads(path.read_text())
        config = configs.from_json(described["config"])
        checks.check(config)
        described["dataset"]["sha256"]  # resuming compares it
    except FileNotFoundError as error:
        raise RunError(
            f"{run_dir} is not a run directory: it has no config.json. "
            "Make one with `spaars train TASK --out DIR`."
        ) from error
    except (AttributeError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise RunError(f"{path} cannot be read: {type(error).__name__}: {error}.") from error
    if complete and (unknown := configs.missing(described["config"], config)):
        raise RunError(
            f"{run_dir} was begun by an older spaars (git revision "
            f"{described.get('git_revision', 'not recorded')}), which did not know "
            f"{', '.join(unknown)}. Finish it with that version, or train anew elsewhere."
        )
    return config, described


def write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def describe_run(
    config: TrainConfig, dataset: Dataset, revision: str, env: dict[str, Any]
) -> dict[str, Any]:
    """The content of config.json: everything resolved, and what made it.

    `env`: how the env was brought into form (`spaars.tasks.any_env.describe_env`).
    """
    facts = {"env": env} if env else {}
    return {
        "config": configs.to_json(config),
        "dataset": describe_dataset(dataset),
        **facts,
        "versions": versions(),
        "git_revision": revision,
        "command": command_line(),
        "backend": jax.default_backend(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "label": dataset.label,
        "sha256": dataset.sha256,
        "transitions": len(dataset),
    }
    if dataset.description != Description():
        facts["description"] = dataset.description.to_dict()
    return facts
