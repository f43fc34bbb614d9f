"""Sources whose observations are a dict: which of its columns make the vector, in which order."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from spaars.errors import DataError


def vectors_of(
    where: Path | str, what: str, shapes: Mapping[str, tuple[int, ...] | None]
) -> tuple[str, ...]:
    """The columns that hold a number or a vector in each row, in the order of their names.

    `shapes` are those of one row, None for what is not numeric. A warning names what is left out.
    """
    taken = sorted(name for name, shape in shapes.items() if shape is not None and len(shape) <= 1)
    left_out = sorted(set(shapes) - set(taken))
    if not taken:
        found = ", ".join(f"'{name}'" for name in left_out[:20])
        raise DataError(
            f"{where}: {what} have no column of vectors, only {found or 'nothing'}. "
            "Images and texts are not read; log the robot's state too."
        )
    if left_out:
        names = ", ".join(f"'{name}'" for name in left_out)
        warnings.warn(f"{where}: left out, no vectors: {names[:500]}.", stacklevel=2)
    return tuple(taken)
