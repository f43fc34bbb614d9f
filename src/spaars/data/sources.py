"""Datasets from files: D4RL's HDF5 and plain npz.

A file is untrusted: nothing is unpickled, no link is followed out of it, and its declared size is
compared with this machine's memory before anything is read.
"""

import contextlib
import difflib
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spaars.data.dataset import Dataset, checked
from spaars.data.files import atomic_write
from spaars.data.recorded import recorded_dataset
from spaars.errors import ConfigError, DataError
from spaars.tasks import Task

NPZ_NAMES = {
    "observations": ("observations",),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "next_observations": ("next_observations",),
    "terminated": ("terminated", "terminals"),
    "truncated": ("truncated", "timeouts"),
}
"""Names under which an npz may hold each array, ours first."""


def load_dataset(
    task: Task | None,
    path: str | Path | None,
    transitions: int,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The file at `path` if one is given, else the task's embedded dataset (`recorded_dataset`).

    `transitions`, `seed`, `workers` and `progress` concern the embedded dataset only.
    """
    if path is not None and task is not None and task.subtasks:
        from spaars.data.kitchen import load_kitchen

        return load_kitchen(Path(path), task.subtasks)
    if path is not None:
        return load_file(path)
    if task is None:
        raise ConfigError("no data: give a task with an embedded dataset or the path of a file.")
    if task.subtasks:
        raise DataError(
            f"{task.name} embeds no data: give a file of demonstrations, --dataset PATH (a D4RL "
            "HDF5, or replays made with `spaars data convert kitchen-demos`)."
        )
    return recorded_dataset(task, transitions, seed, workers, progress)


def load_file(path: str | Path) -> Dataset:
    """Read a dataset; the suffix says how: .hdf5 or .h5 as D4RL, .npz as arrays by name.

    Raises:
        DataError: the file is absent, damaged, unsafe, or its contents cannot be used.
        OSError: the file may not be read.
    """
    path = Path(path)
    readers = {".hdf5": _load_d4rl, ".h5": _load_d4rl, ".npz": _load_npz}
    if path.suffix.lower() not in readers:
        raise DataError(
            f"{path}: cannot read '{path.suffix or path.name}' files. Supported: "
            ".hdf5 and .h5 (D4RL), .npz (arrays by name)."
        )
    if not path.is_file():
        raise DataError(f"{path}: {'is no file' if path.exists() else 'no such file'}.")
    with path.open("rb"):
        pass  # no permission: an OSError with words better than the libraries' own
    return readers[path.suffix.lower()](path)


def save_npz(dataset: Dataset, path: Path) -> None:
    """Write a dataset so that `load_file` reads the same content; whole or not at all."""
    arrays: dict[str, Any] = dataset.arrays
    with atomic_write(path) as file:
        np.savez(file, **arrays)


# --- D4RL ---------------------------------------------------------------------------------------


def _load_d4rl(path: Path) -> Dataset:
    """D4RL: observations, actions, rewards, terminals; timeouts and next_observations may lack.

    Without `next_observations` the next observation is the following row's, inside an episode.
    The last row of an episode has no such row:
      - if it is terminal, no backup reads its next observation: its own observation stands in;
      - if not (a time limit, the end of the file), the row is dropped, as D4RL's
        `qlearning_dataset` does, and the row before becomes the truncated end.
    Without `timeouts` only terminals end episodes; time limits that a file does not state are not
    guessed.
    """
    raw = _read_hdf5(
        path, ("observations", "actions", "rewards", "terminals"), ("timeouts", "next_observations")
    )
    keys = {"terminated": "terminals", "truncated": "timeouts"}
    raw.setdefault("timeouts", np.zeros(raw["terminals"].shape, np.bool_))
    arrays = {name: raw[key] for name, key in keys.items()} | {
        name: array for name, array in raw.items() if name not in keys.values()
    }
    if "next_observations" not in arrays:
        # Checked before rows are dropped, so that errors name the file's own rows.
        arrays = _follow(checked(arrays, str(path), keys))
    return Dataset.build(**arrays, label=f"{path.name} (D4RL file)", where=str(path), keys=keys)


def _follow(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add `next_observations` from the following rows, as `_load_d4rl` explains."""
    observations, terminated = arrays["observations"], arrays["terminated"]
    next_observations = np.roll(observations, -1, axis=0)
    next_observations[terminated] = observations[terminated]
    dropped = arrays["truncated"] & ~terminated
    dropped[-1] = not terminated[-1]
    truncated = np.append(dropped[1:], False) & ~terminated
    arrays = arrays | {"next_observations": next_observations, "truncated": truncated}
    return {name: array[~dropped] for name, array in arrays.items()} if dropped.any() else arrays


def _read_hdf5(
    path: Path, required: Iterable[str], optional: Iterable[str]
) -> dict[str, np.ndarray]:
    import h5py

    arrays = {}
    try:
        with h5py.File(path, "r") as file:
            datasets = {}
            for key in (*required, *optional):
                link = file.get(key, getlink=True)
                if link is None and key in optional:
                    continue
                if link is None:
                    raise _missing(path, key, file.keys())
                # A link may point into any other file of this machine.
                if not isinstance(link, h5py.HardLink):
                    raise DataError(
                        f"{path}: '{key}' is a {type(link).__name__}, and links are not followed. "
                        "Copy the dataset itself into the file (h5py: file.copy)."
                    )
                datasets[key] = _plain(path, key, file[key])
            _check_size(path, {key: _declared(data) for key, data in datasets.items()})
            for key, data in datasets.items():
                arrays[key] = np.asarray(data[()])
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        # h5py's words may run over several lines and end in its own call stack.
        raise DataError(
            f"{path}: not a whole HDF5 file ({_one_line(error)}). "
            "Download or copy it again; `h5ls` shows what it holds."
        ) from error
    return arrays


def _plain(path: Path, key: str, data: Any) -> Any:
    """The HDF5 dataset if its numbers are stored in the file itself."""
    import h5py

    if not isinstance(data, h5py.Dataset) or data.shape is None:
        raise DataError(f"{path}: '{key}' is no array. Store it as an HDF5 dataset.")
    if data.external is not None or data.is_virtual:
        raise DataError(
            f"{path}: '{key}' is stored in other files, which are not read. "
            "Copy its contents into this file."
        )
    _check_dtype(path, key, data.dtype)
    return data


def _declared(data: Any) -> int:
    # Not data.nbytes, whose product overflows; a chunk is decompressed whole.
    cells = max(math.prod(data.shape), math.prod(data.chunks or (0,)))
    return cells * data.dtype.itemsize


# --- npz ----------------------------------------------------------------------------------------


def _load_npz(path: Path) -> Dataset:
    """Arrays observations, actions, rewards, next_observations, terminated, truncated.

    `terminals` and `timeouts` are accepted for the flags.
    """
    members, keys = npz_members(path), {}
    for field, names in NPZ_NAMES.items():
        keys[field] = next((name for name in names if name in members), "")
        if not keys[field]:
            raise _missing(path, names[0], members)
    found = read_npz(path, keys.values())
    arrays = {field: found[key] for field, key in keys.items()}
    return Dataset.build(**arrays, label=f"{path.name} (npz file)", where=str(path), keys=keys)


def npz_members(path: Path) -> set[str]:
    """Names of the arrays in an npz file. Raises DataError if it is none."""
    with _npz_errors(path), zipfile.ZipFile(path) as file:
        return {name.removesuffix(".npy") for name in file.namelist()}


def read_npz(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """These arrays of an npz file, numbers only, their sizes checked first."""
    arrays = {}
    with _npz_errors(path), zipfile.ZipFile(path) as file:
        members = {name.removesuffix(".npy"): name for name in file.namelist()}
        sizes = {}
        for key in names:
            if key not in members:
                raise _missing(path, key, members)
            with file.open(members[key]) as member:
                sizes[key] = _npy_size(path, key, member)
        _check_size(path, sizes)
        for key in sizes:
            with file.open(members[key]) as member:
                arrays[key] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


@contextlib.contextmanager
def _npz_errors(path: Path) -> Iterator[None]:
    try:
        yield
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
    ) as error:
        raise DataError(
            f"{path}: not a whole npz file ({_one_line(error)}). "
            "Write it again with numpy.savez; `unzip -t` tests it."
        ) from error


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
    _check_dtype(path, key, dtype)
    if any(n < 0 for n in shape):
        raise ValueError(f"'{key}' declares shape {shape}")
    return math.prod(shape) * dtype.itemsize


# --- both ---------------------------------------------------------------------------------------


def _check_dtype(path: Path, key: str, dtype: np.dtype) -> None:
    if dtype.kind not in "fiub":
        raise DataError(
            f"{path}: '{key}' has dtype {dtype}, which is not numeric; objects are never "
            "unpickled. Store plain numbers."
        )


def _check_size(path: Path, declared: Mapping[str, int]) -> None:
    """A few kilobytes can declare terabytes (never-written chunks, zip bombs)."""
    total, limit = sum(declared.values()), _memory() // 2  # casting needs as much again
    if total > limit:
        key = max(declared, key=lambda key: declared[key])
        raise DataError(
            f"{path}: declares {total / 2**30:,.1f} GiB of arrays ('{key}' alone "
            f"{declared[key] / 2**30:,.1f} GiB), this machine can load {limit / 2**30:,.1f} GiB. "
            "If the file is sound, split it or use a larger machine."
        )


def _memory() -> int:
    """Bytes of physical memory; 16 GiB where the system does not say."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 16 * 2**30


def _missing(path: Path, key: str, found: Iterable[str]) -> DataError:
    found = sorted(found)
    near = difflib.get_close_matches(key, found, n=1, cutoff=0.5)
    shown = ", ".join(repr(name) for name in found[:20]) + (", ..." if len(found) > 20 else "")
    hint = f" Did you mean {near[0]!r}? Rename it." if near else " Add it."
    return DataError(f"{path}: no array '{key}'.{hint} Found: {shown or 'nothing'}.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
