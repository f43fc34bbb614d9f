"""A population of seeds trained side by side: the leading axis of every state.

`vmap` on an accelerator, `lax.map` on CPU, where mapping keeps one seed's full throughput and
vmap over 16 seeds loses 30% of it (the design's measurement, see docs/lab-notebook.md).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

MAPPING: Literal["map", "vmap"] | None = None
"""Tests say here how seeds are mapped; None: as the backend likes it."""


def over_seeds(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` on one seed -> the same on all seeds; every argument has a leading seed axis."""
    if (MAPPING or ("map" if jax.default_backend() == "cpu" else "vmap")) == "vmap":
        return jax.vmap(fn)
    return lambda *args: jax.lax.map(lambda one: fn(*one), args)


def compile_updates(fn: Callable[..., Any]) -> Any:
    """`jax.jit` of a function that takes a state, which it may write over, and returns the next.

    On a CPU operations are ordered for little memory, not for many threads: what one critic has
    computed is used before the next begins, while it is in the cache. A tenth off an update of
    five critics on one core (docs/speed.md), the same bits.
    """
    order = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    options: Any = order if jax.default_backend() == "cpu" else None
    return jax.jit(fn, donate_argnums=0, compiler_options=options)


def own_buffers(state: Any) -> Any:
    """A copy in which no two leaves share memory, as donating the state to a jit demands.

    A fresh state aliases: target critics start as the critics themselves.
    """
    return jax.tree.map(jnp.copy, state)
