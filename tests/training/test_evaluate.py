from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odd_envs import errands
from spaars import seeding
from spaars.algos.sac import SAC
from spaars.training.evaluate import EvalResult, Evaluator, evaluation_seed
from spaars.training.trainer import Trainer
from toy import GOAL, POINT, STEPS, controller


class Controller(SAC):
    """The toy's controller as an agent; its state is where it pulls to, (S, 2)."""

    def acting(self, state):
        return state

    def act_deterministic(self, goal, observations):
        pull = 4.0 * (goal - observations[:, :2]) - 8.0 * observations[:, 2:]
        return jnp.clip(pull, -1.0, 1.0), {"east": observations[:, 0]}

    def act(self, goal, observations, key):
        actions, facts = self.act_deterministic(goal, observations)
        return actions + 0.1 * jax.random.normal(key, actions.shape), facts


SEEDS = (4, 9)
# Seed 4 stands at the goal; seed 9 runs into the east wall.
GOALS = jnp.array([[0.5, 0.5], [3.0, 0.0]])


@pytest.fixture
def evaluator():
    evaluator = Evaluator(Controller(), POINT.make_env, SEEDS, 3)
    yield evaluator
    evaluator.close()


def by_hand(reset_seed, goal):
    env = POINT.make_env()
    observation, _ = env.reset(seed=reset_seed)
    total, length, east = 0.0, 0, []
    while True:
        east.append(observation[0])
        action = controller(observation, goal).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, length = total + reward, length + 1
        if terminated or truncated:
            return total, length, terminated, east


def test_results_are_those_of_the_episodes_by_hand(evaluator):
    result = evaluator(GOALS)
    for s, seed in enumerate(SEEDS):
        episodes = [by_hand(evaluation_seed(seed, i), np.asarray(GOALS[s])) for i in range(3)]
        returns, lengths, falls, east = zip(*episodes, strict=True)
        np.testing.assert_allclose(result.returns[s], returns, rtol=1e-4)
        np.testing.assert_array_equal(result.lengths[s], lengths)
        np.testing.assert_array_equal(result.fell[s], falls)
        # A fact is averaged over the states visited, not over episodes or past their ends.
        assert result.facts["east"][s] == pytest.approx(np.concatenate(east).mean(), rel=1e-4)
    np.testing.assert_array_equal(result.lengths[0], [STEPS] * 3)
    assert result.fell[1].all()
    assert len(set(result.lengths[1])) > 1  # episodes end one by one
    assert len(set(result.returns.ravel())) == 6  # all start elsewhere
    assert np.all(GOALS[0] == GOAL)


def test_evaluating_twice_gives_the_same(evaluator):
    first, again = evaluator(GOALS), evaluator(GOALS)
    for a, b in zip(first[:3], again[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first.facts["east"], again.facts["east"])


def test_a_seeds_episodes_do_not_depend_on_its_company(evaluator):
    alone = Evaluator(Controller(), POINT.make_env, SEEDS[1:], 3)
    np.testing.assert_array_equal(alone(GOALS[1:]).returns[0], evaluator(GOALS).returns[1])
    fewer = Evaluator(Controller(), POINT.make_env, SEEDS, 2)
    np.testing.assert_array_equal(fewer(GOALS).returns, evaluator(GOALS).returns[:, :2])


def test_an_offset_goes_on_with_further_episodes(evaluator):
    later = Evaluator(Controller(), POINT.make_env, SEEDS, 2, offset=1)
    np.testing.assert_array_equal(later(GOALS).returns, evaluator(GOALS).returns[:, 1:])


def test_stochastic_evaluation_samples_reproducibly(evaluator):
    sampling = Evaluator(Controller(), POINT.make_env, SEEDS, 3, stochastic=True)
    first, again = sampling(GOALS), sampling(GOALS)
    np.testing.assert_array_equal(first.returns, again.returns)
    deterministic = evaluator(GOALS).returns
    assert np.all(first.returns[0] != deterministic[0])
    # The noise is small: the same policy in essence.
    np.testing.assert_allclose(first.returns[0], deterministic[0], rtol=0.1)


def test_the_share_of_episodes_that_completed_each_subtask():
    evaluator = Evaluator(Controller(), errands, SEEDS, 3)
    goals = jnp.array([[0.5, 0.5], [-0.5, -0.5]])
    facts = evaluator(goals).facts
    completed = {name: facts[name].tolist() for name in facts if name.startswith("completed/")}
    starts = [
        [errands().reset(seed=evaluation_seed(seed, i))[0] for i in range(3)] for seed in SEEDS
    ]
    # The second seed is pulled to the south-west, by 0.04 in the first step: where it is beyond
    # 0.3 after it, it has begun there.
    east, north = np.mean([start[:2] > 0.34 for start in starts[1]], 0)
    assert completed == {
        "completed/east": [1.0, pytest.approx(east)],
        "completed/moon": [0.0, 0.0],
        "completed/north": [1.0, pytest.approx(north)],
    }
    assert 0.0 < east + north < 2.0


def test_the_two_policies_just_evaluated_are_not_run_again():
    def evaluator(acting):
        runs.append(acting)
        return EvalResult(*(np.full((1, 1), len(runs)) for _ in range(4)), {})

    runs = []
    trainer = SimpleNamespace(evaluations=[], evaluator=evaluator)
    one, two, three = ((jnp.full(3, x), jnp.array(x == 2.0)) for x in (1.0, 2.0, 3.0))
    asked = (one, two, one, two, three, two, one)
    numbers = [int(Trainer.evaluated(trainer, x).returns[0, 0]) for x in asked]
    assert numbers == [1, 2, 1, 2, 3, 2, 4]
    # The gate armed is another policy.
    assert int(Trainer.evaluated(trainer, (one[0], jnp.array(True))).returns[0, 0]) == 5


def test_a_skills_noise_is_none_of_its_first_actions():
    """`fold_in` of a small number is a key that `split` gives, too."""
    step = jax.random.key(3)
    chosen = jax.random.fold_in(step, seeding.SKILL_CHOICE)
    for count in (2, 3, 4, 8):
        for key in jax.random.split(step, count):
            assert not jnp.array_equal(jax.random.key_data(key), jax.random.key_data(chosen))
