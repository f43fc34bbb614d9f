"""TensorBoard event files, written in the calling thread.

tensorboardX's SummaryWriter writes in a thread of its own, which dies on a full disk and then
blocks the run for ever; here the OSError reaches the caller.
"""

import shutil
import time
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter


class EventFile:
    """A new event file in `directory`, in place of those that were there."""

    def __init__(self, directory: Path):
        # Event files cannot be cut back as metrics.jsonl is; a resumed run writes them anew.
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self.writer = RecordWriter(str(directory / "events.out.tfevents.spaars"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, record: dict[str, Any]) -> None:
        """The numbers of one record of metrics.jsonl, tagged group/name/seed."""
        group = record.get("phase", record["kind"])
        values = [
            Summary.Value(tag=f"{group}/{name}/seed{record['seed']}", simple_value=value)
            for name, value in record.items()
            if name not in ("seed", "step") and type(value) in (int, float)
        ]
        self._write(
            Event(wall_time=time.time(), step=record["step"], summary=Summary(value=values))
        )

    def _write(self, event: Any) -> None:
        self.writer.write(event.SerializeToString())
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
