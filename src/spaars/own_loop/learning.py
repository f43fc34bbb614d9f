"""The learning half of an `OnlineLearner`: replay, updates, hand-over. One thread at a time."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spaars import seeding
from spaars.algos.agent import Agent, SkillAgent
from spaars.data import Dataset
from spaars.data.replay import Batch, Replay, empty_ring, insert
from spaars.data.rows import best_episodes, recent_episodes
from spaars.errors import RunError
from spaars.own_loop.records import End, RollBack, Row, batch_of, explored_in
from spaars.own_loop.snapshot import Snapshot
from spaars.training import config as configs
from spaars.training.checkpoint import Checkpoint
from spaars.training.config import TrainConfig
from spaars.training.handover import reason_to_hand_over
from spaars.training.logged import logged_data
from spaars.training.online import OnlineConfig, label_windows, observe_chunk, sample_batch
from spaars.training.population import compile_updates, own_buffers
from spaars.training.trainer import diverged

SLICE = 10
"""Updates between two swaps of the acting parameters."""


class Learning:
    """State and replay of one seed. `newest` may be read by any thread at any time."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        state: Any,
        capacity: int,
    ):
        self.config, self.seed = config, config.seeds[0]
        self.events: list[dict[str, Any]] = []
        self.agent: Agent = config.agent()
        self.skills = self.agent if isinstance(self.agent, SkillAgent) else None
        self.action_dim = dataset.action_dim
        self.state = own_buffers(state)
        skill_dim = self.skills.skill_dim if self.skills is not None else 0
        ring = empty_ring(1, capacity, dataset.observation_dim, dataset.action_dim, skill_dim)
        self.replay = Replay(ring, *logged_data(self.agent, config.online, dataset))
        if self.skills is not None:
            # As in the trainer: the prior is frozen, so labels are found once.
            offline, windows = self.replay.offline, self.replay.windows
            labels = jax.jit(partial(label_windows, self.skills))(offline, windows, self.state)
            self.replay = self.replay._replace(labels=labels[None])
        self.updates = 0
        self.seen = 0
        """Steps taken in."""
        self.rows = 0
        """Rows stored: with skills, fewer than steps where an episode was cut inside one."""
        self.ends: list[int] = []
        """Rows at which episodes ended."""
        self.returns: list[float] = []
        """Return of each, NaN where it is not known."""
        self.partial: list[Row] = []
        """The running skill's rows."""
        self.explored: list[tuple[int, float]] = []
        """Step at the end, and return, of exploring episodes."""
        self.armed, self.shut_at = False, -1
        """Whether the gate is, and the step at which a budget shut it last."""
        self.rolled_back = 0
        self.diverged: RunError | None = None
        self.gated = "gate" in configs.METHODS[config.method].sections
        self._update_key = seeding.stream(self.seed, seeding.OWN_LOOP_UPDATE)
        self._evidence_key = seeding.stream(self.seed, seeding.OWN_LOOP_EVIDENCE)
        self._programs = _programs(self.agent, config.online)  # type: ignore[arg-type]
        self._storing: dict[int, Any] = {}
        self.newest = self.snapshot()

    def prepare(self) -> None:
        """Compile everything; nothing else changes."""
        self.learn(0)
        for rows in self.blocks():
            self._compiled(rows)
        if self.gated:
            jax.block_until_ready(self._evidence_at(0))

    def learn(self, block: int) -> dict[str, tuple[float, float]]:
        """Sums of the metrics of so many updates, and over how many each is."""
        self.refuse_diverged()
        first, count = np.int32(self.updates), np.int32(block)
        found = self._programs.update(self.state, self._sampled(), self._update_key, first, count)
        self.state, totals, counts = found
        totals, counts = jax.device_get((totals, counts))
        self.updates += block
        if not np.isfinite(totals.get("q_mean", 0.0)):
            self.diverged = diverged(self.seed, f"update {self.updates} of this loop")
            raise self.diverged
        if block:
            self.newest = self.snapshot()
        return {name: (float(totals[name]), float(counts[name])) for name in totals}

    def refuse_diverged(self) -> None:
        """What has diverged must not be saved over what has not."""
        if self.diverged is not None:
            raise self.diverged

    def _sampled(self) -> Replay:
        """The replay, with the newest and the best episodes marked."""
        online, ring = self.config.online, self.replay.ring
        newest = recent_episodes([self.ends], self.rows, online.recent_episodes)
        replay = self.replay._replace(episodes=jnp.asarray(newest))
        if online.best_fraction > 0.0:
            ended = [self.ends], [self.returns]
            best = best_episodes(*ended, self.rows, ring.capacity, online.best_episodes)
            replay = replay._replace(best=jnp.asarray(best))
        return replay

    def snapshot(self) -> Snapshot:
        tree = self._programs.acting(self.state)
        return Snapshot(self.agent, tree, self.action_dim, self.updates, self.rolled_back)

    def take(self, items: Sequence[Row | End | RollBack]) -> None:
        """What was observed, in order: into the replay; policies go back, the gate is armed."""
        rows: list[Row] = []
        first = self.seen
        for item in items:
            if isinstance(item, Row):
                rows.append(item)
                self.seen += 1
                continue
            self._store(rows)
            rows = []
            if isinstance(item, End):
                self.partial = []
                self.ends.append(self.rows)
                self.returns.append(np.nan if item.entry is None else item.entry[1])
                if item.entry is not None and item.entry[3] == "explore":
                    self.explored.append((item.entry[0], item.entry[1]))
            else:
                self._roll_back(item)
        self._store(rows)
        self._consider_handover(first)

    def _store(self, rows: Sequence[Row]) -> None:
        """Rows into the ring; with skills whole windows, the rest waits."""
        waiting = [*self.partial, *rows]
        small, large = self.blocks()
        while len(waiting) >= small:
            size = large if len(waiting) >= large else small
            observing, inserting = self._compiled(size)
            chunk = batch_of(waiting[:size])
            if observing is not None:
                facts = {
                    "gate": np.array([row.gate for row in waiting[:size]], np.float32),
                    "raw_share": np.array([row.raw for row in waiting[:size]], np.float32),
                }
                self.state, chunk = observing(self.state, chunk, facts)
            chunk = jax.tree.map(lambda x: x[None], chunk)
            ring = inserting(self.replay.ring, chunk)
            self.replay = self.replay._replace(ring=ring)
            self.rows += size
            waiting = waiting[size:]
        self.partial = waiting

    def blocks(self) -> tuple[int, int]:
        """Rows that are stored at once: as few as possible, and many."""
        small = self.skills.skill_length if self.skills is not None else 1
        return small, max(self.config.online.chunk // small, 1) * small

    def _compiled(self, rows: int) -> tuple[Any, Any]:
        """How the agent is shown so many rows (None: it need not be), and `insert` of them."""
        if rows not in self._storing:
            observing, storage = None, self.replay.ring.storage

            def shaped(*lead: int) -> Batch:
                make = jax.ShapeDtypeStruct
                return jax.tree.map(lambda x: make((*lead, *x.shape[2:]), x.dtype), storage)

            if self.skills is not None:
                fact = jax.ShapeDtypeStruct((rows,), np.float32)
                show = jax.jit(partial(observe_chunk, self.skills), donate_argnums=0)
                facts = {"gate": fact, "raw_share": fact}
                observing = show.lower(self.state, shaped(rows), facts).compile()
            put = jax.jit(insert, donate_argnums=0)
            inserting = put.lower(self.replay.ring, shaped(1, rows)).compile()
            self._storing[rows] = observing, inserting
        return self._storing[rows]

    def _roll_back(self, item: RollBack) -> None:
        state = self.agent.roll_back(self.state, item.policy.tree)
        if item.shut_gate:
            state = self.agent.take_back(state)
            self.armed, self.shut_at = False, item.step
        self.state = own_buffers(state)
        self.rolled_back += 1
        self.newest = self.snapshot()

    def _evidence_at(self, step: int) -> Any:
        return self._programs.evidence(
            self.state, self._sampled(), self._evidence_key, np.int32(step)
        )

    def _consider_handover(self, first: int) -> None:
        """Arm the gate if its time came within the steps after `first`."""
        every = self.config.log_every
        wait = self.shut_at + self.config.safety.budget.window if self.shut_at >= 0 else 0
        marks = [
            mark
            for mark in range((first // every + 1) * every, self.seen + 1, every)
            if mark >= wait
        ]
        if not (self.gated and marks and self.rows) or self.armed:
            return
        found = jax.device_get(self._evidence_at(marks[-1]))
        evidence = {name: float(value) for name, value in found.items()}
        for mark in marks:
            history = [entry for entry in self.explored if entry[0] <= mark]
            reason = reason_to_hand_over(self.config.gate, mark, evidence, history)
            if reason:
                self.armed = True
                self.events.append({"step": mark, "event": "handover", "reason": reason})
                armed = self.agent.hand_over(self.state, jnp.array(True))
                self.state = own_buffers(armed)
                self.newest = self.snapshot()
                return

    # ------------------------------------------------------------------ saving

    def progress(self) -> dict[str, Any]:
        """JSON that `restore` needs beside state and ring."""
        return {
            "updates": self.updates,
            "shut_at": self.shut_at,
            "rolled_back": self.rolled_back,
            "learning_events": list(self.events),
        }

    def restore(self, checkpoint: Checkpoint, own: dict[str, Any], running: list[Row]) -> None:
        """All but the state; `running` are the running episode's rows."""
        progress = checkpoint.progress
        self.replay = self.replay._replace(ring=checkpoint.ring(self.replay.ring))
        self.rows, self.ends = progress["inserted"], list(progress["episode_ends"][0])
        self.returns = list(progress["episode_returns"][0])
        self.updates, self.rolled_back = own["updates"], own["rolled_back"]
        self.armed, self.shut_at = progress["armed"][0], own["shut_at"]
        self.events = list(own["learning_events"])
        self.seen, self.explored = own["steps"], explored_in(progress["episodes"][0])
        small, _ = self.blocks()
        self.partial = running[len(running) // small * small :]
        self.newest = self.snapshot()

    def take_over(self, checkpoint: Checkpoint, index: int) -> None:
        """The transitions of one seed of a run, or of another learner, and where it stood."""
        progress, ring = checkpoint.progress, self.replay.ring
        inserted, filled = progress["inserted"], checkpoint.arrays["ring/rewards"].shape[1]
        kept = min(filled, ring.capacity)
        newest = (inserted - kept + np.arange(kept)) % max(filled, 1)
        storage = {
            name: store.at[0, :kept].set(checkpoint.arrays[f"ring/{name}"][index, newest])
            for name, store in ring.columns.items()
        }
        ring = ring._replace(storage=Batch(**storage), inserted=jnp.int32(kept))
        self.replay, self.rows = self.replay._replace(ring=ring), kept
        ends, returns = (progress[f"episode_{name}"][index] for name in ("ends", "returns"))
        gone = inserted - kept
        ended = zip(ends, returns, strict=True)
        there = [(end - gone, value) for end, value in ended if end > gone]
        if there and gone not in (0, *ends):
            there[0] = (there[0][0], np.nan)  # its beginning is gone
        if kept and kept not in [end for end, _ in there]:
            there.append((kept, np.nan))  # its running episode is not gone on with
        self.ends, self.returns = [end for end, _ in there], [value for _, value in there]
        self.seen, self.armed = progress["env_steps"], bool(progress["armed"][index])
        self.explored = explored_in(progress["episodes"][index])
        rollbacks = progress["rollbacks"][index]
        self.shut_at = rollbacks[-1] if rollbacks else -1


class _Programs(NamedTuple):
    """Compiled functions."""

    update: Any
    evidence: Any
    acting: Any


@cache
def _programs(agent: Agent, online: OnlineConfig) -> _Programs:
    """Shared by all learners of a kind in one process."""
    return _Programs(
        update=compile_updates(partial(_run_updates, agent, online)),
        evidence=jax.jit(partial(_evidence, agent, online)),
        # Copied: what acts must not be what the next update gives away.
        acting=jax.jit(lambda state: jax.tree.map(jnp.copy, agent.acting(state))),
    )


def _run_updates(
    agent: Agent, online: OnlineConfig, state: Any, replay: Replay, key: Any, first: Any, count: Any
) -> Any:
    """Updates `first` to `first + count`: state, sums of their metrics, and over how many.

    What an update draws depends on its number alone, not on how updates are sliced.
    """

    def update(state: Any, number: Any) -> Any:
        sample_key, update_key = jax.random.split(jax.random.fold_in(key, number))
        batches = sample_batch(agent, online, replay, jnp.int32(0), sample_key, 1)
        return agent.update(state, jax.tree.map(lambda x: x[0], batches), update_key)

    def add(i: Any, carry: Any) -> Any:
        state, totals, counts = carry
        state, metrics = update(state, first + i)
        for name, value in metrics.items():
            # NaN stands for "no such update", but in q_mean for divergence.
            counted = jnp.array(True) if name == "q_mean" else ~jnp.isnan(value)
            totals |= {name: totals[name] + jnp.where(counted, value, 0.0)}
            counts |= {name: counts[name] + counted.astype(jnp.float32)}
        return state, totals, counts

    names = jax.eval_shape(lambda: update(state, first)[1])
    zeros = {name: jnp.float32(0.0) for name in names}
    return jax.lax.fori_loop(0, count, add, (state, zeros, zeros))


def _evidence(
    agent: Agent, online: OnlineConfig, state: Any, replay: Replay, key: Any, step: Any
) -> Any:
    key = jax.random.fold_in(key, step)
    batch = sample_batch(agent, online, replay, jnp.int32(0), key, 1)
    return agent.evidence(state, jax.tree.map(lambda x: x[0], batch))
