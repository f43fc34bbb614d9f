"""LeRobotDataset v3, read from its parquet files without the `lerobot` package.

What is relied on (codebase_version "v3.x"):

    meta/info.json                               total_episodes, total_frames, and features: for
                                                 each column its dtype and shape
    meta/episodes/chunk-000/file-000.parquet     a row for each episode: episode_index, length
    data/chunk-000/file-000.parquet              a row for each frame, many episodes in a file, in
                                                 the order of (episode_index, frame_index)
      observation.*, action                      lists of numbers (a number where shape is [1])
      next.reward                                reward of the frame's action
      next.done, next.terminated, next.truncated where the recording has them

Files are found by this layout; the path templates in info.json are compared with it, never filled
in. Of an episode's last frame no next observation is stored (see `assemble.follow`).
"""

import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from spaars.data.dataset import Dataset
from spaars.data.sources.assemble import build, choose, completed, follow, gather
from spaars.data.sources.reading import Progress, Reading
from spaars.data.sources.safety import (
    check_dtype,
    check_size,
    files_in,
    missing,
    needs,
    one_line,
    read_json,
)
from spaars.data.sources.vectors import vectors_of
from spaars.errors import DataError

INFO = Path("meta") / "info.json"
FILES = "chunk-*/file-*.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DONE = "next.done"
BATCH = 65_536

NAMES = {
    "observations": ("observation.state",),
    "actions": ("action",),
    "rewards": ("next.reward",),
    "terminated": ("next.terminated", DONE),
    "truncated": ("next.truncated",),
    "next_observations": (),
}
INDICES = ("episode_index", "frame_index")


def claims(path: Path) -> bool:
    return (path / INFO).exists()


def load(path: Path, reading: Reading, progress: Progress | None = None) -> Dataset:
    """Every `observation.*` column of numbers or vectors, joined in the order of their names.

    Cameras are left out with a warning. An episode ends where its index ends: by a time limit,
    unless `next.terminated`, or `next.done` without `next.truncated`, says otherwise.
    """
    parquet = needs("pyarrow.parquet", "lerobot", f"{path}: reading a LeRobotDataset")
    features = _features(path)
    columns = dict(reading.columns)
    if "observations" not in columns:
        shapes = {k: v for k, v in features.items() if k.startswith("observation.")}
        columns["observations"] = vectors_of(path / INFO, "observations", shapes)
    mapped = replace(reading, columns=columns)
    chosen = choose(path, NAMES, features, ("observations", "actions"), mapped)
    wanted = sorted({name for names in chosen.values() for name in names})
    widths = dict.fromkeys(INDICES, 1) | {name: math.prod(features[name] or ()) for name in wanted}
    arrays = _read(parquet, path, "data", widths, progress)
    ends = _ends(parquet, path, *(arrays[name] for name in INDICES))

    for ours in ("observations", "actions", "next_observations"):
        for name in chosen.get(ours, ()):
            if arrays[name].ndim == 1:  # shape [1] is stored as a plain number
                arrays[name] = arrays[name][:, None]
    gathered = gather(path, chosen, arrays)
    checked = completed(gathered, reading)
    if chosen.get("terminated") == (DONE,) and "terminated" not in reading.columns:
        checked["terminated"] &= ~checked["truncated"]
        if "truncated" not in chosen:
            warnings.warn(
                f"{path}: '{DONE}' is read as a terminal state. If it marks time limits too, "
                f"convert the data with `spaars data convert ... --columns truncated={DONE}`.",
                stacklevel=2,
            )
    checked["truncated"] |= ends & ~checked["terminated"]
    if "next_observations" not in checked:
        checked = follow(checked)
    return build(f"{path.resolve().name} (LeRobotDataset v3)", gathered, checked, reading)


def _features(path: Path) -> dict[str, tuple[int, ...] | None]:
    """Name -> shape of a row of what info.json declares; None where it is not numeric."""
    info = read_json(path / INFO, path)
    version = info.get("codebase_version")
    if not isinstance(version, str) or not version.startswith("v3."):
        raise DataError(
            f"{path / INFO}: codebase_version is {version!r:.40}, and only v3 is read. Older "
            "datasets are converted by lerobot's convert_dataset_v21_to_v30."
        )
    if info.get("data_path", DATA_PATH) != DATA_PATH:
        raise DataError(
            f"{path / INFO}: data_path is {info['data_path']!r:.100}, and only the standard "
            f"'{DATA_PATH}' is read. Lay the files out like that."
        )
    features = info.get("features")
    if not isinstance(features, dict) or not features:
        raise DataError(f"{path / INFO}: has no features. Copy the dataset again.")
    shapes: dict[str, tuple[int, ...] | None] = {}
    for name, feature in features.items():
        dtype = feature.get("dtype") if isinstance(feature, dict) else None
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if not isinstance(dtype, str) or not isinstance(shape, list):
            raise DataError(f"{path / INFO}: feature '{name:.100}' has no dtype and shape.")
        if not all(type(n) is int and n > 0 for n in shape):
            raise DataError(f"{path / INFO}: feature '{name:.100}' has shape {shape!r:.100}.")
        numeric = dtype == "bool" or dtype.startswith(("float", "int", "uint"))
        shapes[name] = tuple(shape) if numeric else None
    return shapes


def _ends(parquet: Any, path: Path, episodes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """(rows,) bool: last frames. The rows are checked against every place that counts them."""
    for name, array in zip(INDICES, (episodes, frames), strict=True):
        if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
            raise DataError(f"{path}: '{name}' must be one whole number for each frame.")
    last = np.append(np.diff(episodes) != 0, True)
    stops = np.flatnonzero(last) + 1
    starts = np.append(0, stops[:-1])
    lengths = stops - starts
    in_order = frames == np.arange(len(frames)) - np.repeat(starts, lengths)
    if not in_order.all() or len(np.unique(episodes[last])) != len(stops):
        row = int(np.argmin(in_order))
        raise DataError(
            f"{path}: frames are not in the order of time (row {row}: episode {episodes[row]}, "
            f"frame {frames[row]}). Every episode must be whole and count its frames from 0; "
            "a file may be missing from data/."
        )
    info = read_json(path / INFO, path)
    for name, count in (("total_frames", len(episodes)), ("total_episodes", len(stops))):
        if info.get(name) != count:
            raise DataError(
                f"{path}: holds {count:,} {name.removeprefix('total_')}, {INFO} says "
                f"{info.get(name)!r:.40}. Download or copy the dataset again."
            )
    told = _read(parquet, path, "meta/episodes", {"episode_index": 1, "length": 1}, None)
    if not all(array.ndim == 1 for array in told.values()) or dict(
        zip(told["episode_index"].tolist(), told["length"].tolist(), strict=True)
    ) != dict(zip(episodes[last].tolist(), lengths.tolist(), strict=True)):
        raise DataError(
            f"{path}: the lengths of episodes in meta/episodes are not those in data. "
            "Download or copy the dataset again."
        )
    return last


def _read(
    parquet: Any, path: Path, folder: str, widths: Mapping[str, int], progress: Progress | None
) -> dict[str, np.ndarray]:
    """Columns of all files of a folder; only these are ever decoded. `widths` are info.json's."""
    files = files_in(path, f"{folder}/{FILES}")
    if not files:
        raise DataError(f"{path}: no file {folder}/{FILES}. Download or copy the dataset again.")
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in widths}
    held = dict.fromkeys(widths, 0)
    for i, file in enumerate(files, 1):
        for batch in _batches(parquet, file, widths, held):
            for name in widths:
                array = _array(file, name, batch[name])
                pieces[name].append(array)
                held[name] += array.nbytes
            check_size(path, held)
        if progress is not None:
            progress(i, len(files))
    return {name: _stacked(path, name, arrays) for name, arrays in pieces.items()}


def _batches(
    parquet: Any, file: Path, widths: Mapping[str, int], held: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    arrow = import_module("pyarrow")
    try:
        with parquet.ParquetFile(file, page_checksum_verification=True) as table:
            found = table.schema_arrow.names
            for name in widths:
                if name not in found:
                    raise missing(file, name, found)
            rows = table.metadata.num_rows
            check_size(file, {name: held[name] + 8 * rows * n for name, n in widths.items()})
            # Decodes into a small buffer. Before it has found the columns sound, pyarrow aborts
            # the process when it is asked how much they hold.
            table.scan_contents(list(widths), BATCH)
            declared = _declared(table.metadata, widths)
            check_size(file, {name: held[name] + declared[name] for name in widths})
            batches = table.iter_batches(BATCH, columns=list(widths), use_threads=False)
            for batch in batches:
                if len(batch):
                    yield {name: batch.column(name) for name in widths}
    except (
        arrow.ArrowException,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        MemoryError,
        RuntimeError,
    ) as error:
        raise DataError(
            f"{file}: not a whole parquet file ({one_line(error)}). Download or copy it again."
        ) from error


def _declared(metadata: Any, names: Collection[str]) -> dict[str, int]:
    """Bytes of the columns once they are decoded: a row may hold a list of any length."""
    sizes = dict.fromkeys(names, 0)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    for i in range(metadata.num_columns):
        # Of a list the path goes on: observation.state.list.element
        path = metadata.schema.column(i).path
        for name in names:
            if path == name or path.startswith(f"{name}."):
                sizes[name] += sum(8 * group.column(i).num_values for group in groups)
    return sizes


def _array(file: Path, name: str, column: Any) -> np.ndarray:
    """(rows,) or (rows, width) of one batch."""
    types = import_module("pyarrow.types")
    rows, width = len(column), None
    kind = column.type
    whole = column.null_count == 0
    if whole and types.is_fixed_size_list(kind):
        width, column = kind.list_size, column.flatten()
    elif whole and (types.is_list(kind) or types.is_large_list(kind)):
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        width, column = int(lengths[0]), column.flatten()
        if (lengths != width).any():
            raise DataError(
                f"{file}: '{name}' has rows of {lengths.min()} to {lengths.max()} numbers. "
                "All rows must have the same length."
            )
    whole &= column.null_count == 0
    if not whole:
        raise DataError(f"{file}: '{name}' has rows without a value. Remove those episodes.")
    numeric = (types.is_floating, types.is_integer, types.is_boolean)
    if not any(is_kind(column.type) for is_kind in numeric):
        raise DataError(
            f"{file}: '{name}' has type {kind!s:.100}, which is no number and no vector of "
            "numbers. Name another column with --columns."
        )
    array = column.to_numpy(zero_copy_only=False)
    check_dtype(file, name, array.dtype)
    return array if width is None else array.reshape(rows, width)


def _stacked(path: Path, name: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise DataError(
            f"{path}: '{name}' has rows of different lengths in different files. "
            "All episodes must be recorded alike."
        )
    return np.concatenate(arrays) if arrays else np.empty(0)
