"""npz: numpy's archives of arrays by name."""

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spaars.data.dataset import Dataset, same_rows
from spaars.data.memory import aligned_empty
from spaars.data.sources.assemble import (
    DESCRIPTION,
    PIECE,
    Columns,
    Piece,
    Source,
    build,
    choose,
    completed,
    flat_piece,
    gather,
    slices,
    stored_description,
)
from spaars.data.sources.reading import Progress, Reading
from spaars.data.sources.safety import check_dtype, check_size, missing, one_line, regular_file
from spaars.errors import DataError

NAMES = {
    "observations": ("observations",),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "next_observations": ("next_observations",),
    "terminated": ("terminated", "terminals"),
    "truncated": ("truncated", "timeouts"),
}
"""Names under which an npz may hold each array, ours first."""


AT_ONCE = 1 << 20
"""Bytes of an array that are decompressed at a time."""
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,  # encrypted, or a header nested too deep
    NotImplementedError,
    KeyError,
    ValueError,
    SyntaxError,
    tokenize.TokenError,  # both from a header that numpy takes for Python 2
    MemoryError,
)
"""What the libraries make of files that are not whole."""


def claims(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def load(path: Path, reading: Reading, progress: Progress | None = None) -> Dataset:
    """Arrays observations, actions, rewards, next_observations, terminated, truncated.

    `terminals` and `timeouts` are accepted for the flags.
    """
    columns, description = read(regular_file(path), reading, NAMES.keys() - {"rewards"})
    stored = stored_description(path, description)
    checked = completed(columns, reading)
    return build(_label(path), columns, checked, reading, stored)


def stream(path: Path, reading: Reading, progress: Progress | None = None) -> Source:
    """The same rows, read piece by piece."""
    stored = stored_description(path, description_in(path))
    pieces = _pieces(path, reading, progress)
    return Source(where=path, label=_label(path), pieces=pieces, stored=stored)


def _pieces(path: Path, reading: Reading, progress: Progress | None) -> Iterator[Piece]:
    with _opened(path) as (file, members), contextlib.ExitStack() as stack:
        chosen = choose(path, NAMES, members, NAMES.keys() - {"rewards"}, reading)
        wanted = sorted({name for columns in chosen.values() for name in columns})
        rows = {}
        for name in wanted:
            if name not in members:
                raise missing(path, name, members)
            rows[name] = RowsOf(path, name, stack.enter_context(file.open(members[name])))
        yield from flat_pieces(path, chosen, rows, reading, progress)


def read(
    path: Path, reading: Reading, required: Collection[str]
) -> tuple[Columns, np.ndarray | None]:
    """The arrays of one file as they are, and its description if we wrote it."""
    with _opened(path) as (file, members):
        chosen = choose(path, NAMES, members, required, reading)
        wanted = {name for columns in chosen.values() for name in columns}
        if DESCRIPTION in members:
            wanted.add(DESCRIPTION)
        arrays = _read(path, file, members, sorted(wanted))
    description = arrays.pop(DESCRIPTION, None)
    return gather(path, chosen, arrays), description


def description_in(path: Path) -> np.ndarray | None:
    """What we wrote into the file about it; None where we did not."""
    with _opened(regular_file(path)) as (file, members):
        if DESCRIPTION not in members:
            return None
        return _read(path, file, members, (DESCRIPTION,))[DESCRIPTION]


def names_in(path: Path) -> set[str]:
    """Names of the arrays in a file."""
    with _opened(regular_file(path)) as (_, members):
        return set(members)


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """These arrays of a file. Raises DataError if one is missing."""
    with _opened(regular_file(path)) as (file, members):
        return _read(path, file, members, names)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, str]]]:
    """The file and its members by array name; whatever is wrong with it becomes a DataError."""
    try:
        with zipfile.ZipFile(path) as file:
            yield file, {name.removesuffix(".npy"): name for name in file.namelist()}
    except DAMAGE as error:
        raise DataError(
            f"{path}: not a whole npz file ({one_line(error)}). "
            "Write it again with numpy.savez; `unzip -t` tests it."
        ) from error


def _read(
    path: Path, file: zipfile.ZipFile, members: Mapping[str, str], names: Iterable[str]
) -> dict[str, np.ndarray]:
    sizes = {}
    for name in names:
        if name not in members:
            raise missing(path, name, members)
        with file.open(members[name]) as member:
            sizes[name] = _npy_size(path, name, member)
    check_size(path, sizes)
    arrays = {}
    for name in sizes:
        with file.open(members[name]) as member:
            arrays[name] = _array(read_header(path, name, member), member)
    return arrays


def _npy_size(path: Path, key: str, member: Any) -> int:
    """Bytes that the header of one array declares; its contents are not read."""
    header = read_header(path, key, member)
    return math.prod(header.shape) * header.dtype.itemsize


class Header(NamedTuple):
    """What an .npy says of its array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def _array(header: Header, member: Any) -> np.ndarray:
    """What follows the header, read to where JAX can take it over."""
    shape = header.shape[::-1] if header.fortran_order else header.shape
    array = aligned_empty(shape, header.dtype)
    left = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
    while left:
        if not (found := member.read(min(len(left), AT_ONCE))):
            raise ValueError(f"an array ends {len(left)} bytes too soon")
        left[: len(found)] = found
        left = left[len(found) :]
    member.read(1)  # at its end the archive compares the checksum
    return array.T if header.fortran_order else array


def read_header(path: Path, key: str, member: Any) -> Header:
    """Read the header of one array, which must be of numbers. Raises ValueError, DataError."""
    version = np.lib.format.read_magic(member)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"'{key}' has npy format {version}, which no plain array needs")
    header = Header(*readers[version](member))
    check_dtype(path, key, header.dtype)
    if any(n < 0 for n in header.shape):
        raise ValueError(f"'{key}' declares shape {header.shape}")
    return header


class RowsOf:
    """The array of one .npy, read from its first row on."""

    def __init__(self, path: Path, key: str, file: Any):
        self.header, self.file = read_header(path, key, file), file
        shape = self.header.shape
        if self.header.fortran_order and len(shape) > 1:
            raise DataError(
                f"{path}: '{key}' is stored column by column (Fortran order) and cannot be read "
                "piece by piece. Write it with numpy.ascontiguousarray."
            )
        self.rows = shape[0] if shape else 1
        self._row_size = math.prod(shape[1:]) * self.header.dtype.itemsize
        check_size(path, {key: min(self.rows, PIECE) * self._row_size})

    def read(self, rows: int) -> np.ndarray:
        """The next rows; a scalar for a scalar."""
        shape = (rows, *self.header.shape[1:]) if self.header.shape else ()
        size = rows * self._row_size
        data = self.file.read(size)
        if len(data) != size:
            raise ValueError(f"an array ends after {len(data)} of {size} bytes")
        return np.frombuffer(data, self.header.dtype).reshape(shape)


def flat_pieces(
    path: Path,
    chosen: Mapping[str, Sequence[str]],
    columns: Mapping[str, RowsOf],
    reading: Reading,
    progress: Progress | None,
) -> Iterator[Piece]:
    """Pieces of arrays that have one row for each transition, next observations among them."""
    rows = same_rows(path, {name: column.rows for name, column in columns.items()})
    for part, _ in slices(rows, lookahead=False):
        where = f"{path}: from row {part.start:,}" if part.start else path
        arrays = {name: column.read(part.stop - part.start) for name, column in columns.items()}
        yield flat_piece(where, chosen, arrays, reading, goes_on=False)
        if progress is not None:
            progress(part.stop, rows)


def _label(path: Path) -> str:
    return f"{path.name} (npz file)"
