"""Evaluation: fixed episodes apart from training's, deterministic policy, whole population."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spaars import seeding
from spaars.algos.agent import Agent, SkillAgent
from spaars.safety import SafetyConfig
from spaars.training.envs import MakeEnv
from spaars.training.population import Mapping, over_seeds

UNLIMITED = SafetyConfig()


class EvalResult(NamedTuple):
    """Leaves (S, episodes), except `facts`: per-seed means (S,) over all visited states."""

    returns: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    facts: dict[str, np.ndarray]


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
        mapping: Mapping = "auto",
        safety: SafetyConfig = UNLIMITED,
    ):
        self.agent, self.seeds, self.episodes = agent, list(seeds), episodes
        self.envs = [[make_env() for _ in range(episodes)] for _ in seeds]
        self.envelope = safety.envelope(self.envs[0][0].action_space)
        self.safety = safety
        self.offset = offset
        self._act = jax.jit(partial(_act, agent, stochastic, mapping))
        self.skill_length = None
        if isinstance(agent, SkillAgent):
            self.skill_length = agent.skill_length
            self._choose = jax.jit(partial(_choose, agent, stochastic, mapping))

    def __call__(self, acting: Any) -> EvalResult:
        shape = (len(self.seeds), self.episodes)
        observations = np.stack(
            [
                [
                    np.array(env.reset(seed=self._reset_seed(seed, i))[0], np.float32)
                    for i, env in enumerate(envs)
                ]
                for seed, envs in zip(self.seeds, self.envs, strict=True)
            ]
        )
        keys = jnp.stack([seeding.stream(seed, seeding.EVALUATION) for seed in self.seeds])
        returns, lengths = np.zeros(shape), np.zeros(shape, np.int64)
        running, terminated = np.ones(shape, bool), np.zeros(shape, bool)
        totals: dict[str, np.ndarray] = {}
        executed = np.full((*shape, self.envelope.dim), np.nan, np.float32)
        step, skills = 0, None
        while running.any():
            if self.skill_length is not None and step % self.skill_length == 0:
                skills = self._choose(acting, observations, keys, np.int32(step))
            device_actions, facts = self._act(acting, observations, skills, keys, np.int32(step))
            requested = np.asarray(device_actions)
            executed = self.envelope(requested, executed)
            if self.safety.limits_actions:
                facts = facts | {"clipped_steps": (executed != requested).any(-1)}
            for name, value in facts.items():
                total = totals.setdefault(name, np.zeros(shape))
                total += np.where(running, np.asarray(value), 0.0)
            for s, i in zip(*np.nonzero(running), strict=True):
                observation, reward, term, trunc, _ = self.envs[s][i].step(executed[s, i])
                observations[s, i] = observation
                returns[s, i] += float(reward)
                lengths[s, i] += 1
                terminated[s, i] = term
                running[s, i] = not (term or trunc)
            step += 1
        visited = lengths.sum(1)
        return EvalResult(
            returns,
            lengths,
            terminated,
            {name: total.sum(1) / visited for name, total in totals.items()},
        )

    def _reset_seed(self, seed: int, index: int) -> int:
        return seeding.episode_seed(seeding.EVAL_EPISODE, seed, self.offset + index)

    def close(self) -> None:
        for envs in self.envs:
            for env in envs:
                env.close()


def _act(
    agent: Agent,
    stochastic: bool,
    mapping: Mapping,
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
    mapping: Mapping,
    acting: Any,
    observations: Any,
    keys: Any,
    step: Any,
) -> Any:
    def one(acting: Any, observations: Any, key: Any) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(key, step), 1) if stochastic else None
        return agent.choose(acting, observations, key)

    return over_seeds(one, mapping)(acting, observations, keys)
