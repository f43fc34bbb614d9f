"""Datasets as files: whole, or not there at all."""

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spaars.data.dataset import Dataset, check_description
from spaars.data.description import Description
from spaars.data.files import atomic_directory, atomic_write
from spaars.data.sources import npy
from spaars.data.sources.assemble import DESCRIPTION, Source, alike, described
from spaars.data.sources.d4rl import NAMES
from spaars.data.sources.reading import Reading
from spaars.errors import ConfigError, DataError

SUFFIXES = (".npz", ".hdf5", ".h5")
SPARE = 2**30
"""Bytes that are left on a disk."""


def check_destination(path: Path, overwrite: bool) -> None:
    """Raises ConfigError unless `save`, or `save_pieces` for a name without a suffix, may write
    there."""
    if not path.suffix:
        if path.exists() and not npy.claims(path):
            raise ConfigError(
                f"{path} exists and is no directory of .npy files. Choose another name."
            )
    elif path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{path}: the name must end in {', '.join(SUFFIXES)}, or have no suffix for a "
            "directory of .npy files."
        )
    elif path.is_dir():
        raise ConfigError(f"{path} is a directory. Choose the name of a file.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists. Choose another name, or say --overwrite.")


def save_pieces(source: Source, reading: Reading, path: Path) -> None:
    """Write a source as a directory of .npy files, one piece after the other; all or nothing.

    Raises:
        DataError: the source is not sound, or the disk has no room for it.
        OSError: the directory cannot be written.
    """
    with atomic_directory(path) as folder, contextlib.ExitStack() as stack:
        files: dict[str, _Growing] = {}
        description = None
        for piece in alike(source.where, source.pieces):
            if description is None:
                description = described(piece.columns, reading, source.stored)
                check_description(description, piece.arrays, str(source.where))
            size = sum(array.nbytes for array in piece.arrays.values())
            if shutil.disk_usage(folder).free < size + SPARE:
                raise DataError(
                    f"{source.where}: its arrays do not fit beside {path}, where less than "
                    f"{SPARE / 2**30:g} GiB would be left. Free some, or write to another disk."
                )
            for name, array in piece.arrays.items():
                if name not in files:
                    files[name] = stack.enter_context(_Growing(folder / f"{name}.npy", array))
                files[name].append(array)
        assert description is not None, "`alike` refuses a source without pieces"
        description = replace(description, source=description.source or source.label)
        np.save(folder / f"{DESCRIPTION}.npy", _bytes(description))


class _Growing:
    """An .npy file whose rows are counted when it is closed."""

    def __init__(self, path: Path, like: np.ndarray):
        self.file, self.dtype, self.shape = path.open("x+b"), like.dtype, like.shape[1:]
        self.rows = 0
        self._write_header()

    def __enter__(self) -> "_Growing":
        return self

    def __exit__(self, *_: object) -> None:
        with self.file:
            self.file.seek(0)
            self._write_header()  # numpy leaves room for the number of rows
            self.file.flush()
            os.fsync(self.file.fileno())

    def append(self, array: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(array, self.dtype).reshape(-1).view(np.uint8).data)
        self.rows += len(array)

    def _write_header(self) -> None:
        descr = np.lib.format.dtype_to_descr(self.dtype)
        facts = {"descr": descr, "fortran_order": False, "shape": (self.rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, facts)


def save(dataset: Dataset, path: Path) -> None:
    """Write .npz, or .hdf5 in D4RL's layout, so that `load_file` reads the same content."""
    if path.suffix.lower() == ".npz":
        save_npz(dataset, path)
    else:
        save_hdf5(dataset, path)


def save_npz(dataset: Dataset, path: Path) -> None:
    """Write a dataset so that `load_file` reads the same content; whole or not at all."""
    arrays: dict[str, Any] = dataset.arrays | _described(dataset)
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def save_hdf5(dataset: Dataset, path: Path) -> None:
    """D4RL's layout, with next_observations and timeouts, so that no row is lost in reading it."""
    import h5py

    arrays = {NAMES[name][0]: array for name, array in dataset.arrays.items()}
    with atomic_write(path) as handle, h5py.File(handle, "w") as file:
        for name, array in (arrays | _described(dataset)).items():
            file.create_dataset(name, data=array)


def _described(dataset: Dataset) -> dict[str, np.ndarray]:
    if dataset.description == Description():
        return {}
    return {DESCRIPTION: _bytes(dataset.description)}


def _bytes(description: Description) -> np.ndarray:
    return np.frombuffer(description.to_json().encode(), np.uint8)
