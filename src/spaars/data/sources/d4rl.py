"""D4RL's HDF5 files: flat arrays of all episodes."""

from pathlib import Path

from spaars.data.dataset import Dataset
from spaars.data.sources import hdf5
from spaars.data.sources.assemble import (
    DESCRIPTION,
    build,
    choose,
    completed,
    follow,
    gather,
    stored_description,
)
from spaars.data.sources.reading import Progress, Reading
from spaars.data.sources.safety import check_size, regular_file

NAMES = {
    "observations": ("observations",),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "terminated": ("terminals",),
    "truncated": ("timeouts",),
    "next_observations": ("next_observations",),
}


def claims(path: Path) -> bool:
    return path.suffix.lower() in (".hdf5", ".h5")


def load(path: Path, reading: Reading, progress: Progress | None = None) -> Dataset:
    """observations, actions, rewards, terminals; timeouts and next_observations may lack.

    Without `next_observations` the next observation is the following row's (`follow`). Without
    `timeouts` only terminals end episodes; time limits that a file does not state are not guessed.
    """
    with hdf5.opened(regular_file(path)) as file:
        names = hdf5.names_in(file)
        required = ("observations", "actions", "terminated")
        chosen = choose(path, NAMES, names, required, reading)
        wanted = {name for columns in chosen.values() for name in columns}
        if DESCRIPTION in names:
            wanted.add(DESCRIPTION)
        found = {name: hdf5.array(path, file, name) for name in sorted(wanted)}
        check_size(path, {name: hdf5.declared(data) for name, data in found.items()})
        arrays = {}
        for i, (name, data) in enumerate(found.items(), 1):
            arrays[name] = hdf5.read(data)
            if progress is not None:
                progress(i, len(found))
    stored = stored_description(path, arrays.pop(DESCRIPTION, None))
    columns = gather(path, chosen, arrays)
    # Checked before rows are dropped, so that errors name the file's own rows.
    checked = completed(columns, reading)
    if "next_observations" not in checked:
        checked = follow(checked)
    return build(f"{path.name} (D4RL file)", columns, checked, reading, stored)
