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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from spaars.data.sources.assemble import Piece, Source, choose, completed, follow, gather
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


def stream(path: Path, reading: Reading, progress: Progress | None = None) -> Source:
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
    done_ends = chosen.get("terminated") == (DONE,) and "terminated" not in reading.columns
    if done_ends and "truncated" not in chosen:
        warnings.warn(
            f"{path}: '{DONE}' is read as a terminal state. If it marks time limits too, "
            f"convert the data with `spaars data convert ... --columns truncated={DONE}`.",
            stacklevel=2,
        )

    def pieces() -> Iterator[Piece]:
        row = 0
        lengths: dict[int, int] = {}
        for arrays in _whole_episodes(path, _read(parquet, path, "data", widths, progress)):
            found = _episodes(path, row, *(arrays[name] for name in INDICES))
            if again := lengths.keys() & found.keys():
                raise _out_of_order(path, row, min(again), 0)
            lengths |= found
            yield _piece(path, row, chosen, arrays, reading, done_ends=done_ends)
            row += len(arrays[INDICES[0]])
        _check_lengths(parquet, path, lengths)

    return Source(where=path, label=f"{path.resolve().name} (LeRobotDataset v3)", pieces=pieces())


def _piece(
    path: Path,
    row: int,
    chosen: Mapping[str, Sequence[str]],
    arrays: dict[str, np.ndarray],
    reading: Reading,
    *,
    done_ends: bool,
) -> Piece:
    """Whole episodes, the first of which begins at `row` of the dataset."""
    for ours in ("observations", "actions", "next_observations"):
        for name in chosen.get(ours, ()):
            if arrays[name].ndim == 1:  # shape [1] is stored as a plain number
                arrays[name] = arrays[name][:, None]
    gathered = gather(f"{path}: from row {row:,}" if row else path, chosen, arrays)
    checked = completed(gathered, reading)
    if done_ends:
        checked["terminated"] &= ~checked["truncated"]
    episodes = arrays[INDICES[0]]
    ends = np.append(np.diff(episodes) != 0, True)
    checked["truncated"] |= ends & ~checked["terminated"]
    if "next_observations" not in checked:
        checked = follow(checked)
    return Piece(gathered, checked)


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


def _episodes(path: Path, row: int, episodes: np.ndarray, frames: np.ndarray) -> dict[int, int]:
    """Index -> length of each episode. Every one counts its frames from 0."""
    for name, array in zip(INDICES, (episodes, frames), strict=True):
        if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
            raise DataError(f"{path}: '{name}' must be one whole number for each frame.")
    stops = np.flatnonzero(np.append(np.diff(episodes) != 0, True)) + 1
    starts = np.append(0, stops[:-1])
    lengths = stops - starts
    in_order = frames == np.arange(len(frames)) - np.repeat(starts, lengths)
    indices = episodes[starts]
    if not in_order.all() or len(np.unique(indices)) != len(indices):
        again = np.setdiff1d(np.arange(len(indices)), np.unique(indices, return_index=True)[1])
        at = int(np.argmin(in_order)) if not in_order.all() else int(starts[again[0]])
        raise _out_of_order(path, row + at, int(episodes[at]), int(frames[at]))
    return dict(zip(indices.tolist(), lengths.tolist(), strict=True))


def _out_of_order(path: Path, row: int, episode: int, frame: int) -> DataError:
    return DataError(
        f"{path}: frames are not in the order of time (row {row}: episode {episode}, "
        f"frame {frame}). Every episode must be whole and count its frames from 0; "
        "a file may be missing from data/."
    )


def _check_lengths(parquet: Any, path: Path, lengths: Mapping[int, int]) -> None:
    """Against every place that counts them."""
    info = read_json(path / INFO, path)
    frames = sum(lengths.values())
    for name, count in (("total_frames", frames), ("total_episodes", len(lengths))):
        if info.get(name) != count:
            raise DataError(
                f"{path}: holds {count:,} {name.removeprefix('total_')}, {INFO} says "
                f"{info.get(name)!r:.40}. Download or copy the dataset again."
            )
    told: dict[str, list[np.ndarray]] = {"episode_index": [], "length": []}
    for batch in _read(parquet, path, "meta/episodes", dict.fromkeys(told, 1), None):
        for name, array in batch.items():
            told[name].append(array)
    if any(array.ndim != 1 for arrays in told.values() for array in arrays) or dict(
        zip(*(np.concatenate(arrays).tolist() for arrays in told.values()), strict=True)
    ) != dict(lengths):
        raise DataError(
            f"{path}: the lengths of episodes in meta/episodes are not those in data. "
            "Download or copy the dataset again."
        )


def _read(
    parquet: Any, path: Path, folder: str, widths: Mapping[str, int], progress: Progress | None
) -> Iterator[dict[str, np.ndarray]]:
    """Columns of all files of a folder, a batch of rows at a time; at least one. Only these are
    ever decoded. `widths` are info.json's."""
    files = files_in(path, f"{folder}/{FILES}")
    if not files:
        raise DataError(f"{path}: no file {folder}/{FILES}. Download or copy the dataset again.")
    shapes: dict[str, tuple[int, ...]] = {}
    for i, file in enumerate(files, 1):
        for batch in _batches(parquet, file, widths):
            arrays = {name: _array(file, name, batch[name]) for name in widths}
            for name, array in arrays.items():
                if shapes.setdefault(name, array.shape[1:]) != array.shape[1:]:
                    raise DataError(
                        f"{path}: '{name}' has rows of different lengths in different files. "
                        "All episodes must be recorded alike."
                    )
            check_size(path, {name: array.nbytes for name, array in arrays.items()})
            yield arrays
        if progress is not None:
            progress(i, len(files))
    if not shapes:
        yield {name: np.empty(0) for name in widths}


def _whole_episodes(
    path: Path, batches: Iterable[dict[str, np.ndarray]]
) -> Iterator[dict[str, np.ndarray]]:
    """The same rows, cut where an episode ends; a column is refused later if it cannot say."""
    held: dict[str, np.ndarray] = {}
    for batch in batches:
        arrays = {n: np.concatenate([held[n], batch[n]]) for n in batch} if held else batch
        check_size(path, {name: array.nbytes for name, array in arrays.items()})
        index = arrays[INDICES[0]]
        one_axis = index.ndim == 1 and index.size > 0
        changes = np.flatnonzero(np.diff(index)) if one_axis else np.empty(0, int)
        cut = int(changes[-1]) + 1 if changes.size else 0
        if cut:
            yield {name: array[:cut] for name, array in arrays.items()}
        held = {name: array[cut:] for name, array in arrays.items()}
    yield held


def _batches(parquet: Any, file: Path, widths: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    arrow = import_module("pyarrow")
    try:
        with parquet.ParquetFile(file, page_checksum_verification=True) as table:
            found = table.schema_arrow.names
            for name in widths:
                if name not in found:
                    raise missing(file, name, found)
            rows = min(table.metadata.num_rows, BATCH)
            check_size(file, {name: 8 * rows * n for name, n in widths.items()})
            # Decodes into a small buffer. Before it has found the columns sound, pyarrow aborts
            # the process when it is asked how much they hold.
            table.scan_contents(list(widths), BATCH)
            check_size(file, _declared(table.metadata, widths))
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
    """Bytes of the columns of the largest row group once they are decoded: a row may hold a list
    of any length."""
    sizes = dict.fromkeys(names, 0)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    for i in range(metadata.num_columns):
        # Of a list the path goes on: observation.state.list.element
        path = metadata.schema.column(i).path
        for name in names:
            if path == name or path.startswith(f"{name}."):
                sizes[name] += max((8 * group.column(i).num_values for group in groups), default=0)
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
