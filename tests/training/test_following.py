"""Exploration along logged episodes and the agent's own best."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from spaars.data import Dataset
from spaars.data.replay import Batch, window_rows
from spaars.data.sources import load_dataset
from spaars.deploy.policy import state_shapes
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import preset_config
from spaars.training.envs import Episode
from spaars.training.following import Follower
from spaars.training.run import train

H = 2


def logged(*lengths: int) -> Dataset:
    """Episodes of one column: 0 1 2 3 4 5 and 10 11 12 13, cut into `lengths`."""
    observations = np.array([0, 1, 2, 3, 4, 5, 10, 11, 12, 13], np.float32)[:, None]
    n = len(observations)
    truncated = np.zeros(n, bool)
    truncated[np.cumsum(lengths) - 1] = True
    return Dataset.build(
        label="toy",
        observations=observations,
        actions=np.zeros((n, 1)),
        rewards=np.zeros(n),
        next_observations=observations,
        terminated=np.zeros(n, bool),
        truncated=truncated,
    )


LOGGED = logged(6, 4)
# Windows begin at all rows but an episode's last; the label of one is the row where it does.
LABELS = np.array([[0, 1, 2, 3, 4, 6, 7, 8]], np.float32)[..., None]
OWN = np.full((1, 1), -1.0, np.float32)


def never_asked(i: int, step: int) -> np.ndarray:
    raise AssertionError


def follower(rate: float = 1.0, retrace_rate: float = 0.0, stored=never_asked) -> Follower:
    return Follower(rate, retrace_rate, H, [5], LOGGED, LABELS, stored, 100)


def ask(follower: Follower, at: float, step: int, explores=True, fresh=False, stored=0) -> float:
    flags = np.array([explores]), np.array([fresh])
    return follower(OWN, np.array([[at]], np.float32), *flags, step, stored)[0, 0]


def test_it_enters_where_the_episode_is_nearest_and_stays_until_its_end():
    entered = set()
    for step in range(20):
        one = follower()
        first = ask(one, 2.2, step)
        entered.add(first)
        if first == 2:  # of the first episode; what is seen later is of no matter
            assert ask(one, 9.0, step + 2) == 4
            assert one.following == [None]  # its last window: the next choice is free again
        else:
            assert first == 6  # of the second, whose first observation is nearest
            assert ask(one, 0.0, step + 2) == 8
    assert entered == {2, 6}  # every episode is drawn


def test_it_leaves_the_choice_alone_without_luck_or_where_nobody_explores():
    assert ask(follower(0.0), 2.0, 0) == -1
    assert ask(follower(), 2.0, 0, explores=False) == -1
    half = follower(0.5)
    begun = [ask(half, 4.1, step, fresh=True) >= 0 for step in range(200)]
    assert 60 < sum(begun) < 140


def test_an_excursion_does_not_outlive_its_episode():
    one = follower()
    ask(one, 0.1, 0)
    assert one.following[0] is not None
    one.rate = 0.0
    assert ask(one, 0.1, 2, fresh=True) == -1
    one.following = [(False, 2, 5)]
    assert ask(one, 0.1, 2, explores=False) == -1
    assert one.following == [None]


def test_the_best_episodes_are_retraced_from_their_beginning():
    one = follower(0.0, 1.0, lambda i, step: np.full(1, step, np.float32))
    assert ask(one, 0.0, 0, fresh=True) == -1  # there is none yet
    for end, value in ((4, 1.0), (8, 3.0), (12, 2.0), (16, 3.0)):
        one.note(0, Episode(5, end, value, 4, False))
    assert one.best == [[(3.0, 4, 8), (3.0, 12, 16)]]
    # Only what is stored can be read, and only while the replay keeps it.
    assert {ask(one, 0.0, s, fresh=True, stored=16) for s in range(16, 40)} == {4, 12}
    assert {ask(one, 0.0, s, fresh=True, stored=8) for s in range(8, 40)} == {4}
    assert {ask(one, 0.0, s, fresh=True, stored=16) for s in range(106, 112)} == {12}
    assert ask(one, 0.0, 16, fresh=True, stored=8) == 4
    assert ask(one, 0.0, 18) == 6
    assert ask(one, 0.0, 20) == -1  # it is over, and nothing is retraced from the middle
    assert ask(one, 0.0, 22, fresh=True, explores=False, stored=16) == -1


def test_it_goes_on_after_a_resume():
    one, other = follower(), follower(0.0)
    ask(one, 0.1, 3)
    one.note(0, Episode(5, 4, 2.0, 4, False))
    other.restore(json.loads(json.dumps(one.state())))
    assert other.best == one.best
    assert ask(other, 0.1, 5) == ask(one, 0.1, 5) >= 0


def test_episodes_shorter_than_a_skill_are_never_entered():
    labels = np.array([[1, 2, 3, 4, 6, 7, 8]], np.float32)[..., None]
    one = Follower(1.0, 0.0, H, [5], logged(1, 5, 4), labels, never_asked, 100)
    assert {ask(one, 0.0, step, fresh=True) for step in range(20)} == {1, 6}


@pytest.mark.usefixtures("point_task")
def test_a_run_that_always_follows_runs_the_data_s_skills(tmp_path: Path) -> None:
    dataset = toy.point_file(tmp_path / "point.npz")
    config = preset_config(
        "point-on",
        "spaars-supe",
        "smoke",
        dataset=dataset,
        opal={"updates": 5, "hidden": (8,), "recurrent": 4, "latent_dim": 2},
        supe={"hidden": (8,), "novelty_features": 4},
        sac={"hidden": (8,), "critics": 2},
        raw={"hidden": (8,), "critics": 2},
        easing={"updates": 0},
        gate={"rule": "never"},
        deployment={"rule": "latest"},
        online={"steps": 120, "learning_starts": 80, "follow_rate": 1.0, "retrace_rate": 0.0},
        checkpoint_every=40,
        log_every=40,
        evaluation={"every": 120, "episodes": 1},
    )
    train(config, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    data = load_dataset(toy.POINT_ON, dataset, 0)
    state = checkpoint.tree("state", state_shapes(config, data.observation_dim, data.action_dim))
    rows = window_rows(*data.episode_bounds(), 4)[:, None] + np.arange(4)
    none = jnp.zeros(rows.shape)
    seen = jnp.asarray(data.observations[rows])
    windows = Batch(seen, jnp.asarray(data.actions[rows]), none, seen, none)
    labels = np.asarray(config.agent().label(jax.tree.map(lambda x: x[0], state), windows))
    skills = checkpoint.arrays["ring/latents"][0, ::4]
    assert len(skills) == 30
    distances = np.abs(skills[:, None] - labels[None]).max(-1)
    assert distances.min(1).max() < 1e-5
    # They are followed: what comes after a window is mostly the one that begins where it ends.
    found = distances.argmin(1)
    assert (np.diff(found) == 4).mean() > 0.5
