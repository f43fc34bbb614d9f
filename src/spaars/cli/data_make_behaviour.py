"""`spaars data make-behaviour TASK`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from spaars.cli.plain import plain_console
from spaars.data.files import atomic_write
from spaars.tasks import get_task
from spaars.training.make_behaviour import BehaviourConfig, make_behaviour


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Train the behaviour policy whose recordings are a task's embedded dataset."""

    task: tyro.conf.Positional[str]
    """Task name, such as hopper-medium."""
    out: Path | None = None
    """File to write (safetensors); default: the package's own, which is what is committed."""
    config: Annotated[BehaviourConfig, tyro.conf.arg(name="")] = BehaviourConfig()


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars data make-behaviour")
    task = get_task(args.task)
    console = plain_console()

    def report(facts: dict[str, Any]) -> None:
        console.print("  ".join(f"{name} {value}" for name, value in facts.items()))

    path = args.out or task.behaviour_file
    with atomic_write(path) as file:  # opened first: no permission must not cost hours
        file.write(make_behaviour(task, args.config, report).to_bytes())
    console.print(f"wrote {path}")
    return 0
