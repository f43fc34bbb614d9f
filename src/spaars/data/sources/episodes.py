"""A directory with one npz for each episode, as a logger writes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from spaars.data.sources import npz
from spaars.data.sources.assemble import Piece, Source, episode
from spaars.data.sources.reading import Progress, Reading
from spaars.data.sources.safety import files_in


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
    return Source(where=path, label=label, pieces=_pieces(files, reading, progress))


def _pieces(files: Sequence[Path], reading: Reading, progress: Progress | None) -> Iterator[Piece]:
    for i, file in enumerate(files, 1):
        columns, _ = npz.read(file, reading, ("observations", "actions"))
        yield Piece(columns, episode(columns, reading))
        if progress is not None:
            progress(i, len(files))
