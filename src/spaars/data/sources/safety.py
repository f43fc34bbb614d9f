"""What every reader checks before it trusts a byte.

A file is untrusted: nothing is unpickled or evaluated, no link is followed out of it or out of its
directory, and its declared size is compared with this machine's memory before anything is read.
"""

import contextlib
import difflib
import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spaars.errors import DataError

MAX_JSON = 64 * 2**20
"""Bytes of the largest JSON file that is parsed."""


def check_dtype(where: Path | str, key: str, dtype: np.dtype) -> None:
    if dtype.kind not in "fiub":
        raise DataError(
            f"{where}: '{key}' has dtype {dtype}, which is not numeric; objects are never "
            "unpickled. Store plain numbers."
        )


def check_size(where: Path | str, declared: Mapping[str, int]) -> None:
    """A few kilobytes can declare terabytes (never-written chunks, zip bombs)."""
    if not fits(declared):
        key = max(declared, key=lambda key: declared[key])
        raise DataError(
            f"{where}: declares {sum(declared.values()) / 2**30:,.1f} GiB of arrays ('{key}' alone "
            f"{declared[key] / 2**30:,.1f} GiB), this machine can load {loadable() / 2**30:,.1f} "
            "GiB. If the source is sound, `spaars data convert SOURCE DIRECTORY` reads it piece by "
            "piece (an episode or a compressed chunk must fit), and training reads the directory "
            "from the disk."
        )


def fits(declared: Mapping[str, int]) -> bool:
    """Whether arrays of these sizes can be loaded."""
    return sum(declared.values()) <= loadable()


def loadable() -> int:
    """Bytes of arrays that are loaded; casting needs as much again."""
    return memory() // 2


def memory() -> int:
    """Bytes of memory that could be had; 16 GiB where the system does not say."""
    return min(_limits(), default=16 * 2**30)


def _limits() -> Iterator[int]:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        # Free, or free as soon as somebody asks for it.
        yield 1024 * int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1])
    # What a container or a cluster's scheduler grants (cgroup v2).
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        group = Path("/sys/fs/cgroup") / next(x for x in lines if x.startswith("0::/"))[4:]
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit at this level
                yield int((folder / "memory.max").read_text())


def missing(
    where: Path | str, key: str, found: Iterable[str], field: str | None = None
) -> DataError:
    """With `field`, our name of the array, the remedy says how to map another one to it."""
    found = sorted(found)
    near = difflib.get_close_matches(key, found, n=1, cutoff=0.5)
    shown = ", ".join(repr(name) for name in found[:20]) + (", ..." if len(found) > 20 else "")
    if field is None:
        hint = f" Did you mean '{near[0]}'?" if near else ""
    elif near:
        hint = (
            f" Did you mean '{near[0]}'? Rename it, or convert the data with `spaars data convert "
            f"... --columns {field}={near[0]}`."
        )
    else:
        hint = (
            " Add it, or name the one that serves with `spaars data convert ... --columns "
            f"{field}=NAME`."
        )
    return DataError(f"{where}: no array '{key}'.{hint} Found: {shown or 'nothing'}.")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def regular_file(path: Path, root: Path | None = None) -> Path:
    """`path` if it is a file that may be read and lies within `root`, also behind its links."""
    if root is not None:
        try:
            inside = path.resolve().is_relative_to(root.resolve())
        except (RuntimeError, OSError):  # a loop of links
            inside = False
        if not inside:
            raise DataError(
                f"{path}: leads out of {root}, and such links are not followed. "
                "Copy the data themselves there (cp -rL)."
            )
    if not path.is_file():
        raise DataError(f"{path}: {'is no file' if path.exists() else 'no such file'}.")
    with path.open("rb"):
        pass  # no permission: an OSError with words better than the libraries' own
    return path


def files_in(root: Path, pattern: str) -> list[Path]:
    """Readable files within `root` that match, in the order of their names; hidden ones are not
    meant: editors and copies of other systems leave them."""
    found = sorted(path for path in root.glob(pattern) if not path.name.startswith("."))
    return [regular_file(path, root) for path in found]


def read_json(path: Path, root: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises DataError if there is none."""
    size = regular_file(path, root).stat().st_size
    if size > MAX_JSON:
        raise DataError(f"{path}: {size / 2**20:,.0f} MiB of JSON; metadata are far smaller.")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not a whole JSON file ({one_line(error)}). Copy it again from its source."
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds a {type(values).__name__}, expected an object.")
    return values


def needs(module: str, extra: str, what: str) -> Any:
    """An optional library, imported when its format is first met."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise not_installed(what, extra, error) from error


def not_installed(what: str, extra: str, error: ImportError) -> DataError:
    return DataError(
        f"{what} needs a library that is not installed ({one_line(error)}). "
        f'Install it with: pip install "spaars[{extra}]"'
    )
