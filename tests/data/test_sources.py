import contextlib
import io
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaars.data import Dataset, load_dataset, load_file, save_npz
from spaars.data.sources.assemble import follow
from spaars.errors import ConfigError, DataError

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def d4rl(n=8):
    """Terminal at row 2, time limit at row 5, cut at row 7."""
    return {
        "observations": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        "actions": np.zeros((n, 3), np.float32),
        "rewards": np.arange(n, dtype=np.float32),
        "terminals": np.arange(n) == 2,
        "timeouts": np.arange(n) == 5,
    }


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def ours(n=4):
    return {
        "observations": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        "actions": np.zeros((n, 3), np.float32),
        "rewards": np.ones(n),
        "next_observations": np.zeros((n, 2)),
        "terminated": np.arange(n) == 1,
        "truncated": np.arange(n) == n - 1,
    }


def write_npz(path, arrays):
    np.savez(path, **arrays)
    return path


def message_of(path):
    with pytest.raises(DataError) as error:
        load_file(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


# --- D4RL ---------------------------------------------------------------------------------------


def test_d4rl_without_next_observations_drops_rows_that_have_none(tmp_path):
    dataset = load_file(write_hdf5(tmp_path / "a.hdf5", d4rl()))
    # Rows 5 (time limit) and 7 (end of file) have no following observation.
    assert dataset.rewards.tolist() == [0, 1, 2, 3, 4, 6]
    assert dataset.terminated.tolist() == [False, False, True, False, False, False]
    assert dataset.truncated.tolist() == [False, False, False, False, True, True]
    np.testing.assert_array_equal(
        dataset.next_observations[[0, 3, 4]], d4rl()["observations"][[1, 4, 5]]
    )
    np.testing.assert_array_equal(dataset.next_observations[2], dataset.observations[2])
    assert dataset.label == "a.hdf5 (D4RL file)"


def test_d4rl_with_next_observations_keeps_every_row(tmp_path):
    arrays = d4rl() | {"next_observations": np.ones((8, 2))}
    dataset = load_file(write_hdf5(tmp_path / "a.h5", arrays))
    assert len(dataset) == 8
    assert np.flatnonzero(dataset.truncated).tolist() == [5, 7]
    assert (dataset.next_observations == 1.0).all()


def test_d4rl_without_timeouts_counts_terminals_only(tmp_path):
    arrays = d4rl()
    del arrays["timeouts"]
    dataset = load_file(write_hdf5(tmp_path / "a.hdf5", arrays))
    assert dataset.episode_lengths().tolist() == [3, 4]


@given(st.lists(st.sampled_from("-TOB"), min_size=1, max_size=30))
@settings(deadline=None, max_examples=60)
def test_d4rl_next_observations_agree_with_a_loop(ends):
    """- goes on, T terminal, O time limit, B both."""
    n = len(ends)
    terminated = np.array([end in "TB" for end in ends])
    truncated = np.array([end in "OB" for end in ends])
    observations = np.arange(n, dtype=np.float32)[:, None]
    result = follow(
        {"observations": observations, "terminated": terminated, "truncated": truncated}
    )
    expected = []
    for i in range(n):
        if terminated[i]:
            expected.append((i, i, True, False))
        elif not truncated[i] and i + 1 < n:
            follower_is_dropped = not terminated[i + 1] and (truncated[i + 1] or i + 2 == n)
            expected.append((i, i + 1, False, follower_is_dropped))
    found = zip(
        result["observations"][:, 0],
        result["next_observations"][:, 0],
        result["terminated"],
        result["truncated"],
        strict=True,
    )
    assert list(found) == expected


def test_the_real_kitchen_demonstrations():
    path = REAL_DATA / "kitchen_mixed_44_d4rl_format.hdf5"
    if not path.exists():
        pytest.skip(f"needs the real data at {path}")
    dataset = load_file(path)
    assert (len(dataset), dataset.observation_dim, dataset.action_dim) == (9876, 60, 9)
    assert len(dataset.episodes()) == 44
    assert dataset.terminated.sum() == 44
    assert not dataset.truncated.any()
    assert set(np.unique(dataset.rewards)) == {0, 1, 2, 3}
    # Every demonstration completes exactly three of the four tasks.
    assert (dataset.rewards[dataset.terminated] == 3).all()
    inside = ~dataset.terminated[:-1]
    np.testing.assert_array_equal(
        dataset.next_observations[:-1][inside], dataset.observations[1:][inside]
    )


def test_d4rl_errors_name_the_files_own_rows(tmp_path):
    arrays = d4rl()
    arrays["rewards"][7] = np.nan  # a row that would be dropped
    message = message_of(write_hdf5(tmp_path / "a.hdf5", arrays))
    assert "'rewards'" in message
    assert "row 7" in message
    arrays = d4rl() | {"terminals": np.full(8, 3)}
    assert "'terminals' must be booleans" in message_of(write_hdf5(tmp_path / "b.hdf5", arrays))


def test_d4rl_missing_key_suggests_the_nearest(tmp_path):
    arrays = d4rl()
    arrays["reward"] = arrays.pop("rewards")
    message = message_of(write_hdf5(tmp_path / "a.hdf5", arrays))
    assert "no array 'rewards'" in message
    assert "Did you mean 'reward'" in message
    assert "'observations'" in message


def test_d4rl_nothing_left(tmp_path):
    arrays = {name: array[:1] for name, array in d4rl().items()}
    assert "empty" in message_of(write_hdf5(tmp_path / "a.hdf5", arrays))


@pytest.mark.parametrize("link", [h5py.SoftLink("/rewards_"), h5py.ExternalLink("b.h5", "/x")])
def test_d4rl_links_are_not_followed(tmp_path, link):
    write_hdf5(tmp_path / "b.h5", {"x": np.zeros(8)})
    arrays = d4rl()
    arrays["rewards_"] = arrays["rewards"]
    path = write_hdf5(tmp_path / "a.hdf5", arrays | {"rewards": link})
    message = message_of(path)
    assert "'rewards'" in message
    assert "not followed" in message


def test_d4rl_storage_in_other_files_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    arrays = d4rl()
    del arrays["rewards"]
    path = write_hdf5(tmp_path / "a.hdf5", arrays)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (8,), "f4", external=[(str(secret), 0, 32)])
    assert "other files" in message_of(path)

    write_hdf5(tmp_path / "b.h5", {"x": np.zeros(8)})
    layout = h5py.VirtualLayout((8,), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "b.h5", "x", (8,))
    path = write_hdf5(tmp_path / "c.hdf5", arrays)
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("rewards", layout)
    assert "other files" in message_of(path)


def test_d4rl_odd_contents_are_refused(tmp_path):
    arrays = d4rl()
    del arrays["rewards"]
    path = write_hdf5(tmp_path / "vlen.hdf5", arrays)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (8,), h5py.vlen_dtype(np.float32))
    assert "not numeric" in message_of(path)

    path = write_hdf5(tmp_path / "group.hdf5", arrays)
    with h5py.File(path, "a") as file:
        file.create_group("rewards")
    assert "no array" in message_of(path)

    path = write_hdf5(tmp_path / "null.hdf5", arrays | {"rewards": h5py.Empty("f4")})
    assert "no array" in message_of(path)

    path = write_hdf5(tmp_path / "compound.hdf5", arrays | {"rewards": np.zeros(8, "i4,f4")})
    assert "not numeric" in message_of(path)


@pytest.mark.parametrize("rows", [10**12, 2**62])
def test_d4rl_declared_terabytes_are_not_read(tmp_path, rows):
    arrays = d4rl()
    del arrays["observations"]
    path = write_hdf5(tmp_path / "a.hdf5", arrays)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", (rows, 3), "f4", chunks=(1024, 3))
    message = message_of(path)
    assert "GiB" in message
    assert "'observations'" in message


def test_d4rl_damaged_files(tmp_path):
    path = write_hdf5(tmp_path / "a.hdf5", d4rl())
    path.write_bytes(path.read_bytes()[:-2000])
    assert "not a whole HDF5 file" in message_of(path)
    path.write_bytes(b"<html>404</html>" * 100)
    assert "not a whole HDF5 file" in message_of(path)
    path.write_bytes(b"")
    assert "not a whole HDF5 file" in message_of(path)


# --- npz ----------------------------------------------------------------------------------------


def test_npz_and_its_aliases(tmp_path):
    dataset = load_file(write_npz(tmp_path / "log.npz", ours()))
    assert dataset.label == "log.npz (npz file)"
    assert dataset.sha256 == Dataset.build(**ours(), label="").sha256
    aliased = ours()
    aliased["terminals"], aliased["timeouts"] = aliased.pop("terminated"), aliased.pop("truncated")
    np.savez_compressed(tmp_path / "b.npz", **aliased)
    assert load_file(str(tmp_path / "b.npz")).sha256 == dataset.sha256


def test_save_npz_round_trip(tmp_path):
    dataset = Dataset.build(**ours(), label="")
    save_npz(dataset, tmp_path / "deep" / "out.npz")
    assert load_file(tmp_path / "deep" / "out.npz").sha256 == dataset.sha256
    assert os.listdir(tmp_path / "deep") == ["out.npz"]


def test_npz_missing_key_suggests_the_nearest(tmp_path):
    arrays = ours()
    arrays["termination"] = arrays.pop("terminated")
    message = message_of(write_npz(tmp_path / "a.npz", arrays))
    assert "no array 'terminated'" in message
    assert "Did you mean 'termination'" in message


def test_npz_objects_are_refused_and_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    arrays = ours() | {"rewards": np.array([Bomb()] * 4, object)}
    message = message_of(write_npz(tmp_path / "a.npz", arrays))
    assert "'rewards'" in message
    assert "never unpickled" in message


def test_npz_bomb_is_refused_before_reading(tmp_path):
    path = write_npz(tmp_path / "a.npz", {k: v for k, v in ours().items() if k != "rewards"})
    header = io.BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(header, facts)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("rewards.npy", header.getvalue())
    message = message_of(path)
    assert "GiB" in message
    assert "'rewards'" in message


def test_npz_damaged_files(tmp_path):
    path = write_npz(tmp_path / "a.npz", ours())
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[: len(whole) // 2], b"", b"hello" * 100):
        path.write_bytes(damaged)
        assert "not a whole npz file" in message_of(path)
    # A flipped bit in an array's contents is caught by zip's checksum.
    position = whole.index(np.ones(4).tobytes())
    path.write_bytes(whole[:position] + b"\x01" + whole[position + 1 :])
    assert "CRC" in message_of(path)


@given(st.binary(max_size=300), st.integers(0, 2000))
@settings(deadline=None, max_examples=60)
def test_npz_any_damage_is_a_data_error_or_harmless(tmp_path_factory, noise, position):
    buffer = io.BytesIO()
    np.savez(buffer, **ours())
    whole = buffer.getvalue()
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    path.write_bytes(whole[:position] + noise + whole[position + len(noise) :])
    with contextlib.suppress(DataError):
        assert load_file(path).sha256


# --- dispatch -----------------------------------------------------------------------------------


def test_unknown_suffix_and_absent_file(tmp_path):
    assert ".npz" in message_of(tmp_path / "log.csv")
    assert "no such file" in message_of(tmp_path / "log.npz")
    (tmp_path / "dir.npz").mkdir()
    assert "is no file" in message_of(tmp_path / "dir.npz")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_an_os_error(tmp_path):
    path = write_npz(tmp_path / "a.npz", ours())
    path.chmod(0)
    with pytest.raises(PermissionError) as error:
        load_file(path)
    assert error.value.filename == str(path)


def test_load_dataset_prefers_the_file(tmp_path):
    path = write_npz(tmp_path / "log.npz", ours())
    assert len(load_dataset(None, path, transitions=100)) == 4
    with pytest.raises(ConfigError, match="path of a file"):
        load_dataset(None, None, transitions=100)
