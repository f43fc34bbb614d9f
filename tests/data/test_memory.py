import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from spaars.data import load_dataset
from spaars.data.files import write_safetensors
from spaars.data.memory import BLOCK, aligned_copy, mean_and_std
from spaars.data.sources.write import save
from toy import point_dataset


def shares_memory(array: np.ndarray) -> bool:
    return jnp.asarray(array, jnp.float32).unsafe_buffer_pointer() == array.ctypes.data


def test_jax_takes_over_what_is_aligned():
    memory = np.empty(1024 + 64, np.uint8)
    first = -memory.ctypes.data % 64
    off = memory[first + 16 : first + 16 + 400].view(np.float32).reshape(50, 2)
    off[...] = np.arange(100.0).reshape(50, 2)
    assert not shares_memory(off)
    copy = aligned_copy(off)
    np.testing.assert_array_equal(copy, off)
    assert shares_memory(copy)
    assert not np.shares_memory(aligned_copy(copy), copy)


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_a_dataset_that_is_read_is_there_once(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    save(point_dataset(300), path)
    dataset = load_dataset(None, path, 0)
    for name in ("observations", "actions", "rewards", "next_observations"):
        assert shares_memory(getattr(dataset, name)), name


def test_statistics_over_blocks_are_those_of_the_whole():
    array = np.random.default_rng(0).normal(3.0, [0.1, 10.0], (2 * BLOCK + 7, 2))
    mean, std = mean_and_std(array.astype(np.float32))
    whole = array.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, whole.std(0), rtol=1e-10)


def test_safetensors_are_what_the_library_reads(tmp_path):
    arrays = {
        "flags": np.array([True, False, True]),
        "wide": np.arange(6.0).reshape(2, 3),
        "view": np.arange(12, dtype=np.float32).reshape(2, 6)[:, :4],
        "keys": np.array([1, 2**32 - 1], np.uint32),
        "scalar": np.int32(7) * np.ones((), np.int32),
        "empty": np.zeros((2, 0), np.float32),
    }
    path = tmp_path / "arrays.safetensors"
    with path.open("wb") as file:
        write_safetensors(file, arrays, {"progress": "{}"})
    found = safetensors.numpy.load_file(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
