"""Policies of every kind with random weights: what acting computes does not depend on training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spaars.algos.agent import SkillAgent
from spaars.data.replay import Normaliser
from spaars.deploy.numpy_policy import FORMAT
from spaars.training.config import override, preset_config

OBSERVATIONS, ACTIONS = 4, 2
SKILLS = {
    "opal": {"hidden": (8,), "recurrent": 4, "latent_dim": 3, "skill_length": 4},
    "supe": {"hidden": (8,), "novelty_features": 4},
    "sac": {"hidden": (8,), "critics": 3},
}
CHANGES = {
    "spaars": {
        "prior": {"hidden": (8,), "latent_dim": 3, "latent_bound": 1.5},
        "learner": {"hidden": (8, 8), "critics": 3},
        "gate": {"margin": 0.01},
    },
    "iql": {"iql": {"hidden": (8, 8), "reward_scale": 1.0}},
    "sac": {"sac": {"hidden": (8, 8)}},
    "bc": {"bc": {"hidden": (8,)}},
    "supe": SKILLS,
    "spaars-supe": SKILLS | {"raw": {"hidden": (8,), "critics": 3}},
}


def toy_config(method, **changes):
    task = "point-on" if "supe" in method else "point"
    return override(preset_config(task, method, "smoke", **CHANGES[method]), changes)


@functools.cache
def fresh_state(method):
    agent = toy_config(method).agent()
    zeros = jnp.zeros(OBSERVATIONS)
    return jax.jit(lambda key: agent.init(key, zeros, zeros, ACTIONS))(jax.random.key(0))


def redrawn(tree, seed):
    """All parameters drawn anew, so that no two are alike; a normaliser that does something."""
    rng = np.random.default_rng(seed)

    def redraw(leaf):
        if isinstance(leaf, Normaliser):
            # The third observation is clipped now and then.
            mean, std = 0.1 * jnp.arange(OBSERVATIONS, dtype=jnp.float32), [1.0, 2.0, 0.5, 4.0]
            return Normaliser(mean, jnp.array(std))
        if leaf.dtype != jnp.float32 or leaf.ndim == 0:
            return leaf
        return jnp.asarray(rng.normal(0.0, 0.4, leaf.shape), jnp.float32)

    return jax.tree.map(redraw, tree, is_leaf=lambda node: isinstance(node, Normaliser))


def random_policy(method, *, armed=True, seed=0, **changes):
    """An agent and what it acts with."""
    agent = toy_config(method, **changes).agent()
    state = fresh_state(method)
    if armed:
        state = agent.hand_over(agent.begin_online(state), jnp.array(True))
    return agent, redrawn(agent.acting(state), seed)


def description(agent):
    described = {
        "format": FORMAT,
        "observation_dim": OBSERVATIONS,
        "action_dim": ACTIONS,
        "observations": [["position", 2], ["velocity", 2]],
        "about": {
            "task": "point",
            "seed": 0,
            "data": "none",
            "action_low": [-2.0, 0.0],
            "action_high": [2.0, 1.0],
        },
    }
    if isinstance(agent, SkillAgent):
        described |= {"skill_length": agent.skill_length, "skill_dim": agent.skill_dim}
    return described


def observations(n, seed=1):
    return np.random.default_rng(seed).normal(0.0, 3.0, (n, OBSERVATIONS)).astype(np.float32)
