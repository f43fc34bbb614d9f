"""A directory of .npy files, one for each array: what is larger than the memory stays on the disk.

`spaars data convert SOURCE DIRECTORY` writes one piece by piece; `numpy.save` and
`numpy.lib.format.open_memmap` write the same files.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from spaars.data.dataset import FLAGS, Dataset
from spaars.data.description import Description
from spaars.data.memory import aligned_copy
from spaars.data.sources.assemble import (
    DESCRIPTION,
    Piece,
    Source,
    build,
    choose,
    completed,
    gather,
    stored_description,
)
from spaars.data.sources.npz import DAMAGE, NAMES, RowsOf, flat_pieces, read_header
from spaars.data.sources.reading import Progress, Reading
from spaars.data.sources.safety import files_in, fits, one_line
from spaars.errors import DataError

SUFFIX = ".npy"


def claims(path: Path) -> bool:
    return path.is_dir() and any(path.glob(f"*{SUFFIX}")) and not any(path.glob("*.npz"))


def load(path: Path, reading: Reading, progress: Progress | None = None) -> Dataset:
    """The arrays of `spaars.data.sources.npz`, each in a file of its own.

    They are read if the memory has room for them, and otherwise mapped: rows come from the disk
    when they are used, and the system may forget them again.
    """
    files = _files(path)
    chosen = choose(path, NAMES, files, NAMES.keys() - {"rewards"}, reading)
    wanted = {name: files[name] for names in chosen.values() for name in names}
    arrays = {}
    with _refused(path):
        for i, (name, file) in enumerate(wanted.items(), 1):
            with file.open("rb") as handle:
                read_header(path, name, handle)
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
            if progress is not None:
                progress(i, len(wanted))
        if fits({name: array.nbytes for name, array in arrays.items()}):
            arrays = {name: aligned_copy(array) for name, array in arrays.items()}
        else:
            _check_mappable(path, chosen, arrays, reading)
    columns = gather(path, chosen, arrays)
    return build(_label(path), columns, completed(columns, reading), reading, _stored(path, files))


def stream(path: Path, reading: Reading, progress: Progress | None = None) -> Source:
    """The same rows, read piece by piece."""
    stored = _stored(path, _files(path))
    pieces = _pieces(path, reading, progress)
    return Source(where=path, label=_label(path), pieces=pieces, stored=stored)


def _pieces(path: Path, reading: Reading, progress: Progress | None) -> Iterator[Piece]:
    files = _files(path)
    chosen = choose(path, NAMES, files, NAMES.keys() - {"rewards"}, reading)
    with _refused(path), contextlib.ExitStack() as stack:
        rows = {
            name: RowsOf(path, name, stack.enter_context(files[name].open("rb")))
            for names in chosen.values()
            for name in names
        }
        yield from flat_pieces(path, chosen, rows, reading, progress)


def _files(path: Path) -> dict[str, Path]:
    return {file.stem: file for file in files_in(path, f"*{SUFFIX}")}


def _stored(path: Path, files: Mapping[str, Path]) -> Description | None:
    if DESCRIPTION not in files:
        return None
    with _refused(path), files[DESCRIPTION].open("rb") as file:
        rows = RowsOf(path, DESCRIPTION, file)
        return stored_description(path, rows.read(rows.rows))


def _check_mappable(
    path: Path,
    chosen: Mapping[str, tuple[str, ...]],
    arrays: Mapping[str, np.ndarray],
    reading: Reading,
) -> None:
    """Whether the arrays can be used as they lie on the disk."""
    plain = reading.rewards == "recorded" and not reading.action_low
    for ours, names in chosen.items():
        dtype = np.bool_ if ours in FLAGS else np.float32
        stored = arrays[names[0]]
        plain &= len(names) == 1 and stored.dtype == dtype and stored.flags.c_contiguous
    if not plain:
        raise DataError(
            f"{path}: is larger than what this machine can load, and can be read from the disk "
            "only as plain float32 and bool arrays, a file for each of ours. `spaars data convert "
            "DIRECTORY ANOTHER` writes them so, piece by piece."
        )


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file becomes a DataError."""
    try:
        yield
    except DAMAGE as error:
        raise DataError(
            f"{path}: not whole .npy files ({one_line(error)}). Write them again with numpy.save."
        ) from error


def _label(path: Path) -> str:
    return f"{path.resolve().name} (npy directory)"
