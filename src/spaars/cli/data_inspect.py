"""`spaars data inspect SOURCE|TASK`."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spaars.cli.data_make import record_with_bar
from spaars.cli.reading import ReadingArgs, load_with_bar, rules
from spaars.data.dataset import Dataset
from spaars.data.inspect import describe, problems
from spaars.data.sources import Reading, exists, load_dataset
from spaars.errors import ConfigError, unknown_name
from spaars.tasks import Task, get_task, task_names

DIMENSIONS_SHOWN = 24
BARS = 12
BAR_WIDTH = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(ReadingArgs):
    """Show what is in a dataset, and what is wrong with it."""

    source: tyro.conf.Positional[str]
    """A file (.hdf5, .h5, .npz), a directory (episodes as .npz, arrays as .npy, LeRobotDataset
    v3, Minari), minari:ID, or a task name for its embedded dataset."""
    task: str | None = None
    """Read the source as `spaars train TASK --dataset` does; kitchen replays need it."""
    transitions: int = 1_000_000
    """Size of the embedded dataset; it is recorded if the cache has none of that size."""
    seed: int = 0
    """Seed of the embedded dataset."""
    all_dimensions: bool = False
    """Show every dimension of long observations too."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars data inspect")
    console = Console(emoji=False)
    dataset, task = _open(args, console)
    facts = describe(dataset, task)
    _summary(console, facts, rules(dataset.description))
    _episodes(console, facts)
    _histogram(console, dataset, task)
    _dimensions(console, "observations", facts["observations"], args.all_dimensions)
    _dimensions(console, "actions", facts["actions"], args.all_dimensions)
    _problems(console, problems(dataset))
    return 0


def _open(args: Args, console: Console) -> tuple[Dataset, Task | None]:
    reading = args.reading()
    if exists(Path(args.source)) and args.task is not None:
        if reading != Reading():
            raise ConfigError(
                "--task reads a file as training does, without --columns, --rewards, --action-low "
                "and --action-high. Give the one or the others."
            )
        task = get_task(args.task)
        # A training return that is not evaluation's has no score.
        return load_dataset(task, args.source, 0), None if task.training_kwargs else task
    if exists(Path(args.source)):
        return load_with_bar(console, args.source, reading), None
    if args.source not in task_names():
        unknown = unknown_name("task", args.source, task_names())
        raise ConfigError(f"no file is called '{args.source}', nor a task: {unknown}")
    if reading != Reading():
        raise ConfigError(
            "--columns, --rewards, --action-low and --action-high are for files; the embedded "
            f"dataset of {args.source} needs none. Leave them out."
        )
    task = get_task(args.source)
    return record_with_bar(console, task, args.transitions, args.seed, None)[0], task


def _summary(console: Console, facts: dict[str, Any], made: dict[str, str]) -> None:
    rewards, constant = facts["rewards"], len(facts["constant_dimensions"])
    lines = {
        "transitions": f"{facts['transitions']:,}",
        "episodes": f"{facts['episodes']:,}  ({facts['terminated']:,} terminated, "
        f"{facts['truncated']:,} truncated)",
        "observations": f"{facts['observation_dim']} dimensions, {constant} constant, effectively "
        f"{facts['effective_dimensions']:.1f}",
        "actions": f"{facts['action_dim']} dimensions, {facts['actions_at_bounds']:.1%} at bounds",
        "rewards": f"{rewards['min']:.4g} to {rewards['max']:.4g}, mean {rewards['mean']:.4g}, "
        f"{rewards['nonzero_fraction']:.1%} not zero",
        "duplicates": f"{facts['duplicates']:,}",
        "sha256": facts["sha256"],
    }
    console.print(f"\n[bold]{escape(facts['label'])}[/bold]")
    table = Table.grid(padding=(0, 2))
    for name, line in lines.items():
        table.add_row(f"[dim]{name}[/dim]", line)
    for name, rule in made.items():
        table.add_row(f"[dim]{name} from[/dim]", escape(rule))
    console.print(table)


def _episodes(console: Console, facts: dict[str, Any]) -> None:
    rows = {"length": "lengths", "return": "returns", "score": "scores"}
    rows = {name: key for name, key in rows.items() if key in facts}
    table = Table(title="Episodes", title_justify="left")
    table.add_column("")
    for column in facts["returns"]:
        table.add_column(column, justify="right")
    for name, key in rows.items():
        table.add_row(name, *(f"{value:,.1f}" for value in facts[key].values()))
    console.print(table)


def _histogram(console: Console, dataset: Dataset, task: Task | None) -> None:
    returns = dataset.episode_returns()
    values, name = (returns, "return") if task is None else (task.score(returns), "score")
    if np.ptp(values) == 0.0:
        return
    counts, edges = np.histogram(values, BARS)
    table = Table.grid(padding=(0, 1))
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        # A bar for every episode, however rare: outliers are what one looks for.
        bar = "█" * int(np.ceil(BAR_WIDTH * count / counts.max()))
        table.add_row(f"{low:,.1f}", "to", f"{high:,.1f}", f"[cyan]{bar}[/cyan] {count:,}")
    for column in (0, 2):
        table.columns[column].justify = "right"
    console.print(f"[italic]Episodes by {name}[/italic]")
    console.print(table)


def _dimensions(
    console: Console, title: str, columns: dict[str, list[float]], all_dimensions: bool
) -> None:
    table = Table(title=title.capitalize(), title_justify="left")
    table.add_column("dim", justify="right")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    rows = list(zip(*columns.values(), strict=True))
    shown = len(rows) if all_dimensions else min(len(rows), DIMENSIONS_SHOWN)
    for i, row in enumerate(rows[:shown]):
        numbers = [
            f"{value:.1%}" if name == "at_bounds" else f"{value:.4g}"
            for name, value in zip(columns, row, strict=True)
        ]
        table.add_row(str(i), *numbers)
    console.print(table)
    if shown < len(rows):
        console.print(f"[dim]and {len(rows) - shown} more: --all-dimensions shows them[/dim]")


def _problems(console: Console, found: list[str]) -> None:
    if not found:
        console.print("[green]No problems found.[/green]")
        return
    console.print(f"[yellow]To look at before training ({len(found)})[/yellow]")
    table = Table.grid(padding=(0, 1))
    for number, problem in enumerate(found, 1):
        table.add_row(f"[yellow]{number}[/yellow]", escape(problem))
    console.print(table)
