from pathlib import Path

import jax
import numpy as np
import pytest

from spaars.cli.strip import Args, episode_frames, latent_rows
from spaars.deploy.policy import Policy
from spaars.errors import ConfigError
from spaars.tasks import get_task
from spaars.training.config import preset_config
from spaars.training.trainer import initial_state

TASK = get_task("hopper-medium")
SKILLS = {
    "opal": {"hidden": (8,), "recurrent": 4},
    "supe": {"hidden": (8,), "novelty_features": 4},
    "sac": {"hidden": (8,), "critics": 2},
}
SIZES = {
    "spaars": {
        "learner": {"hidden": (8,), "critics": 2},
        "prior": {"hidden": (8,), "latent_dim": 2},
    },
    "supe": SKILLS,
    "spaars-supe": SKILLS | {"raw": {"hidden": (8,), "critics": 2}},
    "bc": {"bc": {"hidden": (8,)}},
}


def untrained(method) -> Policy:
    config = preset_config("hopper-medium", method, "smoke", seeds=(3,), **SIZES[method])
    state = initial_state(config, np.zeros(11, np.float32), np.ones(11, np.float32), 3)
    one = jax.tree.map(lambda leaf: leaf[0], state)
    return Policy(config, config.agent().acting(one), 3, 11)


def args(**changes) -> Args:
    return Args(path=Path("run"), **changes)


@pytest.mark.parametrize("method", ["spaars", "supe", "spaars-supe"])
def test_latents_are_held_from_the_same_state(method):
    rows = latent_rows(untrained(method), TASK.make_env(), args(latents=3, steps=8, frames=3))
    assert list(rows) == ["latent 1", "latent 2", "latent 3"]
    for frames in rows.values():
        assert [now.step for now in frames] == [0, 4, 8]
        np.testing.assert_array_equal(frames[0].links, rows["latent 1"][0].links)
    ends = [frames[-1].links for frames in rows.values()]
    assert not np.allclose(ends[0], ends[1], atol=1e-6)


def test_a_method_without_a_prior_has_no_latents():
    with pytest.raises(ConfigError, match=r"bc has no behaviour prior; leave --latents out"):
        latent_rows(untrained("bc"), TASK.make_env(), args(latents=1))


def test_an_episode_is_evaluations_own(capsys):
    """The frames begin at the state that evaluation's episode begins with, and end with it."""
    policy, env = untrained("bc"), TASK.make_env()
    frames = episode_frames(policy, env, TASK, args(episode=1, frames=4))
    steps = [now.step for now in frames]
    assert len(steps) == 4
    assert steps[0] == 0
    assert f"{steps[-1]} steps, return" in capsys.readouterr().out
    other = episode_frames(policy, env, TASK, args(episode=2, frames=4))
    assert not np.array_equal(frames[0].links, other[0].links)
    short = episode_frames(policy, env, TASK, args(episode=1, frames=4, steps=6))
    assert [now.step for now in short] == [0, 2, 4, 6]
    np.testing.assert_array_equal(short[0].links, frames[0].links)
