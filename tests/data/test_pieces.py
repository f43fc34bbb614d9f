"""Sources that are read piece by piece, and datasets that stay on the disk."""

import shutil
import tempfile
import warnings
from collections import namedtuple
from pathlib import Path

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toy
from make_sources import write_episodes, write_lerobot, write_minari
from spaars.data import Dataset, inspect, load_file
from spaars.data import memory as blocks_of
from spaars.data.files import atomic_directory
from spaars.data.inspect import describe, problems
from spaars.data.sources import (
    Reading,
    assemble,
    check_destination,
    hdf5,
    lerobot,
    npz,
    open_source,
    safety,
    save,
    save_pieces,
    write,
)
from spaars.errors import ConfigError, DataError
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import preset_config
from spaars.training.run import train
from toy import point_dataset


def is_mapped(array: np.ndarray) -> bool:
    """Whether its rows are on the disk and come from there when they are used."""
    found: object = array
    while isinstance(found, np.ndarray) and not isinstance(found, np.memmap):
        found = found.base
    return isinstance(found, np.memmap)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((assemble, "PIECE"), (hdf5, "PIECE"), (npz, "PIECE"), (lerobot, "BATCH")):
        monkeypatch.setattr(module, name, 4)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety, "memory", lambda: 2 * 2_000)


def convert(source: Path, folder: Path, reading: Reading | None = None) -> Dataset:
    reading = reading or Reading()
    save_pieces(open_source(source, reading), reading, folder)
    return load_file(folder)


def write_d4rl(path: Path, ends: np.ndarray, terminal: np.ndarray, following: bool) -> Path:
    rng = np.random.default_rng(len(ends))
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(len(ends), 3))
        file["actions"] = rng.uniform(-1, 1, (len(ends), 2))
        file["rewards"] = rng.normal(size=len(ends))
        file["terminals"], file["timeouts"] = ends & terminal, ends & ~terminal
        if following:
            file["next_observations"] = rng.normal(size=(len(ends), 3))
    return path


@settings(max_examples=80, deadline=None)
@given(
    flags=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12),
    piece=st.integers(1, 13),
    following=st.booleans(),
)
def test_pieces_of_any_size_are_the_whole(flags, piece, following):
    """Episodes and their ends fall anywhere in a piece."""
    ends, terminal = np.array(flags, bool).T
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "PIECE", piece)
        path = write_d4rl(Path(name) / "a.hdf5", ends, terminal, following)
        try:
            whole = load_file(path)
        except DataError:  # no row has a next observation
            with pytest.raises(DataError, match="empty, since"):
                convert(path, Path(name) / "out")
            return
        converted = convert(path, Path(name) / "out")
    assert converted.sha256 == whole.sha256
    assert converted.description.source == whole.label


@pytest.mark.parametrize("write_source", [write_episodes, write_minari, write_lerobot])
def test_every_source_can_be_converted(tmp_path, small_pieces, write_source):
    source = write_source(tmp_path / "logs")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*left out, no vectors")
        whole, converted = load_file(source), convert(source, tmp_path / "out")
    assert converted.sha256 == whole.sha256
    assert converted.description.observations == whole.description.observations
    assert converted.label == f"out (npy directory), converted from {whole.label}"
    # ... and a converted one again, as itself.
    again = convert(tmp_path / "out", tmp_path / "again")
    assert (again.sha256, again.description) == (converted.sha256, converted.description)


def test_lerobot_episodes_may_cross_batches_and_files(tmp_path, small_pieces):
    """The second episode of five frames begins in one batch and ends in another."""
    pytest.importorskip("pyarrow")
    source = write_lerobot(tmp_path / "logs", (3, 5, 9, 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*left out, no vectors")
        assert load_file(source).episode_lengths().tolist() == [2, 4, 8, 1]


def test_columns_rewards_and_bounds_hold_for_pieces(tmp_path, small_pieces):
    n = 11
    np.savez(
        tmp_path / "log.npz",
        q=np.arange(2.0 * n).reshape(n, 2), after=np.ones((n, 2)), cmd=np.full((n, 1), 30),
        terminals=np.zeros(n, int), timeouts=np.arange(n) == 5,
    )  # fmt: skip
    reading = Reading(
        columns={"observations": ("q",), "next_observations": ("after",), "actions": ("cmd",)},
        rewards="zero",
        action_low=(-60.0,),
        action_high=(60.0,),
    )
    whole = load_file(tmp_path / "log.npz", reading)
    converted = convert(tmp_path / "log.npz", tmp_path / "out", reading)
    assert converted.sha256 == whole.sha256
    np.testing.assert_array_equal(converted.actions, np.full((n, 1), 0.5, np.float32))
    assert converted.description.action_low == (-60.0,)
    assert converted.description.rewards == "zero"


def test_errors_name_the_rows(tmp_path, small_pieces):
    path = tmp_path / "a.npz"
    save(point_dataset(40), path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["rewards"][22] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"from row 20: 'rewards' has NaN .* first row 2"):
        convert(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_what_is_larger_than_the_memory_is_converted_and_mapped(
    tmp_path, small_pieces, little_memory
):
    data = point_dataset(300)
    save(data, tmp_path / "big.npz")
    save(data, tmp_path / "big.hdf5")
    for name in ("big.npz", "big.hdf5"):
        with pytest.raises(DataError, match="`spaars data convert SOURCE DIRECTORY` reads it piec"):
            load_file(tmp_path / name)
        folder = tmp_path / name.replace(".", "-")
        mapped = convert(tmp_path / name, folder)
        assert mapped.sha256 == data.sha256
        for array in (mapped.observations, mapped.actions, mapped.rewards):
            assert is_mapped(array)
            # JAX on a CPU takes the mapped pages over: nothing of them is copied.
            uploaded = jnp.asarray(array, jnp.float32)
            assert uploaded.unsafe_buffer_pointer() == array.ctypes.data
        assert not mapped.observations.flags.writeable


def test_training_from_the_disk_is_training_from_memory(tmp_path, monkeypatch, point_task):
    data = toy.point_file(tmp_path / "point.npz")
    save_pieces(open_source(data), Reading(), tmp_path / "point")
    bc = {"updates": 20, "hidden": (8,)}
    states = []
    for source in (data, tmp_path / "point"):
        if source.is_dir():
            monkeypatch.setattr(safety, "memory", lambda: 2 * 2_000)
            assert is_mapped(load_file(source).observations)
        run = train(preset_config("point", "bc", "smoke", dataset=source, bc=bc), tmp_path / "run")
        states.append(load_checkpoint(run.path).arrays)
        shutil.rmtree(run.path)
    assert states[0].keys() == states[1].keys()
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], name)


def test_what_fits_is_read_into_memory(tmp_path):
    save_pieces_of(point_dataset(30), tmp_path / "out")
    assert not is_mapped(load_file(tmp_path / "out").observations)


def save_pieces_of(data: Dataset, folder: Path) -> None:
    folder.mkdir()
    for name, array in data.arrays.items():
        np.save(folder / f"{name}.npy", array)


def test_foreign_arrays_beyond_memory_are_converted_first(tmp_path, small_pieces, little_memory):
    data, folder = point_dataset(300), tmp_path / "mine"
    save_pieces_of(data, folder)
    np.save(folder / "observations.npy", data.observations.astype(np.float64))
    with pytest.raises(DataError, match="plain float32 and bool arrays"):
        load_file(folder)
    assert is_mapped(convert(folder, tmp_path / "ours").observations)
    np.save(folder / "observations.npy", np.asfortranarray(data.observations))
    with pytest.raises(DataError, match="plain float32 and bool arrays"):
        load_file(folder)
    with pytest.raises(DataError, match="Fortran order"):
        convert(folder, tmp_path / "again")


def test_a_row_or_an_episode_beyond_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safety, "memory", lambda: 2 * 100)
    with pytest.raises(DataError, match="this machine can load"):
        convert(write_episodes(tmp_path / "logs"), tmp_path / "out")
    save(point_dataset(300), tmp_path / "a.npz")
    with pytest.raises(DataError, match="this machine can load"):
        convert(tmp_path / "a.npz", tmp_path / "out")


def test_a_disk_without_room(tmp_path, monkeypatch):
    usage = namedtuple("usage", ["free"])
    monkeypatch.setattr(write.shutil, "disk_usage", lambda folder: usage(2**30 + 10))
    with pytest.raises(DataError, match=r"do not fit beside .* Free some"):
        convert(write_episodes(tmp_path / "logs"), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]


def test_an_interrupted_conversion_leaves_the_old_one(tmp_path):
    source = write_episodes(tmp_path / "logs")
    old = convert(source, tmp_path / "out").sha256

    def pieces():
        yield from list(open_source(source).pieces)[:1]
        raise KeyboardInterrupt

    stopped = assemble.Source(where=source, label="x", pieces=pieces())
    with pytest.raises(KeyboardInterrupt):
        save_pieces(stopped, Reading(), tmp_path / "out")
    assert load_file(tmp_path / "out").sha256 == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "out"]


def test_a_directory_is_replaced_whole(tmp_path):
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "a").touch()
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "b").touch()
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["out", "out/b"]


def test_destinations_without_a_suffix(tmp_path):
    check_destination(tmp_path / "new", overwrite=False)
    save_pieces_of(point_dataset(30), tmp_path / "ours")
    with pytest.raises(ConfigError, match="--overwrite"):
        check_destination(tmp_path / "ours", overwrite=False)
    check_destination(tmp_path / "ours", overwrite=True)
    (tmp_path / "home").mkdir()
    with pytest.raises(ConfigError, match=r"no directory of \.npy files"):
        check_destination(tmp_path / "home", overwrite=True)


def test_inspecting_by_blocks_sees_the_whole(monkeypatch):
    data = point_dataset(300)
    facts, found = describe(data), problems(data)
    monkeypatch.setattr(blocks_of, "BLOCK", 7)
    again = describe(data)
    assert problems(data) == found
    for name in ("observations", "actions", "effective_dimensions"):
        for one, other in zip(_numbers(facts[name]), _numbers(again[name]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9)
    for name in facts.keys() - {"observations", "actions", "effective_dimensions"}:
        assert facts[name] == again[name], name
    assert inspect._duplicates(data) == len(data) - len(
        np.unique(
            np.concatenate(
                [data.observations, data.actions, data.rewards[:, None], data.next_observations], 1
            ),
            axis=0,
        )
    )


def _numbers(facts) -> list:
    return list(facts.values()) if isinstance(facts, dict) else [facts]
