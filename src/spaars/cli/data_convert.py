"""`spaars data convert SOURCE DESTINATION`."""

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console

from spaars.cli.reading import ReadingArgs, load_with_bar, rules
from spaars.data.sources import check_destination, save


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(ReadingArgs):
    """Write a dataset as one file that every command reads without further flags."""

    source: tyro.conf.Positional[str]
    """A file (.hdf5, .h5, .npz), a directory (episodes as .npz, LeRobotDataset v3, Minari), or
    minari:ID."""
    destination: tyro.conf.Positional[Path]
    """A name that ends in .npz, or in .hdf5 or .h5 for D4RL's layout."""
    overwrite: bool = False
    """Replace the destination if it exists."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars data convert")
    reading = args.reading()
    check_destination(args.destination, args.overwrite)
    console = Console()
    dataset = load_with_bar(console, args.source, reading)
    dataset = dataclasses.replace(
        dataset,
        description=dataclasses.replace(
            dataset.description, source=dataset.description.source or dataset.label
        ),
    )
    save(dataset, args.destination)
    ends = f"{int(dataset.terminated.sum()):,} terminated, {int(dataset.truncated.sum()):,} cut"
    facts = {
        "from": dataset.label,
        "wrote": str(args.destination),
        "rows": f"{len(dataset):,}",
        "episodes": f"{len(dataset.episodes()):,} ({ends})",
        **rules(dataset.description),
        "sha256": dataset.sha256,
    }
    for name, fact in facts.items():
        console.print(f"{name:14}{fact}", markup=False, highlight=False, soft_wrap=True)
    return 0
