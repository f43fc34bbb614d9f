"""kNN distances are those of a search by hand."""

import numpy as np
import pytest

from spaars.data import Dataset
from spaars.safety import SupportMonitor, support
from toy import blank_dataset, point_dataset


@pytest.fixture(scope="module")
def data() -> Dataset:
    return point_dataset(600)


@pytest.fixture(scope="module")
def monitor(data: Dataset) -> SupportMonitor:
    return SupportMonitor(data)


def by_hand(data, monitor, observations, actions):
    """The same references, everything else anew: statistics, distances, order."""
    everything = np.concatenate([data.observations, data.actions], 1).astype(np.float64)
    mean, std = everything.mean(0), everything.std(0)
    queries = (np.concatenate([observations, actions], 1) - mean) / std
    distances = np.linalg.norm(queries[:, None] - monitor.references[None], axis=-1)
    return np.sort(distances, 1)[:, support.NEIGHBOURS - 1]


def test_distances_are_those_of_a_search_by_hand(data, monitor):
    rng = np.random.default_rng(1)
    observations = rng.normal(size=(40, 4)).astype(np.float32)
    actions = rng.uniform(-1, 1, (40, 2)).astype(np.float32)
    expected = by_hand(data, monitor, observations, actions)
    np.testing.assert_allclose(monitor.distance(observations, actions), expected, rtol=1e-4)
    measured = monitor.measure(observations, actions)
    assert measured["knn_distance"] == pytest.approx(expected.mean(), rel=1e-4)
    assert measured["knn_outside"] == (expected > monitor.reach).mean()


def test_references_and_held_out_share_nothing(data, monitor):
    assert len(monitor.references) == 540
    whole = np.concatenate([data.observations, data.actions], 1, dtype=np.float64)
    whole = (whole - monitor.mean) / monitor.std
    held_out = [row for row in whole if not (np.abs(monitor.references - row) < 1e-9).all(1).any()]
    assert len(held_out) == 60
    distances = np.sort(
        np.linalg.norm(np.array(held_out)[:, None] - monitor.references[None], axis=-1), 1
    )[:, support.NEIGHBOURS - 1]
    assert monitor.reach == pytest.approx(np.quantile(distances, 0.99))


def test_the_data_are_inside_and_what_is_elsewhere_is_not(data, monitor):
    inside = monitor.measure(data.observations, data.actions)
    elsewhere = monitor.measure(data.observations + 5.0, data.actions)
    assert inside["knn_outside"] < 0.1
    assert elsewhere["knn_outside"] == 1.0
    assert elsewhere["knn_distance"] > 10 * inside["knn_distance"]


def test_only_some_are_looked_up_evenly_spaced_and_always_the_same(data, monitor, monkeypatch):
    monkeypatch.setattr(support, "QUERIES", 3)
    rows = [0, 300, 599]  # of 600: 0, 299.5, 599, rounded to even
    some = monitor.measure(data.observations, data.actions)
    expected = monitor.distance(data.observations[rows], data.actions[rows]).mean()
    assert some["knn_distance"] == pytest.approx(expected)
    assert SupportMonitor(data).measure(data.observations, data.actions) == some


def test_few_data_are_enough():
    tiny = blank_dataset(3, 2)
    measured = SupportMonitor(tiny).measure(tiny.observations[:1], tiny.actions[:1])
    assert np.isfinite(list(measured.values())).all()
    one = Dataset.build(label="one", **{name: x[:1] for name, x in tiny.arrays.items()})
    measured = SupportMonitor(one).measure(tiny.observations, tiny.actions)
    assert measured["knn_distance"] > 0
    assert np.isnan(measured["knn_outside"])  # nothing was held out
