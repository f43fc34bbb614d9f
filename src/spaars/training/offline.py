"""Offline phases: fused scans of updates on the dataset, for the whole population."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spaars.algos.agent import Agent, Phase
from spaars.data.replay import Batch, on_host, take
from spaars.training.population import compile_updates, over_seeds


class OfflineLoop:
    """Runs a phase of the agent on the dataset; `keys` are one offline stream per seed.

    `windows` (w,) are the rows at which a phase's windows begin. A dataset on the host stays there
    (`spaars.data.replay`).
    """

    def __init__(
        self,
        agent: Agent,
        offline: Batch,
        keys: Any,
        windows: Any = None,
    ):
        self.agent, self.offline, self.keys = agent, offline, keys
        self.windows = windows
        self._compiled: dict[tuple[str, int], tuple[Any, Any]] = {}

    def run(self, phase: Phase, state: Any, done: int, updates: int) -> tuple[Any, Any]:
        """`updates` updates after the first `done`. Returns the state and metric means (S,)."""
        index = [p.name for p in self.agent.offline_phases()].index(phase.name)
        count = self.offline.rewards.shape[0]
        if (phase.name, updates) not in self._compiled:
            self._compiled[phase.name, updates] = (
                compile_updates(partial(_scan, phase, index, updates)),
                jax.jit(partial(_all_rows, phase, index, updates, count)),
            )
        scan, rows = self._compiled[phase.name, updates]
        # All transfers are explicit: a test forbids any other (tests/training/test_speed.py).
        number = jax.device_put(np.int32(done))
        data: tuple[Batch | None, Batch | None] = (self.offline, None)
        if on_host(self.offline):
            chosen = jax.device_get(rows(self.windows, self.keys, number))
            data = (None, jax.device_put(take(self.offline, chosen)))
        state, metrics = scan(state, *data, self.windows, self.keys, number)
        return state, jax.device_get(metrics)


def _update_keys(phase_key: Any, number: Any) -> Any:
    """For the rows and for the update: they depend on the phase and the update's number alone, not
    on how the updates are chunked."""
    return jax.random.split(jax.random.fold_in(phase_key, number))


def _rows(phase: Phase, count: int, windows: Any, key: Any) -> Any:
    """Rows (batch,) of the dataset's `count` in one batch, or (batch, window)."""
    shape = (phase.batch_size,)
    if phase.window is None:
        return jax.random.randint(key, shape, 0, count)
    begin = windows[jax.random.randint(key, shape, 0, windows.shape[0])]
    return begin[:, None] + jnp.arange(phase.window)


def _all_rows(
    phase: Phase,
    index: int,
    updates: int,
    count: int,
    windows: Any,
    keys: Any,
    done: Any,
) -> Any:
    """Those of `updates` batches of every seed, (S, updates, ...)."""

    def one(key: Any) -> Any:
        key = jax.random.fold_in(key, index)

        def of_update(number: Any) -> Any:
            return _rows(phase, count, windows, _update_keys(key, number)[0])

        return jax.lax.map(of_update, done + jnp.arange(updates))

    return over_seeds(one)(keys)


def _scan(
    phase: Phase,
    index: int,
    updates: int,
    state: Any,
    offline: Batch | None,
    drawn: Batch | None,
    windows: Any,
    keys: Any,
    done: Any,
) -> Any:
    def one(state: Any, key: Any, drawn: Batch | None) -> Any:
        key = jax.random.fold_in(key, index)

        def update(state: Any, x: tuple[Any, Batch | None]) -> Any:
            number, batch = x
            sample_key, update_key = _update_keys(key, number)
            if offline is not None:
                count = offline.rewards.shape[0]
                batch = take(offline, _rows(phase, count, windows, sample_key))
            return phase.update(state, batch, update_key)  # type: ignore[arg-type]

        state, metrics = jax.lax.scan(update, state, (done + jnp.arange(updates), drawn))
        return state, jax.tree.map(jnp.mean, metrics)

    return over_seeds(one)(state, keys, drawn)
