"""npz: numpy's archives of arrays by name."""

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spaars.data.dataset import Dataset
from spaars.data.memory import aligned
from spaars.data.sources.assemble import (
    DESCRIPTION,
    Columns,
    build,
    choose,
    completed,
    gather,
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


def claims(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def load(path: Path, reading: Reading, progress: Progress | None = None) -> Dataset:
    """Arrays observations, actions, rewards, next_observations, terminated, truncated.

    `terminals` and `timeouts` are accepted for the flags.
    """
    columns, description = read(regular_file(path), reading, NAMES.keys() - {"rewards"})
    stored = stored_description(path, description)
    checked = completed(columns, reading)
    return build(f"{path.name} (npz file)", columns, checked, reading, stored)


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
    except (
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
    ) as error:
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
            arrays[name] = aligned(np.lib.format.read_array(member, allow_pickle=False))
    return arrays


def _npy_size(path: Path, key: str, member: Any) -> int:
    """Bytes that the header of one array declares; its contents are not read."""
    version = np.lib.format.read_magic(member)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"'{key}' has npy format {version}, which no plain array needs")
    shape, _, dtype = readers[version](member)
    check_dtype(path, key, dtype)
    if any(n < 0 for n in shape):
        raise ValueError(f"'{key}' declares shape {shape}")
    return math.prod(shape) * dtype.itemsize
