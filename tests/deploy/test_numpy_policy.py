"""The file that robots load: alone with numpy, and whatever is wrong with what they load."""

import copy
import io
import itertools
import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spaars.deploy import numpy_policy
from spaars.deploy.export import npz_bytes
from spaars.deploy.graph import graphs_of
from spaars.deploy.numpy_policy import DESCRIPTION, NumpyPolicy, PolicyError
from toy_policies import ACTIONS, description, observations, random_policy


@pytest.fixture(scope="module")
def parts(point_task):
    """Description and arrays of a policy with every operation but a skill's."""
    agent, acting = random_policy("spaars")
    graphs, arrays = graphs_of(agent, acting, ACTIONS)
    return description(agent) | {"graphs": graphs}, arrays


@pytest.fixture(scope="module")
def path(parts, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.npz"
    path.write_bytes(npz_bytes(*parts))
    return path


def test_runs_alone_with_numpy(path: Path, tmp_path: Path) -> None:
    shutil.copy(numpy_policy.__file__, tmp_path / "numpy_policy.py")
    np.save(tmp_path / "x.npy", observations(50))
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('jax', 'spaars', 'equinox', 'gymnasium', 'safetensors'))\n"
        "sys.path.insert(0, '.')\n"
        "import numpy as np\n"
        "from numpy_policy import NumpyPolicy\n"
        f"np.save('y.npy', NumpyPolicy({str(path)!r})(np.load('x.npy')))\n"
        "extra = {name.split('.')[0] for name in sys.modules if sys.modules[name] is not None}\n"
        "print(*(extra - set(sys.stdlib_module_names) - {'__main__', 'numpy', 'numpy_policy'}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code.replace("import sys\n", _numpy_only(), 1)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []  # neither jax nor anything else of ours was imported
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), NumpyPolicy(path)(observations(50)))


def _numpy_only() -> str:
    """Without `site`, whose .pth files import what they like; numpy's own folder is added."""
    return f"import sys\nsys.path.append({str(Path(np.__file__).parents[1])!r})\n"


def test_one_observation_many_and_a_mapping(path: Path) -> None:
    policy = NumpyPolicy(path)
    x = observations(5)
    many = policy(x)
    assert many.shape == (5, ACTIONS)
    assert many.dtype == np.float32
    np.testing.assert_allclose(policy(x[0]), many[0], atol=1e-6)
    np.testing.assert_allclose(policy(x[0].tolist()), many[0], atol=1e-6)
    parts = {"velocity": x[0, 2:], "other": 1.0, "position": x[0, :2]}
    np.testing.assert_allclose(policy(parts), many[0], atol=1e-6)
    np.testing.assert_allclose(policy.to_env(np.array([-1.0, 1.0])), [-2.0, 1.0])
    np.testing.assert_allclose(policy.to_env(np.array([0.5, 0.0])), [1.0, 0.5])


def test_rounding_passes_no_bound(path: Path) -> None:
    policy = NumpyPolicy(path)
    bounds = np.random.default_rng(0).uniform(0.0, 3.0, (2, 1_000)).astype(np.float32)
    policy.about = {"action_low": (-bounds[0]).tolist(), "action_high": bounds[1].tolist()}
    ones = np.ones(1_000, np.float32)
    assert (policy.to_env(ones) <= bounds[1]).all()
    assert (policy.to_env(-ones) >= -bounds[0]).all()


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (np.zeros(3), "4 numbers"),
        (np.zeros((2, 2, 4)), "4 numbers"),
        (np.array([0.0, np.nan, 0.0, 0.0]), "nan in dimension 1"),
        (np.array([0.0, 0.0, np.inf, 0.0]), "inf in dimension 2"),
        (["a", "b", "c", "d"], "must be numbers"),
        ({"position": np.zeros(2)}, "no 'velocity'"),
        ({"position": np.zeros(3), "velocity": np.zeros(2)}, "'position' must have 2 numbers"),
    ],
)
def test_bad_observations_are_refused(observation, words: str, path: Path) -> None:
    with pytest.raises(PolicyError, match=words):
        NumpyPolicy(path)(observation)


def npy(array: np.ndarray, **changes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **changes)
    return buffer.getvalue()


class Trap:
    """What unpickling it would do is write a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def repacked(parts, changes: dict[str, bytes | None], compression=zipfile.ZIP_STORED) -> bytes:
    """The policy's file with some members replaced, or left out where None."""
    with zipfile.ZipFile(io.BytesIO(npz_bytes(*parts))) as file:
        members = {name: file.read(name) for name in file.namelist()} | changes
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, contents in members.items():
            if contents is not None:
                file.writestr(name, contents)
    return buffer.getvalue()


def malformed(parts, marker: Path):
    """(what, contents) of files none of which is a policy."""
    described, arrays = parts
    whole = npz_bytes(*parts)
    rng = np.random.default_rng(0)
    for size in rng.integers(0, len(whole) - 1, 60):
        yield f"cut after {size} bytes", whole[:size]
    for size in (1, 100, 5_000):
        yield f"{size} random bytes", rng.bytes(size)
    yield "text", b"hello"
    yield "compressed", repacked(parts, {}, zipfile.ZIP_DEFLATED)
    yield "no description", repacked(parts, {DESCRIPTION: None})
    yield "a dataset", repacked(({}, {"observations": np.zeros((3, 4))}), {DESCRIPTION: None})

    for name, array in arrays.items():
        member = f"{name}.npy"
        broken = array.copy()
        broken.flat[0] = np.nan
        huge = npy(array).replace(str(array.shape).encode(), b"(99999999999,)", 1)
        trap = pickle.dumps(Trap(marker))
        objects = io.BytesIO()
        np.lib.format.write_array(objects, np.array([None, Trap(marker)], object))
        for what, contents in {
            "left out": None,
            "nan": npy(broken),
            "float64": npy(array.astype(np.float64)),
            "int32": npy(array.astype(np.int32)),
            "bytes": npy(array.astype("S4")),
            "another shape": npy(np.zeros((*array.shape, 1), np.float32)),
            "longer": npy(np.zeros(array.shape[0] + 1, np.float32)),
            "a number": npy(np.float32(1.0)),
            "objects": objects.getvalue(),
            "a pickle": trap,
            "a huge shape": huge,
            "cut": npy(array)[:-4],
            "more than it declares": npy(array) + b"1234",
            "version 2": npy(array, version=(2, 0)),
            "code for a header": npy(array).replace(b"'descr'", b"exit(0)", 1),
        }.items():
            yield f"{name}: {what}", repacked(parts, {member: contents})
    zeros = np.zeros_like(arrays["observations/std"])
    yield "no spread", repacked(parts, {"observations/std.npy": npy(zeros)})

    for what, contents in {
        "no JSON": b"{",
        "deep JSON": b"[" * 100_000,
        "a list": b"[]",
        "too long": b" " * 2**21,
        "not UTF-8": b"\xff\xfe\xfd",
    }.items():
        yield f"description: {what}", repacked(parts, {DESCRIPTION: contents})
    strange = (None, -1, 0, 1e99, 2**70, "x", [], {}, [[]], True)
    for key in described:
        for value in strange:
            if value == [] and key == "observations":
                continue  # no names: allowed
            if value == {} and key == "about":
                continue
            if value == {} and key == "observations":
                continue
            changed = {**described, key: value}
            yield f"{key}: {value!r}", repacked((changed, arrays), {})
    for key in set(described) - {"observations"}:
        yield f"no {key}", repacked(({k: v for k, v in described.items() if k != key}, arrays), {})
    for i, step in enumerate(described["graphs"]["actions"]):
        for key in step:
            for value in (None, "x", ["x"], 7, {}):
                if value == 7 and key in ("pessimism", "margin", "by", "low", "high"):
                    continue
                changed = copy.deepcopy(described)
                changed["graphs"]["actions"][i][key] = value
                if key == "output" and value == "x":
                    continue  # where nothing reads it, a name is as good as another
                yield f"step {i}, {key}: {value!r}", repacked((changed, arrays), {})


def test_malformed_files_are_refused(parts, tmp_path: Path) -> None:
    marker, count = tmp_path / "executed", 0
    path = tmp_path / "policy.npz"
    for what, contents in malformed(parts, marker):
        path.write_bytes(contents)
        with pytest.raises(PolicyError, match=re.escape(str(path))) as refused:
            pytest.fail(f"loaded: {what} {NumpyPolicy(path).about}")
        assert "\n" not in str(refused.value)
        count += 1
    assert count >= 300
    assert not marker.exists()


def test_flipped_bits_are_refused_or_of_no_account(parts, tmp_path: Path) -> None:
    whole, x = bytearray(npz_bytes(*parts)), observations(20)
    path, rng = tmp_path / "policy.npz", np.random.default_rng(0)
    path.write_bytes(whole)
    expected = NumpyPolicy(path)(x)
    refused = 0
    for position in rng.integers(0, len(whole), 200):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            np.testing.assert_array_equal(NumpyPolicy(path)(x), expected)
        except PolicyError:
            refused += 1
    assert refused > 150


def test_steps_that_would_grow_without_bound_are_refused(parts, tmp_path: Path) -> None:
    described, arrays = copy.deepcopy(parts[0]), parts[1]
    names = ["observations"] + [f"x{i}" for i in range(100)]
    steps = [
        {"op": "concatenate", "inputs": [a, a], "arrays": [], "output": b}
        for a, b in itertools.pairwise(names)
    ]
    described["graphs"]["actions"][:0] = steps
    path = tmp_path / "policy.npz"
    path.write_bytes(npz_bytes(described, arrays))
    with pytest.raises(PolicyError, match="does not fit"):
        NumpyPolicy(path)


def test_it_is_plain_json_and_arrays(path: Path, parts) -> None:
    with np.load(path) as file:  # pickle is off
        assert json.loads(file[DESCRIPTION]) == parts[0]
        np.testing.assert_array_equal(file["raw/0/weight"], parts[1]["raw/0/weight"])
