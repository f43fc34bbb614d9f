"""Who is deployed: by trial episodes, and never a policy that has not proved itself."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaars.training.deployment import Deployment, DeploymentConfig, Trials, after_episode
from spaars.training.envs import Episode

TWO = DeploymentConfig(trial_episodes=2, every=100, rollback=0.2)


def episode(episode_return, step, seed=0):
    return Episode(seed, step, float(episode_return), 10, False)


def play(config, returns, trials, first=10, apart=10):
    """The events of consecutive episodes, None where there is none."""
    verdicts = [
        after_episode(config, trials, episode(value, first + i * apart))
        for i, value in enumerate(returns)
    ]
    return [verdict.event if verdict else None for verdict in verdicts]


def test_the_offline_policy_is_measured_first():
    trials = Trials()
    assert play(TWO, [50, 70], trials) == [None, "deployed"]
    assert (trials.deployed_return, trials.on_trial, trials.next_trial) == (60.0, False, 120)


def test_logged_returns_are_a_bar_of_their_own():
    trials = Trials(logged_return=90.0)
    play(TWO, [50, 70], trials)
    assert trials.deployed_return == 90.0
    better = Trials(logged_return=10.0)
    play(TWO, [50, 70], better)
    assert better.deployed_return == 60.0


@pytest.mark.parametrize(
    ("returns", "events", "deployed"),
    [
        ([61, 80], [None, "deployed"], 70.5),
        ([61, 59], [None, "kept"], 60.0),  # 60 is not above 60
        ([59], ["kept"], 60.0),  # behind after one episode: no second
        ([48], ["kept"], 60.0),  # 20% below
        ([47], ["rollback"], 60.0),  # further
        ([200, -200], [None, "rollback"], 60.0),
    ],
)
def test_verdicts_golden(returns, events, deployed):
    trials = Trials(deployed_return=60.0)
    assert play(TWO, returns, trials) == events
    assert trials.deployed_return == deployed
    assert not trials.on_trial


def test_without_rollback_a_loser_is_only_not_deployed():
    config = DeploymentConfig(rollback=None)
    assert play(config, [-1e9], Trials(deployed_return=60.0)) == ["kept"]


def test_negative_returns_have_a_margin_too():
    assert play(TWO, [-110], Trials(deployed_return=-100.0)) == ["kept"]
    assert play(TWO, [-121], Trials(deployed_return=-100.0)) == ["rollback"]


def test_trials_begin_with_the_first_episode_after_their_time():
    trials = Trials(on_trial=False, deployed_return=60.0, next_trial=100)
    assert after_episode(TWO, trials, episode(99, 99)) is None
    assert not trials.on_trial
    assert after_episode(TWO, trials, episode(99, 100)) is None
    assert trials.on_trial  # the next episode, not this one


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 4))
def test_the_bar_never_falls(returns, episodes):
    config = DeploymentConfig(trial_episodes=episodes, every=20)
    trials, bars = Trials(), []
    for i, value in enumerate(returns):
        after_episode(config, trials, episode(value, 10 * i))
        if trials.deployed_return is not None:
            bars.append(trials.deployed_return)
    assert bars == sorted(bars)


def acting(a, b):
    return {"policy": jnp.array([[a, a], [b, b]], jnp.float32)}


def test_each_seed_has_its_own_deployed_policy():
    deployment = Deployment(TWO, acting(0, 0), seeds=[7, 9])
    deployment.offer(acting(1, 1))  # both are on trial with the offline policy: not taken
    for seed in (7, 9, 7, 9):
        deployment.after_episode(episode(10, 10, seed))
    np.testing.assert_array_equal(deployment.on_trial, [False, False])
    deployment.offer(acting(2, 2))
    for seed in (7, 9):  # explored long enough: trials begin
        deployment.after_episode(episode(0, 200, seed))
    deployment.offer(acting(3, 3))  # on trial already, with the 2s
    deployment.after_episode(episode(20, 210, 7))
    deployment.after_episode(episode(5, 210, 9))  # lost at once
    deployment.offer(acting(4, 4))
    verdict = deployment.after_episode(episode(20, 220, 7))
    assert verdict is not None
    assert verdict.event == "deployed"
    np.testing.assert_array_equal(deployment.deployed["policy"], [[2, 2], [0, 0]])


def test_latest_deploys_whatever_comes():
    deployment = Deployment(DeploymentConfig(rule="latest"), acting(0, 0), seeds=[7, 9])
    deployment.offer(acting(1, 2))
    assert deployment.after_episode(episode(-1e9, 10, 7)) is None
    np.testing.assert_array_equal(deployment.deployed["policy"], [[1, 1], [2, 2]])
    assert not deployment.on_trial.any()


def test_state_round_trip():
    deployment = Deployment(TWO, acting(0, 0), seeds=[7, 9], logged_return=3.0)
    deployment.after_episode(episode(10, 10, 9))
    again = Deployment(TWO, acting(5, 5), seeds=[7, 9])
    again.restore(deployment.state(), deployment.deployed, deployment.candidate)
    assert again.trials == deployment.trials
