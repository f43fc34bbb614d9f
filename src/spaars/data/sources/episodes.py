"""A directory with one npz for each episode, as a logger writes them."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from spaars.data.description import Description
from spaars.data.sources import npz
from spaars.data.sources.assemble import Piece, Source, episode, stored_description
from spaars.data.sources.reading import Progress, Reading
from spaars.data.sources.safety import files_in
from spaars.errors import DataError


def claims(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.npz"))


def stream(path: Path, reading: Reading, progress: Progress | None = None) -> Source:
    """Every `*.npz` of the directory is an episode, in the order of their names.

    The arrays are those of a single npz; `next_observations` and the flags may lack. The end of a
    file ends the episode: by a time limit, unless `terminated` says otherwise. Without
    `next_observations` they are the following rows' (`assemble.episode`).
    """
    files = files_in(path, "*.npz")
    label = f"{path.resolve().name} ({len(files)} npz episodes)"
    stored = _description(files[0], npz.description_in(files[0]))
    pieces = _pieces(files, stored, reading, progress)
    return Source(where=path, label=label, pieces=pieces, stored=stored)


def _description(file: Path, array: np.ndarray | None) -> Description | None:
    """What `spaars data convert` wrote into a file; they may be of several sources."""
    stored = stored_description(file, array)
    return stored and dataclasses.replace(stored, source="")


def _pieces(
    files: Sequence[Path],
    stored: Description | None,
    reading: Reading,
    progress: Progress | None,
) -> Iterator[Piece]:
    for i, file in enumerate(files, 1):
        columns, array = npz.read(file, reading, ("observations", "actions"))
        if _description(file, array) != stored:
            raise DataError(
                f"{file}: was converted otherwise than {files[0]}, or one of them was not. Convert "
                "all episodes alike, or the directory as a whole."
            )
        yield Piece(columns, episode(columns, reading))
        if progress is not None:
            progress(i, len(files))
