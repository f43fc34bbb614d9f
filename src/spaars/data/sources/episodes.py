"""A directory with one npz for each episode, as a logger writes them."""

from pathlib import Path

from spaars.data.dataset import Dataset
from spaars.data.sources import npz
from spaars.data.sources.assemble import Episodes
from spaars.data.sources.reading import Progress, Reading
from spaars.data.sources.safety import files_in


def claims(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.npz"))


def load(path: Path, reading: Reading, progress: Progress | None = None) -> Dataset:
    """Every `*.npz` of the directory is an episode, in the order of their names.

    The arrays are those of a single npz; `next_observations` and the flags may lack. The end of a
    file ends the episode: by a time limit, unless `terminated` says otherwise. Without
    `next_observations` they are the following rows' (`assemble.episode`).
    """
    files = files_in(path, "*.npz")
    episodes = Episodes(path)
    for i, file in enumerate(files, 1):
        columns, _ = npz.read(file, reading, ("observations", "actions"))
        episodes.add(columns, reading)
        if progress is not None:
            progress(i, len(files))
    return episodes.build(f"{path.resolve().name} ({len(files)} npz episodes)", reading)
