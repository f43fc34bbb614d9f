"""Offline phases: fused scans of updates on the dataset, for the whole population."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from spaars.algos.agent import Agent, Phase
from spaars.data.replay import Batch, sample_offline
from spaars.training.population import Mapping, over_seeds


class OfflineLoop:
    """Runs a phase of the agent on the dataset; `keys` are one offline stream per seed."""

    def __init__(self, agent: Agent, offline: Batch, keys: Any, mapping: Mapping = "auto"):
        self.agent, self.offline, self.keys, self.mapping = agent, offline, keys, mapping
        self._compiled: dict[tuple[str, int], Any] = {}

    def run(self, phase: Phase, state: Any, done: int, updates: int) -> tuple[Any, Any]:
        """`updates` updates after the first `done`. Returns the state and metric means (S,)."""
        index = [p.name for p in self.agent.offline_phases()].index(phase.name)
        if (phase.name, updates) not in self._compiled:
            self._compiled[phase.name, updates] = jax.jit(
                partial(_scan, phase, updates, self.mapping), donate_argnums=0
            )
        # The key of an update depends on its phase and number alone, not on how it is chunked.
        keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(self.keys)
        state, metrics = self._compiled[phase.name, updates](
            state, self.offline, keys, jnp.int32(done)
        )
        return state, jax.device_get(metrics)


def _scan(
    phase: Phase,
    updates: int,
    mapping: Mapping,
    state: Any,
    offline: Batch,
    keys: Any,
    done: Any,
) -> Any:
    def one(state: Any, key: Any) -> Any:
        def update(state: Any, number: Any) -> Any:
            sample_key, update_key = jax.random.split(jax.random.fold_in(key, number))
            batch = sample_offline(offline, sample_key, (phase.batch_size,))
            return phase.update(state, batch, update_key)

        state, metrics = jax.lax.scan(update, state, done + jnp.arange(updates))
        return state, jax.tree.map(jnp.mean, metrics)

    return over_seeds(one, mapping)(state, keys)
