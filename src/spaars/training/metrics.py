"""`metrics.jsonl`, the one source of every figure, and its TensorBoard mirror.

No wall-clock time is written there: the file is bit for bit the same however often the run was
interrupted. Kinds of record: train, evaluation, episode, event (README.md, The run directory).
"""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from spaars.errors import RunError
from spaars.training.tensorboard import EventFile


def _plain(value: Any) -> Any:
    if isinstance(value, (np.floating, float)):
        return float(value)
    if isinstance(value, np.ndarray):
        return _plain(value.item())
    if isinstance(value, np.integer):
        return int(value)
    return bool(value) if isinstance(value, np.bool_) else value


class MetricsLog:
    """Append-only; `offset` marks a place that a resumed run goes back to."""

    def __init__(self, run_dir: Path, offset: int = 0):
        self.path = run_dir / "metrics.jsonl"
        self.path.touch()
        if self.path.stat().st_size < offset:
            raise RunError(
                f"{self.path} has {self.path.stat().st_size} bytes, the checkpoint was taken at "
                f"{offset}: lines are missing. Bring the file back, or train anew."
            )
        with self.path.open("r+b") as file:
            file.truncate(offset)
        self.board = EventFile(run_dir / "tensorboard")
        for record in self.records():
            self.board.add(record)
        self.file = self.path.open("ab", buffering=0)  # so that `tail -f` shows it

    @property
    def offset(self) -> int:
        """Bytes written so far, safely on disk."""
        os.fsync(self.file.fileno())
        return self.file.tell()

    def write(self, kind: str, *, seed: int, step: int, **values: Any) -> None:
        """One record. NaN (not applicable) and infinities are left out: JSON has neither."""
        plain = {name: _plain(value) for name, value in values.items()}
        record = {"kind": kind, "seed": seed, "step": step} | {
            name: value
            for name, value in plain.items()
            if not (isinstance(value, float) and not math.isfinite(value))
        }
        line = (json.dumps(record) + "\n").encode()
        try:
            written = self.file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            error.filename = str(self.path)
            raise
        self.board.add(record)

    def records(self) -> list[dict[str, Any]]:
        """All that was written so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def close(self) -> None:
        self.file.close()
        self.board.close()
