"""Offline phases: fused scans of updates on the dataset, for the whole population."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spaars.algos.agent import Agent, Phase
from spaars.data.replay import Batch, sample_offline, window
from spaars.training.population import Mapping, over_seeds


class OfflineLoop:
    """Runs a phase of the agent on the dataset; `keys` are one offline stream per seed.

    `windows` (w,) are the rows at which a phase's windows begin (`spaars.data.replay`).
    """

    def __init__(
        self,
        agent: Agent,
        offline: Batch,
        keys: Any,
        mapping: Mapping = "auto",
        windows: Any = None,
    ):
        self.agent, self.offline, self.keys, self.mapping = agent, offline, keys, mapping
        self.windows = windows
        self._compiled: dict[tuple[str, int], Any] = {}

    def run(self, phase: Phase, state: Any, done: int, updates: int) -> tuple[Any, Any]:
        """`updates` updates after the first `done`. Returns the state and metric means (S,)."""
        index = [p.name for p in self.agent.offline_phases()].index(phase.name)
        if (phase.name, updates) not in self._compiled:
            self._compiled[phase.name, updates] = jax.jit(
                partial(_scan, phase, index, updates, self.mapping), donate_argnums=0
            )
        # Both transfers are explicit: a test forbids any other (tests/training/test_speed.py).
        state, metrics = self._compiled[phase.name, updates](
            state, self.offline, self.windows, self.keys, jax.device_put(np.int32(done))
        )
        return state, jax.device_get(metrics)


def _scan(
    phase: Phase,
    index: int,
    updates: int,
    mapping: Mapping,
    state: Any,
    offline: Batch,
    windows: Any,
    keys: Any,
    done: Any,
) -> Any:
    def one(state: Any, key: Any) -> Any:
        # The key of an update depends on its phase and number alone, not on how it is chunked.
        key = jax.random.fold_in(key, index)

        def update(state: Any, number: Any) -> Any:
            sample_key, update_key = jax.random.split(jax.random.fold_in(key, number))
            shape = (phase.batch_size,)
            if phase.window is None:
                batch = sample_offline(offline, sample_key, shape)
            else:
                numbers = jax.random.randint(sample_key, shape, 0, windows.shape[0])
                batch = window(offline, windows[numbers], phase.window)
            return phase.update(state, batch, update_key)

        state, metrics = jax.lax.scan(update, state, done + jnp.arange(updates))
        return state, jax.tree.map(jnp.mean, metrics)

    return over_seeds(one, mapping)(state, keys)
