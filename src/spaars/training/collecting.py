"""Acting for one chunk: who is asked, what of the answer is executed, what the envs make of it."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spaars import seeding
from spaars.algos.agent import Agent, SkillAgent
from spaars.data.replay import Batch
from spaars.errors import RunError
from spaars.safety.envelope import ActionEnvelope, clip_shares
from spaars.safety.monitor import action_rate, gate_flips
from spaars.training.deployment import Deployment, Verdict
from spaars.training.envs import EnvPopulation, Episode
from spaars.training.population import over_seeds
from spaars.training.retracing import Best, Retracer

Judged = tuple[Episode, Verdict]


class Chunk(NamedTuple):
    """K steps of S seeds."""

    transitions: Batch
    """Leaves (S, K, ...)."""
    facts: dict[str, np.ndarray]
    """What the agent says of its actions (S, K)."""
    conduct: dict[str, np.ndarray]
    """How it acted (S,)."""
    costs: np.ndarray
    """Sums of `info["cost"]` (S,); NaN where the env reports none."""
    episodes: list[Episode]
    """That ended."""
    verdicts: list[Judged]
    """Trials that ended with them."""


@dataclasses.dataclass
class _Records:
    """A chunk while it is acted: one entry for every step."""

    before: np.ndarray
    """Executed in the step before the first (S, act)."""
    rows: list[tuple[np.ndarray, ...]] = dataclasses.field(default_factory=list)
    asked: list[np.ndarray] = dataclasses.field(default_factory=list)
    ends: list[np.ndarray] = dataclasses.field(default_factory=list)
    costs: list[np.ndarray] = dataclasses.field(default_factory=list)
    facts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """On the device. Steps with random actions have none."""
    skills: list[np.ndarray] = dataclasses.field(default_factory=list)
    episodes: list[Episode] = dataclasses.field(default_factory=list)
    verdicts: list[Judged] = dataclasses.field(default_factory=list)

    def cut(self, failed: np.ndarray) -> None:
        """The envs that `failed` (S,) ended their episodes with the step before."""
        if self.ends:
            self.ends[-1][failed] = True
        else:
            self.before[failed] = np.nan

    def chunk(self) -> Chunk:
        transitions = Batch(*(np.stack(column, 1) for column in zip(*self.rows, strict=True)))  # type: ignore[arg-type]
        if self.skills:
            transitions = transitions._replace(latents=np.stack(self.skills, 1))  # type: ignore[arg-type]
        steps = jax.device_get(self.facts)
        names = steps[0] if steps else {}
        facts = {name: np.stack([step[name] for step in steps], 1) for name in names}
        ends, executed = np.stack(self.ends, 1), np.asarray(transitions.actions)
        conduct = clip_shares(np.stack(self.asked, 1), executed)
        conduct["action_rate"] = action_rate(executed, self.before, ends)
        if "gate" in facts:
            gate = facts["gate"]
            conduct["gate_flips_per_1k"] = gate_flips(gate, ends[:, -gate.shape[1] :])
        costs = np.stack(self.costs)
        reported = ~np.isnan(costs)
        sums = np.where(reported.any(0), np.where(reported, costs, 0.0).sum(0), np.nan)
        return Chunk(transitions, facts, conduct, sums, self.episodes, self.verdicts)


class Collector:
    """Lets whoever's turn it is act in the envs of one population."""

    def __init__(
        self,
        agent: Agent,
        envs: EnvPopulation,
        deployment: Deployment,
        envelope: ActionEnvelope,
        random_steps: int,
    ):
        self.envs, self.deployment, self.envelope = envs, deployment, envelope
        self.skills = agent if isinstance(agent, SkillAgent) else None
        self.random_steps = random_steps
        self.retracer: Retracer | None = None
        """Of agents with skills, where there is one: `OnlineLoop` knows their labels."""
        self.keys = seeding.streams(envs.seeds, seeding.ACT)
        self._act = jax.jit(partial(_act, agent))
        self._random = jax.jit(partial(_random_actions, envs.action_dim))
        if self.skills is not None:
            self._choose = jax.jit(partial(_choose, self.skills))

    def collect(self, acting: Any, steps: int, best: Best) -> Chunk:
        """`steps` steps by the newest policies, `acting`, and by those that prove or hold them.

        `best` are the episodes that may be retraced.
        """
        self.deployment.offer(acting)
        records = _Records(self.envs.previous_actions)
        running: Any = None
        proven = self.deployment.proven()
        for i in range(steps):
            step = np.int32(self.envs.env_steps)
            explores = self.deployment.explores
            if self.skills is not None and i % self.skills.skill_length == 0:
                observations = self.envs.observations
                running = self._choose(acting, proven, explores, observations, self.keys, step)
                if self.retracer is not None:
                    fresh = np.isnan(self.envs.previous_actions).any(-1)
                    own, now = np.asarray(running), self.envs.env_steps
                    running = self.retracer(own, observations, explores, fresh, now, best)
                records.skills += [np.asarray(running)] * self.skills.skill_length
            for episode in self._step(acting, proven, running, records):
                self._judge(episode, records)
                proven = self.deployment.proven()
        return records.chunk()

    def _step(self, acting: Any, proven: Any, running: Any, records: _Records) -> list[Episode]:
        """One step of all envs. Returns the episodes that ended with it."""
        step = np.int32(self.envs.env_steps)
        if step < self.random_steps:
            requested = np.asarray(self._random(self.keys, step))
        else:
            device_actions, facts = self._ask(acting, proven, running, step)
            requested = np.asarray(device_actions)
            records.facts.append(facts)
        # Stored is what was executed, not what was asked for.
        limited = self.envelope.rate_limit is not None
        previous = self.envs.previous_actions if limited else None
        actions = self.envelope(requested, previous)
        observations = self.envs.observations.copy()
        outcome = self.envs.step(actions)
        next_observations, rewards, terminated, truncated, finished = outcome
        while (failed := self.envs.failed.copy()).any():
            # Those envs are in a new episode: the policy looks again, and the step is theirs.
            self._refuse_failure_in_skill()
            observations[failed] = self.envs.observations[failed]
            records.cut(failed)
            if step >= self.random_steps:
                again, _ = self._ask(acting, proven, running, step)
                requested = np.where(failed[:, None], np.asarray(again), requested)
            limited_again = self.envelope(requested, np.full_like(requested, np.nan))
            actions = np.where(failed[:, None], limited_again, actions)
            second = self.envs.step(actions, again=failed)
            for found, redone in zip(outcome[:4], second[:4], strict=True):
                found[failed] = redone[failed]
            finished += second[4]
        records.asked.append(requested)
        records.ends.append(terminated | truncated)
        records.costs.append(self.envs.costs.copy())
        records.rows.append(
            (observations, actions, rewards, next_observations, terminated.astype(np.float32))
        )
        return finished

    def _ask(self, acting: Any, proven: Any, skills: Any, step: np.int32) -> tuple[Any, Any]:
        """Actions (S, act) of whoever acts in each env, and the agent's facts (S,) of them."""
        observations, explores = self.envs.observations, self.deployment.explores
        return self._act(acting, proven, explores, observations, skills, self.keys, step)

    def _judge(self, episode: Episode, records: _Records) -> None:
        self._refuse_broken_skill(episode)
        i = self.envs.seeds.index(episode.seed)
        route = None if self.retracer is None else self.retracer.guided[i]
        episode = episode._replace(actor=route or self.deployment.actors[i])
        records.episodes.append(episode)
        verdict = self.deployment.after_episode(episode)
        if verdict is not None:
            records.verdicts.append((episode, verdict))

    def _refuse_failure_in_skill(self) -> None:
        if self.skills is not None:
            seed = self.envs.seeds[int(np.argmax(self.envs.failed))]
            failure = next(one for one in self.envs.failures if one.seed == seed)
            raise RunError(
                f"seed {failure.seed}: the env failed at step {failure.env_step} "
                f"({failure.reason}). Methods with skills cannot go on inside one; mend the env."
            )

    def _refuse_broken_skill(self, episode: Episode) -> None:
        if self.skills is not None and self.envs.env_steps % self.skills.skill_length:
            raise RunError(
                f"seed {episode.seed}: an episode ended after {episode.length} steps, inside a "
                f"skill of {self.skills.skill_length}. Methods with skills need a training env "
                "whose episodes last a multiple of that; let it run on after a failure."
            )


def _act(
    agent: Agent,
    acting: Any,
    proven: Any,
    explores: Any,
    observations: Any,
    skills: Any,
    keys: Any,
    step: Any,
) -> Any:
    def one(acting: Any, proven: Any, explores: Any, observation: Any, skill: Any, key: Any) -> Any:
        if skill is not None:
            acting, proven = (acting, skill[None]), (proven, skill[None])
        actions, facts = jax.lax.cond(
            explores,
            lambda: agent.act(acting, observation[None], jax.random.fold_in(key, step)),
            lambda: agent.act_deterministic(proven, observation[None]),
        )
        return actions[0], {name: value[0] for name, value in facts.items()}

    return over_seeds(one)(acting, proven, explores, observations, skills, keys)


def _choose(
    agent: SkillAgent,
    acting: Any,
    proven: Any,
    explores: Any,
    observations: Any,
    keys: Any,
    step: Any,
) -> Any:
    def one(acting: Any, proven: Any, explores: Any, observation: Any, key: Any) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(key, step), seeding.SKILL_CHOICE)
        explored = agent.choose(acting, observation[None], key)
        return jnp.where(explores, explored, agent.choose(proven, observation[None], None))[0]

    return over_seeds(one)(acting, proven, explores, observations, keys)


def _random_actions(dim: int, keys: Any, step: Any) -> Any:
    def one(key: Any) -> Any:
        return jax.random.uniform(jax.random.fold_in(key, step), (dim,), minval=-1.0, maxval=1.0)

    return jax.vmap(one)(keys)
