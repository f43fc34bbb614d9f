"""Datasets as files: whole, or not there at all."""

from pathlib import Path
from typing import Any

import numpy as np

from spaars.data.dataset import Dataset
from spaars.data.description import Description
from spaars.data.files import atomic_write
from spaars.data.sources.assemble import DESCRIPTION
from spaars.data.sources.d4rl import NAMES
from spaars.errors import ConfigError

SUFFIXES = (".npz", ".hdf5", ".h5")


def check_destination(path: Path, overwrite: bool) -> None:
    """Raises ConfigError unless `save` may write there."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: the name must end in {', '.join(SUFFIXES)}.")
    if path.is_dir():
        raise ConfigError(f"{path} is a directory. Choose the name of a file.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists. Choose another name, or say --overwrite.")


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
    return {DESCRIPTION: np.frombuffer(dataset.description.to_json().encode(), np.uint8)}
