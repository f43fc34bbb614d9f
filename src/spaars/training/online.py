"""The online loop: act for K steps, store them, do K x UTD updates in one fused scan."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spaars import seeding
from spaars.algos.agent import Agent, SkillAgent
from spaars.data import Dataset
from spaars.data.replay import (
    Batch,
    Mixture,
    Replay,
    insert,
    mixed_rows,
    on_host,
    sample_mixed,
    sample_windows,
    take,
    window,
    windowed_rows,
)
from spaars.data.rows import best_episodes, recent_episodes, unbeaten
from spaars.safety.envelope import ActionEnvelope
from spaars.training.collecting import Collector, Judged
from spaars.training.deployment import Deployment, DeploymentConfig, select
from spaars.training.envs import EnvPopulation, Episode
from spaars.training.population import compile_updates, over_seeds, own_buffers
from spaars.training.retracing import Best, Retracer


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """The online phase."""

    steps: int = 300_000
    """Environment steps per seed; 0 ends the run with the evaluation of the offline policy."""
    chunk: int = 50
    """Environment steps between two rounds of updates (the policy acts unchanged meanwhile)."""
    utd: int = 1
    """Update-to-data ratio: gradient updates per environment step."""
    offline_fraction: float | None = 0.5
    """Share of every batch that comes from the offline dataset; None: uniform over both."""
    start_fraction: float = 0.4
    """Share of a batch's offline rows that are drawn from the first `start_steps` of episodes.
    Few rows are, but every episode has to pass through them: without it the policy forgets how
    to get going (docs/lab-notebook.md)."""
    start_steps: int = 50
    """Environment steps that count as an episode's start."""
    recent_fraction: float = 0.5
    """Share of a batch's online rows that are drawn from the newest episodes, each of them as
    likely as any other: what just went wrong, however short it was, is corrected before it is
    repeated many times."""
    recent_episodes: int = 8
    """Episodes that count as recent, the running one included."""
    random_steps: int = 0
    """First steps with uniformly random actions (for agents that start from nothing)."""
    retrace_rate: float = 0.0
    """Probability with which an exploring episode of an agent with skills runs from its beginning
    the skills of one of the seed's own: one that no other has beaten, and that beat the deployed
    policy's mean and all that the offline policy did in its first episodes. While there is none,
    logged ones are spliced. (`OnlineLearner` does not.)"""
    splice_rate: float = 0.0
    """Probability with which one runs the skills of a logged episode until its reward has risen
    (if it ever does), and then those of one drawn anew from where that comes nearest. (Nor does
    `OnlineLearner`.)"""
    best_fraction: float = 0.0
    """Share of a batch's online rows that are drawn from the seed's best episodes. SPAARS-SUPE's
    skill policy clones these."""
    best_episodes: int = 10
    """Episodes that count as best, besides all that equal the last of them."""
    learning_starts: int = 1_000
    """Environment steps before the first online update."""
    replay_capacity: int | None = None
    """Online transitions kept per seed; None keeps them all."""
    env_errors: int = 10
    """Times per seed that the env may raise or give NaN: its episode is cut there, the event is
    logged, and training goes on. Methods with skills stop at the first step that fails."""
    env_processes: int | None = None
    """Processes that step the envs of training and of evaluation, 1: this one. The results do not
    depend on it. None: one for every core (8 at most) in the kitchen, whose env is slow; 1
    elsewhere."""

    @property
    def mixture(self) -> Mixture:
        return Mixture(self.offline_fraction, self.start_fraction, self.recent_fraction)


LABELLED_AT_ONCE = 1024
NEWEST = DeploymentConfig(rule="latest")


class OnlineLoop:
    """The online phase of one population. Everything on the device has a leading seed axis."""

    def __init__(
        self,
        agent: Agent,
        state: Any,
        replay: Replay,
        envs: EnvPopulation,
        config: OnlineConfig,
        deployment: DeploymentConfig = NEWEST,
        logged_return: float | None = None,
        envelope: ActionEnvelope | None = None,
        dataset: Dataset | None = None,
    ):
        self.agent = agent
        self.host = replay.offline if on_host(replay.offline) else None
        """The dataset where the device has no room for it."""
        if self.host is not None:
            rows = jnp.int32(self.host.rewards.shape[0])
            replay = replay._replace(offline=None, rows=rows)
        self.replay = replay
        self.skills = agent if isinstance(agent, SkillAgent) else None
        self.state = own_buffers(state)
        acting = own_buffers(self.acting())
        self.deployment = Deployment(deployment, acting, envs.seeds, logged_return)
        self.envs, self.config = envs, config
        self.collector = Collector(
            agent,
            envs,
            self.deployment,
            envelope or ActionEnvelope(envs.envs.action_space),
            config.random_steps,
        )
        self.costs = np.full(len(envs.seeds), np.nan)
        """Sum of `info["cost"]` over the last chunk (S,); NaN where the env reports none."""
        self.update_keys = seeding.streams(envs.seeds, seeding.UPDATE)
        self.evidence_keys = seeding.streams(envs.seeds, seeding.EVIDENCE)
        self._evidence = jax.jit(partial(_evidence, agent, config))
        self._look_back = jax.jit(partial(_look_back, agent), static_argnums=0)
        self._rows = jax.jit(partial(_rows, agent, config), static_argnums=(0, 1))
        self._insert = jax.jit(insert, donate_argnums=0)
        self._skill_at = jax.jit(lambda latents, i, row: latents[i, row])
        self._update = compile_updates(partial(_update_chunk, agent, config))
        if self.skills is not None:
            self._observe = jax.jit(partial(_observe, self.skills), donate_argnums=0)
            self.replay = replay._replace(labels=self._labels(self.skills))
            if config.retrace_rate > 0.0 or config.splice_rate > 0.0:
                self.collector.retracer = self._retracer(self.skills, dataset)

    def _retracer(self, agent: SkillAgent, dataset: Dataset | None) -> Retracer:
        assert dataset is not None, "splicing needs the logged episodes"
        return Retracer(
            self.config.retrace_rate,
            self.config.splice_rate,
            agent.skill_length,
            self.envs.seeds,
            dataset,
            np.asarray(self.replay.labels),
            self._stored_skill,
        )

    def _worth_retracing(self) -> Best:
        ends, returns = self.envs.episode_ends, self.envs.episode_returns
        # A route is read chunk by chunk, each before it is written over the oldest rows.
        oldest = self.envs.env_steps + self.config.chunk - self.replay.ring.capacity
        return [
            unbeaten(ends[i], returns[i], oldest, above=trials.outstanding)
            for i, trials in enumerate(self.deployment.trials)
        ]

    def _stored_skill(self, i: int, step: int) -> np.ndarray:
        ring = self.replay.ring
        return np.asarray(self._skill_at(ring.storage.latents, i, step % ring.capacity))

    def acting(self) -> Any:
        """What the newest policies read, leaves (S, ...)."""
        return jax.vmap(self.agent.acting)(self.state)

    @property
    def deployed(self) -> Any:
        """What the deployed policies read, leaves (S, ...)."""
        if self.deployment.config.rule == "latest":
            return self.acting()
        return self.deployment.deployed

    def run_chunk(self) -> tuple[dict[str, np.ndarray], list[Episode], list[Judged]]:
        """K env steps and K x UTD updates.

        Returns means per seed (S,), finished episodes, and trials that ended with them.
        """
        best = self._worth_retracing() if self.collector.retracer else ()
        chunk = self.collector.collect(self.acting(), self.config.chunk, best)
        transitions, steps, conduct, self.costs, episodes, verdicts = chunk
        facts = {name: values.mean(1) for name, values in steps.items()} | conduct
        given_up = {e.seed for e, verdict in verdicts if verdict.event == "rollback"}
        if given_up:
            self.roll_back(np.array([seed in given_up for seed in self.envs.seeds]))
        if self.skills is not None:
            self.state, transitions = self._observe(self.state, transitions, steps)
        self.replay = self.replay._replace(ring=self._insert(self.replay.ring, transitions))
        metrics = facts
        newest = recent_episodes(
            self.envs.episode_ends, self.envs.env_steps, self.config.recent_episodes
        )
        self.replay = self.replay._replace(episodes=jnp.asarray(newest))
        if self.config.best_fraction > 0.0:
            table = best_episodes(
                self.envs.episode_ends,
                self.envs.episode_returns,
                self.envs.env_steps,
                self.replay.ring.capacity,
                self.config.best_episodes,
            )
            self.replay = self.replay._replace(best=jnp.asarray(table))
        if self.envs.env_steps > self.config.learning_starts:
            metrics = facts | self.update()
        return metrics, episodes, verdicts

    def update(self) -> dict[str, np.ndarray]:
        """K x UTD updates on what is stored, in one call. Returns means per seed (S,)."""
        # Both transfers are explicit: a test forbids any other (tests/training/test_speed.py).
        step = jax.device_put(np.int32(self.envs.env_steps))
        replay = self._with_rows(_rows_key, self._updates, self.update_keys, step)
        self.state, metrics = self._update(self.state, replay, self.update_keys, step)
        return jax.device_get(metrics)

    @property
    def _updates(self) -> int:
        return self.config.chunk * self.config.utd

    def _with_rows(self, key_of: Any, updates: int, keys: Any, step: Any) -> Replay:
        """The replay, with those rows of a dataset on the host that the next batches take."""
        if self.host is None:
            return self.replay
        rows = jax.device_get(self._rows(key_of, updates, self.replay, keys, step))
        return self.replay._replace(drawn=jax.device_put(take(self.host, rows)))

    def _labels(self, agent: SkillAgent) -> Any:
        """Labels (S, w, k) of every window of the dataset by each seed's prior, in blocks."""
        windows = self.replay.windows
        assert windows is not None
        if self.host is None:
            label, offline = jax.jit(partial(label_windows, agent)), self.replay.offline
            return jax.lax.map(lambda one: label(offline, windows, one), self.state)
        label_block = jax.jit(partial(_label_block, agent))
        begins, labels = np.asarray(windows), []
        for i in range(len(self.envs.seeds)):
            state = jax.tree.map(lambda x, i=i: x[i], self.state)
            blocks = []
            for first in range(0, len(begins), LABELLED_AT_ONCE):
                rows = begins[first : first + LABELLED_AT_ONCE, None]
                block = take(self.host, rows + np.arange(agent.skill_length))
                blocks.append(label_block(state, jax.device_put(block)))
            labels.append(jnp.concatenate(blocks))
        return jnp.stack(labels)

    def evidence(self) -> dict[str, Any]:
        """The agent's own measurements on a fresh batch, leaves (S,)."""
        step = np.int32(self.envs.env_steps)
        replay = self._with_rows(jax.random.fold_in, 1, self.evidence_keys, step)
        return self._evidence(self.state, replay, self.evidence_keys, step)

    def look_back(self, rows: int) -> dict[str, np.ndarray]:
        """The newest `rows` stored transitions and what the agent makes of them, (S, rows, ...).

        Oldest first. Before so many are stored, the first of them are blank.
        """
        return jax.device_get(self._look_back(rows, self.state, self.replay))

    def roll_back(self, which: np.ndarray, *, shut_gate: bool = False) -> None:
        """The learner's policies go back to the deployed ones where `which` (S,).

        With `shut_gate` the gate is shut, too, and who is on trial stops acting.
        """
        back = jax.vmap(self.agent.roll_back)(self.state, self.deployment.deployed)
        if shut_gate:
            back = jax.vmap(self.agent.take_back)(back)
            self.deployment.abandon(which, self.envs.env_steps)
        self.state = own_buffers(select(which, back, self.state))


def _observe(agent: SkillAgent, state: Any, chunk: Batch, facts: Any) -> Any:
    return over_seeds(partial(observe_chunk, agent))(state, chunk, facts)


def observe_chunk(agent: SkillAgent, state: Any, chunk: Batch, facts: Any) -> Any:
    """Show one seed's agent what it just acted, leaves (K, ...), before it is stored."""
    length = agent.skill_length
    windows, facts = jax.tree.map(lambda x: x.reshape(-1, length, *x.shape[1:]), (chunk, facts))
    state, windows = agent.observe(state, windows, facts)
    return state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), windows)


def label_windows(agent: SkillAgent, offline: Batch, windows: Any, state: Any) -> Any:
    """Labels (w, k) of every window of the dataset by one seed's prior, in blocks."""

    def one(row: Any) -> Any:
        return agent.label(state, window(offline, row[None], agent.skill_length))[0]

    return jax.lax.map(one, windows, batch_size=LABELLED_AT_ONCE)


def _label_block(agent: SkillAgent, state: Any, windows: Batch) -> Any:
    """The same of some windows (n, H, ...)."""
    return jax.vmap(lambda one: agent.label(state, jax.tree.map(lambda x: x[None], one))[0])(
        windows
    )


def _evidence(
    agent: Agent,
    config: OnlineConfig,
    state: Any,
    replay: Replay,
    keys: Any,
    step: Any,
) -> Any:
    def one(state: Any, seed_index: Any, key: Any) -> Any:
        key = jax.random.fold_in(key, step)
        batch = sample_batch(agent, config, replay, seed_index, key, 1)
        return agent.evidence(state, jax.tree.map(lambda x: x[0], batch))

    return over_seeds(one)(state, jnp.arange(replay.ring.storage.rewards.shape[0]), keys)


def _look_back(agent: Agent, rows: int, state: Any, replay: Replay) -> Any:
    ring = replay.ring
    newest = (ring.inserted - rows + jnp.arange(rows)) % ring.capacity

    def one(state: Any, seed_index: Any) -> Any:
        batch = jax.tree.map(lambda x: x[seed_index, newest], ring.storage)
        asked = batch
        if isinstance(agent, SkillAgent):
            windows = (-1, agent.skill_length)
            asked = jax.tree.map(lambda x: x.reshape(*windows, *x.shape[1:]), batch)
        found = {name: x.reshape(rows) for name, x in agent.appraise(state, asked).items()}
        return found | {
            "observations": batch.observations,
            "actions": batch.actions,
            "rewards": batch.rewards,
        }

    return over_seeds(one)(state, jnp.arange(ring.storage.rewards.shape[0]))


def sample_batch(
    agent: Agent, config: OnlineConfig, replay: Replay, seed_index: Any, key: Any, updates: int
) -> Batch:
    """Batches of `updates` online updates of one seed, leaves (updates, batch, ...)."""
    if isinstance(agent, SkillAgent):
        length, share = agent.skill_length, config.offline_fraction or 0.0
        best = config.best_fraction
        return sample_windows(
            replay, seed_index, key, updates, agent.batch_size, share, length, best
        )
    return sample_mixed(replay, seed_index, key, updates, agent.batch_size, config.mixture)


def _rows(
    agent: Agent,
    config: OnlineConfig,
    key_of: Any,
    updates: int,
    replay: Replay,
    keys: Any,
    step: Any,
) -> Any:
    """The dataset's rows (S, updates, ...) in what `sample_batch` draws with the same keys."""

    def one(key: Any) -> Any:
        key = key_of(key, step)
        if isinstance(agent, SkillAgent):
            length, share = agent.skill_length, config.offline_fraction or 0.0
            return windowed_rows(replay, key, updates, agent.batch_size, share, length)
        return mixed_rows(replay, key, updates, agent.batch_size, config.mixture)

    return over_seeds(one)(keys)


def _update_keys(key: Any, step: Any) -> Any:
    """For the rows of a chunk's batches, and for its updates."""
    return jax.random.split(jax.random.fold_in(key, step))


def _rows_key(key: Any, step: Any) -> Any:
    return _update_keys(key, step)[0]


def _update_chunk(
    agent: Agent,
    config: OnlineConfig,
    state: Any,
    replay: Replay,
    keys: Any,
    step: Any,
) -> Any:
    updates = config.chunk * config.utd

    def one(state: Any, seed_index: Any, key: Any) -> Any:
        sample_key, update_key = _update_keys(key, step)
        # The ring is read by index, not mapped: mapping would copy every seed's whole ring.
        batches = sample_batch(agent, config, replay, seed_index, sample_key, updates)

        def update(state: Any, x: tuple[Batch, Any]) -> Any:
            return agent.update(state, *x)

        state, metrics = jax.lax.scan(
            update, state, (batches, jax.random.split(update_key, updates))
        )
        return state, {name: _mean(name, values) for name, values in metrics.items()}

    seed_indices = jnp.arange(replay.ring.storage.rewards.shape[0])
    return over_seeds(one)(state, seed_indices, keys)


def _mean(name: str, values: Any) -> Any:
    """Over a chunk's updates. NaN stands for "no such update", but in q_mean for divergence."""
    return values.mean() if name == "q_mean" else jnp.nanmean(values)
