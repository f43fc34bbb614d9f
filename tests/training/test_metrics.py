import json
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from spaars.training.metrics import MetricsLog


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path)
    yield log
    log.close()


def test_records_are_plain_json(log, tmp_path):
    log.write(
        "train",
        seed=1,
        step=50,
        phase="online",
        q_mean=np.float32(1.5),
        count=np.int64(3),
        fell=np.bool_(True),
        array=np.array(2.5),
    )
    assert log.offset == (tmp_path / "metrics.jsonl").stat().st_size
    assert records(tmp_path) == [
        {"kind": "train", "seed": 1, "step": 50, "phase": "online", "q_mean": 1.5, "count": 3,
         "fell": True, "array": 2.5},
    ]  # fmt: skip


@pytest.mark.parametrize("nan", [float("nan"), np.float32("nan"), np.array(np.nan)])
def test_what_does_not_apply_is_left_out(log, tmp_path, nan):
    log.write("train", seed=0, step=1, latent_loss=nan, critic_loss=0.0)
    assert log.offset > 0
    assert records(tmp_path) == [{"kind": "train", "seed": 0, "step": 1, "critic_loss": 0.0}]


def test_a_resumed_log_goes_back_to_its_offset(tmp_path):
    first = MetricsLog(tmp_path)
    first.write("train", seed=0, step=1, x=1.0)
    offset = first.offset
    first.write("train", seed=0, step=2, x=2.0)
    first.close()
    uninterrupted = (tmp_path / "metrics.jsonl").read_bytes()
    resumed = MetricsLog(tmp_path, offset)
    assert resumed.offset == offset
    assert [r["step"] for r in records(tmp_path)] == [1]
    resumed.write("train", seed=0, step=2, x=2.0)
    resumed.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == uninterrupted


def test_a_new_log_forgets_an_old_one(tmp_path):
    old = MetricsLog(tmp_path)
    old.write("train", seed=0, step=1, x=1.0)
    old.close()
    MetricsLog(tmp_path).close()
    assert records(tmp_path) == []


def scalars(directory):
    """(tag, value, step) of every event of the one event file."""
    (file,) = directory.iterdir()
    data, found = file.read_bytes(), []
    while data:  # TFRecord: length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found += [(v.tag, v.simple_value, event.step) for v in event.summary.value]
        data = data[16 + length :]
    return found


def test_tensorboard_mirrors_what_is_kept(tmp_path):
    first = MetricsLog(tmp_path)
    first.write("train", seed=4, step=1, phase="online", x=1.0)
    offset = first.offset
    first.write("evaluation", seed=4, step=2, label="final", score=7.5, falls=2)
    first.close()
    assert scalars(tmp_path / "tensorboard") == [
        ("online/x/seed4", 1.0, 1),
        ("evaluation/score/seed4", 7.5, 2),
        ("evaluation/falls/seed4", 2, 2),
    ]
    MetricsLog(tmp_path, offset).close()
    assert scalars(tmp_path / "tensorboard") == [("online/x/seed4", 1.0, 1)]
