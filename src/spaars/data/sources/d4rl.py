"""D4RL's HDF5 files: flat arrays of all episodes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spaars.data.dataset import Dataset, same_rows
from spaars.data.sources import hdf5
from spaars.data.sources.assemble import (
    DESCRIPTION,
    Piece,
    Source,
    build,
    choose,
    completed,
    flat_piece,
    follow,
    gather,
    slices,
    stored_description,
)
from spaars.data.sources.reading import Progress, Reading
from spaars.data.sources.safety import check_size, regular_file

NAMES = {
    "observations": ("observations",),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "terminated": ("terminals",),
    "truncated": ("timeouts",),
    "next_observations": ("next_observations",),
}


def claims(path: Path) -> bool:
    return path.suffix.lower() in (".hdf5", ".h5")


def load(path: Path, reading: Reading, progress: Progress | None = None) -> Dataset:
    """observations, actions, rewards, terminals; timeouts and next_observations may lack.

    Without `next_observations` the next observation is the following row's (`follow`). Without
    `timeouts` only terminals end episodes; time limits that a file does not state are not guessed.
    """
    with hdf5.opened(regular_file(path)) as file:
        chosen, found = _found(path, file, reading)
        sizes = {name: hdf5.declared(data) for name, data in found.items()}
        if "next_observations" not in chosen:
            sizes["next_observations"] = sum(sizes[name] for name in chosen["observations"])
        check_size(path, sizes)
        arrays = {}
        for i, (name, data) in enumerate(found.items(), 1):
            arrays[name] = hdf5.read(data)
            if progress is not None:
                progress(i, len(found))
    stored = stored_description(path, arrays.pop(DESCRIPTION, None))
    columns = gather(path, chosen, arrays)
    # Checked before rows are dropped, so that errors name the file's own rows.
    checked = completed(columns, reading)
    if "next_observations" not in checked:
        checked = follow(checked)
    return build(_label(path), columns, checked, reading, stored)


def stream(path: Path, reading: Reading, progress: Progress | None = None) -> Source:
    """The same rows, read piece by piece."""
    with hdf5.opened(regular_file(path)) as file:
        _, found = _found(path, file, reading)
        stored = None
        if DESCRIPTION in found:
            check_size(path, {DESCRIPTION: hdf5.declared(found[DESCRIPTION])})
            stored = stored_description(path, hdf5.read(found[DESCRIPTION]))
    return Source(
        where=path, label=_label(path), pieces=_pieces(path, reading, progress), stored=stored
    )


def _pieces(path: Path, reading: Reading, progress: Progress | None) -> Iterator[Piece]:
    with hdf5.opened(path) as file:
        chosen, found = _found(path, file, reading)
        found.pop(DESCRIPTION, None)
        for name, data in found.items():
            hdf5.check_chunks(path, name, data)
        rows = same_rows(
            path, {name: len(data) if data.ndim else 1 for name, data in found.items()}
        )
        for part, goes_on in slices(rows, lookahead="next_observations" not in chosen):
            where = f"{path}: from row {part.start:,}" if part.start else path
            # A scalar is read whole: the check of its shape tells what is wrong with it.
            arrays = {n: np.asarray(data[part if data.ndim else ()]) for n, data in found.items()}
            yield flat_piece(where, chosen, arrays, reading, goes_on=goes_on)
            if progress is not None:
                progress(part.stop, rows)


def _found(
    path: Path, file: Any, reading: Reading
) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    """The columns of each of our arrays, and the file's datasets, not read yet."""
    names = hdf5.names_in(file)
    required = ("observations", "actions", "terminated")
    chosen = choose(path, NAMES, names, required, reading)
    wanted = {name for columns in chosen.values() for name in columns}
    if DESCRIPTION in names:
        wanted.add(DESCRIPTION)
    return chosen, {name: hdf5.array(path, file, name) for name in sorted(wanted)}


def _label(path: Path) -> str:
    return f"{path.name} (D4RL file)"
