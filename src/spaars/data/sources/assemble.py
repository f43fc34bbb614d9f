"""From a source's columns to a checked dataset: the steps that the readers share."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spaars.data.dataset import ACTION_TOLERANCE, FLAGS, Dataset, checked
from spaars.data.description import Description, Parts, plain_name
from spaars.data.sources.reading import Reading
from spaars.data.sources.safety import check_size, missing
from spaars.errors import DataError

Names = Mapping[str, Sequence[str]]
PIECE = 65_536
"""Rows of a flat source that are read at a time, where it is read piece by piece."""

DESCRIPTION = "spaars_description"
"""Array of bytes, JSON, beside the others in a file that we wrote: its `Description`."""


def choose(
    where: Path | str,
    defaults: Names,
    found: Collection[str],
    required: Collection[str],
    reading: Reading,
) -> dict[str, tuple[str, ...]]:
    """Our array -> the source's columns: as mapped, or else the first default that is there.

    A column that is mapped to one array is no default of another. Rewards are always required,
    unless zeros are to stand in.

    Raises:
        DataError: a column that was named, or a required one, is not there.
    """
    claimed = {name for names in reading.columns.values() for name in names}
    if unread := set(reading.columns) - set(defaults):
        raise DataError(
            f"{where}: --columns {min(unread)}=... does not apply to this format, which tells it "
            "by its structure. Leave it out."
        )
    chosen: dict[str, tuple[str, ...]] = {}
    for array, names in defaults.items():
        if array in reading.columns:
            for name in reading.columns[array]:
                if name not in found:
                    raise missing(where, name, found)
            chosen[array] = tuple(reading.columns[array])
        elif there := [name for name in names if name in found and name not in claimed]:
            chosen[array] = (there[0],)
        elif array in required:
            raise missing(where, names[0], found, array)
    if "rewards" not in chosen and reading.rewards != "zero":
        error = missing(where, defaults["rewards"][0], found, "rewards")
        raise DataError(
            f"{error} If none were recorded, `spaars data convert ... --rewards zero` writes "
            "zeros, from which imitation can learn (--method bc) and nothing else."
        )
    return chosen


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Arrays of a source, or of one episode of it, by our names and not checked yet."""

    where: str
    arrays: dict[str, np.ndarray]
    keys: dict[str, str]
    """How errors call the arrays: as the source does."""
    parts: dict[str, Parts]
    """Columns that observations and actions consist of."""


def gather(
    where: Path | str, chosen: Mapping[str, Sequence[str]], columns: Mapping[str, np.ndarray]
) -> Columns:
    """Each of our arrays from its column, or from several side by side."""
    arrays, parts = {}, {}
    for array, names in chosen.items():
        pieces = [columns[name] for name in names]
        if len(pieces) > 1:
            arrays[array] = _joined(where, dict(zip(names, pieces, strict=True)))
        else:
            arrays[array] = pieces[0]
        widths = [math.prod(piece.shape[1:]) for piece in pieces]
        parts[array] = tuple(zip(map(plain_name, names), widths, strict=True))
    keys = {array: " + ".join(names) for array, names in chosen.items()}
    return Columns(where=str(where), arrays=arrays, keys=keys, parts=parts)


def _joined(where: Path | str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    pieces = []
    for name, column in columns.items():
        if column.ndim not in (1, 2) or column.dtype.kind not in "fiub":
            raise DataError(
                f"{where}: '{name}' has shape {column.shape} and dtype {column.dtype}, and only "
                "numbers and vectors of numbers can be joined. Leave it out of --columns."
            )
        pieces.append(column if column.ndim == 2 else column[:, None])
    rows = {name: len(column) for name, column in columns.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"'{name}' {n}" for name, n in rows.items())
        raise DataError(
            f"{where}: columns to be joined have different numbers of rows ({counts}). "
            "Row i of each must belong to step i; cut or complete them."
        )
    return np.concatenate(pieces, axis=1)


def completed(columns: Columns, reading: Reading) -> dict[str, np.ndarray]:
    """Checked arrays with rewards and actions as `reading` says; flags that lack are false.

    `next_observations` may still be absent: see `follow` and `episode`.
    """
    where, keys = columns.where, columns.keys
    arrays = dict(columns.arrays)
    rows = arrays["actions"].shape[:1]
    if "rewards" not in arrays:
        arrays["rewards"] = np.zeros(rows, np.float32)
    elif reading.rewards == "zero":
        raise DataError(
            f"{where}: has rewards ('{keys['rewards']}'), so that --rewards zero would throw them "
            "away. Leave it out."
        )
    for flag in FLAGS:
        arrays.setdefault(flag, np.zeros(rows, np.bool_))
    arrays["actions"] = _rescaled(columns, reading)
    return checked(arrays, where, keys)


def _rescaled(columns: Columns, reading: Reading) -> np.ndarray:
    """Actions from the source's bounds to [-1, 1]."""
    actions, what = columns.arrays["actions"], f"{columns.where}: '{columns.keys['actions']}'"
    if not reading.action_low or actions.ndim != 2 or actions.dtype.kind not in "fiub":
        return actions  # `checked` says what is wrong with it
    if not actions.size:
        return actions
    dimensions = actions.shape[1]
    for flag, given in (("low", reading.action_low), ("high", reading.action_high)):
        if len(given) not in (1, dimensions):
            raise DataError(
                f"{what} has {dimensions} dimensions, --action-{flag} {len(given)} numbers. Give "
                "one number, or one for each dimension."
            )
    low, high = np.array(reading.bounds(dimensions)).T
    scaled = 2.0 * (actions.astype(np.float64) - low) / (high - low) - 1.0
    outside = (np.abs(scaled) > 1.0 + ACTION_TOLERANCE).any(0)
    if outside.any():
        worst = int(np.argmax(np.nan_to_num(np.abs(scaled)).max(0)))
        column = actions[:, worst]
        raise DataError(
            f"{what}: dimension {worst} ranges over [{float(column.min()):g}, "
            f"{float(column.max()):g}], beyond "
            f"--action-low {low[worst]:g} and --action-high {high[worst]:g}. Give the bounds that "
            "the robot's commands really have."
        )
    return scaled


def follow(arrays: dict[str, np.ndarray], *, goes_on: bool = False) -> dict[str, np.ndarray]:
    """Add `next_observations` from the following rows, as far as there are such rows.

    The last row of an episode has none:
      - if it is terminal, no backup reads its next observation: its own observation stands in;
      - if not (a time limit, the end of the recording), the row is dropped, as D4RL's
        `qlearning_dataset` does, and the row before becomes the truncated end.

    If the recording `goes_on` after these rows, the last of them only shows what follows the row
    before it, and is left out.
    """
    observations, terminated = arrays["observations"], arrays["terminated"]
    next_observations = np.roll(observations, -1, axis=0)
    next_observations[terminated] = observations[terminated]
    dropped = arrays["truncated"] & ~terminated
    dropped[-1] |= not (terminated[-1] or goes_on)
    truncated = np.append(dropped[1:], False) & ~terminated
    arrays = arrays | {"next_observations": next_observations, "truncated": truncated}
    dropped[-1] |= goes_on
    return {name: array[~dropped] for name, array in arrays.items()} if dropped.any() else arrays


def episode(columns: Columns, reading: Reading) -> dict[str, np.ndarray]:
    """Checked arrays of one episode, whose last row ends it.

    Where the observations have one row more than the actions, it is the one after the last action,
    and every row is kept.
    """
    observations, actions = columns.arrays["observations"], columns.arrays["actions"]
    recorded = "next_observations" in columns.arrays
    final = (
        not recorded
        and observations.ndim > 0
        and actions.ndim > 0
        and len(observations) == len(actions) + 1
    )
    if final:
        split = {"observations": observations[:-1], "next_observations": observations[1:]}
        keys = columns.keys | {"next_observations": columns.keys["observations"]}
        columns = replace(columns, arrays=columns.arrays | split, keys=keys)
    arrays = completed(columns, reading)
    if not (final or recorded):
        return follow(arrays)
    inside = (arrays["terminated"] | arrays["truncated"])[:-1]
    if final and inside.any():
        raise DataError(
            f"{columns.where}: row {int(np.argmax(inside))} ends an episode before the last, and "
            "the observation after it is another's. Write every episode on its own."
        )
    arrays["truncated"][-1] |= not arrays["terminated"][-1]
    return arrays


class Piece(NamedTuple):
    """Some rows of a source, checked; those of the next piece follow them."""

    columns: Columns
    """Where they are from."""
    arrays: dict[str, np.ndarray]
    """All six arrays of a dataset."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source that is read piece by piece, so that it may be larger than the memory."""

    where: Path | str
    label: str
    pieces: Iterable[Piece]
    stored: Description | None = None
    """The description that came with it."""


def alike(where: Path | str, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces, as long as all have the columns of the first; at least one."""
    first: Columns | None = None
    rows = 0
    for piece in pieces:
        columns = piece.columns
        first = first or columns
        for name in ("observations", "actions"):
            if columns.parts[name] != first.parts[name]:
                raise DataError(
                    f"{columns.where}: {name} consist of {_shown(columns.parts[name])}, in "
                    f"{first.where} of {_shown(first.parts[name])}. Record all episodes alike."
                )
        rows += len(piece.arrays["actions"])
        yield piece
    if not rows:
        raise _empty(where)


def collect(source: Source, reading: Reading) -> Dataset:
    """The dataset of all pieces, if the memory holds it."""
    columns: Columns | None = None
    collected: list[dict[str, np.ndarray]] = []
    held = 0
    for piece in alike(source.where, source.pieces):
        columns = columns or piece.columns
        held += sum(array.nbytes for array in piece.arrays.values())
        check_size(source.where, {piece.columns.where: held})
        collected.append(piece.arrays)
    assert columns is not None, "`alike` refuses a source without pieces"
    arrays = {
        name: np.concatenate([arrays.pop(name) for arrays in collected])
        for name in list(collected[0])
    }
    columns = replace(columns, where=str(source.where))
    return build(source.label, columns, arrays, reading, source.stored)


def slices(rows: int, *, lookahead: bool) -> Iterator[tuple[slice, bool]]:
    """Rows of a flat source by `PIECE`; and whether their last one only shows what follows.

    With `lookahead` the next piece begins with that row. It is never the source's last row, which
    has nothing after it.
    """
    start = 0
    while rows - start > PIECE + 1:
        yield slice(start, start + PIECE + lookahead), lookahead
        start += PIECE
    yield slice(start, rows), False


def flat_piece(
    where: Path | str,
    chosen: Mapping[str, Sequence[str]],
    columns: Mapping[str, np.ndarray],
    reading: Reading,
    *,
    goes_on: bool,
) -> Piece:
    """Rows of a flat source, the last one of which is the next piece's if it `goes_on`."""
    gathered = gather(where, chosen, columns)
    arrays = completed(gathered, reading)
    if "next_observations" not in arrays:
        arrays = follow(arrays, goes_on=goes_on)
    return Piece(gathered, arrays)


def build(
    label: str,
    columns: Columns,
    arrays: Mapping[str, np.ndarray],
    reading: Reading,
    stored: Description | None = None,
) -> Dataset:
    """The dataset of checked arrays; `stored` is the description that came with them."""
    if not len(arrays["actions"]):
        raise _empty(columns.where)
    return Dataset.build(
        **arrays,
        label=full_label(label, stored),
        where=columns.where,
        keys=columns.keys,
        description=described(columns, reading, stored),
    )


def described(columns: Columns, reading: Reading, stored: Description | None) -> Description:
    """How the arrays of these columns were made."""
    if stored is not None and reading != Reading():
        raise DataError(
            f"{columns.where}: was written by `spaars data convert` and says itself how to read "
            "it. Leave out --columns, --rewards and the action bounds, or convert the original."
        )
    bounds = reading.bounds(columns.arrays["actions"].shape[1])
    return stored or Description(
        observations=columns.parts["observations"],
        actions=columns.parts["actions"],
        action_low=tuple(low for low, _ in bounds),
        action_high=tuple(high for _, high in bounds),
        rewards=reading.rewards,
    )


def full_label(label: str, stored: Description | None) -> str:
    """With the original's, where the source was converted."""
    return f"{label}, converted from {stored.source}" if stored and stored.source else label


def _empty(where: Path | str) -> DataError:
    return DataError(
        f"{where}: empty, since the last row of an episode needs a next observation or "
        "a terminal state. Record longer episodes, or the final observation too."
    )


def stored_description(where: Path, array: np.ndarray | None) -> Description | None:
    """What `DESCRIPTION` holds in a file that may be anybody's."""
    if array is None:
        return None
    try:
        if array.dtype != np.uint8 or array.ndim != 1:
            raise ValueError(f"shape {array.shape}, dtype {array.dtype}")
        return Description.from_json(array.tobytes())
    except ValueError as error:
        raise DataError(
            f"{where}: '{DESCRIPTION}' cannot be read ({error}). Convert the original again."
        ) from error


def _shown(parts: Parts) -> str:
    return ", ".join(f"{name} ({width})" for name, width in parts)
