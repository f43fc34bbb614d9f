"""Evaluation: fixed episodes apart from training's, deterministic policy, whole population."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from spaars import seeding
from spaars.algos.agent import Agent, SkillAgent
from spaars.safety import SafetyConfig
from spaars.training import population
from spaars.training.envs import MakeEnv
from spaars.training.population import over_seeds

UNLIMITED = SafetyConfig()


class EvalResult(NamedTuple):
    """Leaves (S, episodes), except `facts`: per-seed means (S,) over all visited states."""

    returns: np.ndarray
    discounted: np.ndarray
    """Returns from the episode's start with the discount that was asked for."""
    lengths: np.ndarray
    terminated: np.ndarray
    facts: dict[str, np.ndarray]


def evaluation_seed(seed: int, index: int) -> int:
    """What the index-th evaluation episode of a training seed is reset with."""
    return seeding.episode_seed(seeding.EVAL_EPISODE, seed, index)


def run_episodes(
    envs: Sequence[Sequence[gymnasium.Env]],
    reset_seeds: Sequence[Sequence[int]],
    act: Callable[[np.ndarray, int], tuple[Any, Mapping[str, Any]]],
    discount: float = 1.0,
) -> EvalResult:
    """An episode in every env (S, n), all in lockstep.

    `act` gives actions (S, n, act) and facts (S, n) for observations (S, n, obs) and the step.
    """
    shape = (len(envs), len(envs[0]))
    observations = np.stack(
        [
            [
                np.array(env.reset(seed=reset_seed)[0], np.float32)
                for env, reset_seed in zip(row, seeds, strict=True)
            ]
            for row, seeds in zip(envs, reset_seeds, strict=True)
        ]
    )
    returns, discounted, lengths = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
    running, terminated = np.ones(shape, bool), np.zeros(shape, bool)
    totals: dict[str, np.ndarray] = {}
    step = 0
    while running.any():
        device_actions, facts = act(observations, step)
        actions = np.asarray(device_actions)
        for name, value in facts.items():
            total = totals.setdefault(name, np.zeros(shape))
            total += np.where(running, np.asarray(value), 0.0)
        for s, i in zip(*np.nonzero(running), strict=True):
            observation, reward, term, trunc, _ = envs[s][i].step(actions[s, i])
            observations[s, i] = observation
            returns[s, i] += float(reward)
            discounted[s, i] += discount**step * float(reward)
            lengths[s, i] += 1
            terminated[s, i] = term
            running[s, i] = not (term or trunc)
        step += 1
    visited = lengths.sum(1)
    return EvalResult(
        returns,
        discounted,
        lengths,
        terminated,
        {name: total.sum(1) / visited for name, total in totals.items()},
    )


class Evaluator:
    """Runs `episodes` episodes of every seed in lockstep.

    Call it with what the policies read: `Agent.acting` of every seed, leaves (S, ...).

    Episode i of training seed s always starts from the same state, at every evaluation.
    """

    def __init__(
        self,
        agent: Agent,
        make_env: MakeEnv,
        seeds: Sequence[int],
        episodes: int,
        *,
        stochastic: bool = False,
        offset: int = 0,
        mapping: population.Mapping = "auto",
        safety: SafetyConfig = UNLIMITED,
        discount: float = 1.0,
    ):
        self.agent, self.seeds, self.episodes = agent, list(seeds), episodes
        self.envs = [[make_env() for _ in range(episodes)] for _ in seeds]
        self.envelope = safety.envelope(self.envs[0][0].action_space)
        self.safety = safety
        self.offset, self.discount = offset, discount
        self._act = jax.jit(partial(_act, agent, stochastic, mapping))
        self.skill_length = None
        if isinstance(agent, SkillAgent):
            self.skill_length = agent.skill_length
            self._choose = jax.jit(partial(_choose, agent, stochastic, mapping))

    def __call__(self, acting: Any) -> EvalResult:
        keys = jnp.stack([seeding.stream(seed, seeding.EVALUATION) for seed in self.seeds])
        skills: Any = None
        shape = (len(self.seeds), self.episodes, self.envelope.dim)
        executed = np.full(shape, np.nan, np.float32)

        def act(observations: np.ndarray, step: int) -> tuple[Any, dict[str, Any]]:
            nonlocal skills, executed
            if self.skill_length is not None and step % self.skill_length == 0:
                skills = self._choose(acting, observations, keys, np.int32(step))
            device_actions, facts = self._act(acting, observations, skills, keys, np.int32(step))
            requested = np.asarray(device_actions)
            executed = self.envelope(requested, executed)
            if self.safety.limits_actions:
                facts = facts | {"clipped_steps": (executed != requested).any(-1)}
            return executed, facts

        reset_seeds = [
            [evaluation_seed(seed, self.offset + i) for i in range(self.episodes)]
            for seed in self.seeds
        ]
        return run_episodes(self.envs, reset_seeds, act, self.discount)

    def close(self) -> None:
        for envs in self.envs:
            for env in envs:
                env.close()


def _act(
    agent: Agent,
    stochastic: bool,
    mapping: population.Mapping,
    acting: Any,
    observations: Any,
    skills: Any,
    keys: Any,
    step: Any,
) -> Any:
    def one(acting: Any, observations: Any, skills: Any, key: Any) -> Any:
        if skills is not None:
            acting = (acting, skills)
        if stochastic:
            return agent.act(acting, observations, jax.random.fold_in(key, step))
        return agent.act_deterministic(acting, observations)

    return over_seeds(one, mapping)(acting, observations, skills, keys)


def _choose(
    agent: SkillAgent,
    stochastic: bool,
    mapping: population.Mapping,
    acting: Any,
    observations: Any,
    keys: Any,
    step: Any,
) -> Any:
    def one(acting: Any, observations: Any, key: Any) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(key, step), 1) if stochastic else None
        return agent.choose(acting, observations, key)

    return over_seeds(one, mapping)(acting, observations, keys)
