"""HDF5 files, read so that nothing outside them is touched."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spaars.data.memory import aligned_empty
from spaars.data.sources.assemble import PIECE
from spaars.data.sources.safety import check_dtype, check_size, one_line
from spaars.errors import DataError

DEPTH = 8
"""Levels of groups below which no array is looked for; a group may contain itself."""
MAX_NAMES = 10_000


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, read-only; whatever the library makes of damage becomes a DataError."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        # h5py's words may run over several lines and end in its own call stack.
        raise DataError(
            f"{path}: not a whole HDF5 file ({one_line(error)}). "
            "Download or copy it again; `h5ls` shows what it holds."
        ) from error


def names_in(group: Any) -> list[str]:
    """Names of what is no group, `a/b` for those in groups. Links are listed, not followed."""
    import h5py

    names: list[str] = []
    todo = [("", group, 0)]
    while todo and len(names) < MAX_NAMES:
        prefix, parent, depth = todo.pop()
        for name in parent:
            hard = isinstance(parent.get(name, getlink=True), h5py.HardLink)
            if hard and depth < DEPTH and parent.get(name, getclass=True) is h5py.Group:
                if len(todo) < MAX_NAMES:
                    todo.append((f"{prefix}{name}/", parent[name], depth + 1))
            else:
                names.append(prefix + name)
    return sorted(names)


def member(path: Path, group: Any, name: str, is_group: bool = False) -> Any:
    """The array (or group) `name` if it is stored in the file itself, and so are its groups."""
    import h5py

    found = group
    for word in name.split("/"):
        link = found.get(word, getlink=True) if isinstance(found, h5py.Group) and word else None
        if link is None:
            raise DataError(f"{path}: no array '{name}'.")
        # A link may point into any other file of this machine.
        if not isinstance(link, h5py.HardLink):
            raise DataError(
                f"{path}: '{name}' is a {type(link).__name__}, and links are not followed. "
                "Copy the dataset itself into the file (h5py: file.copy)."
            )
        found = found[word]
    if is_group:
        if not isinstance(found, h5py.Group):
            raise DataError(f"{path}: '{name}' is no group.")
        return found
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise DataError(f"{path}: '{name}' is no array. Store it as an HDF5 dataset.")
    if found.external is not None or found.is_virtual:
        raise DataError(
            f"{path}: '{name}' is stored in other files, which are not read. "
            "Copy its contents into this file."
        )
    return found


def array(path: Path, group: Any, name: str) -> Any:
    """A numeric dataset of the file, not read yet."""
    found = member(path, group, name)
    check_dtype(path, name, found.dtype)
    return found


def declared(data: Any) -> int:
    """Bytes that reading the dataset takes."""
    # Not data.nbytes, whose product overflows; a chunk is decompressed whole.
    cells = max(math.prod(data.shape), math.prod(data.chunks or (0,)))
    return cells * data.dtype.itemsize


def check_chunks(path: Path, name: str, data: Any) -> None:
    """Whether a piece can be loaded: the file says how wide a row is, and a chunk that is
    decompressed whole."""
    rows = min(PIECE, *data.shape[:1]) if data.ndim else 1
    cells = max(rows * math.prod(data.shape[1:]), math.prod(data.chunks or (0,)))
    check_size(path, {name: cells * data.dtype.itemsize})


def read(data: Any) -> np.ndarray:
    """The whole dataset, to where JAX can take it over."""
    if data.size == 0 or not data.shape:
        return np.asarray(data[()])
    array = aligned_empty(data.shape, data.dtype)
    data.read_direct(array)
    return array
