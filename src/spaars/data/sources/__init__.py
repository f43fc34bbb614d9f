"""Datasets from files and directories.

A source is untrusted: nothing is unpickled or evaluated, no link is followed out of it, and its
declared size is compared with this machine's memory before anything is read.

A format is a module with `claims(path)` and `stream(path, reading, progress)`, which reads a source
piece by piece, and a line in FORMATS. Some also `load` it at once, in less memory than the pieces
of all of it take.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spaars.data.dataset import Dataset
from spaars.data.recorded import recorded_dataset
from spaars.data.sources import d4rl, episodes, kitchen, lerobot, minari, npy, npz
from spaars.data.sources.assemble import Source, collect
from spaars.data.sources.reading import Progress, Reading, parse_columns
from spaars.data.sources.write import check_destination, save, save_npz, save_pieces
from spaars.errors import ConfigError, DataError
from spaars.tasks import Task

__all__ = [
    "Progress",
    "Reading",
    "Source",
    "absolute",
    "check_destination",
    "exists",
    "load_dataset",
    "load_file",
    "open_source",
    "parse_columns",
    "save",
    "save_npz",
    "save_pieces",
]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one kind of source is told and read."""

    name: str
    """As the list of what is supported has it."""
    claims: Callable[[Path], bool]
    stream: Callable[[Path, Reading, Progress | None], Source]
    load: Callable[[Path, Reading, Progress | None], Dataset] | None = None


# The first that claims a path reads it.
FORMATS = (
    Format(
        name="minari:ID or a Minari directory (main_data.hdf5)",
        claims=minari.claims,
        stream=minari.stream,
    ),
    Format(name=".hdf5 and .h5 (D4RL)", claims=d4rl.claims, stream=d4rl.stream, load=d4rl.load),
    Format(name=".npz (arrays by name)", claims=npz.claims, stream=npz.stream, load=npz.load),
    Format(
        name="a LeRobotDataset v3 directory (meta/info.json)",
        claims=lerobot.claims,
        stream=lerobot.stream,
    ),
    Format(
        name="a directory of .npy files (one for each array)",
        claims=npy.claims,
        stream=npy.stream,
        load=npy.load,
    ),
    Format(
        name="a directory of .npz files (one for each episode)",
        claims=episodes.claims,
        stream=episodes.stream,
    ),
)


def load_dataset(
    task: Task | None,
    path: str | Path | None,
    transitions: int,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The source at `path` if one is given, else the task's embedded dataset (`recorded_dataset`).

    `transitions` and `progress` concern the embedded dataset only.
    """
    if path is not None:
        if task is None or not task.subtasks:
            return load_file(path)
        replays = kitchen.load(Path(path), task)
        return replays or kitchen.without_goal(load_file(path), str(path))
    if task is None:
        raise ConfigError("no data: give a task with an embedded dataset or the path of a file.")
    return recorded_dataset(task, transitions, progress=progress)


def load_file(
    path: str | Path, reading: Reading | None = None, progress: Progress | None = None
) -> Dataset:
    """Read a dataset from a file, a directory or `minari:ID`; suffix or structure says how.

    Args:
        path: see FORMATS.
        reading: names, rewards and action bounds that the source does not tell itself.
        progress: called with (parts read, parts in all): arrays, files or episodes.

    Raises:
        DataError: it is absent, damaged, unsafe, or its contents cannot be used.
        OSError: it may not be read.
    """
    path, reading = Path(path), reading or Reading()
    found = _format(path)
    if found.load is not None:
        return found.load(path, reading, progress)
    return collect(found.stream(path, reading, progress), reading)


def open_source(
    path: str | Path, reading: Reading | None = None, progress: Progress | None = None
) -> Source:
    """What `load_file` reads, piece by piece. Raises as it does, also while pieces are taken."""
    path = Path(path)
    return _format(path).stream(path, reading or Reading(), progress)


def _format(path: Path) -> Format:
    if kitchen.is_replay(path):
        raise DataError(
            f"{path}: kitchen replays, whose rewards depend on the task. Name it: `spaars train "
            f"kitchen-mixed --dataset {path}`, `spaars data inspect {path} --task kitchen-mixed`."
        )
    found = next((format for format in FORMATS if format.claims(path)), None)
    if found is None:
        what = "directories like this" if path.is_dir() else f"'{path.suffix or path.name}' files"
        wrong = f"cannot read {what}" if path.exists() else "no such file or directory"
        raise DataError(f"{path}: {wrong}. Supported: {', '.join(f.name for f in FORMATS)}.")
    return found


def exists(path: Path) -> bool:
    """Whether there is something to read; of a Minari id only reading it tells."""
    return str(path).startswith(minari.PREFIX) or path.exists()


def absolute(path: Path) -> Path:
    """The same source from any working directory."""
    return path if str(path).startswith(minari.PREFIX) else path.resolve()
