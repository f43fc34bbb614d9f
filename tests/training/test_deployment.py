"""Who is deployed: by trial episodes, and never a policy that has not proved itself."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaars.training.deployment import (
    Deployment,
    DeploymentConfig,
    Trials,
    abandon,
    after_episode,
)
from spaars.training.envs import Episode

TWO = DeploymentConfig(trial_episodes=2, every=100, rollback=0.2, steadiness=None)


def episode(episode_return, step, seed=0):
    return Episode(seed, step, float(episode_return), 10, False)


def play(config, returns, trials, first=10, apart=10):
    """The events of consecutive episodes, None where there is none."""
    verdicts = [
        after_episode(config, trials, episode(value, first + i * apart))
        for i, value in enumerate(returns)
    ]
    return [verdict.event if verdict else None for verdict in verdicts]


def measured(mean=60.0, **values):
    """Where a seed stands whose deployed policy returned `mean` and that explores."""
    return Trials(actor="explore", deployed_returns=[mean], next_trial=10**6, **values)


def on_trial(mean=60.0):
    return Trials(actor="candidate", deployed_returns=[mean], next_trial=1)


def test_the_offline_policy_is_measured_first():
    trials = Trials()
    assert play(TWO, [50, 70], trials) == [None, "measured"]
    assert (trials.to_beat, trials.actor, trials.next_trial) == (60.0, "explore", 120)


def test_logged_returns_are_a_bar_of_their_own():
    assert measured(logged_return=90.0).to_beat == 90.0
    assert measured(logged_return=10.0).to_beat == 60.0
    # Better than what is deployed, if not than the data: no reason to go back.
    trials = Trials(actor="candidate", deployed_returns=[60.0], logged_return=90.0, next_trial=1)
    assert play(TWO, [70], trials) == ["kept"]


@pytest.mark.parametrize(
    ("returns", "events", "to_beat"),
    [
        ([61, 80], [None, "deployed"], 70.5),
        ([61, 59], [None, "kept"], 60.0),  # 60 is not above 60
        ([59], ["kept"], 60.0),  # behind after one episode: no second
        ([48], ["kept"], 60.0),  # 20% below
        ([47], ["rollback"], 60.0),  # further
        ([200, -200], [None, "rollback"], 60.0),
    ],
)
def test_verdicts_golden(returns, events, to_beat):
    trials = on_trial()
    assert play(TWO, returns, trials) == events
    tie = events[-1] == "kept" and np.mean(returns) == 60.0
    assert (trials.to_beat, trials.actor) == (to_beat, "deployed" if tie else "explore")


def test_a_tie_measures_the_deployed_policy_again():
    """Four was a lucky trial's mean: the next candidate need not be luckier."""
    trials = Trials(actor="candidate", deployed_returns=[4.0, 4.0], next_trial=1)
    assert play(TWO, [4], trials) == ["kept"]
    assert trials.actor == "deployed"
    assert play(TWO, [3], trials, first=30) == [None]
    assert (trials.deployed_returns, trials.actor) == ([4.0, 4.0, 3.0], "explore")
    assert play(TWO, [3, 4, 4, 4], trials, first=200) == [None, None, None, "deployed"]
    assert trials.actor == "explore"


def test_what_is_known_well_gives_way_only_to_what_is_clearly_better_or_known_as_well():
    known = [4.0] * 7 + [3.0]  # 3.875; the standard error is 0.117
    trials = Trials(actor="candidate", deployed_returns=known, next_trial=1)
    assert play(TWO, [4] * 8, trials) == [None] * 7 + ["deployed"]
    trials = Trials(actor="candidate", deployed_returns=known, next_trial=1)
    assert play(TWO, [5, 5], trials) == [None, "deployed"]
    trials = Trials(actor="candidate", deployed_returns=known, next_trial=1)
    assert play(TWO, [4, 4, 3], trials) == [None, None, "kept"]


def test_without_rollback_a_loser_is_only_not_deployed():
    assert play(DeploymentConfig(rollback=None), [-1e9], on_trial()) == ["kept"]


@pytest.mark.parametrize(
    ("returns", "events"),
    [
        ([90, 54], [None, "deployed"]),  # 10% below 60, and not further
        ([90, 53], [None, "kept"]),
        ([53], ["kept"]),
        ([200, 20], [None, "kept"]),  # nor is a high mean a reason to go back
    ],
)
def test_a_candidate_that_falls_once_is_not_deployed(returns, events):
    config = DeploymentConfig(trial_episodes=2, steadiness=0.1)
    assert play(config, returns, on_trial()) == events


@pytest.mark.parametrize(("explored", "event"), [([47, 0], "rollback"), ([49, 0], "kept")])
def test_policies_that_explore_well_do_not_go_back(explored, event):
    """60 - 20% is 48."""
    trials = Trials(actor="explore", deployed_returns=[60.0], next_trial=20)
    assert play(TWO, [*explored, 10], trials) == [None, None, event]
    assert trials.best_explored is None


def test_negative_returns_have_a_margin_too():
    assert play(TWO, [-110], on_trial(-100.0)) == ["kept"]
    assert play(TWO, [-121], on_trial(-100.0)) == ["rollback"]


def test_trials_begin_with_the_first_episode_after_their_time():
    trials = Trials(actor="explore", deployed_returns=[60.0], next_trial=100)
    assert after_episode(TWO, trials, episode(99, 99)) is None
    assert trials.actor == "explore"
    assert after_episode(TWO, trials, episode(99, 100)) is None
    assert trials.actor == "candidate"  # the next episode, not this one


def test_after_a_bad_exploration_the_deployed_policy_acts_once():
    trials = measured()
    actors = []
    for value in (31, 29, 50, 61):  # half of 60 is 30
        after_episode(TWO, trials, episode(value, 10))
        actors.append(trials.actor)
    assert actors == ["explore", "deployed", "explore", "explore"]
    assert trials.deployed_returns == [60.0, 50.0]  # what it did then counts, too
    after_episode(DeploymentConfig(caution=None), trials, episode(-1e9, 10))
    assert trials.actor == "explore"


@pytest.mark.parametrize("route", ["retrace", "splice", "stand-in"])
def test_an_episode_on_a_route_says_nothing_of_the_policy(route):
    trials = measured()
    trials.next_trial = 5
    assert after_episode(TWO, trials, episode(0, 10)._replace(actor=route)) is None
    assert (trials.actor, trials.best_explored) == ("explore", None)
    # A trial that is due waits until the policy has explored, too.
    assert after_episode(TWO, trials, episode(50, 20)) is None
    assert (trials.actor, trials.best_explored) == ("candidate", 50.0)


def test_a_trial_that_is_due_comes_before_caution():
    trials = Trials(actor="explore", deployed_returns=[60.0], next_trial=100)
    after_episode(TWO, trials, episode(0, 100))
    assert trials.actor == "candidate"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 4))
def test_only_a_winner_is_deployed(returns, episodes):
    config, trials = DeploymentConfig(trial_episodes=episodes, every=20), Trials()
    for i, value in enumerate(returns):
        to_beat = trials.to_beat if trials.deployed_returns else None
        verdict = after_episode(config, trials, episode(value, 10 * i + 10))
        if verdict is not None and verdict.event == "deployed":
            assert len(trials.deployed_returns) >= episodes
            assert trials.to_beat > to_beat


def acting(a, b):
    return {"policy": jnp.array([[a, a], [b, b]], jnp.float32)}


def test_each_seed_has_its_own_deployed_policy():
    deployment = Deployment(TWO, acting(0, 0), seeds=[7, 9])
    deployment.offer(acting(1, 1))  # offered, but nobody is on trial yet
    for seed in (7, 9, 7, 9):
        deployment.after_episode(episode(10, 10, seed))
    assert deployment.actors == ["explore", "explore"]
    np.testing.assert_array_equal(deployment.explores, [True, True])
    deployment.offer(acting(2, 2))
    for seed in (7, 9):  # explored long enough: trials begin
        deployment.after_episode(episode(9, 200, seed))
    deployment.offer(acting(3, 3))  # on trial already, with the 2s
    np.testing.assert_array_equal(deployment.proven()["policy"], [[2, 2], [2, 2]])
    deployment.after_episode(episode(20, 210, 7))
    deployment.after_episode(episode(5, 210, 9))  # lost at once
    deployment.offer(acting(4, 4))
    verdict = deployment.after_episode(episode(20, 220, 7))
    assert verdict is not None
    assert verdict.event == "deployed"
    np.testing.assert_array_equal(deployment.deployed["policy"], [[2, 2], [0, 0]])


def test_a_trial_that_is_abandoned_has_no_verdict():
    trials = on_trial()
    assert play(TWO, [61], trials) == [None]  # one of two
    abandon(TWO, trials, 15)
    assert (trials.actor, trials.candidate_returns, trials.next_trial) == ("explore", [], 115)
    # The running episode counts as an exploration; the bar is where it was.
    assert after_episode(TWO, trials, episode(-5, 20)) is None
    assert (trials.best_explored, trials.to_beat) == (-5.0, 60.0)
    unmeasured = Trials()
    abandon(TWO, unmeasured, 15)
    assert unmeasured == Trials()


def test_the_offline_policys_return_is_remembered():
    trials = Trials()
    play(TWO, [50, 70, 90, 100], trials)
    assert (trials.offline_return, trials.offline_best) == (60.0, 70.0)


def test_an_outstanding_return_beats_the_deployed_mean_and_the_offline_best():
    trials = Trials()
    assert trials.outstanding == -np.inf
    play(TWO, [50, 70], trials)
    assert trials.outstanding == 70.0
    trials.deployed_returns = [80.0, 90.0]
    assert trials.outstanding == 85.0


def test_latest_deploys_whatever_comes():
    deployment = Deployment(DeploymentConfig(rule="latest"), acting(0, 0), seeds=[7, 9])
    deployment.offer(acting(1, 2))
    assert deployment.after_episode(episode(-1e9, 10, 7)) is None
    np.testing.assert_array_equal(deployment.deployed["policy"], [[1, 1], [2, 2]])
    assert deployment.explores.all()


def test_state_round_trip():
    deployment = Deployment(TWO, acting(0, 0), seeds=[7, 9], logged_return=3.0)
    deployment.after_episode(episode(10, 10, 9))
    again = Deployment(TWO, acting(5, 5), seeds=[7, 9])
    again.restore(deployment.state(), deployment.deployed, deployment.candidate)
    assert again.trials == deployment.trials
