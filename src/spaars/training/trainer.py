"""A whole run: prior, offline start, online phase, hand-over, evaluation, checkpoints."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spaars import seeding
from spaars.algos.agent import SkillAgent
from spaars.data import Dataset
from spaars.data.replay import Replay, empty_ring
from spaars.errors import RunError
from spaars.report import write_report
from spaars.safety import SupportMonitor
from spaars.safety.monitor import ended_episodes, look_back
from spaars.tasks import Task
from spaars.training.checkpoint import Checkpoint, collect, save_checkpoint
from spaars.training.collecting import Judged
from spaars.training.config import TrainConfig
from spaars.training.donor import donated_prior, with_prior
from spaars.training.envs import EnvPopulation, Episode, processes_for
from spaars.training.evaluate import EvalResult, Evaluator
from spaars.training.handover import reason_to_hand_over
from spaars.training.logged import logged_data, logged_return, standardisation
from spaars.training.metrics import MetricsLog
from spaars.training.offline import OfflineLoop
from spaars.training.online import OnlineLoop
from spaars.training.placement import reason_to_stay_on_host
from spaars.training.population import own_buffers
from spaars.training.run_directory import describe_dataset, write_json
from spaars.training.summary import summarise_run

# Offline updates between two looks at the stop signal: a few seconds.
LOOKED_BACK = 10_000
"""Transitions at most that a line of metrics measures beyond its own, for episodes that began
before: a time limit may be as good as none."""
OFFLINE_BLOCK = 250


class Progress(NamedTuple):
    """What a progress bar shows: `done` of `total` in `stage`, and a few numbers."""

    stage: str
    """data, online, or the name of an offline phase: prior, offline, skills."""
    done: int
    total: int
    facts: dict[str, float]
    """The last metrics."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop; it is saved and can be resumed."""


class Run(NamedTuple):
    """A finished run: its directory and summary."""

    path: Path
    """The run directory."""
    summary: dict[str, Any]
    """The content of its summary.json."""


class Trainer:
    """One run of one population. Built anew for a resume; `run` takes the checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        dataset: Dataset,
        run_dir: Path,
        on_progress: Callable[[Progress], None] | None = None,
        on_message: Callable[[str], None] | None = None,
    ):
        self.config, self.task, self.dataset, self.run_dir = config, task, dataset, run_dir
        self.on_progress, self.on_message = on_progress, on_message
        self.agent = config.agent()
        self.phases = self.agent.offline_phases()
        reason = reason_to_stay_on_host(config, dataset)
        if reason:
            self.message(reason)
        self.logged = logged_data(self.agent, config.online, dataset, host=bool(reason))
        self.support = SupportMonitor(dataset)
        self.state = initial_state(config, *standardisation(config, dataset), dataset.action_dim)
        self.loop: OnlineLoop | None = None  # from the first online step on
        self.evaluations: list[tuple[list[np.ndarray], EvalResult]] = []  # the last two
        self.stop_asked = False
        n = len(config.seeds)
        # JSON only: it travels in the checkpoint.
        self.progress: dict[str, Any] = {
            "phase": 0,
            "phase_updates": 0,
            "metrics_offset": 0,
            "wall_seconds": 0.0,
            "scores": [[] for _ in range(n)],  # [env step, score] of every evaluation, per seed
            "episodes": [[] for _ in range(n)],  # [env step, return, fell, actor], per seed
            "newest": [[] for _ in range(n)],  # the same of the newest policy, deployed or not
            "handover": [None] * n,  # {"step", "score", "evaluations" until then} once armed
            "armed": [False] * n,  # whether the gate is, by the hand-over
            "rollbacks": [[] for _ in range(n)],  # env steps at which a budget was passed
            "costs": [[] for _ in range(n)],  # [env step, cost of the chunk], where there is one
            "stops": [],  # env steps at which the run was asked to stop and saved
            "averages": {},  # running means of the metrics since the last line, per seed
        }

    # ------------------------------------------------------------------ the run

    def run(self, checkpoint: Checkpoint | None = None, started: float | None = None) -> Run:
        """Prior -> offline start -> online -> summary and report.

        `started` is the `time.monotonic()` that wall_seconds counts from (default: now).
        """
        if checkpoint is not None:
            self.progress = checkpoint.progress
            self.state = checkpoint.tree("state", self.state)
        elif self.config.prior_from is not None:
            prior = donated_prior(self.config, self.dataset)
            self.state = with_prior(self.config, self.state, prior)
            self.progress["phase"] = 1  # the prior's is the first
        self.state = own_buffers(self.state)
        started = time.monotonic() if started is None else started
        self.started = started - self.progress["wall_seconds"]
        self.metrics = MetricsLog(self.run_dir, self.progress["metrics_offset"])
        try:
            with _stop_signals(self):
                self.run_offline()
                self.run_online(checkpoint)
                summary = summarise_run(
                    self.config,
                    describe_dataset(self.dataset),
                    self.progress,
                    self.metrics.records(),
                    offline=bool(self.phases),
                    wall_seconds=time.monotonic() - self.started,
                )
                write_json(self.run_dir / "summary.json", summary)
                write_report(self.run_dir)
        finally:
            self.metrics.close()
        return Run(self.run_dir, summary)

    def run_offline(self) -> None:
        keys = seeding.streams(self.config.seeds, seeding.OFFLINE)
        loop = OfflineLoop(self.agent, self.logged.offline, keys, windows=self.logged.windows)
        while self.progress["phase"] < len(self.phases):
            phase = self.phases[self.progress["phase"]]
            done = self.progress["phase_updates"]
            stops = (self.config.log_every, self.config.checkpoint_every, OFFLINE_BLOCK)
            block = min(phase.updates - done, *(n - done % n for n in stops))
            if block:
                self.state, metrics = loop.run(phase, self.state, done, block)
                done += block
                when = f"update {done} of the {phase.name} phase"
                self.refuse_divergence(metrics, when, of=metrics)
                self.accumulate(metrics, weight=block)
                if done % self.config.log_every == 0 or done == phase.updates:
                    facts = self.log_averages("train", step=done, phase=phase.name)
                    self.show(phase.name, done, phase.updates, facts)
            if done == phase.updates:
                self.progress |= {"phase": self.progress["phase"] + 1, "phase_updates": 0}
            else:
                self.progress["phase_updates"] = done
            if done % self.config.checkpoint_every == 0 or done == phase.updates:
                self.save()
            self.stop_if_asked()

    def run_online(self, checkpoint: Checkpoint | None) -> None:
        c, task = self.config, self.task
        processes = processes_for(task, c.online.env_processes)
        make_env = partial(task.make_env, training=True)
        with (
            closing(EnvPopulation(make_env, c.seeds, c.online.env_errors, processes)) as envs,
            closing(
                Evaluator(
                    self.agent,
                    task.make_env,
                    c.seeds,
                    c.evaluation.episodes,
                    safety=c.safety,
                    processes=processes,
                )
            ) as evaluator,
        ):
            self.envs, self.evaluator = envs, evaluator
            self.run_chunks(checkpoint)

    def run_chunks(self, checkpoint: Checkpoint | None) -> None:
        c, envs = self.config, self.envs
        ring = empty_ring(
            len(c.seeds),
            min(c.online.replay_capacity or c.online.steps, c.online.steps),
            self.dataset.observation_dim,
            self.dataset.action_dim,
            self.agent.skill_dim if isinstance(self.agent, SkillAgent) else 0,
        )
        begun = checkpoint is not None and "env_steps" in checkpoint.progress
        if checkpoint is not None and begun:
            ring = checkpoint.ring(ring)
            envs.restore(checkpoint.env_state())
        else:
            self.state = jax.vmap(self.agent.begin_online)(self.state)
        loop = OnlineLoop(
            self.agent,
            self.state,
            Replay(ring, *self.logged),
            envs,
            c.online,
            c.deployment,
            logged_return(self.task, self.dataset),
            envelope=c.safety.envelope(envs.envs.action_space),
            dataset=self.dataset,
        )
        if checkpoint is not None and begun and c.deployment.rule == "proven":
            if "trials" not in checkpoint.progress:
                raise RunError(
                    f"{self.run_dir} was begun with --deployment.rule latest; its checkpoint knows "
                    "no deployed policy. Train anew to use 'proven'."
                )
            acting = loop.acting()
            loop.deployment.restore(
                checkpoint.progress["trials"],
                checkpoint.tree("deployed", acting),
                checkpoint.tree("candidate", acting),
            )
        if begun and loop.collector.retracer is not None:
            assert checkpoint is not None
            loop.collector.retracer.restore(checkpoint.progress["retracer"])
        if checkpoint is not None:
            checkpoint.arrays.clear()  # callers hold it, and its ring is large
        self.state = None  # the loop owns it now; the old buffers are donated away
        self.loop = loop
        if not begun:
            # What an agent that starts from nothing has before its first step is no offline
            # policy.
            self.evaluate(loop, "offline" if self.phases else "initial")
            self.log_failures(envs)  # of the first resets
            self.save()
        while envs.env_steps < c.online.steps:
            metrics, episodes, verdicts = loop.run_chunk()
            self.log_episodes(episodes)
            self.log_verdicts(verdicts)
            self.log_failures(envs)
            self.keep_budget(loop)
            self.after_chunk(loop, metrics)

    def after_chunk(self, loop: OnlineLoop, metrics: dict[str, np.ndarray]) -> None:
        """Log, decide the hand-over, evaluate, save: in this order, all at chunk boundaries."""
        c, step = self.config, self.envs.env_steps
        last = step == c.online.steps
        self.accumulate(metrics)
        self.refuse_divergence(metrics, f"step {step}", of=("q_mean",))  # others may be NaN there
        if step % c.log_every == 0 or last:
            evidence = jax.device_get(loop.evidence())
            self.accumulate(evidence)
            self.accumulate(self.look_back(loop, step % c.log_every or c.log_every))
            facts = self.log_averages("train", step=step, phase="online")
            self.show("online", step, c.online.steps, facts)
            if step % c.log_every == 0:  # where a run ends decides nothing: it may go on
                self.consider_handover(loop, evidence)
        if last:
            self.evaluate(loop, "final")
        elif step % c.evaluation.every == 0:
            self.evaluate(loop, "periodic")
        if step % c.checkpoint_every == 0 or last:
            self.save()
        self.stop_if_asked()

    def keep_budget(self, loop: OnlineLoop) -> None:
        """Roll back every seed that lost more than its budget allows, and shut its gate."""
        budget, step = self.config.safety.budget, self.envs.env_steps
        for own, cost in zip(self.progress["costs"], loop.costs.tolist(), strict=True):
            if cost == cost:
                own.append([step, cost])
        if not budget.limits:
            return
        passed = np.zeros(len(self.config.seeds), bool)
        for i, seed in enumerate(self.config.seeds):
            rollbacks = self.progress["rollbacks"][i]
            reason = budget.passed(
                step,
                rollbacks[-1] if rollbacks else 0,
                self.progress["episodes"][i],
                self.progress["costs"][i],
                loop.deployment.trials[i].offline_return,
            )
            if reason:
                passed[i] = True
                reason += "; the gate is shut" if self.progress["armed"][i] else ""
                rollbacks.append(step)
                self.progress["armed"][i] = False
                self.metrics.write("event", seed=seed, step=step, event="rollback", reason=reason)
                self.message(f"seed {seed}: rolled back at step {step}: {reason}")
        if passed.any():
            loop.roll_back(passed, shut_gate=True)

    def look_back(self, loop: OnlineLoop, steps: int) -> dict[str, np.ndarray]:
        """What was executed in the last `steps`, measured once for a line of metrics; (S,) each."""
        now, longest = self.envs.env_steps, self.envs.envs.time_limit or self.config.log_every
        longest = min(longest, LOOKED_BACK)
        rows = min(loop.replay.ring.capacity, self.config.log_every + longest)
        seen, stored = loop.look_back(rows), min(now, rows)
        found = []
        for i in range(len(self.config.seeds)):
            own = {name: values[i, rows - stored :] for name, values in seen.items()}
            ended = ended_episodes(
                self.progress["episodes"][i],
                self.envs.episode_ends[i],
                oldest=now - stored,
                since=now - min(steps, stored),
            )
            found.append(look_back(own, steps, ended, self.support, self.agent.discount))
        return {name: np.array([one[name] for one in found]) for name in found[0]}

    def consider_handover(self, loop: OnlineLoop, evidence: dict[str, np.ndarray]) -> None:
        """Arm the gate of every seed whose time has come; score it just before.

        After a rollback by the budget its time comes again, a window later at the earliest.
        """
        if not evidence:
            return  # an agent without a gate
        step, seeds = self.envs.env_steps, self.config.seeds
        armed = np.zeros(len(seeds), bool)
        for i, seed in enumerate(seeds):
            rollbacks = self.progress["rollbacks"][i]
            waits = rollbacks and step < rollbacks[-1] + self.config.safety.budget.window
            if self.progress["armed"][i] or waits:
                continue
            own = {name: float(value[i]) for name, value in evidence.items()}
            explored = (e for e in self.progress["episodes"][i] if e[3] == "explore")
            history = [(e[0], e[1]) for e in explored]
            reason = reason_to_hand_over(self.config.gate, step, own, history)
            if reason:
                armed[i] = True
                self.metrics.write("event", seed=seed, step=step, event="handover", reason=reason)
                self.message(f"seed {seed}: hand-over at step {step}: {reason}")
        if armed.any():
            self.evaluate(loop, "handover", only=armed)
            for i in np.flatnonzero(armed).tolist():
                self.progress["armed"][i] = True
                if self.progress["handover"][i] is not None:
                    continue  # the summary tells of the first
                score = self.progress["newest"][i][-1][1]
                self.progress["handover"][i] = {
                    "step": step,
                    "score": score,
                    "evaluations": len(self.progress["newest"][i]),
                }
            loop.state = jax.vmap(self.agent.hand_over)(loop.state, jnp.asarray(armed))

    # ------------------------------------------------------------------ looking and logging

    def evaluate(self, loop: OnlineLoop, label: str, only: np.ndarray | None = None) -> EvalResult:
        """Run the deployed policies' evaluation episodes; write those of `only` (default: all)."""
        result = self.evaluated(loop.deployed)
        step = self.envs.env_steps
        scores = self.task.score(result.returns)
        newest = scores
        if self.config.deployment.rule == "proven" and step > 0:
            newest = self.task.score(self.evaluated(loop.acting()).returns)
        for i, seed in enumerate(self.config.seeds):
            if only is not None and not only[i]:
                continue
            self.metrics.write(
                "evaluation",
                seed=seed,
                step=step,
                label=label,
                score=scores[i].mean(),
                score_std=scores[i].std(),
                return_mean=result.returns[i].mean(),
                length_mean=result.lengths[i].mean(),
                falls=0 if self.task.success_ends else result.fell[i].sum(),
                episodes=len(scores[i]),
                newest_score=newest[i].mean(),
                **{name: value[i] for name, value in result.facts.items()},
            )
            self.progress["scores"][i].append([step, float(scores[i].mean())])
            self.progress["newest"][i].append([step, float(newest[i].mean())])
        means = " ".join(f"{score:.1f}" for score in scores.mean(1))
        self.message(f"step {step}: {label} score {means}")
        return result

    def evaluated(self, acting: Any) -> EvalResult:
        """The evaluation of these policies. The last two evaluated, such as a deployed policy that
        nothing has beaten since, are not run again: the same episodes would come out."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(acting))]
        same = [one for one in self.evaluations if all(map(np.array_equal, leaves, one[0]))]
        # Copies: what is donated to the next update may be what they show.
        now = same[0] if same else ([leaf.copy() for leaf in leaves], self.evaluator(acting))
        self.evaluations = [now, *(one for one in self.evaluations if one is not now)][:2]
        return now[1]

    def log_episodes(self, episodes: Sequence[Episode]) -> None:
        for e in episodes:
            self.metrics.write(
                "episode",
                seed=e.seed,
                step=e.env_step,
                **{"return": e.episode_return},
                score=self.task.score(np.array(e.episode_return)),
                length=e.length,
                terminated=e.terminated,
                fell=e.fell,
                actor=e.actor,
                **({} if e.cost is None else {"cost": e.cost}),
                **({} if e.completed is None else {"completed": list(e.completed)}),
            )
            i = self.config.seeds.index(e.seed)
            self.progress["episodes"][i].append([e.env_step, e.episode_return, e.fell, e.actor])

    def log_verdicts(self, verdicts: Sequence[Judged]) -> None:
        for episode, (event, reason) in verdicts:
            seed, step = episode.seed, episode.env_step
            self.metrics.write("event", seed=seed, step=step, event=event, reason=reason)

    def log_failures(self, envs: EnvPopulation) -> None:
        """A cut episode is an event, and no episode: its return says nothing of its actor."""
        for f in envs.failures:
            reason = f"{f.reason}; episode cut after {f.length} steps"
            self.metrics.write(
                "event", seed=f.seed, step=f.env_step, event="env_error", reason=reason
            )
            self.message(f"seed {f.seed}: the env failed at step {f.env_step}: {reason}")
        envs.failures = []

    def accumulate(self, metrics: dict[str, np.ndarray], weight: int = 1) -> None:
        """Add means over `weight` updates to the running ones; NaN is 'not applicable' and does not
        count."""
        for name, values in metrics.items():
            n = len(self.config.seeds)
            sums = self.progress["averages"].setdefault(name, [[0.0, 0] for _ in range(n)])
            for entry, value in zip(sums, np.asarray(values, np.float64), strict=True):
                if not np.isnan(value):
                    entry[0] += weight * float(value)
                    entry[1] += weight

    def log_averages(self, kind: str, *, step: int, phase: str) -> dict[str, float]:
        """Write the running means, a line per seed, and start new ones. Returns seed means."""
        averages, self.progress["averages"] = self.progress["averages"], {}
        means = {
            name: [total / count if count else float("nan") for total, count in entries]
            for name, entries in averages.items()
        }
        for i, seed in enumerate(self.config.seeds):
            values = {name: mean[i] for name, mean in sorted(means.items())}
            self.metrics.write(kind, seed=seed, step=step, phase=phase, **values)
        return {name: float(np.mean(mean)) for name, mean in means.items()}

    def refuse_divergence(
        self, metrics: dict[str, np.ndarray], when: str, of: Iterable[str]
    ) -> None:
        """NaN is no result; the last checkpoint still has the networks before."""
        for name in of:
            for seed, value in zip(self.config.seeds, metrics.get(name, ()), strict=False):
                if not np.isfinite(value):
                    raise diverged(seed, when, name, [s for s in self.config.seeds if s != seed])

    def show(self, stage: str, done: int, total: int, facts: dict[str, float]) -> None:
        if self.on_progress:
            self.on_progress(Progress(stage, done, total, facts))

    def message(self, text: str) -> None:
        if self.on_message:
            self.on_message(text)

    # ------------------------------------------------------------------ saving and stopping

    def save(self) -> None:
        self.progress["metrics_offset"] = self.metrics.offset
        self.progress["wall_seconds"] = time.monotonic() - self.started
        if self.loop is not None:
            trees = {"state": self.loop.state}
            if self.config.deployment.rule == "proven":
                self.progress["trials"] = self.loop.deployment.state()
                trees["deployed"] = self.loop.deployment.deployed
                trees["candidate"] = self.loop.deployment.candidate
            if self.loop.collector.retracer is not None:
                self.progress["retracer"] = self.loop.collector.retracer.state()
            saved = collect(self.progress, trees, self.loop.replay.ring, self.envs.state())
        else:
            saved = collect(self.progress, {"state": self.state}, None, None)
        save_checkpoint(self.run_dir, saved)

    def stop_if_asked(self) -> None:
        if self.stop_asked:
            self.progress["stops"].append(self.envs.env_steps if self.loop is not None else 0)
            self.save()
            raise Stopped(f"stopped and saved; go on with `spaars resume {self.run_dir}`")


def diverged(seed: int, when: str, metric: str = "q_mean", others: Sequence[int] = ()) -> RunError:
    what = "the critics" if metric == "q_mean" else metric
    rest = f", or the other seeds without it (--seeds {' '.join(map(str, others))})"
    return RunError(
        f"seed {seed}: {what} diverged by {when}. Train anew with a smaller learning rate"
        f"{rest if others else ''}; check the rewards' scale with `spaars data inspect`."
    )


def initial_state(
    config: TrainConfig, observation_mean: Any, observation_std: Any, action_dim: int
) -> Any:
    """The population's fresh state: every leaf with a leading seed axis."""
    agent = config.agent()
    keys = seeding.streams(config.seeds, seeding.INIT)

    def init(key: Any) -> Any:
        return agent.init(
            key, jnp.asarray(observation_mean), jnp.asarray(observation_std), action_dim
        )

    # Not compiled as a whole: that takes twice as long as its parts (docs/lab-notebook.md).
    return jax.vmap(init)(keys)


class _stop_signals:
    """While inside, the first Ctrl-C or TERM asks the trainer to stop; a second one insists."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self.ask)

    def ask(self, number: int, frame: FrameType | None) -> None:
        if self.trainer.stop_asked:
            raise KeyboardInterrupt
        self.trainer.stop_asked = True
        self.trainer.message("stopping after this step; once more to stop at once")

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
