"""How far what is executed lies from the data."""

import numpy as np
from scipy.spatial import cKDTree

from spaars.data import Dataset
from spaars.data.memory import mean_and_std

NEIGHBOURS = 5
"""k: the distance is that to the k-th nearest logged transition."""
REFERENCES = 10_000
"""Logged transitions that are searched, drawn once."""
HELD_OUT = 1_000
"""Further ones, whose own distances say what is usual."""
QUERIES = 256
"""Executed transitions that are looked up at a time, evenly spaced."""
USUAL = 0.99
"""Share of the held-out transitions that are not outside."""


class SupportMonitor:
    """Distances of (s, a) to logged ones, both standardised by the data.

    The draw is the same for every run on the same data.
    """

    def __init__(self, dataset: Dataset):
        mean, std = dataset.observation_statistics()
        action_mean, action_std = mean_and_std(dataset.actions)
        self.mean = np.concatenate([mean, action_mean])
        self.std = np.concatenate([std, np.maximum(action_std, 1e-3)])
        rows = np.random.default_rng(0).permutation(len(dataset))
        apart = min(HELD_OUT, len(dataset) // 10)
        held_out, references = rows[:apart], rows[apart:][:REFERENCES]
        self.neighbours = min(NEIGHBOURS, len(references))
        self.references = self._rows(dataset, references)
        self.tree = cKDTree(self.references)
        usual = self._to_neighbour(self._rows(dataset, held_out))
        self.reach = float(np.quantile(usual, USUAL)) if len(usual) else float("nan")
        """Distance that all but 1% of the held-out transitions keep to; NaN if there are none."""

    def distance(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Distance (n,) of (n, obs) and (n, act) to the `neighbours`-th nearest reference."""
        return self._to_neighbour(self._standardised(observations, actions))

    def measure(self, observations: np.ndarray, actions: np.ndarray) -> dict[str, float]:
        """Mean distance of up to 256 of the n transitions, and the share beyond `reach`."""
        n = len(actions)
        rows = np.unique(np.linspace(0, n - 1, min(n, QUERIES)).round().astype(int))
        distance = self.distance(observations[rows], actions[rows])
        outside = float((distance > self.reach).mean()) if self.reach == self.reach else np.nan
        return {"knn_distance": float(distance.mean()), "knn_outside": outside}

    def _rows(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        return self._standardised(dataset.observations[rows], dataset.actions[rows])

    def _standardised(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        x = np.concatenate([observations, actions], -1, dtype=np.float64)
        return (x - self.mean) / self.std

    def _to_neighbour(self, x: np.ndarray) -> np.ndarray:
        return self.tree.query(x, k=[self.neighbours])[0][:, 0]
