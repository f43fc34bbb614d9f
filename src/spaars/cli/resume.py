"""`spaars resume RUN`."""

import dataclasses
from pathlib import Path

import tyro

from spaars.cli.console import RunDisplay
from spaars.cli.train import show
from spaars.training.run import resume


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Go on with an interrupted run, bit for bit as if it had never stopped."""

    path: tyro.conf.Positional[Path]
    """Run directory."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars resume")
    with RunDisplay() as display:
        finished = resume(args.path, on_progress=display.progress, on_message=display.message)
    show(display, finished)
    return 0
