"""Nothing but the work itself: an update moves nothing to or from the host and compiles once.

No test here looks at a clock; `python -m benchmarks.speed` does (docs/speed.md).
"""

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars import seeding
from spaars.data.replay import Replay, as_batch, empty_ring
from spaars.data.rows import start_rows
from spaars.training.config import preset_config
from spaars.training.envs import EnvPopulation
from spaars.training.offline import OfflineLoop
from spaars.training.online import OnlineLoop
from spaars.training.population import own_buffers
from spaars.training.trainer import initial_state
from toy import POINT, point_dataset

SEEDS = (3, 7)
TESTS = Path(__file__).parents[1]


@contextlib.contextmanager
def compilations(caplog):
    """The names of what is compiled inside, a list that is complete at the end."""
    names: list[str] = []
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        yield names
    messages = [record.getMessage() for record in caplog.records]
    names += [m.split(" with ")[0] for m in messages if m.startswith("Compiling")]


def loops(method):
    """Offline and online loop of a tiny agent on the toy task, and its state."""
    linear = {"hidden": ()}  # the fewer layers, the sooner compiled
    of_method = {
        "spaars": {"prior": linear, "learner": linear | {"critics": 2, "warmup_steps": 40}},
        "rlpd": {"sac": linear | {"critics": 2, "actor_every": 2}},
    }[method]
    online = {"chunk": 40, "steps": 400, "random_steps": 0, "learning_starts": 0}
    config = preset_config("point", method, "smoke", seeds=SEEDS, online=online, **of_method)
    agent, data = config.agent(), point_dataset(400)
    offline = as_batch(
        data.observations, data.actions, data.rewards, data.next_observations, data.terminated
    )
    starts = start_rows(*data.episode_bounds(), config.online.start_steps)
    state = own_buffers(initial_state(config, *data.observation_statistics(), data.action_dim))
    keys = seeding.streams(SEEDS, seeding.OFFLINE)
    online_loop = OnlineLoop(
        agent,
        state,
        Replay(empty_ring(len(SEEDS), 400, 4, 2), offline, jnp.asarray(starts, jnp.int32)),
        EnvPopulation(POINT.make_env, SEEDS),
        config.online,
        config.deployment,
    )
    return OfflineLoop(agent, offline, keys), online_loop, state


@pytest.mark.parametrize("method", ["spaars", "rlpd"])
def test_updates_move_nothing_and_compile_once(method, point_task, caplog):
    offline, online, state = loops(method)
    agent, nobody, everyone = online.agent, jnp.zeros(2, bool), jnp.ones(2, bool)

    # The first block or chunk compiles. What follows must not.
    for phase in agent.offline_phases():
        state, _ = offline.run(phase, state, 0, 4)
        with compilations(caplog) as compiled, jax.transfer_guard("disallow"):
            for done in (4, 8):
                state, _ = offline.run(phase, state, done, 4)
        assert not compiled

    for _ in range(2):
        online.run_chunk()
    online.state = jax.vmap(agent.hand_over)(online.state, nobody)
    with compilations(caplog) as compiled:
        for arm in (nobody, nobody, everyone, everyone):
            online.state = jax.vmap(agent.hand_over)(online.state, arm)
            online.run_chunk()
            with jax.transfer_guard("disallow"):
                metrics = online.update()
    assert not compiled
    assert np.isfinite(metrics["q_mean"]).all()

    # A callback into Python moves its arguments by itself, where no guard sees it.
    lowered = online._update.lower(online.state, online.replay, online.update_keys, jnp.int32(0))
    assert "callback" not in lowered.as_text()


def test_a_population_over_two_devices_is_each_seed_alone(tmp_path):
    """Two CPU devices are pretended, which only a fresh process can do."""
    pretended = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),  # the second seed alone is the first's program
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    subprocess.run(
        [sys.executable, TESTS / "two_devices.py"],
        env=os.environ | pretended,
        check=True,
        timeout=300,
    )
