"""Where every random number comes from.

One integer seed names everything a run draws. Streams are kept apart by purpose, so that
evaluation episodes are other episodes than training's, whatever the seed.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray

# Never renumber: the numbers are part of every published result.
TRAIN_EPISODE, EVAL_EPISODE, BEHAVIOUR_EPISODE, DEMONSTRATION = 1, 2, 3, 4
INIT, OFFLINE, ACT, UPDATE, EVIDENCE, EVALUATION = 11, 12, 13, 14, 15, 16
SPLICE, RETRACE = 17, 18
SKILL_CHOICE = 1_000
"""Folded into a step's key for the skill that is chosen there: `jax.random.split` of that key, into
a few, gives those that small numbers do."""
OWN_LOOP_ACT, OWN_LOOP_UPDATE, OWN_LOOP_EVIDENCE = 21, 22, 23


def episode_seed(purpose: int, seed: int, index: int) -> int:
    """The argument of `env.reset(seed=...)` for the index-th episode of a purpose."""
    return int(np.random.SeedSequence([purpose, seed, index]).generate_state(1)[0] >> 1)


def stream(seed: int, purpose: int) -> PRNGKeyArray:
    """The JAX key of a purpose; fold the step counter into it, never split it as state."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def streams(seeds: Sequence[int], purpose: int) -> Key[Array, " seeds"]:
    """Their keys, (S,)."""
    return jnp.stack([stream(seed, purpose) for seed in seeds])


def generator(seed: int, purpose: int, step: int) -> np.random.Generator:
    """The numpy generator of one step of a purpose: nothing needs to be remembered between two."""
    key = np.random.SeedSequence([purpose, seed]).generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))
