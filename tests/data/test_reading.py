import dataclasses

import numpy as np
import pytest

from spaars.data import Dataset, load_file
from spaars.data.description import Description
from spaars.data.sources import Reading, check_destination, parse_columns, save
from spaars.errors import ConfigError, DataError
from spaars.training.run_directory import describe_dataset

DESCRIPTION = Description(
    source="toy (Minari dataset)",
    observations=(("q pos", 2), ("observations/é", 1)),
    actions=(("act", 2),),
    action_low=(-1.5, 0.0),
    action_high=(1.0, 9.0),
    rewards="zero",
)


def dataset(description: Description | None = None) -> Dataset:
    n = 4
    return Dataset.build(
        label="made here",
        observations=np.arange(3 * n, dtype=np.float32).reshape(n, 3),
        actions=np.zeros((n, 2)),
        rewards=np.zeros(n),
        next_observations=np.ones((n, 3)),
        terminated=np.arange(n) == 1,
        truncated=np.zeros(n, bool),
        description=description,
    )


def test_columns_as_the_command_line_has_them():
    assert parse_columns(("observations=qpos,qvel", "actions=act=1")) == {
        "observations": ("qpos", "qvel"),
        "actions": ("act=1",),
    }


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("observation",), "observations=observation"),
        (("actions=a", "actions=b"), "twice"),
        (("observation=a",), "Did you mean 'observations'"),
        (("actions=",), "name its columns"),
        (("observations=a,,b",), "name its columns"),
        (("observations=a,a",), "each once"),
        (("rewards=a,b",), "Name one"),
    ],
)
def test_wrong_columns(words, wanted):
    with pytest.raises(ConfigError, match=wanted.replace("(", r"\(")):
        Reading(columns=parse_columns(words))


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        ((1.0,), (), "go together"),
        ((1.0,), (1.0,), "below"),
        ((0.0, 0.0), (1.0, -1.0), "dimension 1 has 0 and -1"),
        ((0.0, 0.0), (1.0, 1.0, 1.0), "2 numbers"),
        ((float("nan"),), (1.0,), "finite"),
        ((0.0,), (float("inf"),), "finite"),
    ],
)
def test_wrong_bounds(low, high, wanted):
    with pytest.raises(ConfigError, match=wanted):
        Reading(action_low=low, action_high=high)


def test_description_survives_json():
    assert Description.from_json(DESCRIPTION.to_json()) == DESCRIPTION
    assert Description.from_json("{}") == Description()


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".h5"])
@pytest.mark.parametrize("description", [DESCRIPTION, Description()])
def test_what_is_saved_is_read(tmp_path, suffix, description):
    path = tmp_path / "deep" / f"log{suffix}"
    saved = dataset(description)
    save(saved, path)
    loaded = load_file(path)
    assert loaded.sha256 == saved.sha256
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if description == DESCRIPTION:
        assert loaded.description == DESCRIPTION
        assert loaded.label.endswith(", converted from toy (Minari dataset)")
        with pytest.raises(DataError, match="says itself how to read it"):
            load_file(path, Reading(columns={"actions": ("actions",)}))


def test_description_must_fit(tmp_path):
    wrong = dataclasses.replace(DESCRIPTION, observations=(("q", 7),))
    with pytest.raises(DataError, match="does not fit its arrays"):
        dataset(wrong)
    with pytest.raises(DataError, match="does not fit its arrays"):
        dataset(Description(action_low=(1.0,), action_high=(2.0,)))


def test_description_is_recorded_with_a_run():
    assert describe_dataset(dataset(DESCRIPTION))["description"]["action_low"] == [-1.5, 0.0]
    assert "description" not in describe_dataset(dataset())


def test_destinations(tmp_path):
    with pytest.raises(ConfigError, match="must end in"):
        check_destination(tmp_path / "log.csv", overwrite=False)
    (tmp_path / "dir.npz").mkdir()
    with pytest.raises(ConfigError, match="is a directory"):
        check_destination(tmp_path / "dir.npz", overwrite=True)
    (tmp_path / "log.npz").touch()
    with pytest.raises(ConfigError, match="--overwrite"):
        check_destination(tmp_path / "log.npz", overwrite=False)
    check_destination(tmp_path / "log.npz", overwrite=True)
