"""Finished episodes on disk: one npz each, whole or not there at all.

    journal/episode-00000000.npz   observations, actions, rewards, next_observations, terminated,
                                   truncated, and what each action came with

The directory is a dataset as it is: `spaars train TASK --dataset DIR/journal`.
"""

import contextlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spaars.data.files import atomic_write
from spaars.data.sources.npz import names_in, read_arrays
from spaars.errors import DataError, RunError

FACTS = "facts"
"""Array of bytes, JSON: what is known of the episode as a whole."""


class Recorded(NamedTuple):
    """A finished episode of T steps; arrays have leading axis T."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class Journal:
    """The episodes of one learner, numbered from 0. Nothing is ever overwritten or deleted."""

    def __init__(self, directory: Path):
        self.directory = directory

    def path(self, number: int) -> Path:
        return self.directory / f"episode-{number:08d}.npz"

    def write(self, number: int, episode: Recorded) -> None:
        """On the disk when this returns. Raises RunError if the number is taken, OSError if the
        disk is full."""
        path = self.path(number)
        if path.exists():
            raise RunError(
                f"{path} exists: another process learns in this directory, or went on from an "
                "older save of it. Stop one of them, and `OnlineLearner.load` it again."
            )
        facts = np.frombuffer(json.dumps(episode.facts).encode(), np.uint8)
        with atomic_write(path) as file:
            np.savez(file, **episode.arrays, **{FACTS: facts})  # type: ignore[arg-type]

    def read(self, number: int) -> Recorded:
        """Raises RunError if the file cannot be read."""
        path = self.path(number)
        try:
            arrays = read_arrays(path, sorted(names_in(path)))
            facts = json.loads(arrays.pop(FACTS).tobytes())
            return Recorded(arrays, dict(facts))
        except (DataError, KeyError, ValueError, TypeError) as error:
            raise RunError(
                f"{path} is no episode that a learner wrote ({error}). Bring it back from a "
                "backup; to go on without it, move it and all later episodes to another directory."
            ) from error

    def after(self, number: int) -> list[int]:
        """The numbers from `number` on that are there.

        Raises RunError if one is missing between, or a name has no number: such a file may hold an
        episode, and the next one of its number would be written beside it.

        Removes what a killed process left unfinished.
        """
        for leftover in self.directory.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                leftover.unlink()
        paths = sorted(self.directory.glob("episode-*.npz"))
        for path in paths:
            if not re.fullmatch(r"episode-[0-9]{8,}", path.stem):
                raise RunError(
                    f"{path} is no name of an episode's. Give it back the one that it had, or move "
                    "it to another directory."
                )
        found = sorted(int(path.stem[8:]) for path in paths)
        found = [n for n in found if n >= number]
        for expected, n in enumerate(found, number):
            if n != expected:
                raise RunError(
                    f"{self.path(expected)} is missing, {self.path(n)} is there. Bring it back, or "
                    "move the later episodes to another directory."
                )
        return found
