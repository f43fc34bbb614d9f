"""`spaars data convert SOURCE DESTINATION`, and `... kitchen-demos SOURCE DESTINATION`."""

import dataclasses
import os
from pathlib import Path

import tyro

from spaars.cli.plain import plain_console
from spaars.cli.reading import ReadingArgs, load_with_bar, progress_bar, rules
from spaars.data.sources import (
    Reading,
    check_destination,
    kitchen,
    open_source,
    save,
    save_pieces,
)
from spaars.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(ReadingArgs):
    """Write a dataset so that every command reads it without further flags: as one file, or, where
    it is larger than the memory, as a directory."""

    source: tyro.conf.Positional[str]
    """A file (.hdf5, .h5, .npz), a directory (episodes as .npz, arrays as .npy, LeRobotDataset v3,
    Minari), or minari:ID."""
    destination: tyro.conf.Positional[Path]
    """A name that ends in .npz, or in .hdf5 or .h5 for D4RL's layout; or a name without a suffix,
    for a directory that is written, and later read, piece by piece."""
    overwrite: bool = False
    """Replace the destination if it exists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """Replay human kitchen demonstrations in FrankaKitchen-v1 and write what it makes of them."""

    source: tyro.conf.Positional[Path]
    """An .npz with `ctrl_target` (N, 9), `ep_start` and `ep_len` (E,)."""
    destination: tyro.conf.Positional[Path]
    """A name that ends in .npz; `spaars train kitchen-mixed --dataset` takes it."""
    repeats: int = 8
    """Replays of every demonstration, each with other observation noise."""
    seed: int = 0
    """Another seed is other noise."""
    workers: int = os.cpu_count() or 1
    """Processes that simulate. The data do not depend on it."""
    overwrite: bool = False
    """Replace the destination if it exists."""


def run(argv: list[str]) -> int:
    if argv[:1] == ["kitchen-demos"]:
        return replay(argv[1:])
    args = tyro.cli(Args, args=argv, prog="spaars data convert")
    reading = args.reading()
    check_destination(args.destination, args.overwrite)
    console = plain_console()
    if args.destination.suffix:
        dataset = load_with_bar(console, args.source, reading)
        source = dataset.description.source or dataset.label
        described = dataclasses.replace(dataset.description, source=source)
        dataset = dataclasses.replace(dataset, description=described)
        save(dataset, args.destination)
    else:
        with progress_bar(console, "converting") as progress:
            save_pieces(open_source(args.source, reading, progress), reading, args.destination)
        dataset = load_with_bar(console, str(args.destination), Reading())
    ends = f"{int(dataset.terminated.sum()):,} terminated, {int(dataset.truncated.sum()):,} cut"
    facts = {
        "from": dataset.description.source,
        "wrote": str(args.destination),
        "rows": f"{len(dataset):,}",
        "episodes": f"{len(dataset.episodes()):,} ({ends})",
        **rules(dataset.description),
        "sha256": dataset.sha256,
    }
    for name, fact in facts.items():
        console.print(f"{name:14}{fact}", soft_wrap=True)
    return 0


def replay(argv: list[str]) -> int:
    args = tyro.cli(DemoArgs, args=argv, prog="spaars data convert kitchen-demos")
    check_destination(args.destination, args.overwrite)
    if args.destination.suffix.lower() != ".npz":
        raise ConfigError(f"{args.destination}: replays are written as .npz; name it so.")
    if args.repeats < 1:
        raise ConfigError(f"--repeats must be at least 1, got {args.repeats}.")
    if args.seed < 0:
        raise ConfigError(f"--seed must be at least 0, got {args.seed}.")
    console = plain_console()
    with progress_bar(console, "replaying demonstrations") as progress:
        facts = kitchen.replay_demonstrations(
            args.source,
            args.destination,
            repeats=args.repeats,
            seed=args.seed,
            workers=args.workers,
            progress=progress,
        )
    episodes, steps = facts.pop("episodes"), facts.pop("steps")
    console.print(f"{episodes} episodes, {steps:,} steps: {args.destination}")
    for name, completed in facts.items():
        console.print(f"  {name:15}completed in {completed} of {episodes}")
    return 0
