"""Evaluation: fixed episodes apart from training's, deterministic policy, whole population."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from spaars import seeding
from spaars.algos.agent import Agent, SkillAgent
from spaars.safety import SafetyConfig
from spaars.training.population import over_seeds
from spaars.training.stepping import Envs, MakeEnv, open_envs, successes

UNLIMITED = SafetyConfig()


class EvalResult(NamedTuple):
    """Leaves (S, episodes), except `facts` (S,)."""

    returns: np.ndarray
    discounted: np.ndarray
    """Returns from the episode's start with the discount that was asked for."""
    lengths: np.ndarray
    fell: np.ndarray
    """Whether the env ended it, and not because all was done (`Outcome.fell`)."""
    facts: dict[str, np.ndarray]
    """Per-seed means over all visited states; under `completed/NAME`, where the env names
    subtasks (`info["subtasks"]`), the share of the episodes that completed it."""


def evaluation_seed(seed: int, index: int) -> int:
    """What the index-th evaluation episode of a training seed is reset with."""
    return seeding.episode_seed(seeding.EVAL_EPISODE, seed, index)


def run_episodes(
    envs: Envs,
    reset_seeds: Sequence[Sequence[int]],
    act: Callable[[np.ndarray, int], tuple[Any, Mapping[str, Any]]],
    discount: float = 1.0,
) -> EvalResult:
    """An episode for each of the seeds (S, n), all in lockstep, in as many envs (S n).

    `act` gives actions (S, n, act) and facts (S, n) for observations (S, n, obs) and the step.
    Raises RunError if an env fails: an episode that is left out would change the mean.
    """
    shape = (len(reset_seeds), len(reset_seeds[0]))
    n = shape[0] * shape[1]
    flat_seeds = (seed for seeds in reset_seeds for seed in seeds)
    begun = successes(
        envs.reset(dict(enumerate(flat_seeds))), "evaluation: the env failed at its reset"
    )
    observations = np.stack([begun[i].observation for i in range(n)])
    returns, discounted, lengths = np.zeros(n), np.zeros(n), np.zeros(n, np.int64)
    running, fell = np.ones(n, bool), np.zeros(n, bool)
    totals: dict[str, np.ndarray] = {}
    completed: dict[str, np.ndarray] = {}
    step = 0
    while running.any():
        device_actions, facts = act(observations.reshape(*shape, -1), step)
        actions = np.asarray(device_actions).reshape(n, -1)
        for name, value in facts.items():
            total = totals.setdefault(name, np.zeros(shape))
            total += np.where(running.reshape(shape), np.asarray(value), 0.0)
        asked = {i: actions[i] for i in np.flatnonzero(running).tolist()}
        found = successes(envs.step(asked), f"evaluation: the env failed at step {step + 1}")
        for i, outcome in found.items():
            observations[i] = outcome.observation
            returns[i] += outcome.reward
            discounted[i] += discount**step * outcome.reward
            lengths[i] += 1
            fell[i] = outcome.fell
            running[i] = not (outcome.terminated or outcome.truncated)
            for name, done in (outcome.subtasks or {}).items():
                completed.setdefault(name, np.zeros(n, bool))[i] |= done
        step += 1
    visited = lengths.reshape(shape).sum(1)
    means = {name: total.sum(1) / visited for name, total in totals.items()}
    shares = {
        f"completed/{name}": completed[name].reshape(shape).mean(1) for name in sorted(completed)
    }
    return EvalResult(
        returns.reshape(shape),
        discounted.reshape(shape),
        lengths.reshape(shape),
        fell.reshape(shape),
        means | shares,
    )


class Evaluator:
    """Runs `episodes` episodes of every seed in lockstep, in so many `processes`.

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
        safety: SafetyConfig = UNLIMITED,
        processes: int = 1,
        discount: float = 1.0,
    ):
        self.agent, self.seeds, self.episodes = agent, list(seeds), episodes
        self.envs = open_envs(make_env, len(self.seeds) * episodes, processes)
        self.envelope = safety.envelope(self.envs.action_space)
        self.safety = safety
        self.offset, self.discount = offset, discount
        self._act = jax.jit(partial(_act, agent, stochastic))
        self.skill_length = None
        if isinstance(agent, SkillAgent):
            self.skill_length = agent.skill_length
            self._choose = jax.jit(partial(_choose, agent, stochastic))

    def __call__(self, acting: Any) -> EvalResult:
        keys = seeding.streams(self.seeds, seeding.EVALUATION)
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
        self.envs.close()


def _act(
    agent: Agent,
    stochastic: bool,
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

    return over_seeds(one)(acting, observations, skills, keys)


def _choose(
    agent: SkillAgent,
    stochastic: bool,
    acting: Any,
    observations: Any,
    keys: Any,
    step: Any,
) -> Any:
    def one(acting: Any, observations: Any, key: Any) -> Any:
        if not stochastic:
            return agent.choose(acting, observations, None)
        key = jax.random.fold_in(jax.random.fold_in(key, step), seeding.SKILL_CHOICE)
        return agent.choose(acting, observations, key)

    return over_seeds(one)(acting, observations, keys)
