"""The loop is the user's: pairing, threads, saving bit for bit, and what a kill leaves."""

import copy
import json
import shutil
import threading

import jax
import numpy as np
import pytest
from robot import SMALL, Robot, drive, make, tiny

import toy
from spaars import OnlineLearner, RunError, load_policy, resume, train
from spaars.algos.gate import NOT_ARMED
from spaars.data.sources import load_file
from spaars.deploy.export import export
from spaars.errors import ConfigError, DataError
from spaars.safety.budget import Budget
from spaars.training.checkpoint import load_checkpoint
from spaars.training.deployment import Trials


@pytest.fixture
def simple(tmp_path, point_task):
    """A learner that needs no offline phase; only acting and the journal matter."""
    return make(tmp_path / "simple", "rlpd")


@pytest.fixture(scope="module")
def spaars_learner(tmp_path_factory, point_task):
    """SPAARS after its offline phases. Tests work on copies."""
    return make(tmp_path_factory.mktemp("learner") / "spaars")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, point_task):
    """One run of two seeds, its ring wrapped and its gate armed; a copy from its first step."""
    root = tmp_path_factory.mktemp("runs")

    def copy_first(progress):
        if progress.stage == "online" and not (root / "offline").exists():
            shutil.copytree(root / "online", root / "offline")

    changes = {
        "dataset": toy.point_file(root / "point.npz", 400),
        "seeds": (3, 5),
        "online": {"steps": 100, "chunk": 20, "learning_starts": 20, "replay_capacity": 60},
        "prior": SMALL | {"updates": 0, "latent_dim": 2},  # as drawn; nothing to compile
        "offline": {"updates": 0, "batch_size": 32},
    }
    train(tiny(**changes), root / "online", on_progress=copy_first)
    return root


def copied(learner, directory, task="point", **budget):
    """`learner` as saved in `directory`, under another budget."""
    learner.save(directory)
    path = directory / "config.json"
    described = json.loads(path.read_text())
    described["config"]["task"] = task
    described["config"]["safety"]["budget"] |= budget
    path.write_text(json.dumps(described))
    return OnlineLearner.load(directory, toy.point_dataset(400))


def in_thread(work):
    """Whether `work` ends while whatever the caller holds is held."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=120)
    return not thread.is_alive()


def assert_same(a, b):
    """State, replay and all that acts, bit for bit."""
    kept = [(one._learning.state, one._learning.replay.ring) for one in (a, b)]
    for mine, theirs in zip(*map(jax.tree.leaves, kept), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert a.events == b.events
    assert (a.env_steps, a.episodes, a.updates) == (b.env_steps, b.episodes, b.updates)


# ------------------------------------------------------------------ pairing


def test_a_wrong_pairing_is_an_error_and_changes_nothing(simple):
    robot = Robot()
    action, acted = simple.act(robot.observation)
    with pytest.raises(RunError, match="act was called again before the action of step 0"):
        simple.act(robot.observation)
    with pytest.raises(RunError, match="observe wants what act returned"):
        simple.observe(action, action, 0.0, robot.observation, False, False)
    robot.move(simple, acted, action)
    with pytest.raises(RunError, match="step 0, episode 0, is observed or given up already"):
        simple.observe(acted, action, 0.0, robot.observation, False, False)
    with pytest.raises(RunError, match=r"another observation than the next_observation.*dimension"):
        simple.act(robot.observation + 1.0)
    action, later = simple.act(robot.observation)
    with pytest.raises(
        RunError, match="step 0, episode 0, is not the last one, which is of step 1"
    ):
        simple.observe(acted, action, 0.0, robot.observation, False, False)
    robot.move(simple, later, action)
    assert simple.env_steps == 2


IMPOSSIBLE = (
    ({"executed": [0.5]}, "executed must be an action of 2 numbers"),
    ({"executed": [0.5, 3.0]}, "executed has 3 in dimension 1.*from_robot"),
    ({"executed": [np.nan, 0.0]}, "executed has nan in dimension 0"),
    ({"executed": "left"}, "executed must be numbers"),
    ({"reward": np.nan}, "reward must be a finite number"),
    ({"reward": None}, "reward must be a finite number"),
    ({"reward": 1e39}, "reward must be a finite number"),  # float32 has none such
    ({"reward": np.zeros(4)}, "reward must be a finite number"),
    ({"next_observation": 1.0}, "next_observation must be a vector of 4 numbers"),
    ({"next_observation": [0, 0, np.inf, 0]}, "next_observation has inf in dimension 2"),
    ({"terminated": 0.3}, "terminated must be True or False"),
    ({"cost": np.nan}, "cost must be a finite number"),
)


def test_a_value_that_cannot_be_is_refused(simple):
    robot = Robot()
    action, acted = simple.act(robot.observation)
    right = {
        "executed": action,
        "reward": 1.0,
        "next_observation": robot.observation,
        "terminated": False,
        "truncated": False,
    }
    for change, message in IMPOSSIBLE:
        with pytest.raises(DataError, match=message):
            simple.observe(acted, **right | change)
    simple.observe(acted, **right)  # nothing had changed
    assert simple.env_steps == 1


def test_observations_are_checked_before_acting(simple):
    for wrong, message in (
        (np.zeros(3), "observation must be a vector of 4"),
        (np.full(4, np.nan), "observation has nan in dimension 0"),
        ({"position": [0, 0]}, "named no parts"),
        ("here", "observation must be numbers"),
    ):
        with pytest.raises(DataError, match=message):
            simple.act(wrong)
    assert not simple.running


def test_an_episode_can_be_cut(simple, tmp_path):
    robot = Robot()
    simple.end_episode()
    assert simple.episodes == 0
    drive(simple, robot, 3)
    simple.act(robot.observation)
    simple.end_episode("the gripper stalled")
    assert (simple.episodes, simple.running, simple.env_steps) == (1, False, 3)
    assert simple.events[-1] == {
        "step": 3,
        "event": "episode_cut",
        "reason": "the gripper stalled",
    }
    simple.act(Robot().observation)  # any observation may begin an episode


def test_what_acts_is_within_the_envelope(tmp_path, point_task):
    limits = {"action_low": (-0.5,), "action_high": (0.25,), "rate_limit": (0.1,)}
    learner = make(tmp_path / "limited", "rlpd", safety=limits)
    actions = np.array(drive(learner, Robot(), 8))
    assert actions.min() >= -0.5
    assert actions.max() <= 0.25
    assert np.abs(np.diff(actions, axis=0)).max() <= 0.1 + 1e-6
    assert learner.to_robot([0.5, -1.0]).tolist() == [0.5, -1.0]  # nobody told other bounds


# ------------------------------------------------------------------ learning


def test_repeats_itself_and_resumes_bit_for_bit(spaars_learner, tmp_path):
    first, twin = (copied(spaars_learner, tmp_path / name) for name in ("a", "b"))
    robot, same = Robot(), Robot()
    assert np.array_equal(drive(first, robot, 85, updates=3), drive(twin, same, 85, updates=3))
    assert_same(first, twin)
    found = {event["event"] for event in first.events}
    assert {"measured", "handover"} < found  # and a verdict on a candidate
    assert found & {"deployed", "kept", "rollback"}

    # Saved inside an episode, between an action and what came of it.
    action, acted = first.act(robot.observation)
    resumed, fork = copied(first, tmp_path / "saved"), copy.deepcopy(robot)
    assert_same(first, resumed)
    assert resumed.running
    robot.move(first, acted, action)
    fork.move(resumed, resumed.pending, action)
    assert np.array_equal(drive(first, robot, 40, updates=3), drive(resumed, fork, 40, updates=3))
    assert_same(first, resumed)
    assert first.updates > 50


def test_updates_do_not_depend_on_how_they_are_sliced(spaars_learner, tmp_path):
    learners = [copied(spaars_learner, tmp_path / name) for name in "ab"]
    for learner in learners:
        drive(learner, Robot(), 30)
    whole = learners[0].update(14)
    for n in (3, 11):
        learners[1].update(n)
    assert_same(*learners)
    assert np.isfinite(whole["q_mean"])
    assert whole["updates"] == 14
    assert learners[0].due == 0
    with pytest.raises(ConfigError, match="at least 0"):
        learners[0].update(-1)


def test_nothing_is_learned_before_its_time(spaars_learner, tmp_path):
    learner = copied(spaars_learner, tmp_path / "a")
    drive(learner, Robot(), 20)
    assert learner.update(5) == {"updates": 0.0, "env_steps": 20.0}
    assert learner.due == 0


def test_divergence_is_told_and_never_saved(spaars_learner, tmp_path):
    learner = copied(spaars_learner, tmp_path / "a")
    drive(learner, Robot(), 30)
    state = learner._learning.state
    broken = jax.tree.map(lambda x: x * np.float32(np.nan), state.critics.params)
    learner._learning.state = state._replace(critics=state.critics._replace(params=broken))
    for _ in range(2):
        with pytest.raises(RunError, match="diverged"):
            learner.update(1)
    with pytest.raises(RunError, match="diverged"):
        learner.save()
    learner.end_episode()
    newest = learner._learning.newest
    drive(learner, Robot(), 40)  # acting goes on, past the gate's latest step
    with pytest.raises(RunError, match="diverged"):
        learner.update(1)
    assert learner._learning.newest is newest  # with what was before


# ------------------------------------------------------------------ budgets


def test_a_budget_sends_back_and_shuts_the_gate(spaars_learner, tmp_path):
    learner, robot = copied(spaars_learner, tmp_path / "a", falls=0, window=40), Robot()
    drive(learner, robot, 64, updates=4)
    assert learner._learning.armed
    before = jax.device_get(learner._learning.state)
    action, acted = learner.act(robot.observation)
    learner.observe(acted, action, 100.0, robot.observation, True, False)
    assert learner.events[-1]["event"] == "rollback"
    assert learner.events[-1]["reason"] == "budget: 1 falls from step 25 to 65, allowed 0"
    _, acted = learner.act(robot.observation)
    assert acted.actor == "deployed"  # until the learner has gone back
    learner.end_episode()

    # Killed here, who goes on knows of the fall.
    found = OnlineLearner.load(tmp_path / "a", toy.point_dataset(400))
    assert [event["event"] for event in found.events[-2:]] == ["rollback", "recovered"]
    assert (found._learning.rolled_back, found._learning.armed) == (1, False)

    learner.update(0)
    state, deployed = learner._learning.state, learner._acting.deployed.tree
    assert state.armed_at == NOT_ARMED
    assert not learner._learning.newest._armed
    for mine, theirs in (
        (state.latent.params, deployed.latent_average),
        (state.raw.params, deployed.raw_average),
        (state.critics, before.critics),
    ):
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    moved = jax.tree.map(np.not_equal, state.raw.params, before.raw.params)
    assert any(map(np.any, jax.tree.leaves(moved)))
    robot.begin()
    action, acted = learner.act(robot.observation)
    assert acted.actor == "explore"
    robot.move(learner, acted, action)
    drive(learner, robot, 38, updates=1)
    assert (learner.env_steps, learner._learning.armed) == (104, False)
    drive(learner, robot, 16, updates=1)  # a window later its time comes again
    assert learner._learning.armed
    assert [e["step"] for e in learner.events if e["event"] == "handover"][-1] == 120


def test_costs_are_asked_for_and_outlive_a_kill(spaars_learner, tmp_path):
    learner = copied(spaars_learner, tmp_path / "a", "point-cost", cost=1.0)
    robot = Robot()
    action, acted = learner.act(robot.observation)
    right = (action, 0.0, robot.observation, False)
    with pytest.raises(DataError, match="give every step's `cost`"):
        learner.observe(acted, *right, True)
    with pytest.raises(DataError, match="cost must be a finite number"):
        learner.observe(acted, *right, True, cost=float("inf"))
    learner.observe(acted, *right, True, cost=0.8)

    found = OnlineLearner.load(tmp_path / "a", toy.point_dataset(400))
    _, acted = found.act(robot.observation)
    found.observe(acted, *right, False, cost=0.5)  # at once, not at the episode's end
    assert found.events[-1]["reason"] == "budget: cost 1.3 from step 0 to 2, allowed 1"


def test_a_stand_ins_episode_says_nothing_of_the_explorer(spaars_learner, tmp_path):
    learner, robot = copied(spaars_learner, tmp_path / "a", falls=0, window=40), Robot()
    drive(learner, robot, 8)
    action, acted = learner.act(robot.observation)
    assert acted.actor == "explore"
    learner.observe(acted, action, 0.0, robot.observation, True, False)
    robot.begin()
    drive(learner, robot, 8)  # all of it by the deployed policy, as nobody learns
    drive(learner, robot, 3)
    learner.update(0)  # the learner goes back
    found, rest = copied(learner, tmp_path / "saved"), copy.deepcopy(robot)
    drive(learner, robot, 5)  # the rest of it by the explorer
    drive(found, rest, 5)
    for one in (learner, found):
        assert [entry[3] for entry in one._acting.history[2:]] == ["stand-in", "stand-in"]
        assert one._acting.trials.best_explored is None
        drive(one, Robot(), 8)
        one.update(0)
        assert one._acting.history[-1][3] == "explore"
        assert one._acting.trials.best_explored == one._acting.history[-1][1]
        assert [step for step, _ in one._learning.explored] == [9, 33]
    assert learner._acting.journal.read(2).facts["entry"] == learner._acting.history[2]


def test_a_budget_passed_before_a_kill_is_passed_after_it(spaars_learner, tmp_path):
    """Though its window is clean again by the last step that was journalled."""
    learner, robot = copied(spaars_learner, tmp_path / "a", falls=0, window=40), Robot()
    drive(learner, robot, 64, updates=4)
    learner.save()
    action, acted = learner.act(robot.observation)
    learner.observe(acted, action, 0.0, robot.observation, True, False)
    robot.begin()
    drive(learner, robot, 48)
    found = OnlineLearner.load(tmp_path / "a", toy.point_dataset(400))
    assert (found._learning.rolled_back, found._learning.armed) == (1, False)

    costly, robot = (
        copied(spaars_learner, tmp_path / "b", "point-cost", cost=1.0, window=3),
        Robot(),
    )
    for cost in (0.8, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0):
        action, acted = costly.act(robot.observation)
        following = robot.env.step(action)[0]
        robot.observation = following.copy()
        last = costly.env_steps == 7
        costly.observe(acted, action, 0.0, following, False, last, cost=cost)
    again = OnlineLearner.load(tmp_path / "b", toy.point_dataset(400))
    for one, other in ((found, learner), (again, costly)):
        mine, theirs = (
            [e for e in x.events if e["event"] == "rollback"][-1:] for x in (one, other)
        )
        assert mine == theirs != []


# ------------------------------------------------------------------ threads


def test_acting_takes_no_lock_of_learning(spaars_learner, tmp_path):
    learner, robot = copied(spaars_learner, tmp_path / "a"), Robot()
    with learner._learning_lock:  # as an update holds it
        assert in_thread(lambda: drive(learner, robot, 20))  # two episodes' ends among them
    assert learner.env_steps == 20
    with learner._acting_lock:
        assert in_thread(lambda: learner.update(2))
    assert learner._learning.seen == 20


def test_threads_lose_nothing(spaars_learner, tmp_path):
    learner, robot = copied(spaars_learner, tmp_path / "a"), Robot()
    stop, failures, versions = threading.Event(), [], []

    def learn():
        try:
            while not stop.is_set():
                learner.update(2)
                learner.save()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=learn)
    thread.start()
    try:
        for _ in range(150):
            action, acted = learner.act(robot.observation)
            versions.append(acted.updates)
            robot.move(learner, acted, action)
    finally:
        stop.set()
        thread.join()
    assert not failures
    learner.update(0)
    ring = learner._learning.replay.ring.storage
    for column, stored in enumerate((ring.observations, ring.actions, ring.rewards)):
        expected = np.array([entry[column] for entry in robot.log])
        np.testing.assert_array_equal(np.asarray(stored[0, :150]), expected)
    assert learner.episodes == 150 // robot.length
    reloaded = OnlineLearner.load(tmp_path / "a", toy.point_dataset(400))
    assert reloaded.episodes == learner.episodes


# ------------------------------------------------------------------ what a kill leaves


def test_no_finished_episode_is_lost(spaars_learner, tmp_path):
    learner, robot = copied(spaars_learner, tmp_path / "a"), Robot()
    drive(learner, robot, 12, updates=1)
    learner.save()
    drive(learner, robot, 23)  # to the middle of the fifth episode; no save
    (tmp_path / "a" / "journal" / ".0123.tmp").write_bytes(b"half an episode")

    found = OnlineLearner.load(tmp_path / "a", toy.point_dataset(400))
    assert (found.episodes, found.env_steps, found.running) == (4, 32, False)
    assert found.events[-1]["event"] == "recovered"
    assert not list((tmp_path / "a" / "journal").glob(".*"))
    ring = found._learning.replay.ring.storage
    for column, stored in enumerate((ring.observations, ring.actions, ring.rewards)):
        expected = np.array([entry[column] for entry in robot.log[:32]])
        np.testing.assert_array_equal(np.asarray(stored[0, :32]), expected)
    assert found._learning.ends == [8, 16, 24, 32]
    rewards = np.array([entry[2] for entry in robot.log[:32]]).reshape(4, 8)
    np.testing.assert_allclose(found._learning.returns, rewards.sum(1), rtol=1e-5)
    drive(found, Robot(), 8, updates=1)

    # The journal is a dataset.
    journal = load_file(tmp_path / "a" / "journal")
    assert len(journal) == 40
    assert np.flatnonzero(journal.truncated).tolist() == [7, 15, 23, 31, 39]

    with pytest.raises(RunError, match="another process learns in this directory"):
        drive(learner, robot, 8)  # the killed one's twin is not killed after all
    (tmp_path / "a" / "journal" / "episode-00000003.npz").unlink()
    with pytest.raises(RunError, match=r"episode-00000003.npz is missing"):
        OnlineLearner.load(tmp_path / "a", toy.point_dataset(400))


def test_a_journal_that_cannot_be_read_is_told(simple, tmp_path):
    drive(simple, Robot(), 8)
    path = tmp_path / "simple" / "journal" / "episode-00000000.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="no episode that a learner wrote"):
        OnlineLearner.load(tmp_path / "simple", toy.point_dataset(400))
    path.rename(path.with_name("episode-00000000.bad.npz"))  # it may hold one: told, not left out
    with pytest.raises(RunError, match=r"bad\.npz is no name .* move it to another directory"):
        OnlineLearner.load(tmp_path / "simple", toy.point_dataset(400))


def test_a_full_disk_loses_nothing(simple, monkeypatch):
    robot = Robot()
    drive(simple, robot, 7)
    action, acted = simple.act(robot.observation)
    write = simple._acting.journal.write

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(simple._acting.journal, "write", full)
    with pytest.raises(OSError, match="No space left"):
        simple.observe(acted, action, 1.0, robot.observation, False, True)
    assert simple.pending is acted
    monkeypatch.setattr(simple._acting.journal, "write", write)
    simple.observe(acted, action, 1.0, robot.observation, False, True)
    assert simple.episodes == 1


# ------------------------------------------------------------------ where it comes from


def test_from_an_offline_run_and_from_a_learner(runs, tmp_path):
    run = runs / "offline"
    learner = OnlineLearner.from_run(run, tmp_path / "own", seed=5, capacity=200)
    assert (learner.seed, learner.env_steps, learner.updates) == (5, 0, 0)
    obs = Robot().observation
    deployed = load_policy(run, 5)(obs)
    np.testing.assert_allclose(load_policy(tmp_path / "own")(obs), deployed, atol=1e-6)
    exported = export(tmp_path / "own")
    np.testing.assert_allclose(load_policy(exported)(obs), deployed, atol=2e-5)
    action, acted = learner.act(obs)
    assert acted.actor == "deployed"  # whose return is measured first
    np.testing.assert_allclose(action, deployed, atol=2e-5)
    learner.end_episode()

    drive(learner, Robot(), 30)
    learner.save()
    with pytest.raises(RunError, match="holds a learner or a run"):
        OnlineLearner.from_run(run, tmp_path / "own")
    heir = OnlineLearner.from_run(tmp_path / "own", tmp_path / "heir", capacity=20)
    assert (heir.env_steps, heir.episodes, heir._learning.rows) == (30, 0, 20)
    ours, theirs = (x._learning.replay.ring.storage.actions[0] for x in (heir, learner))
    np.testing.assert_array_equal(ours, theirs[10:30])
    assert heir._learning.ends == [6, 14, 20]
    # Of the first only a part is left, and the last one never ended.
    np.testing.assert_array_equal(
        heir._learning.returns, [np.nan, learner._learning.returns[2], np.nan]
    )

    with pytest.raises(RunError, match="whose loop is yours"):
        resume(tmp_path / "own")
    with pytest.raises(RunError, match="not a learner's directory"):
        OnlineLearner.load(run)
    with pytest.raises(RunError, match="has seeds"):
        OnlineLearner.from_run(run, tmp_path / "x", seed=4)


def test_from_a_run_with_online_steps(runs, tmp_path):
    run = runs / "online"
    theirs = load_checkpoint(run)
    assert (theirs.progress["inserted"], theirs.progress["armed"]) == (100, [True, True])
    assert theirs.arrays["ring/rewards"].shape == (2, 60)
    learner = OnlineLearner.from_run(run, tmp_path / "own", seed=5, capacity=50)
    assert (learner.env_steps, learner.updates, learner.due) == (100, 0, 0)
    assert learner._learning.armed
    assert learner._learning.newest._armed

    mine = load_checkpoint(tmp_path / "own").arrays
    for name, expected in theirs.arrays.items():
        if name.startswith(("state/", "deployed/")):
            np.testing.assert_array_equal(mine[name][0], expected[1], name)
        if name.startswith("ring/"):  # the newest 50, oldest first
            np.testing.assert_array_equal(mine[name][0], np.roll(expected[1], -100 % 60, 0)[10:])
    breaks = (mine["ring/next_observations"][0, :-1] != mine["ring/observations"][0, 1:]).any(-1)
    assert learner._learning.ends == [*(np.flatnonzero(breaks) + 1), 50]

    drive(learner, Robot(), 10)
    assert learner.due == 10
    assert np.isfinite(learner.update(10)["q_mean"])
    assert (learner.updates, learner.due) == (10, 0)
    assert learner._learning.rows == 60  # the ring has wrapped
    stored = np.asarray(learner._learning.replay.ring.storage.actions[0])
    np.testing.assert_array_equal(stored[10:], mine["ring/actions"][0, 10:])


def test_returns_in_other_units_are_not_taken_over(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs / "online", run)
    described = json.loads((run / "config.json").read_text())
    described["config"]["task"] = "point-on"  # it trains in another variant, as the kitchen does
    (run / "config.json").write_text(json.dumps(described))
    theirs = load_checkpoint(run).progress
    assert theirs["trials"][1]["deployed_returns"]
    learner = OnlineLearner.from_run(run, tmp_path / "own", seed=5)
    assert learner._acting.trials == Trials()
    assert np.isnan(learner._learning.returns).all()
    assert len(learner._learning.returns) > 1
    assert learner._learning.explored == []
    falls = [[step, terminated] for step, _, terminated, _ in theirs["episodes"][1]]
    assert [[step, terminated] for step, _, terminated, _ in learner._acting.history] == falls
    # A window with such episodes has no mean, and so no dip.
    history = [
        *learner._acting.history,
        [130, -9.0, False, "explore"],
        [230, -9.0, False, "explore"],
    ]
    dip = Budget(dip=0.1, window=100)
    assert any(step > 30 and actor == "explore" for step, _, _, actor in learner._acting.history)
    assert dip.passed(130, 0, history[:-1], [], 10.0) is None
    assert dip.passed(230, 0, history, [], 10.0).startswith("budget: mean return -9 of 1")

    drive(learner, Robot(), 8)
    assert learner.events[-1]["event"] == "measured"
    assert learner._acting.trials.deployed_returns == [learner._acting.history[-1][1]]
    learner.save()
    heir = OnlineLearner.from_run(tmp_path / "own", tmp_path / "heir")  # of the same units
    assert heir._acting.trials == learner._acting.trials


def test_what_cannot_begin_is_refused(tmp_path, point_task):
    data = toy.point_dataset(400)
    with pytest.raises(ConfigError, match="one seed"):
        OnlineLearner.from_dataset(tiny("rlpd", seeds=(0, 1)), tmp_path / "x", data)
    with pytest.raises(ConfigError, match="capacity must be at least 20"):
        OnlineLearner.from_dataset(tiny("rlpd"), tmp_path / "x", data, capacity=10)
    for changes, capacity, message in (
        ({}, 10, "capacity must be at least 20"),
        ({"safety": {"action_low": (-1.0, -1.0, -1.0)}}, 20, "action-low"),
    ):
        with pytest.raises(ConfigError, match=message):  # before hours of offline training
            OnlineLearner.from_dataset(
                tiny(**changes),
                tmp_path / "x",
                data,
                capacity=capacity,
                on_progress=lambda *_: pytest.fail("was trained"),
            )
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        OnlineLearner.from_dataset(tiny("rlpd"), tmp_path / "used", data)
    OnlineLearner.from_dataset(tiny("rlpd"), tmp_path / "y", data, capacity=100)
    with pytest.raises(RunError, match="give the same one"):
        OnlineLearner.load(tmp_path / "y")


# ------------------------------------------------------------------ skills


def test_skills_run_on_and_break_only_where_told(tmp_path, point_task):
    learner, robot = make(tmp_path / "skills", "supe"), Robot(length=8)
    learner.prepare()
    assert set(learner._learning._storing) == {4, 20}  # nothing is left to compile later
    seen = []
    for _ in range(8):
        action, acted = learner.act(robot.observation)
        seen.append(acted.skill)
        robot.move(learner, acted, action)
    assert all(np.array_equal(seen[i], seen[i // 4 * 4]) for i in range(8))
    assert not np.array_equal(seen[0], seen[4])
    drive(learner, robot, 6)
    action, acted = learner.act(robot.observation)
    with pytest.raises(RunError, match="after 7 steps, inside a skill of 4"):
        learner.observe(acted, action, 0.0, robot.observation, True, False)
    learner.end_episode()
    learner.update(0)
    assert learner.env_steps == 14
    assert learner._learning.rows == 12  # two steps of a broken skill are not learned from
    np.testing.assert_array_equal(learner._learning.replay.ring.storage.latents[0, 4], seen[4])
