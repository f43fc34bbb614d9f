"""`spaars train TASK`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from spaars.cli.console import RunDisplay, score_table
from spaars.errors import ConfigError
from spaars.tasks import get_task, task_names
from spaars.tasks.any_env import env_name
from spaars.training.config import METHODS, PRESETS, TrainConfig, preset_config
from spaars.training.run import train
from spaars.training.trainer import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `parse` returns; its description on the command line is put together there."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    out: Path | None = None
    """Run directory to make; default: runs/TASK-METHOD-PRESET-sSEEDS."""


def run(argv: list[str]) -> int:
    args = parse(argv)
    with RunDisplay() as display:
        finished = train(
            args.config, args.out, on_progress=display.progress, on_message=display.message
        )
    show(display, finished)
    return 0


def show(display: RunDisplay, finished: Run) -> None:
    display.console.print(score_table(finished.summary))
    display.console.print(f"report: {finished.path / 'report.html'}")


def parse(argv: list[str]) -> Args:
    """The first word is the task; --method and --preset choose the defaults of all the rest."""
    wants_help = "--help" in argv or "-h" in argv
    argv = with_env(argv)
    task = argv[0] if argv and not argv[0].startswith("-") else None
    if task is None and not wants_help:
        raise ConfigError(
            "name a task first: `spaars train hopper-medium --preset quick`; or an env and its "
            "data: `spaars train --env my_pkg:MyEnv-v0 --dataset PATH`."
        )
    if task is not None:
        get_task(task)
    default = preset_config(
        task or "hopper-medium",
        _value_of(argv, "--method") or "spaars",
        _value_of(argv, "--preset") or "quick",
    )
    rest = argv[1:] if task is not None else argv
    return tyro.cli(
        Args,
        args=rest,
        default=Args(config=default),
        prog="spaars train TASK",
        description=(
            "Learn TASK from logged data, then online: prior, offline start, latent phase, "
            "hand-over. Flags override the preset; the defaults shown are those of the chosen "
            f"task, method and preset. Methods: {', '.join(METHODS)}. "
            f"Presets: {', '.join(PRESETS)}. Tasks: {', '.join(task_names())}; "
            "or any Gymnasium env: --env my_pkg:MyEnv-v0 [--env-kwargs '{\"k\": 1}'] --dataset "
            "PATH."
        ),
    )


def with_env(argv: list[str]) -> list[str]:
    """`--env ID --env-kwargs JSON` as the task name in front, which they stand for."""
    env, kwargs = _value_of(argv, "--env"), _value_of(argv, "--env-kwargs")
    if env is None:
        if kwargs is not None:
            raise ConfigError("--env-kwargs needs --env.")
        return argv
    if argv and not argv[0].startswith("-"):
        raise ConfigError(f"give a task ({argv[0]}) or --env ({env}), not both.")
    rest, skip = [], False
    for word in argv:
        if skip or word.startswith(("--env=", "--env-kwargs=")):
            skip = False
        elif word in ("--env", "--env-kwargs"):
            skip = True
        else:
            rest.append(word)
    return [env_name(env, kwargs), *rest]


def _value_of(argv: list[str], flag: str) -> str | None:
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return None
