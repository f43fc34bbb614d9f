"""Files that are either whole or absent, and where the cache lives."""

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from spaars.data.memory import aligned_empty


def cache_dir() -> Path:
    """$SPAARS_HOME, else $XDG_CACHE_HOME/spaars, else ~/.cache/spaars. Not created here."""
    if home := os.environ.get("SPAARS_HOME"):
        return Path(home).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "spaars"
    return Path.home() / ".cache" / "spaars"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A handle whose bytes become `path` when the block ends well, and vanish when it does not.

    The bytes are on the disk before the name is, so a power cut leaves the old file or the new
    one. Missing parent directories are made. OSError (full disk, no permission) names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("x+b") as file:  # h5py reads what it wrote
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C too must leave nothing behind
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            _name(error, path, temporary)
        raise
    _sync_directory(path.parent)


def _name(error: OSError, path: Path, temporary: Path) -> None:
    """write() names no file, open() and replace() name the temporary one, or one in it."""
    if error.errno is None:
        return
    if error.filename is None or str(error.filename).startswith(str(temporary)):
        error.filename = str(path)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A directory that becomes `path` when the block ends well, and vanishes when it does not.

    The block sees to it that its files are on the disk. A directory that is there is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        _sync_directory(temporary)
        if path.exists():
            old = path.with_name(f".{secrets.token_hex(8)}.tmp")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except OSError as error:
        _name(error, path, temporary)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return  # other systems cannot open a directory
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot
            raise
    finally:
        os.close(descriptor)


SAFETENSORS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float32": "F32",
    "float64": "F64",
}
"""What the format calls dtypes."""
_DTYPES = {name: dtype for dtype, name in SAFETENSORS.items()}


def write_safetensors(
    file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays as safetensors, one after the other.

    The library's own `save` makes two more copies of all of them.
    """
    # As the library does: the widest first, so that all are aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        array = arrays[name]
        begin, end = end, end + array.nbytes
        dtype = SAFETENSORS[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    for name in order:
        file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and arrays of a file that `write_safetensors` or the library wrote.

    Each array is read to where JAX can take it over (`spaars.data.memory`); the library would map
    the file and copy from there.

    Raises ValueError if the file is none, or not whole.
    """
    with path.open("rb") as file:
        begin = int.from_bytes(file.read(8), "little") + 8
        size = os.fstat(file.fileno()).st_size
        if not 8 < begin <= size:
            raise ValueError("it has no safetensors header")
        header = json.loads(file.read(begin - 8))
        if not isinstance(header, dict):
            raise ValueError("it has no safetensors header")
        metadata = dict(header.pop("__metadata__", {}))
        arrays = {}
        for name, entry in header.items():
            dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
            start, stop = entry["data_offsets"]
            stored = math.prod(shape) * dtype.itemsize
            if not 0 <= start <= stop <= size - begin or stop - start != stored:
                raise ValueError(f"'{name}' is not where its header says")
            array = aligned_empty(shape, dtype)
            file.seek(begin + start)
            if file.readinto(array.reshape(-1).view(np.uint8).data) != stored:
                raise ValueError(f"'{name}' is cut off")
            arrays[name] = array
    return metadata, arrays
