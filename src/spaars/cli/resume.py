"""`spaars resume RUN`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from spaars.cli.console import RunDisplay
from spaars.cli.train import show
from spaars.training.run import resume


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Go on with an interrupted run, bit for bit as if it had never stopped; with --online.steps,
    also with a finished one."""

    path: tyro.conf.Positional[Path]
    """Run directory."""
    steps: Annotated[int | None, tyro.conf.arg(name="online.steps")] = None
    """Environment steps to stop at instead, counted from the first."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars resume")
    with RunDisplay() as display:
        finished = resume(
            args.path,
            steps=args.steps,
            on_progress=display.progress,
            on_message=display.message,
        )
    show(display, finished)
    return 0
