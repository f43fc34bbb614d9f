"""Minari datasets in HDF5, from a directory or by their id.

The files are read here and not by the `minari` library, which would make the environment that the
metadata name. What is relied on (Minari 0.4 and 0.5, data format "hdf5"):

    [data/]metadata.json      dataset_id, total_episodes, total_steps, data_format
    [data/]main_data.hdf5     a group episode_0, episode_1, ... for each episode of n steps
      observations            (n + 1, dim), or a group of such arrays, nested for nested dicts
      actions                 (n, dim), or a group
      rewards, terminations, truncations    (n,)
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spaars.data.description import plain_name
from spaars.data.sources import hdf5
from spaars.data.sources.assemble import Piece, Source, choose, episode, gather
from spaars.data.sources.reading import Progress, Reading
from spaars.data.sources.safety import (
    check_size,
    needs,
    not_installed,
    one_line,
    read_json,
    regular_file,
)
from spaars.data.sources.vectors import vectors_of
from spaars.errors import DataError

PREFIX = "minari:"
DATA, METADATA = "main_data.hdf5", "metadata.json"
ID = re.compile(r"(?:\w[\w-]*/)*\w[\w-]*-v\d+")
NAMES = {
    "observations": ("observations",),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "terminated": ("terminations",),
    "truncated": ("truncations",),
}


def claims(path: Path) -> bool:
    if str(path).startswith(PREFIX) or path.name == DATA:
        return True
    if any((folder / DATA).exists() for folder in _folders(path)):
        return True
    # Without its data it is broken, or of another of Minari's formats; unless it is a logger's.
    others = path.is_dir() and any((*path.glob("*.np[yz]"), *path.glob("meta/info.json")))
    return not others and any((folder / METADATA).exists() for folder in _folders(path))


def _folders(path: Path) -> tuple[Path, Path]:
    return path / "data", path


def stream(path: Path, reading: Reading, progress: Progress | None = None) -> Source:
    """A dataset's directory, its `main_data.hdf5`, or `minari:ID`.

    Observations and actions that are dicts are joined in the order of their keys' names; those
    that are no vectors (images, texts) are left out with a warning.
    """
    if str(path).startswith(PREFIX):
        path = _local(str(path).removeprefix(PREFIX))
    folder = path.parent if path.name == DATA else path
    folder = next((f for f in _folders(folder) if (f / METADATA).exists()), folder)
    facts = read_json(folder / METADATA, folder)
    stored_as = facts.get("data_format", "hdf5")
    if stored_as != "hdf5":
        raise DataError(
            f"{folder / METADATA}: data_format is {stored_as!r:.40}, and only 'hdf5' is read. "
            "Write the dataset again with Minari's data_format='hdf5'."
        )
    data = regular_file(folder / DATA, folder)
    dataset_id = facts.get("dataset_id")
    name = dataset_id if isinstance(dataset_id, str) and dataset_id else folder.resolve().name
    pieces = _pieces(data, facts, reading, progress)
    return Source(where=data, label=f"{plain_name(name)} (Minari dataset)", pieces=pieces)


def _pieces(
    data: Path, facts: dict[str, Any], reading: Reading, progress: Progress | None
) -> Iterator[Piece]:
    rows = 0
    with hdf5.opened(data) as file:
        numbers = _numbers(data, file, facts)
        columns = _columns(data, file, numbers[0], reading)
        for i, number in enumerate(numbers, 1):
            piece = _episode(data, file, number, columns, reading)
            rows += len(piece.arrays["actions"])
            yield piece
            if progress is not None:
                progress(i, len(numbers))
    steps = facts.get("total_steps")
    if isinstance(steps, int) and steps != rows:
        raise DataError(
            f"{data}: holds {rows:,} steps, {METADATA} says {steps:,}. "
            "Download or copy the dataset again."
        )


def _numbers(data: Path, file: Any, facts: dict[str, Any]) -> list[int]:
    matches = [re.fullmatch(r"episode_(0|[1-9]\d{0,8})", name) for name in file]
    numbers = sorted(int(match[1]) for match in matches if match)
    total = facts.get("total_episodes", len(numbers))
    if not numbers or total != len(numbers):
        raise DataError(
            f"{data}: holds {len(numbers):,} episodes (groups episode_0, episode_1, ...), "
            f"{METADATA} says {total!r:.40}. Download or copy the dataset again."
        )
    return numbers


def _columns(data: Path, file: Any, number: int, reading: Reading) -> Mapping[str, Sequence[str]]:
    """What makes observations and actions, where they are dicts: as the first episode has them."""
    group = hdf5.member(data, file, f"episode_{number}", is_group=True)
    names = hdf5.names_in(group)
    columns = dict(reading.columns)
    for ours in ("observations", "actions"):
        below = [name for name in names if name.startswith(f"{ours}/")]
        if below and ours not in columns:
            columns[ours] = vectors_of(
                data, ours, {name: _shape(data, group, name) for name in below}
            )
    return columns


def _episode(
    data: Path, file: Any, number: int, columns: Mapping[str, Sequence[str]], reading: Reading
) -> Piece:
    where = f"{data}: episode_{number}"
    group = hdf5.member(data, file, f"episode_{number}", is_group=True)
    mapped = dataclasses.replace(reading, columns=columns)
    chosen = choose(where, NAMES, hdf5.names_in(group), ("observations", "actions"), mapped)
    wanted = sorted({name for names in chosen.values() for name in names})
    found = {name: hdf5.array(data, group, name) for name in wanted}
    check_size(where, {name: hdf5.declared(array) for name, array in found.items()})
    arrays = {name: hdf5.read(array) for name, array in found.items()}
    gathered = gather(where, chosen, arrays)
    # As the env's own dict calls them, where they lie below observations/ in the file.
    parts = {
        ours: tuple((name.removeprefix(f"{ours}/"), width) for name, width in parts)
        for ours, parts in gathered.parts.items()
    }
    gathered = dataclasses.replace(gathered, parts=parts)
    before, after = (gathered.arrays[name].shape[:1] for name in ("observations", "actions"))
    if before and after and before[0] != after[0] + 1:
        raise DataError(
            f"{where}: has {before[0]} observations and {after[0]} actions. Minari stores one "
            "observation more than actions; write the episode again."
        )
    return Piece(gathered, episode(gathered, reading))


def _shape(data: Path, group: Any, name: str) -> tuple[int, ...] | None:
    """Of one row; None where it is no array of numbers."""
    array = hdf5.member(data, group, name)
    return array.shape[1:] if array.ndim and array.dtype.kind in "fiub" else None


def _local(dataset_id: str) -> Path:
    """Where Minari keeps the dataset, which is downloaded if it is not there."""
    if not ID.fullmatch(dataset_id):
        raise DataError(
            f"{PREFIX + dataset_id!r} is no Minari id. Ids look like {PREFIX}D4RL/door/human-v2; "
            "`minari list remote` shows them."
        )
    home = os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets"
    path = Path(home) / dataset_id
    if path.exists():
        return path
    what = f"{PREFIX}{dataset_id}: not in {home}, and downloading it"
    minari = needs("minari", "minari", what)
    try:
        minari.download_dataset(dataset_id)
    except ImportError as error:  # Minari imports what the server needs when it needs it
        raise not_installed(what, "minari", error) from error
    except Exception as error:  # whatever a network and three libraries come up with
        raise DataError(
            f"{PREFIX}{dataset_id}: could not be downloaded ({one_line(error)}). "
            f"Check the id and the network, or copy the dataset's directory to {path}."
        ) from error
    if not path.exists():
        raise DataError(f"{PREFIX}{dataset_id}: Minari downloaded it, but not to {path}.")
    return path
