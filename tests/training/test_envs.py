import gymnasium
import numpy as np
import pytest

from odd_envs import errands
from spaars import seeding
from spaars.errors import RunError
from spaars.tasks import get_task
from spaars.training.envs import EnvPopulation
from toy import POINT, POINT_COST, STEPS, PointEnv, controller

TASKS = {"hopper": get_task("hopper-medium"), "point": POINT}


def make(task, seeds=(0, 5)):
    return EnvPopulation(TASKS[task].make_env, seeds)


def random_actions(steps, envs, seed=0):
    shape = (steps, len(envs.seeds), envs.action_dim)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_restored_envs_go_on_bit_for_bit(task):
    envs = make(task)
    actions = random_actions(220, envs)
    for step in range(97):
        envs.step(actions[step])
    saved = envs.state()
    assert all(len(a) > 0 for a in saved["actions"])  # mid-episode
    assert sum(saved["episode_index"]) > 0  # and not all in their first
    restored = make(task)
    restored.restore(saved)
    np.testing.assert_array_equal(restored.observations, envs.observations)
    assert restored.returns == envs.returns
    assert restored.env_steps == envs.env_steps == 97
    episodes = 0
    for step in range(97, 220):
        expected, found = envs.step(actions[step]), restored.step(actions[step])
        for a, b in zip(expected[:4], found[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        assert expected[4] == found[4]
        episodes += len(found[4])
        np.testing.assert_array_equal(envs.observations, restored.observations)
    assert episodes >= 2
    envs.close()
    restored.close()


def test_state_is_a_snapshot():
    envs = make("point")
    actions = random_actions(5, envs)
    envs.step(actions[0])
    saved = envs.state()
    envs.step(actions[1])
    actions[:] = 0.0  # nor may it share memory with what was executed
    assert [a.shape for a in saved["actions"]] == [(1, 2), (1, 2)]
    np.testing.assert_array_equal(saved["actions"][0][0], random_actions(5, envs)[0, 0])
    assert saved["env_steps"] == 1


def test_an_env_just_reset_is_restored():
    envs = make("point")
    saved = envs.state()
    assert [a.shape for a in saved["actions"]] == [(0, 2), (0, 2)]
    envs.step(random_actions(1, envs)[0])
    envs.restore(saved)
    np.testing.assert_array_equal(envs.observations, make("point").observations)
    assert envs.env_steps == 0


def test_a_fall_is_terminated_and_its_next_observation_is_true():
    envs = make("point", (0, 5, 7))
    before = envs.observations.copy()
    actions = np.zeros((3, 2), np.float32)
    actions[0, 0] = 1.0  # env 0 runs into the wall, the others rest
    for _ in range(STEPS - 1):
        following, rewards, terminated, truncated, finished = envs.step(actions)
        # The toy's own law: the position moves by the new velocity.
        np.testing.assert_allclose(following[:, :2], before[:, :2] + following[:, 2:], rtol=1e-6)
        assert not truncated.any()
        assert not terminated[1:].any()
        assert rewards.shape == (3,)
        if terminated[0]:
            break
        np.testing.assert_array_equal(envs.observations, following)
        before = following.copy()
    else:
        pytest.fail("no fall")
    assert following[0, 0] > 1.0  # outside: not yet reset
    assert np.abs(envs.observations[0, :2]).max() <= 0.5  # reset
    np.testing.assert_array_equal(envs.observations[0, 2:], [0.0, 0.0])
    np.testing.assert_array_equal(envs.observations[1:], following[1:])
    (episode,) = finished
    assert episode.seed == 0
    assert episode.env_step == episode.length == envs.env_steps
    assert episode.terminated is True


def test_a_time_limit_is_truncated_and_its_return_the_sum_of_rewards():
    envs = make("point")
    total = np.zeros(2)
    for step in range(1, 2 * STEPS + 1):
        _, rewards, terminated, truncated, finished = envs.step(np.zeros((2, 2), np.float32))
        total += rewards
        ends = step % STEPS == 0
        np.testing.assert_array_equal(truncated, [ends, ends])
        assert not terminated.any()
        assert len(finished) == (2 if ends else 0)
        for episode, expected in zip(finished, total, strict=False):
            assert episode.episode_return == pytest.approx(expected, rel=1e-5)
            assert (episode.length, episode.env_step) == (STEPS, step)
            assert episode.terminated is False
        if ends:
            total[:] = 0.0
    assert [e.seed for e in finished] == [0, 5]


class Diary(gymnasium.Wrapper):
    resets: list[int]

    def reset(self, **kwargs):
        self.resets.append(kwargs["seed"])
        return super().reset(**kwargs)


def test_every_episode_of_every_seed_starts_elsewhere():
    diary = []

    def make_env():
        env = Diary(POINT.make_env())
        env.resets = diary
        return env

    envs = EnvPopulation(make_env, (0, 1, 2))
    starts = [tuple(row) for row in envs.observations]
    for _ in range(3 * STEPS):
        *_, finished = envs.step(np.zeros((3, 2), np.float32))
        if finished:
            starts += [tuple(row) for row in envs.observations]
    assert len(set(starts)) == len(starts) == 12
    assert len(set(diary)) == len(diary) == 12
    # Evaluation's are others, of any seed and index.
    evaluation = {
        seeding.episode_seed(seeding.EVAL_EPISODE, seed, index)
        for seed in range(50)
        for index in range(50)
    }
    training = {
        seeding.episode_seed(seeding.TRAIN_EPISODE, seed, index)
        for seed in range(50)
        for index in range(50)
    }
    assert set(diary) < training
    assert len(evaluation) == len(training) == 2_500
    assert not evaluation & training


def test_a_seeds_episodes_do_not_depend_on_its_company():
    together, alone = make("point", (3, 8)), make("point", (8,))
    for _ in range(STEPS + 5):
        a = together.step(np.full((2, 2), 0.1, np.float32))
        b = alone.step(np.full((1, 2), 0.1, np.float32))
        np.testing.assert_array_equal(a[0][1], b[0][0])
        np.testing.assert_array_equal(together.observations[1], alone.observations[0])


def test_cost_is_summed_over_an_episode_and_restored():
    envs = EnvPopulation(POINT_COST.make_env, (0, 5))
    right = np.tile(np.array([1.0, 0.0], np.float32), (2, 1))
    sums, episodes = np.zeros(2), []
    while not episodes:
        observations = envs.step(right)
        sums += envs.costs
        near = np.abs(observations[0][:, :2]).max(1) > 0.6
        np.testing.assert_array_equal(envs.costs, near.astype(float))
        episodes = observations[4]
        if sums.max() == 2.0:
            restored = EnvPopulation(POINT_COST.make_env, (0, 5))
            restored.restore(envs.state())
            assert restored.episode_costs == envs.episode_costs
            np.testing.assert_array_equal(restored.costs, envs.costs)
    for episode in episodes:
        assert episode.cost == sums[[0, 5].index(episode.seed)] > 0
        assert envs.episode_costs[[0, 5].index(episode.seed)] is None


def test_an_env_without_cost_has_none():
    envs = make("point")
    while not (episodes := envs.step(np.zeros((2, 2), np.float32))[4]):
        assert np.isnan(envs.costs).all()
    assert {episode.cost for episode in episodes} == {None}


@pytest.mark.parametrize("cost", [None, "high", float("nan"), np.ones(2)])
def test_a_cost_that_is_no_number_is_refused(cost):
    class Odd(gymnasium.Wrapper):
        def step(self, action):
            return *self.env.step(action)[:4], {"cost": cost}

    envs = EnvPopulation(lambda: Odd(PointEnv()), (0,))
    with pytest.raises(RunError, match="must be a finite number"):
        envs.step(np.zeros((1, 2), np.float32))


def test_an_episode_tells_its_subtasks_in_the_order_in_which_they_were_done():
    envs = EnvPopulation(errands, (0, 5))
    goal, episodes = np.array([0.3, 0.9]), []
    while not episodes:
        seen = envs.observations.copy()
        episodes = envs.step(np.array([controller(one, goal) for one in seen]))[4]
        if any(envs.completed) and not episodes:
            restored = EnvPopulation(errands, (0, 5))
            restored.restore(envs.state())
            assert restored.completed == envs.completed
    assert envs.completed == [None, None]  # of the next
    assert {episode.completed for episode in episodes} == {("north", "east")}


@pytest.mark.parametrize(
    ("info", "completed"),
    [
        ({"subtasks": ["north"]}, None),
        ({"subtasks": {}}, None),
        ({"subtasks": {"north": "done"}}, None),
        ({"subtasks": {"north": np.ones(2)}}, None),
        ({"success": "yes"}, None),
        ({"is_success": np.float32(1.0)}, ("success",)),
        ({"success": False}, ()),
    ],
)
def test_success_is_a_subtask_and_words_of_another_meaning_are_none(info, completed):
    class Odd(gymnasium.Wrapper):
        def step(self, action):
            return *self.env.step(action)[:3], True, info

    envs = EnvPopulation(lambda: Odd(PointEnv()), (0,))
    (episode,) = envs.step(np.zeros((1, 2), np.float32))[4]
    assert episode.completed == completed


def test_an_env_that_changes_its_actions_is_restored_by_what_it_was_given():
    class Halving(gymnasium.Wrapper):
        def step(self, action):
            action *= 0.5
            return self.env.step(action)

    envs, restored = (EnvPopulation(lambda: Halving(PointEnv()), (0,)) for _ in range(2))
    for _ in range(3):
        envs.step(np.full((1, 2), 0.8, np.float32))
    np.testing.assert_array_equal(envs.previous_actions, np.full((1, 2), 0.8, np.float32))
    restored.restore(envs.state())
    np.testing.assert_array_equal(restored.observations, envs.observations)


def test_previous_actions_end_with_the_episode():
    envs = make("point")
    assert np.isnan(envs.previous_actions).all()
    for step in range(1, STEPS + 1):
        actions = np.full((2, 2), 1e-3 * step, np.float32)
        envs.step(actions)
        expected = np.full((2, 2), np.nan) if step == STEPS else actions
        np.testing.assert_array_equal(envs.previous_actions, expected)


class Fragile(gymnasium.Wrapper):
    """In every episode that begins in the east the 5th step gives NaN."""

    def __init__(self, env):
        super().__init__(env)
        self.steps = 0

    def reset(self, **kwargs):
        self.steps = 0
        observation, info = super().reset(**kwargs)
        self.weak = bool(observation[0] > 0.0)  # the same episodes after a restart
        return observation, info

    def step(self, action):
        self.steps += 1
        observation, reward, *rest = super().step(action)
        return observation, np.nan if self.weak and self.steps == 5 else reward, *rest


def fragile(errors_allowed=100, seeds=(0, 5)):
    return EnvPopulation(lambda: Fragile(POINT.make_env()), seeds, errors_allowed)


def stepped(envs, action):
    """A step as the online loop takes it, until no env fails."""
    before = envs.observations.copy()
    following, *_, finished = envs.step(action)
    while (failed := envs.failed.copy()).any():
        before[failed] = envs.observations[failed]
        second = envs.step(action, again=failed)
        following[failed] = second[0][failed]
        finished += second[4]
    return before, following, finished


def test_a_failing_env_loses_its_episode_and_no_step() -> None:
    envs = fragile()
    actions = random_actions(200, envs, seed=2) * 0.2
    for action in actions:
        before, following, _ = stepped(envs, action)
        # Every transition is a true one, the first of a new episode included: the toy's own law.
        np.testing.assert_allclose(following[:, :2], before[:, :2] + following[:, 2:], rtol=1e-5)
        assert np.isfinite(following).all()
    assert envs.env_steps == 200
    assert len(envs.failures) == sum(envs.errors) > 4
    assert {f.length for f in envs.failures} == {4}
    assert {f.seed for f in envs.failures} == {0, 5}
    assert "nan in its observation or reward" in envs.failures[0].reason
    for i, ends in enumerate(envs.episode_ends):
        assert ends == sorted(set(ends))
        cut = [f.env_step - 1 for f in envs.failures if f.seed == envs.seeds[i]]
        assert set(cut) <= set(ends)


def test_failures_are_counted_across_a_restart_and_limited() -> None:
    envs = fragile()
    actions = random_actions(120, envs, seed=2) * 0.2
    for action in actions[:60]:
        stepped(envs, action)
    saved, again = envs.state(), fragile()
    again.restore(saved)
    assert again.errors == envs.errors
    assert sum(envs.errors) > 0
    for action in actions[60:]:
        for ours, theirs in zip(stepped(envs, action), stepped(again, action), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert again.errors == envs.errors

    def go_on_until_the_limit():
        envs = fragile(errors_allowed=1)
        for action in actions:
            stepped(envs, action)

    with pytest.raises(RunError, match=r"failed 2 times.*ValueError: nan.*--online\.env-errors"):
        go_on_until_the_limit()


class Unwilling(gymnasium.Wrapper):
    """Refuses resets, as many as are asked of it."""

    refusals = 0

    def reset(self, **kwargs):
        if Unwilling.refusals:
            Unwilling.refusals -= 1
            raise OSError("no connection")
        return super().reset(**kwargs)


def unwilling(refusals):
    Unwilling.refusals = refusals
    return EnvPopulation(lambda: Unwilling(POINT.make_env()), (0,), 100)


def test_another_episode_is_not_taken_for_the_one_to_go_on_with() -> None:
    envs = unwilling(0)
    for action in random_actions(3, envs):
        envs.step(action)
    again = unwilling(0)
    Unwilling.refusals = 1
    with pytest.raises(RunError, match=r"the run's episode was brought back \(OSError"):
        again.restore(envs.state())


def test_a_failure_is_told_once() -> None:
    envs = unwilling(1)
    assert [failure.length for failure in envs.failures] == [0]
    again = unwilling(1)  # it fails alike when the run is begun anew
    again.restore(envs.state())
    assert (again.failures, again.errors) == ([], [1])
    np.testing.assert_array_equal(again.observations, envs.observations)
