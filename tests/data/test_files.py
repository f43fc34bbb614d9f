"""Our reading and writing of safetensors agrees with the library's, and refuses what is broken."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spaars.data.files import read_safetensors, write_safetensors
from spaars.data.memory import ALIGNMENT

ARRAYS = {
    "rows": np.arange(12, dtype=np.float32).reshape(4, 3),
    "ends": np.array([True, False, True, False]),
    "count": np.array(7, np.int64),
    "nothing": np.zeros((0, 3), np.float64),
    "key": np.array([1, 2], np.uint32),
}


def assert_ours(arrays: dict[str, np.ndarray]) -> None:
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)


def test_the_library_reads_ours_and_we_read_the_librarys(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with ours.open("wb") as file:
        write_safetensors(file, ARRAYS, {"label": "a"})
    save_file(ARRAYS, theirs, {"label": "a"})
    assert_ours(load_file(ours))
    for path in (ours, theirs):
        metadata, arrays = read_safetensors(path)
        assert metadata == {"label": "a"}
        assert_ours(arrays)
        assert all(x.ctypes.data % ALIGNMENT == 0 for x in arrays.values() if x.size)


def _file(header: object, body: bytes = b"\0" * 16) -> bytes:
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + body


def _entry(**changes: object) -> dict[str, object]:
    return {"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        (1 << 40).to_bytes(8, "little") + b"{}",
        _file([1, 2]),
        _file({"x": 3}),
        _file(_entry(dtype="F128")),
        _file(_entry(shape=[5])),
        _file(_entry(shape=[-4])),
        _file(_entry(shape=[1 << 50], data_offsets=[0, 1 << 52])),
        _file(_entry(data_offsets=[-16, 0])),
        _file(_entry(data_offsets=[8, 24])),
        _file(_entry(data_offsets=[0])),
        _file(_entry(), body=b"\0" * 15),
    ],
)
def test_what_is_broken_is_refused(content, tmp_path):
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_safetensors(path)
