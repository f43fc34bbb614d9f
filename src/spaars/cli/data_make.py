"""`spaars data make TASK`."""

import dataclasses
import time
import warnings
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as Bar
from rich.text import Text

from spaars.cli.plain import plain_console
from spaars.data.dataset import Dataset
from spaars.data.recorded import cache_file, recorded_dataset
from spaars.data.sources import save_npz
from spaars.errors import ConfigError
from spaars.tasks import Task, get_task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Record a task's embedded dataset into the cache, where `spaars train` finds it."""

    task: tyro.conf.Positional[str]
    """Task name, such as hopper-medium."""
    transitions: int = 1_000_000
    """Env steps to record."""
    seed: int = 0
    """Another seed is another dataset of the same policy."""
    workers: int | None = None
    """Processes that record; by default one per core. The data do not depend on it."""
    out: Path | None = None
    """Also write the dataset to this .npz file."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars data make")
    task = get_task(args.task)
    if args.out is not None and args.out.suffix.lower() != ".npz":
        raise ConfigError(f"--out {args.out}: the name must end in .npz.")
    console = plain_console()
    path = cache_file(task, args.transitions, args.seed)
    start = time.perf_counter()
    dataset, was_cached = record_with_bar(console, task, args.transitions, args.seed, args.workers)
    seconds = time.perf_counter() - start
    facts: dict[str, Any] = {"label": dataset.label, "sha256": dataset.sha256, "cached": path}
    if args.out is not None:
        save_npz(dataset, args.out)
        facts["wrote"] = args.out
    facts["speed"] = (
        "nothing to record, it was in the cache"
        if was_cached
        else f"{len(dataset) / seconds:,.0f} steps/s, {seconds:,.1f} s"
    )
    for name, fact in facts.items():
        console.print(f"{name:8}{fact}", soft_wrap=True)
    return 0


def record_with_bar(
    console: Console, task: Task, transitions: int, seed: int, workers: int | None
) -> tuple[Dataset, bool]:
    """`recorded_dataset` under a progress bar; also whether it was in the cache already."""
    was_cached = True
    columns = (
        TextColumn("recording {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(task.name, total=transitions, visible=False)

        def progress(done: int, total: int) -> None:
            nonlocal was_cached
            was_cached = False
            bars.update(bar, completed=done, total=total, visible=True)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dataset = recorded_dataset(task, transitions, seed, workers, progress)
    for warning in caught:
        console.print(f"warning: {warning.message}", markup=False, style="yellow", soft_wrap=True)
    return dataset, was_cached


class _Speed(ProgressColumn):
    """Steps per second of late."""

    def render(self, task: Bar) -> Text:
        return Text(f"{task.speed:,.0f} steps/s" if task.speed else "")
