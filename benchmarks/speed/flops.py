"""How many floating-point operations an update takes, by XLA's own count."""

from typing import Any

import jax
import numpy as np

from spaars.algos.agent import Phase
from spaars.data.replay import Batch


def count(fn: Any, state: Any, *args: Any) -> float:
    """FLOPs of the compiled `fn(state, *args)` as it runs at this very state.

    The state's scalars (step counts, whether the gate is armed) are compiled in as constants, so
    that of every conditional only the branch taken is left to be counted. Products are some 98% of
    the count for networks of 2x256; transcendental functions are not in it.
    """
    leaves, tree = jax.tree.flatten(state)
    arrays = [leaf for leaf in leaves if leaf.ndim]

    def at_this_state(arrays: Any, *args: Any) -> Any:
        rest = iter(arrays)
        known = [next(rest) if leaf.ndim else np.asarray(leaf) for leaf in leaves]
        return fn(jax.tree.unflatten(tree, known), *args)

    lowered = jax.jit(at_this_state).lower(arrays, *args)
    quick: dict[str, str | bool] = {
        "xla_backend_optimization_level": "0"
    }  # of the machine code, which nobody runs
    analysis = lowered.compile(compiler_options=quick).cost_analysis()
    assert analysis is not None
    return float(analysis["flops"])


def of_phase(phase: Phase, state: Any, batch: Batch) -> float:
    """FLOPs of one offline update."""
    return count(phase.update, state, batch, jax.random.key(0))


def of_update(agent: Any, state: Any, batch: Batch, actor_every: int = 1) -> float:
    """FLOPs of one online update, the mean over `actor_every` where not all train the actor."""
    key = jax.random.key(0)
    if actor_every == 1:
        return count(agent.update, state, batch, key)
    without, with_actor = (
        count(agent.update, state._replace(updates=np.int32(updates)), batch, key)
        for updates in (actor_every, actor_every - 1)
    )
    return without + (with_actor - without) / actor_every
