import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaars.data import Dataset, check_against_env, content_sha256
from spaars.errors import DataError


def arrays(n=6, obs=3, act=2, seed=0):
    """A small valid log: terminal at row 2, time limit at row 4, cut at the end."""
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.normal(size=(n, obs)),
        "actions": rng.uniform(-1, 1, (n, act)),
        "rewards": np.arange(n),
        "next_observations": rng.normal(size=(n, obs)),
        "terminated": np.arange(n) == 2,
        "truncated": np.arange(n) == 4,
    }


def build(**changes):
    return Dataset.build(**(arrays() | changes), label="log")


def test_build_casts_and_closes_the_last_episode():
    dataset = build(terminated=[0, 0, 1, 0, 0, 0])
    assert {name: x.dtype for name, x in dataset.arrays.items()} == {
        "observations": np.float32,
        "actions": np.float32,
        "rewards": np.float32,
        "next_observations": np.float32,
        "terminated": np.bool_,
        "truncated": np.bool_,
    }
    assert (len(dataset), dataset.observation_dim, dataset.action_dim) == (6, 3, 2)
    assert dataset.truncated.tolist() == [False, False, False, False, True, True]
    assert dataset.episodes() == [slice(0, 3), slice(3, 5), slice(5, 6)]
    assert dataset.episode_lengths().tolist() == [3, 2, 1]
    assert dataset.episode_returns().tolist() == [3.0, 7.0, 5.0]


def test_a_fall_at_the_time_limit_is_a_fall():
    both = np.arange(6) == 3
    dataset = build(terminated=both, truncated=both)
    assert dataset.terminated[3]
    assert not dataset.truncated[3]
    last = build(terminated=np.arange(6) == 5, truncated=np.zeros(6, bool))
    assert not last.truncated.any()


def test_arrays_are_locked_but_the_callers_are_not():
    mine = arrays() | {"observations": np.zeros((6, 3), np.float32)}
    dataset = Dataset.build(**mine, label="log")
    with pytest.raises(ValueError, match="read-only"):
        dataset.observations[0] = 1.0
    mine["truncated"][0] = True
    assert not dataset.truncated[0]
    mine["observations"][0] = 1.0


@given(st.lists(st.sampled_from(["", "terminated", "truncated", "both"]), min_size=1, max_size=40))
@settings(deadline=None, max_examples=60)
def test_episodes_partition_the_rows(flags):
    n = len(flags)
    dataset = Dataset.build(
        observations=np.zeros((n, 1)),
        actions=np.zeros((n, 1)),
        rewards=np.arange(n),
        next_observations=np.zeros((n, 1)),
        terminated=[flag in ("terminated", "both") for flag in flags],
        truncated=[flag in ("truncated", "both") for flag in flags],
        label="log",
    )
    expected, rows = [], []
    for row, flag in enumerate(flags):
        rows.append(row)
        if flag or row == n - 1:
            expected.append(rows)
            rows = []
    episodes = dataset.episodes()
    assert [list(range(n))[episode] for episode in episodes] == expected
    assert dataset.episode_returns().tolist() == [sum(rows) for rows in expected]
    assert dataset.episode_lengths().tolist() == [len(rows) for rows in expected]
    ends = dataset.terminated.astype(int) + dataset.truncated
    assert all(ends[episode].sum() == 1 == ends[episode][-1] for episode in episodes)


def test_statistics_leave_constant_dimensions_alone():
    observations = np.random.default_rng(0).normal(5.0, 2.0, (500, 4))
    observations[:, 1] = 1234.567  # not exactly representable: its std in float32 is not zero
    observations[:, 2] *= 1e-5
    observations[:, 3] = 0.0
    n = len(observations)
    dataset = Dataset.build(
        observations=observations,
        actions=np.zeros((n, 1)),
        rewards=np.zeros(n),
        next_observations=observations,
        terminated=np.zeros(n, bool),
        truncated=np.zeros(n, bool),
        label="log",
    )
    mean, std = dataset.observation_statistics()
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, observations.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, [observations[:, 0].std(), 1.0, 1e-3, 1.0], rtol=1e-5)


def test_sha256_depends_on_contents_shapes_dtypes_and_names_only():
    x = np.arange(6, dtype=np.float32)
    golden = hashlib.sha256(b"x <f4 (6,)\n" + x.tobytes()).hexdigest()
    assert content_sha256({"x": x}) == golden
    different = [{"y": x}, {"x": x.reshape(2, 3)}, {"x": x.astype(np.float64)}, {"x": x + 1}]
    assert len({golden, *(content_sha256(d) for d in different)}) == 5
    strided = np.repeat(x, 2)[::2]
    assert content_sha256({"x": strided}) == golden
    assert content_sha256({"a": x, "b": x}) == content_sha256({"b": x, "a": x})
    assert build().sha256 == build(actions=arrays()["actions"].astype(np.float32)).sha256
    assert build().sha256 != build(rewards=np.zeros(6)).sha256


def test_actions_within_rounding_are_clipped():
    actions = np.zeros((6, 2))
    actions[1] = 1.000001, -1.000005
    assert build(actions=actions).actions[1].tolist() == [1.0, -1.0]


def _with(name, row, value):
    array = np.array(arrays()[name], np.float64)
    array[row] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewards": None}, ["'rewards'", "missing"]),
        ({"truncated": None}, ["'truncated'", "missing"]),
        ({"observations": np.zeros(6)}, ["'observations'", "(6,)", "(rows, dimensions)"]),
        ({"rewards": np.zeros((6, 1))}, ["'rewards'", "(6, 1)", "Reshape"]),
        ({"actions": np.zeros((5, 2))}, ["'actions' 5", "'rewards' 6", "different numbers"]),
        ({"next_observations": np.zeros((6, 4))}, ["'next_observations' has 4", "has 3"]),
        ({"rewards": [None] * 6}, ["'rewards'", "object", "not numeric"]),
        ({"rewards": ["a"] * 6}, ["'rewards'", "not numeric"]),
        ({"observations": [{"x": 1}] * 6}, ["'observations'", "object", "flatten"]),
        ({"actions": [[0.0], [0.0, 1.0]]}, ["'actions'", "same length"]),
        ({"rewards": np.zeros(6, complex)}, ["complex", "not numeric"]),
        ({"observations": np.zeros((6, 0))}, ["'observations'", "empty"]),
        (_with("observations", (3, 1), np.nan), ["'observations'", "NaN", "1 row", "row 3"]),
        (_with("rewards", [2, 4], -np.inf), ["'rewards'", "2 row(s)", "first row 2"]),
        (_with("rewards", 1, 1e300), ["'rewards'", "infinity (as float32)", "row 1"]),
        (_with("actions", (4, 1), -2.5), ["dimension 1", "[-2.5, ", "row 4", "RescaleAction"]),
        (_with("terminated", 5, 0.5), ["'terminated'", "0.5", "row 5"]),
        (_with("truncated", 0, np.nan), ["'truncated'", "nan", "row 0"]),
        ({name: x[:0] for name, x in arrays().items()}, ["empty", "at least one"]),
    ],
)
def test_errors_say_what_where_and_how_to_mend(changes, words):
    with pytest.raises(DataError) as error:
        build(**changes)
    message = str(error.value)
    assert message.startswith("log: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_errors_use_the_sources_own_names():
    with pytest.raises(DataError, match=r"^a/b\.hdf5: 'terminals' must be booleans"):
        Dataset.build(
            **arrays() | {"terminated": np.full(6, 2)},
            label="log",
            where="a/b.hdf5",
            keys={"terminated": "terminals"},
        )


def test_check_against_env():
    dataset = build()
    check_against_env(dataset, 3, 2, "hopper-medium")
    with pytest.raises(DataError, match=r"observations have 3 .* hopper-medium have 11"):
        check_against_env(dataset, 11, 2, "hopper-medium")
    with pytest.raises(DataError, match=r"actions have 2 .* hopper-medium have 3"):
        check_against_env(dataset, 3, 3, "hopper-medium")
