"""Malformed and hostile sources: refused with a DataError, whatever is wrong with them.

Two kinds for each reader. *Spoiled* sources are whole files with wrong contents, and every one
must be refused. *Damaged* sources are sound ones with random bytes cut, changed or added; a change
of one number into another cannot be seen, so these are refused or read, and nothing else happens.
"""

import faulthandler
import io
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from itertools import cycle, product
from pathlib import Path

import h5py
import numpy as np
import pytest

import make_sources
from spaars.data import Dataset, load_file
from spaars.data.sources import Reading, assemble, hdf5, npy, npz, open_source, save_pieces
from spaars.errors import DataError

Arrays = dict[str, np.ndarray]
REFUSED = 500
"""At least so many sources are refused for each reader."""


@pytest.fixture(autouse=True)
def hangs_end_with_a_traceback() -> Iterator[None]:
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def pieces_of_three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (assemble, hdf5, npz):
        monkeypatch.setattr(module, "PIECE", 3)


def refused(path: Path) -> bool:
    """Whether it is refused, as it should be: one line that begins with the path.

    Where a source can be read at once or piece by piece, both must see the same.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(left out, no vectors|is read as a terminal).*")
        whole = outcome(path, lambda: load_file(path))
        if path.suffix or npy.claims(path):
            assert outcome(path, lambda: in_pieces(path)) == whole
    return whole is None


def outcome(path: Path, load: Callable[[], Dataset]) -> str | None:
    """Digest of what was read; None if it was refused."""
    try:
        return load().sha256
    except DataError as error:
        message = str(error)
    assert message.startswith(str(path))
    assert "\n" not in message
    return None


def in_pieces(path: Path) -> Dataset:
    """What is read piece by piece, by way of a directory that is whole or not there."""
    folder = path.parent / "pieces" / "out"
    try:
        save_pieces(open_source(path), Reading(), folder)
        return load_file(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        assert not any(folder.parent.iterdir())


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(whole)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
    match rng.integers(7):
        case 0:
            del data[at:]
        case 1:
            for i in rng.integers(len(data), size=rng.integers(1, 20)):
                data[i] ^= 1 << int(rng.integers(8))
        case 2:
            data[at : at + length] = rng.bytes(length)
        case 3:
            data[at : at + length] = bytes(length)
        case 4:
            del data[at : at + length]
        case 5:
            data[at:at] = rng.bytes(length)
        case 6:
            data[at : at + length] = b"\xff" * length
    return bytes(data)


def refused_of_damaged(source: Path, count: int) -> int:
    """Damages one file of the source at a time; how often it was refused."""
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    originals = {file: file.read_bytes() for file in files}
    total = 0
    for seed in range(count):
        file = files[seed % len(files)]
        file.write_bytes(damaged(originals[file], np.random.default_rng(seed)))
        total += refused(source)
        file.write_bytes(originals[file])
    return total


# --- wrong contents -----------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def _cell(value: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def spoil(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        array = array.astype(np.float64)
        array.flat[rng.integers(array.size)] = value
        return array

    return spoil


SPOILS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "a row too few": lambda array, rng: array[:-1],
    "rows too many": lambda array, rng: np.concatenate([array, array[:2]]),
    "no rows": lambda array, rng: array[:0],
    "a scalar": lambda array, rng: array.flat[0],
    "an axis too many": lambda array, rng: array[..., None],
    "an axis too few": lambda array, rng: array.reshape(-1) if array.ndim > 1 else array[:1],
    "NaN": _cell(np.nan),
    "infinity": _cell(np.inf),
    "minus infinity": _cell(-np.inf),
    "beyond float32": _cell(1e300),
    "bytes": lambda array, rng: array.astype("S8"),
    "complex": lambda array, rng: array.astype(np.complex64),
    "records": lambda array, rng: np.zeros(array.shape, [("a", "f4"), ("b", "i4")]),
    "objects": lambda array, rng: np.full(array.shape, Bomb(), object),
}
ONLY_ACTIONS = {"out of bounds": _cell(1.5), "far out of bounds": _cell(-1e9)}
ONLY_FLAGS = {"a flag of 2": _cell(2), "a flag of a half": _cell(0.5)}


def spoiled(
    arrays: Arrays, required: tuple[str, ...], flags: tuple[str, ...], count: int
) -> Iterator[tuple[str, Arrays]]:
    """`count` times the arrays with one of them spoiled or left out, and what was done."""
    cases: list[tuple[str, str]] = list(product(arrays, SPOILS))
    cases += product(("actions",), ONLY_ACTIONS)
    cases += product([name for name in flags if name in arrays], ONLY_FLAGS)
    cases += product(required, ["absent"])
    kinds = SPOILS | ONLY_ACTIONS | ONLY_FLAGS
    for seed, (name, kind) in zip(range(count), cycle(cases), strict=False):
        rest = {key: array for key, array in arrays.items() if key != name}
        if kind != "absent":
            rest[name] = kinds[kind](arrays[name], np.random.default_rng(seed))
        yield f"{name}: {kind} (seed {seed})", rest


def flat(n: int = 8) -> Arrays:
    """All arrays of two episodes, by the names that npz and D4RL have in common."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(n, 3)),
        "actions": rng.uniform(-1, 1, (n, 2)),
        "rewards": rng.normal(size=n),
        "next_observations": rng.normal(size=(n, 3)),
        "terminals": np.arange(n) == 3,
        "timeouts": np.arange(n) == n - 1,
    }


def write_hdf5(group: h5py.Group, arrays: Arrays) -> None:
    for name, array in arrays.items():
        if np.asarray(array).dtype == object:
            group.create_dataset(name, np.shape(array), h5py.vlen_dtype(np.float32))
        else:
            group[name] = array


def check(what: str, path: Path) -> int:
    assert refused(path), what
    return 1


# --- npz and a directory of them ----------------------------------------------------------------


def hostile_npz(path: Path) -> Iterator[str]:
    good = flat()
    header = io.BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(header, facts)
    members = {
        "a bomb": header.getvalue(),
        "a pickle": b"cos\nsystem\n(S'false'\ntR.",
        "code in the header": b"\x93NUMPY\x01\x00\x20\x00__import__('os').abort()       \n",
        "nested brackets": b"\x93NUMPY\x01\x00\x00\x10" + b"(" * 4096,
        "a negative shape": header.getvalue().replace(b"10000000000000", b"-1000000000000"),
        "nothing": b"",
        "another version": b"\x93NUMPY\x09\x00" + bytes(64),
    }
    for what, member in members.items():
        np.savez(path, **{name: array for name, array in good.items() if name != "rewards"})
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("rewards.npy", member)
        yield what
    np.savez(path, **good, spaars_description=np.zeros(3))
    yield "a description of the wrong dtype"
    for text in (b"{", b"[]", b"[" * 99_999, b'{"observations": [["a", 9]]}', b'{"x": 1}'):
        np.savez(path, **good, spaars_description=np.frombuffer(text, np.uint8))
        yield f"the description {text[:40]!r}"
    for key, value in product(
        ("observations", "actions", "action_low", "rewards", "source"),
        (7, [[1]], [["a", -1]], [["a", True]], ["NaN"], {"a": 1}, [10**400], None),
    ):
        text = json.dumps({key: value}).encode()
        np.savez(path, **good, spaars_description=np.frombuffer(text, np.uint8))
        yield f"the description {text[:40]!r}"


def test_malformed_npz(tmp_path: Path) -> None:
    path, total = tmp_path / "a.npz", 0
    for what, arrays in spoiled(flat(), tuple(flat()), ("terminals", "timeouts"), 300):
        np.savez(path, **arrays)
        total += check(what, path)
    for what in hostile_npz(path):
        total += check(what, path)
    np.savez(path, **flat())
    assert not refused(path)
    total += refused_of_damaged(path, 300)
    assert total >= REFUSED


def test_malformed_directory_of_episodes(tmp_path: Path) -> None:
    root = make_sources.write_episodes(tmp_path / "log")
    assert not refused(root)
    file, total = root / "episode_001.npz", 0
    good = flat()
    required = ("observations", "actions", "rewards")
    for what, arrays in spoiled(good, required, ("terminals", "timeouts"), 250):
        np.savez(file, **arrays)
        total += check(what, root)
    for what in hostile_npz(file):
        total += check(what, root)
    np.savez(file, **good)  # sound, but of other widths than the other episodes
    total += check("widths", root)

    # What lies outside of the directory is not read, and what is no file is not opened.
    file.unlink()
    outside = make_sources.write_episodes(tmp_path / "outside") / "episode_000.npz"
    file.symlink_to(outside)
    total += check("a link out", root)
    file.unlink()
    file.symlink_to("../outside/episode_000.npz")
    total += check("a relative link out", root)
    file.unlink()
    file.symlink_to(file.name)
    total += check("a link to itself", root)
    file.unlink()
    os.mkfifo(file)
    total += check("a pipe", root)
    file.unlink()
    file.mkdir()
    total += check("a directory", root)
    file.rmdir()
    shutil.copy(outside, file)
    assert not refused(root)
    total += refused_of_damaged(root, 300)
    assert total >= REFUSED


def test_malformed_directory_of_arrays(tmp_path: Path) -> None:
    root, total = tmp_path / "set", 0
    root.mkdir()

    def write(arrays: Arrays) -> None:
        for file in root.iterdir():
            file.unlink()
        for name, array in arrays.items():
            np.save(root / f"{name}.npy", array)

    for what, arrays in spoiled(flat(), tuple(flat()), ("terminals", "timeouts"), 250):
        write(arrays)
        total += check(what, root)
    for what in hostile_npz(tmp_path / "a.npz"):
        write({})
        with zipfile.ZipFile(tmp_path / "a.npz") as file:
            file.extractall(root)
        total += check(what, root)
    write(flat())
    assert not refused(root)
    file = root / "rewards.npy"
    whole = file.read_bytes()
    for target in (tmp_path / "a.npz", "../a.npz", file.name, "/etc/passwd", "/dev/zero"):
        file.unlink()
        file.symlink_to(target)
        total += check(f"rewards -> {target}", root)
    file.unlink()
    os.mkfifo(file)
    total += check("a pipe", root)
    file.unlink()
    file.write_bytes(whole)
    total += refused_of_damaged(root, 400)
    assert total >= REFUSED


# --- HDF5 ---------------------------------------------------------------------------------------


def hostile_hdf5(file: h5py.File, group: h5py.Group, name: str, other: Path) -> Iterator[str]:
    """Replaces the array `name` by things that are none."""
    shape, n = group[name].shape, len(group[name])

    def replace() -> None:
        if name in group:
            del group[name]

    for link in ("/nowhere", "/", group.name, f"{group.name}/{name}"):
        replace()
        group[name] = h5py.SoftLink(link)
        yield f"a soft link to {link}"
    for target in (other, "absent.h5", "/etc/passwd", "/dev/zero"):
        replace()
        group[name] = h5py.ExternalLink(str(target), "/x")
        yield f"a link to {target}"
    for target in (str(other), "/etc/passwd", "absent"):
        replace()
        group.create_dataset(name, shape, "f4", external=[(target, 0, h5py.h5f.UNLIMITED)])
        yield f"storage in {target}"
    layout = h5py.VirtualLayout((n,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "x", (n,))
    replace()
    group.create_virtual_dataset(name, layout)
    yield "a virtual dataset"
    replace()
    group.create_group(name)
    yield "an empty group"
    replace()
    group[name] = group
    yield "its own group"
    replace()
    group[name] = file["/"]
    yield "the root"
    replace()
    group[name] = np.dtype("f4")
    yield "a type"
    for dtype in (h5py.ref_dtype, h5py.regionref_dtype, h5py.string_dtype(), "V8", "S3"):
        replace()
        group.create_dataset(name, shape, dtype)
        yield f"dtype {dtype}"
    replace()
    group[name] = h5py.Empty("f4")
    yield "nothing"
    for rows in (10**12, 2**62):
        replace()
        group.create_dataset(name, (rows, *shape[1:]), "f4", chunks=(1024, *shape[1:]))
        yield f"{rows} rows"
    replace()


def write_other(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(8)
    return path


def test_malformed_d4rl(tmp_path: Path) -> None:
    path, other, total = tmp_path / "a.hdf5", write_other(tmp_path / "other.h5"), 0
    required = ("observations", "actions", "rewards", "terminals")
    for what, arrays in spoiled(flat(), required, ("terminals", "timeouts"), 300):
        with h5py.File(path, "w") as file:
            write_hdf5(file, arrays)
        total += check(what, path)
    for name in required:
        with h5py.File(path, "w") as file:
            write_hdf5(file, flat())
        hostile = hostile_hdf5_of(path, None, name, other)
        for what in hostile:
            total += check(f"{name}: {what}", path)
    with h5py.File(path, "w") as file:
        write_hdf5(file, flat())
    assert not refused(path)
    total += refused_of_damaged(path, 300)
    assert total >= REFUSED


def hostile_hdf5_of(path: Path, group: str | None, name: str, other: Path) -> Iterator[str]:
    """`hostile_hdf5` with the file closed whenever it yields."""
    with h5py.File(path, "r") as file:
        whole = dict(file.items() if group is None else file[group].items())
        assert name in whole
    pristine = path.read_bytes()
    step = 0
    while True:
        path.write_bytes(pristine)
        with h5py.File(path, "a") as file:
            todo = hostile_hdf5(file, file[group or "/"], name, other)
            what = next((what for i, what in enumerate(todo) if i == step), None)
            # A generator that is closed here leaves the file as the step made it.
            todo.close()
        if what is None:
            path.write_bytes(pristine)
            return
        yield what
        step += 1


def test_malformed_minari(tmp_path: Path) -> None:
    root = make_sources.write_minari(tmp_path / "set")
    data, facts = root / "data" / "main_data.hdf5", root / "data" / "metadata.json"
    other, total = write_other(tmp_path / "other.h5"), 0
    assert not refused(root)
    sound, known = data.read_bytes(), json.loads(facts.read_bytes())
    with h5py.File(data) as file:
        arrays = {name: file[f"episode_1/{name}"][()] for name in ("actions", "rewards")}
        arrays |= {n: file[f"episode_1/{n}"][()] for n in ("terminations", "truncations")}
        arrays |= {
            n: file[f"episode_1/{n}"][()]
            for n in ("observations/position", "observations/velocity")
        }
    required = ("actions", "rewards", *list(arrays)[4:])
    for what, spoilt in spoiled(arrays, required, ("terminations", "truncations"), 200):
        with h5py.File(data, "a") as file:
            del file["episode_1"]
            write_hdf5(file.create_group("episode_1"), spoilt)
        total += check(what, root)
    data.write_bytes(sound)
    for name in ("actions", "rewards", "observations"):
        if name == "observations":  # an array here, so that it can be replaced like the others
            shutil.rmtree(root)
            make_sources.write_minari(root, nested=False)
        for what in hostile_hdf5_of(data, "episode_0", name, other):
            total += check(f"{name}: {what}", root)
    shutil.rmtree(root)
    make_sources.write_minari(root)
    for what in ("SoftLink", "ExternalLink", "itself", "absent", "an array"):
        with h5py.File(data, "a") as file:
            del file["episode_2"]
            if what == "SoftLink":
                file["episode_2"] = h5py.SoftLink("/episode_1")
            elif what == "ExternalLink":
                file["episode_2"] = h5py.ExternalLink(str(other), "/")
            elif what == "itself":
                file["episode_2"] = file["/"]
            elif what == "an array":
                file["episode_2"] = np.zeros(3)
        total += check(f"episode_2: {what}", root)
        data.write_bytes(sound)

    junk = [7, -1, 10**30, 0.5, True, None, "x", "../../etc/passwd", [], {}]
    for key, value in product(("total_episodes", "total_steps", "data_format"), junk):
        if (key, value) != ("total_steps", None) and type(value) in (int, str, list, dict):
            if key == "total_steps" and type(value) is not int:
                continue
            facts.write_text(json.dumps(known | {key: value}))
            total += check(f"{key}: {value!r}", root)
    for text in (b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 99_999, b"9" * 9_999, b'{"a": NaN'):
        facts.write_bytes(text)
        total += check(f"metadata {text[:20]!r}", root)
    facts.write_text(json.dumps(known | {"dataset_id": "../../<script>[/red]\x1b[31m"}))
    label = load_file(root).label
    assert not set("<>[]\x1b") & set(label)

    for file in (facts, data):
        whole = file.read_bytes()
        for target in (other, "../../other.h5", file.name, "/etc/passwd"):
            file.unlink()
            file.symlink_to(target)
            total += check(f"{file.name} -> {target}", root)
        file.unlink()
        os.mkfifo(file)
        total += check(f"{file.name}: a pipe", root)
        file.unlink()
        if file == data:
            total += check(f"{file.name}: absent", root)
        file.write_bytes(whole)
    for dataset_id in ("", "../../etc-v0", "/etc/passwd-v0", "a/../b-v0", "x-v0\n", "a b-v0", "x"):
        with pytest.raises(DataError, match="is no Minari id"):
            load_file(f"minari:{dataset_id}")
        total += 1
    facts.write_text(json.dumps(known))
    assert not refused(root)
    total += refused_of_damaged(root, 350)
    assert total >= REFUSED


# --- LeRobot ------------------------------------------------------------------------------------


def spoiled_columns(table, rng: np.random.Generator) -> Iterator[tuple[str, object]]:
    """The table with one of the columns that are read spoiled or left out."""
    import pyarrow as pa

    vectors = ("observation.state", "observation.velocity", "action")
    indices = ("episode_index", "frame_index")
    n = table.num_rows
    values = {name: table[name].to_pylist() for name in table.column_names}
    at = int(rng.integers(n))

    def put(name: str, value, type=None) -> tuple[str, object]:
        column = [value if i == at else x for i, x in enumerate(values[name])]
        i = table.column_names.index(name)
        return f"{name}[{at}] = {value!r:.40}", table.set_column(i, name, pa.array(column, type))

    def all_of(name: str, column) -> tuple[str, object]:
        i = table.column_names.index(name)
        what = f"{name} of type {getattr(column, 'type', type(column))}"
        return what, table.set_column(i, name, column)

    for name in vectors:
        width = len(values[name][0])
        kind = pa.list_(pa.float64())
        for row in ([], [0.0] * (width - 1), [0.0] * (width + 1), [0.0] * 9_999, None):
            yield put(name, row, kind)
        for x in (np.nan, np.inf, 1e300, None):
            yield put(name, [x] * width, kind)
        for column in (
            pa.array([["a"] * width] * n),
            pa.array([[[0.0] * width]] * n),
            pa.array([{"bytes": b"", "path": "/etc/passwd"}] * n),
            pa.array([b"\x80\x04."] * n),
            pa.array([0.0] * n, pa.float64()) if name == "action" else pa.nulls(n),
            pa.array(["x"] * n).dictionary_encode(),
            pa.nulls(n),
        ):
            if name == "action" and column.type == pa.float64():
                continue
            yield all_of(name, column)
    yield put("action", [1.5, 0.0], kind)
    for x in (np.nan, np.inf, None):
        yield put("next.reward", x, pa.float64())
    for column in (pa.array(["a"] * n), pa.array([[0.0, 1.0]] * n), pa.nulls(n)):
        yield all_of("next.reward", column)
    for name in indices:
        for x in (-1, 7, 2**62, None):
            yield put(name, x, pa.int64())
        for column in (
            pa.array([0.5] * n),
            pa.array(["0"] * n),
            pa.array([[0]] * n),
            pa.array([7] * n),
            pa.array(values[name][::-1]),
        ):
            yield all_of(name, column)
    for name in (*vectors, *indices, "next.reward"):
        yield f"{name}: absent", table.drop_columns([name])
    yield "no rows", table[:0]
    yield "a row too few", table[:-1]
    yield "shuffled", table.take(list(reversed(range(n))))
    yield "twice", pa.concat_tables([table, table])


def test_malformed_lerobot(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    root = make_sources.write_lerobot(tmp_path / "set")
    assert not refused(root)
    data = root / "data" / "chunk-000" / "file-000.parquet"
    episodes = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    info, total = root / "meta" / "info.json", 0
    whole, known = data.read_bytes(), json.loads(info.read_bytes())
    table = pq.read_table(data)
    for seed in range(3):
        for what, spoilt in spoiled_columns(table, np.random.default_rng(seed)):
            pq.write_table(spoilt, data)
            total += check(what, root)
    data.write_bytes(whole)

    told = pq.read_table(episodes)
    whole = episodes.read_bytes()
    for name, values in product(
        ("episode_index", "length"),
        (
            [0, 0, 0],
            [9, 9, 9],
            [-1, 2, 3],
            [0.5, 1, 2],
            ["a", "b", "c"],
            [[0], [1], [2]],
            [None] * 3,
        ),
    ):
        pq.write_table(told.set_column(told.column_names.index(name), name, [values]), episodes)
        total += check(f"{name} = {values}", root)
        pq.write_table(told.drop_columns([name]), episodes)
        total += check(f"no {name}", root)
    pq.write_table(told[:1], episodes)
    total += check("an episode only", root)
    episodes.write_bytes(whole)

    junk = [7, -1, 0.5, None, "x", "../../../../etc/passwd", "{x.__class__}", [], {}, [[]]]
    for key, value in product(
        ("codebase_version", "data_path", "features", "total_episodes", "total_frames"), junk
    ):
        info.write_text(json.dumps(known | {key: value}))
        total += check(f"{key}: {value!r}", root)
    for name, value in product(("action", "observation.state"), [*junk, {"dtype": "float32"}]):
        info.write_text(json.dumps(known | {"features": known["features"] | {name: value}}))
        total += check(f"{name}: {value!r}", root)
    for key, value in product(("dtype", "shape"), [*junk, [0], [-1], ["3"], [True], [2**70]]):
        if key == "dtype" or not isinstance(value, list) or value != []:
            feature = known["features"]["action"] | {key: value}
            info.write_text(
                json.dumps(known | {"features": known["features"] | {"action": feature}})
            )
            if key == "shape" or not isinstance(value, str):
                total += check(f"action.{key}: {value!r}", root)
    for text in (b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 99_999, b"9" * 9_999, b'{"a": NaN'):
        info.write_bytes(text)
        total += check(f"info {text[:20]!r}", root)
    info.write_text(json.dumps(known))

    outside = make_sources.write_lerobot(tmp_path / "outside")
    for file in (info, data, episodes):
        whole = file.read_bytes()
        for target in (outside / file.relative_to(root), file.name, "/etc/passwd", "/dev/zero"):
            file.unlink()
            file.symlink_to(target)
            total += check(f"{file.name} -> {target}", root)
        file.unlink()
        os.mkfifo(file)
        total += check(f"{file.name}: a pipe", root)
        file.unlink()
        if file != info:
            total += check(f"{file.name}: absent", root)
        file.write_bytes(whole)
    chunk = root / "data" / "chunk-000"
    chunk.rename(root / "moved")
    chunk.symlink_to(outside / "data" / "chunk-000")
    total += check("a chunk elsewhere", root)
    chunk.unlink()
    (root / "moved").rename(chunk)
    assert not refused(root)
    total += refused_of_damaged(root, 350)
    assert total >= REFUSED
