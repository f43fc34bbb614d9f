"""Exploration along the agent's own best episodes and spliced logged ones."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from spaars.data import Dataset
from spaars.data.replay import Batch
from spaars.data.rows import window_rows
from spaars.data.sources import load_dataset
from spaars.deploy.policy import state_shapes
from spaars.training.checkpoint import Checkpoint, load_checkpoint
from spaars.training.config import TrainConfig, preset_config
from spaars.training.retracing import Retracer, Route
from spaars.training.run import train

H = 2


def logged(*lengths: int, rewards=None) -> Dataset:
    """Episodes of one column: 0 1 2 3 4 5 and 10 11 12 13, cut into `lengths`."""
    observations = np.array([0, 1, 2, 3, 4, 5, 10, 11, 12, 13], np.float32)[:, None]
    n = len(observations)
    truncated = np.zeros(n, bool)
    truncated[np.cumsum(lengths) - 1] = True
    return Dataset.build(
        label="toy",
        observations=observations,
        actions=np.zeros((n, 1)),
        rewards=np.zeros(n) if rewards is None else np.array(rewards),
        next_observations=observations,
        terminated=np.zeros(n, bool),
        truncated=truncated,
    )


# Windows begin at all rows but an episode's last; the label of one is the row where it does.
LABELS = np.array([[0, 1, 2, 3, 4, 6, 7, 8]], np.float32)[..., None]
OWN = np.full((1, 1), -1.0, np.float32)


def never_asked(i: int, step: int) -> np.ndarray:
    raise AssertionError


def own_step(i: int, step: int) -> np.ndarray:
    return np.full(1, step, np.float32)


def retracer(retrace=0.0, splice=1.0, dataset=None, labels=LABELS, stored=never_asked) -> Retracer:
    return Retracer(retrace, splice, H, [5], dataset or logged(6, 4), labels, stored)


def ask(retracer: Retracer, at: float, step: int, explores=True, fresh=False, best=()) -> float:
    flags = np.array([explores]), np.array([fresh])
    return retracer(OWN, np.array([[at]], np.float32), *flags, step, [best])[0, 0]


def test_a_splice_goes_over_where_the_reward_has_risen_to_a_new_height():
    # The first episode's reward rises in its second step, and once more in its fourth, not above
    # where it was; the other's never does, so it is run whole.
    dataset = logged(6, 4, rewards=[0, 1, 0, 1, 0, 0, 2, 2, 2, 2])
    seen = set()
    for step in range(0, 80, 2):
        one = retracer(dataset=dataset)
        skills = [ask(one, 0.0, step, fresh=True)]
        assert one.guided == ["splice"]
        skills += [ask(one, 12.2, step + 2 * k) for k in (1, 2, 3, 4)]
        seen.add(tuple(skills))
    # Entered where 12.2 is nearest: the first episode's last window, or the second's.
    assert seen == {(0, 4, -1, -1, -1), (0, 8, -1, -1, -1), (6, 8, 4, -1, -1), (6, 8, 8, -1, -1)}


def test_an_episode_is_gone_on_with_to_its_end_and_entered_in_the_middle():
    dataset = logged(6, 4, rewards=[0, 1, 2, 3, 4, 5, 0, 0, 1, 1])
    runs = set()
    for step in range(0, 400, 2):
        one = retracer(dataset=dataset)
        first = ask(one, 0.0, step, fresh=True)
        runs.add((first, *(ask(one, 1.4, step + 2 * k) for k in (1, 2, 3, 4, 5))))
    assert {run for run in runs if run[0] == 0} == {
        # Cut after one skill, after two, or (past the last window) nowhere.
        *((0, 1, 3, -1, -1, -1), (0, 6, 8, -1, -1, -1)),
        *((0, 2, 1, 3, -1, -1), (0, 2, 6, 8, -1, -1)),
    }
    assert {run for run in runs if run[0] == 6} == {
        (6, 8, 1, 3, -1, -1),
        (6, 8, 6, 8, -1, -1),
    }


def test_only_exploring_episodes_are_taken_over_and_only_from_their_beginning():
    assert ask(retracer(splice=0.0), 2.0, 0, fresh=True) == -1
    one = retracer()
    assert ask(one, 2.0, 0) == -1
    assert ask(one, 2.0, 0, explores=False, fresh=True) == -1
    assert one.guided == [None]
    half = retracer(splice=0.5)
    begun = [ask(half, 4.1, step, fresh=True) >= 0 for step in range(200)]
    assert 60 < sum(begun) < 140


def test_a_route_does_not_outlive_its_episode():
    one = retracer()
    ask(one, 0.1, 0, fresh=True)
    assert one.routes[0] is not None
    one.splice_rate = 0.0
    assert ask(one, 0.1, 2, fresh=True) == -1
    assert one.guided == [None]
    one.routes = [Route(False, 2, 5, splices=False)]
    assert ask(one, 0.1, 2, explores=False) == -1
    assert one.routes == [None]


def test_the_best_episodes_are_retraced_from_their_beginning():
    one = retracer(1.0, 0.0, stored=own_step)
    # There is none yet that is worth it.
    assert {ask(one, 0.0, step, fresh=True) for step in range(16, 40)} == {0, 6}
    best = [(4, 8), (12, 16)]
    assert {ask(one, 0.0, s, fresh=True, best=best) for s in range(16, 40)} == {4, 12}
    assert ask(one, 0.0, 16, fresh=True, best=[(4, 8)]) == 4
    assert one.guided == ["retrace"]
    assert ask(one, 0.0, 18) == 6
    assert ask(one, 0.0, 20) == -1  # it is over, and the policy goes on
    assert ask(one, 0.0, 22, fresh=True, explores=False, best=best) == -1


def test_both_rates_are_shares_of_all_exploring_episodes():
    one = retracer(0.3, 0.3, stored=lambda i, step: np.full(1, 99.0, np.float32))
    found = [ask(one, 0.0, step, fresh=True, best=[(0, 4)]) for step in range(1_000)]
    own = np.mean([skill == 99 for skill in found])
    spliced = np.mean([skill in (0, 6) for skill in found])
    assert own == pytest.approx(0.3, abs=0.05)
    assert spliced == pytest.approx(0.3, abs=0.05)


def test_it_goes_on_after_a_resume():
    one, other = retracer(), retracer(splice=0.0)
    ask(one, 0.1, 3, fresh=True)
    other.restore(json.loads(json.dumps(one.state())))
    assert other.guided == ["splice"]
    assert [ask(other, 0.1, s) for s in (5, 7, 9)] == [ask(one, 0.1, s) for s in (5, 7, 9)]


def test_episodes_shorter_than_a_skill_are_never_entered():
    labels = np.array([[1, 2, 3, 4, 6, 7, 8]], np.float32)[..., None]
    one = retracer(dataset=logged(1, 5, 4), labels=labels)
    assert {ask(one, 0.0, step, fresh=True) for step in range(20)} == {1, 6}


def trained(dataset: Path, run: Path, **rates: float) -> tuple[TrainConfig, Checkpoint, list[str]]:
    """A run of three episodes of ten skills: configuration, checkpoint, who acted in each."""
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
        online={"steps": 120, "learning_starts": 80, **rates},
        checkpoint_every=40,
        log_every=40,
        evaluation={"every": 120, "episodes": 1},
    )
    train(config, run)
    checkpoint = load_checkpoint(run)
    assert checkpoint is not None
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return config, checkpoint, [line["actor"] for line in lines if line["kind"] == "episode"]


@pytest.mark.usefixtures("point_task")
def test_a_run_that_always_splices_runs_the_data_s_skills(tmp_path: Path) -> None:
    dataset = toy.point_file(tmp_path / "point.npz")
    config, checkpoint, actors = trained(dataset, tmp_path / "run", splice_rate=1.0)
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
    are_logged = (distances.min(1) < 1e-5).reshape(3, 10)
    # Every episode begins on a route; where that ends, the policy may have the last few.
    assert are_logged[:, :5].all()
    assert not (np.diff(are_logged.astype(int), axis=1) > 0).any()
    # They are followed: what comes after a window is mostly the one that begins where it ends.
    found = distances.argmin(1)
    assert (np.diff(found) == 4).mean() > 0.5
    assert actors == ["splice"] * 3


@pytest.mark.usefixtures("point_task")
def test_a_run_that_always_retraces_repeats_its_best_episode(tmp_path: Path) -> None:
    dataset = toy.point_file(tmp_path / "point.npz")
    _, checkpoint, actors = trained(dataset, tmp_path / "run", retrace_rate=1.0)
    assert actors == ["splice", "retrace", "retrace"]
    skills = checkpoint.arrays["ring/latents"][0, ::4].reshape(3, 10, -1)
    assert len(np.unique(skills[0], axis=0)) > 5
    np.testing.assert_array_equal(skills[1:], skills[[0, 0]])
