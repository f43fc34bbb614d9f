"""The kitchen: two variants of the env, and what their rewards mean."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from spaars.data import Dataset, load_dataset
from spaars.data.description import Description
from spaars.data.sources import kitchen, save
from spaars.errors import ConfigError, DataError
from spaars.tasks import get_task
from spaars.tasks.kitchen import MIXED
from spaars.tasks.packages import import_package
from toy import blank_dataset

SHARED = Path(__file__).parents[3] / "shared" / "data"
TASK = get_task("kitchen-mixed")
COLUMNS = np.r_[0:9, 18:39]
# The replays made here are too short to do anything.
pytestmark = pytest.mark.filterwarnings("ignore:.*no episode completes")


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not beside the project, in ../shared/data")
    return SHARED / name


@pytest.fixture(scope="module")
def demos(tmp_path_factory) -> Path:
    """Three moves towards recorded targets, the second longer."""
    path = tmp_path_factory.mktemp("demos") / "demos.npz"
    rest = np.array([0.15, -1.77, 1.84, -2.48, 0.26, 0.71, 1.6, 0.05, 0.04], np.float32)
    targets = np.concatenate([rest + 0.01 * np.arange(n)[:, None] for n in (3, 5)])
    np.savez(
        path,
        ctrl_target=targets.astype(np.float32),
        ep_start=np.array([0, 3], np.int32),
        ep_len=np.array([3, 5], np.int32),
    )
    return path


@pytest.fixture(scope="module")
def replays(demos) -> Path:
    path = demos.with_name("replays.npz")
    facts = kitchen.replay_demonstrations(demos, path, repeats=2, seed=1)
    assert (facts["episodes"], facts["steps"], facts["kettle"]) == (4, 16, 0)
    return path


def test_observations_are_copies_of_thirty_numbers_and_repeat_by_seed():
    env = TASK.make_env(training=True)
    try:
        first, info = env.reset(seed=3)
        kept = first.copy()
        second, *_ = env.step(np.full(9, 0.5))
        assert first.shape == (30,)
        assert first.dtype == np.float32
        np.testing.assert_array_equal(first, kept)
        assert np.abs(second - first).max() > 1e-3
        assert info == {"subtasks": dict.fromkeys(MIXED, False), "score_return": 0.0}
        np.testing.assert_array_equal(env.reset(seed=3)[0], kept)
        np.testing.assert_array_equal(env.step(np.full(9, 0.5))[0], second)
    finally:
        env.close()


def test_training_rewards_what_is_complete_evaluation_what_becomes_so():
    """The microwave held open: rewarded at every step in training, once in evaluation."""
    totals = {}
    for training in (True, False):
        env = TASK.make_env(training=training)
        try:
            env.reset(seed=0)
            robot = env.unwrapped
            rewards = []
            for _ in range(3):
                robot.data.qpos[22] = -0.75  # its hinge, at the goal
                _, reward, terminated, _, info = env.step(np.zeros(9))
                rewards.append(reward)
            totals[training] = rewards
            assert not terminated
            assert info["score_return"] == 1.0
            assert info["subtasks"] == dict.fromkeys(MIXED, False) | {"microwave": True}
        finally:
            env.close()
    assert totals == {True: [1.0, 1.0, 1.0], False: [1.0, 0.0, 0.0]}


def test_the_tasks_lists_are_d4rls():
    slider = ("microwave", "kettle", "light switch", "slide cabinet")
    assert get_task("kitchen-partial").subtasks == get_task("kitchen-complete").subtasks == slider
    assert TASK.subtasks == ("microwave", "kettle", "bottom burner", "light switch")


def test_scores_are_percent_of_the_four_subtasks():
    assert TASK.score(np.array([0.0, 3.0, 4.0])).tolist() == [0.0, 75.0, 100.0]


def test_replays_become_transitions_that_end_as_recordings_do(replays):
    dataset = load_dataset(TASK, replays, 0)
    raw = np.load(replays)
    assert dataset.label == "kitchen-mixed (2 demos)"
    assert dataset.episode_lengths().tolist() == [3, 5, 3, 5]
    assert not dataset.terminated.any()
    np.testing.assert_array_equal(dataset.observations, raw["observation"][:, COLUMNS])
    np.testing.assert_array_equal(
        dataset.next_observations[[2, 7, 10, 15]], raw["final_observation"][:, COLUMNS]
    )
    np.testing.assert_array_equal(dataset.next_observations[:2], dataset.observations[1:3])
    np.testing.assert_array_equal(dataset.actions, raw["action"])
    # Other noise in the second replay of the same demonstration.
    assert np.abs(dataset.observations[:3] - dataset.observations[8:11]).max() > 1e-4


def test_replays_of_unknown_demonstrations_are_counted_themselves(replays, tmp_path):
    raw = dict(np.load(replays))
    del raw["demo"]
    np.savez(tmp_path / "some.npz", **raw)
    assert load_dataset(TASK, tmp_path / "some.npz", 0).label == "some (4 replays)"


def test_rewards_count_the_tasks_own_subtasks(replays, tmp_path):
    raw = dict(np.load(replays))
    bits = np.zeros((16, 7), bool)
    bits[4:, kitchen.SUBTASKS.index("kettle")] = True
    bits[6:, kitchen.SUBTASKS.index("slide cabinet")] = True
    np.savez(tmp_path / "done.npz", **raw | {"at_goal": np.packbits(bits, axis=1)})
    with pytest.warns(UserWarning, match="completes microwave, bottom burner, light switch, which"):
        mixed = load_dataset(TASK, tmp_path / "done.npz", 0).rewards
    complete = load_dataset(get_task("kitchen-complete"), tmp_path / "done.npz", 0).rewards
    assert mixed.tolist() == [0.0] * 4 + [1.0] * 12
    assert complete.tolist() == [0.0] * 4 + [1.0] * 2 + [2.0] * 10


def test_replaying_does_not_depend_on_the_processes(demos, replays, tmp_path):
    kitchen.replay_demonstrations(demos, tmp_path / "two.npz", repeats=2, seed=1, workers=2)
    ours, theirs = np.load(replays), np.load(tmp_path / "two.npz")
    for name in ours.files:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observation": np.zeros((16, 60))}, "'observation' has shape .16, 60., .* 59 columns"),
        ({"ep_len": np.array([3, 5, 3, 4])}, "do not part the 16 rows"),
        ({"ep_len": np.array([3.0, 5.0, 3.0, 5.0])}, "do not part the 16 rows"),
        ({"ep_start": np.array([0, 3, 8])}, "do not part the 16 rows"),
        ({"final_observation": np.zeros((3, 59))}, "4 episodes, but 'final_observation' has 3"),
        ({"at_goal": np.zeros((16, 7), bool)}, "must be bits of shape .16, 1."),
        ({"demo": np.arange(16)}, "'demo' must be 4 whole numbers, one for each episode"),
        ({"demo": np.zeros(4)}, "'demo' must be 4 whole numbers, one for each episode"),
        ({"action": np.full((16, 9), 2.0)}, r"'action' must lie in \[-1, 1\]"),
        ({"action": np.full((16, 9), np.nan)}, "'action' has NaN"),
        ({"observation": np.array([{}] * 16)}, "never unpickled"),
    ],
)
def test_bad_replays_are_refused(changes, words, replays, tmp_path):
    np.savez(tmp_path / "bad.npz", **dict(np.load(replays)) | changes)
    with pytest.raises(DataError, match=words):
        load_dataset(TASK, tmp_path / "bad.npz", 0)


def test_missing_data_say_how_to_get_them(demos, tmp_path):
    with pytest.raises(DataError, match="convert kitchen-demos"):
        load_dataset(TASK, demos, 0)
    with pytest.raises(DataError, match="embeds no data"):
        load_dataset(TASK, None, 1_000)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="no array 'ctrl_target'"):
        kitchen.replay_demonstrations(tmp_path / "other.npz", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_a_missing_package_names_the_extra():
    with pytest.raises(ConfigError, match=r"pip install 'spaars\[robotics\]'"):
        import_package("no_such_module:robotics", "kitchen-mixed")


def test_human_replays_do_three_of_the_four_subtasks():
    dataset = load_dataset(TASK, shared("kitchen_replays.npz"), 0)
    assert dataset.label == "kitchen-mixed (44 demos)"
    assert (len(dataset), len(dataset.episodes())) == (79_008, 352)
    assert [dataset.rewards[rows].max() for rows in dataset.episodes()] == [3.0] * 352


def test_d4rl_files_lose_their_goal_and_their_terminals():
    path = shared("kitchen_mixed_44_d4rl_format.hdf5")
    dataset = load_dataset(TASK, path, 0)
    # The last row of each of the 44 has no next observation.
    assert (len(dataset), dataset.observation_dim) == (9_876 - 44, 30)
    assert len(dataset.episodes()) == 44
    assert not dataset.terminated.any()
    assert dataset.rewards.max() == 3.0


@pytest.mark.parametrize("columns", [30, 60])
@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_a_goal_and_terminals_go_whatever_the_format(columns, suffix, tmp_path):
    """Converted or not, a D4RL kitchen file trains on the same rows."""
    rng = np.random.default_rng(0)
    n, ends = 12, np.isin(np.arange(12), (4, 11))
    plain = Dataset.build(
        label="two demonstrations",
        observations=rng.normal(size=(n, columns)),
        actions=rng.uniform(-1, 1, (n, 9)),
        rewards=np.arange(n),
        next_observations=rng.normal(size=(n, columns)),
        terminated=ends,
        truncated=np.zeros(n, bool),
    )
    save(plain, tmp_path / f"demos{suffix}")
    dataset = load_dataset(TASK, tmp_path / f"demos{suffix}", 0)
    assert dataset.rewards.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    np.testing.assert_array_equal(dataset.observations, plain.observations[~ends, :30])
    assert not dataset.terminated.any()
    assert np.flatnonzero(dataset.truncated).tolist() == [3, 9]


@pytest.mark.parametrize(("columns", "named"), [(30, (("state", 30),)), (60, ())])
def test_what_the_data_say_of_themselves_stays(columns, named, tmp_path):
    parts = (("state", 30), ("goal", 30))[: columns // 30]
    told = Description(observations=parts, action_low=(-2.0,) * 9, action_high=(2.0,) * 9)
    log = dataclasses.replace(blank_dataset(columns, 9), description=told)
    save(log, tmp_path / "log.npz")
    found = load_dataset(TASK, tmp_path / "log.npz", 0).description
    assert (found.action_low, found.action_high) == (told.action_low, told.action_high)
    assert found.observations == named


def test_another_width_is_refused(tmp_path):
    blank = blank_dataset(31, 9)
    save(blank, tmp_path / "odd.npz")
    with pytest.raises(DataError, match="30 columns, 60 with D4RL's goal; got 31"):
        load_dataset(TASK, tmp_path / "odd.npz", 0)
