"""`OnlineLearner`: the online phase of a run, in a loop that is the user's.

    act       the newest acting parameters (or proven ones: training.deployment), numpy alone
    observe   what came of it: into a queue, and at an episode's end onto the disk
    update    the queue into the replay, then updates in JAX; new acting parameters are swapped in

One thread acts and observes, another updates and saves. They share three things: the queue, which
takes and gives without a lock; one reference to an immutable snapshot, which is swapped; and what
`save` copies of the running episode, under a lock that is held for microseconds.
"""

import dataclasses
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from spaars import seeding
from spaars.data import Dataset, load_dataset
from spaars.deploy.policy import index_of
from spaars.errors import ConfigError, DataError, RunError
from spaars.own_loop.acting import Decision, Snapshot
from spaars.own_loop.beginning import (
    OWN_LOOP,
    checked_agent,
    envelope_of,
    learned_offline,
    refuse_capacity,
    refuse_large,
    refuse_used,
    same_dataset,
    state_of,
    without_returns,
)
from spaars.own_loop.incoming import Incoming, finite_number
from spaars.own_loop.journal import Journal, Recorded
from spaars.own_loop.learning import SLICE, Learning
from spaars.own_loop.records import Acted, End, RollBack, Row, arrays_of, frozen, rows_of
from spaars.tasks import get_task
from spaars.training import checks
from spaars.training import config as configs
from spaars.training.checkpoint import Checkpoint, collect, load_checkpoint, save_checkpoint
from spaars.training.config import TrainConfig
from spaars.training.deployment import STAND_IN, Trials, Verdict, abandon, after_episode
from spaars.training.envs import Episode
from spaars.training.logged import logged_return
from spaars.training.provenance import git_revision
from spaars.training.run import check_skills
from spaars.training.run_directory import (
    describe_run,
    make_directories,
    read_config,
    write_json,
)

CAPACITY = 300_000
"""Transitions kept, by default."""


class ActingState(NamedTuple):
    """What `save` takes from the acting side, at one moment."""

    own: dict[str, Any]
    """JSON."""
    episode: list[Row]
    arrays: dict[str, np.ndarray]
    deployed: Snapshot
    candidate: Snapshot


class OnlineLearner:
    """Learns from a loop that is yours, by the method of a run, one seed.

    Made by `from_run`, `from_dataset` or `load`. Every action must be observed before the next:

        action, acted = learner.act(observation)
        ...                                            # the robot does something
        learner.observe(acted, executed, reward, next_observation, terminated, truncated)

    and, in another thread or the same, `learner.update(n)`. docs/own-loop.md has the whole of it.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        directory: Path,
        state: Any,
        facts: Mapping[str, Any],
    ):
        """Not for users. `state` of one seed, no seed axis; `facts` from config.json."""
        self.config, self.directory = config, directory
        self.seed = config.seeds[0]
        self._described = dict(facts)
        self.observation_dim, self.action_dim = dataset.observation_dim, dataset.action_dim
        task = get_task(config.task)
        self._envelope = envelope_of(config, self.action_dim)
        known = dict(facts["dataset"].get("description", {})) | facts.get("env", {})
        self._incoming = Incoming(self.observation_dim, self.action_dim, known)

        # Learning: whoever has `_learning` may touch it, but for its `newest`.
        self._learning = threading.Lock()
        capacity = int(facts[OWN_LOOP]["capacity"])
        self._learner = Learning(config, dataset, state, capacity)
        self._skills = self._learner.skills

        # Acting: whoever has `_acting` may touch these.
        self._acting = threading.Lock()
        self._steps, self._episodes, self._first_step = 0, 0, 0
        self._episode: list[Row] = []
        self._return = 0.0
        self._stood_in = False  # whether the deployed policy did, in the running episode
        self._pending: Acted | None = None
        self._expected: np.ndarray | None = None
        self._skill: np.ndarray | None = None
        self._trials = Trials(
            actor="deployed" if config.deployment.rule == "proven" else "explore",
            logged_return=logged_return(task, dataset),
        )
        self._history: list[list[Any]] = []
        self._costs: list[list[Any]] = []
        self._rollbacks: list[int] = []
        self._asked_back = 0
        self._events: list[dict[str, Any]] = []

        # Shared: only ever appended to and popped from, or replaced as a whole.
        self._queue: deque[Row | End | RollBack] = deque()
        self._deployed = self._candidate = self._learner.newest
        self._journal = Journal(directory / "journal")

    # ------------------------------------------------------------------ making one

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        directory: str | Path,
        *,
        seed: int | None = None,
        capacity: int = CAPACITY,
    ) -> "OnlineLearner":
        """Go on where a run's last checkpoint stands, in the new `directory`.

        Taken are, of one `seed` (by default the run's first): all networks with their optimisers,
        the deployed policy, whether the gate is armed, the counts of steps and updates, and the
        run's own transitions, the newest `capacity` of them. The run's running episode is not
        gone on with, and a trial that runs is begun anew. Where a task's training env has other
        rewards than evaluation's (the kitchen's), the returns of the run's episodes are not taken,
        and the deployed policy is measured anew.

        Raises RunError: no run, no such seed, its offline phases are not finished, its dataset has
        changed, or `directory` holds something already.
        """
        run, directory = Path(run), Path(directory)
        theirs, described = read_config(run, complete=True)
        index = index_of(run, theirs, seed)
        checkpoint = load_checkpoint(run)
        config = dataclasses.replace(theirs, seeds=(theirs.seeds[index],))
        agent = checked_agent(config)
        if checkpoint is None or (
            "env_steps" not in checkpoint.progress
            and checkpoint.progress["phase"] < len(agent.offline_phases())
        ):
            raise RunError(
                f"{run} has not finished its offline phases; `spaars resume {run}` goes on."
            )
        dataset = same_dataset(run, config, described)
        begun = "env_steps" in checkpoint.progress
        state = state_of(checkpoint, theirs, dataset, index)
        if not begun:
            state = agent.begin_online(state)
        learner = cls._begin(config, dataset, directory, state, capacity, described, str(run))
        if begun:
            learner._take_over(checkpoint, index, len(theirs.seeds))
        learner.save()
        return learner

    @classmethod
    def from_dataset(
        cls,
        config: TrainConfig,
        directory: str | Path,
        dataset: Dataset | None = None,
        *,
        capacity: int = CAPACITY,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> "OnlineLearner":
        """Train the offline phases of `config` now, then learn online; no env is made.

        `dataset` is by default what the config names. `on_progress` is called with (phase, updates
        done, updates in all). For one seed: `config.seeds` must have one.

        Raises ConfigError, DataError or RunError, before anything is computed.
        """
        directory = Path(directory)
        checks.check(config)
        checks.refuse_unread(config)
        if len(config.seeds) != 1:
            raise ConfigError(f"an OnlineLearner has one seed, got {config.seeds}.")
        if config.prior_from is not None:
            raise ConfigError(
                "from_dataset trains its own prior: leave out prior_from, or train with `spaars "
                "train --online.steps 0 --prior-from RUN` and use from_run."
            )
        agent = checked_agent(config)
        given = dataset is not None
        if dataset is None:
            dataset = load_dataset(get_task(config.task), config.dataset, config.transitions)
        config = configs.resolved(config, dataset)
        agent = config.agent()
        refuse_used(directory)
        refuse_capacity(config, capacity)
        refuse_large(config, dataset)
        envelope_of(config, dataset.action_dim)
        make_directories(directory)  # now, so that a missing permission costs no compute
        check_skills(config, dataset)
        state = learned_offline(config, dataset, on_progress)
        one = agent.begin_online(state)
        described = describe_run(config, dataset, git_revision(), {})
        learner = cls._begin(config, dataset, directory, one, capacity, described, None, given)
        learner.save()
        return learner

    @classmethod
    def load(cls, directory: str | Path, dataset: Dataset | None = None) -> "OnlineLearner":
        """Go on from the last `save` in `directory`, and from what was journalled after it.

        Every episode that finished after the save is taken into the replay; updates after it are
        lost, and so is an episode that was running (`running` says whether one was saved: go on
        with it, or `end_episode()`). `dataset` is needed where the config names none.

        Raises RunError: no learner was saved there, or its dataset has changed.
        """
        directory = Path(directory)
        config, described = read_config(directory, complete=True)
        if OWN_LOOP not in described:
            raise RunError(
                f"{directory} is a run, not a learner's directory. Begin with "
                f"OnlineLearner.from_run({str(directory)!r}, DIRECTORY)."
            )
        checkpoint = load_checkpoint(directory)
        if checkpoint is None:
            raise RunError(
                f"{directory} was left before its first save. Remove it and begin anew with "
                "OnlineLearner.from_run or from_dataset."
            )
        dataset = same_dataset(directory, config, described, dataset)
        state = state_of(checkpoint, config, dataset, 0)
        learner = cls(config, dataset, directory, state, described)
        learner._restore(checkpoint)
        learner._replay_journal()
        return learner

    @classmethod
    def _begin(
        cls,
        config: TrainConfig,
        dataset: Dataset,
        directory: Path,
        state: Any,
        capacity: int,
        described: Mapping[str, Any],
        run: str | None,
        given: bool = False,
    ) -> "OnlineLearner":
        refuse_used(directory)
        refuse_capacity(config, capacity)
        refuse_large(config, dataset)
        facts = {
            **{name: described[name] for name in described if name != OWN_LOOP},
            "config": configs.to_json(config),
            OWN_LOOP: {"capacity": capacity, "run": run, "given": given},
        }
        learner = cls(config, dataset, directory, state, facts)
        write_json(directory / "config.json", facts)
        return learner

    # ------------------------------------------------------------------ what it says of itself

    @property
    def env_steps(self) -> int:
        """Steps observed, those of the run that it came from included."""
        return self._steps

    @property
    def episodes(self) -> int:
        """Episodes that finished, or were cut after a step, since it was made; all journalled."""
        return self._episodes

    @property
    def updates(self) -> int:
        """Updates since it was made."""
        return self._learner.updates

    @property
    def due(self) -> int:
        """Updates that the method's own ratio (`--online.utd`) still asks for."""
        first = max(self._first_step, self.config.online.learning_starts)
        return max((self._steps - first) * self.config.online.utd - self._learner.updates, 0)

    @property
    def running(self) -> bool:
        """Whether an episode has begun: it goes on, or `end_episode` ends it."""
        return self._pending is not None or bool(self._episode)

    @property
    def pending(self) -> Acted | None:
        """The action that is not observed yet."""
        return self._pending

    @property
    def events(self) -> list[dict[str, Any]]:
        """Hand-over, verdicts on candidates, rollbacks, cut episodes: step, event, reason."""
        return sorted([*self._events, *self._learner.events], key=lambda event: event["step"])

    def to_robot(self, action: Any) -> np.ndarray:
        """An action in [-1, 1] in the robot's units, where the data or the env told its bounds."""
        return self._incoming.to_robot(action)

    def from_robot(self, action: Any) -> np.ndarray:
        """The inverse of `to_robot`, for what was executed."""
        return self._incoming.from_robot(action)

    # ------------------------------------------------------------------ acting

    def act(self, observation: Any) -> tuple[np.ndarray, Acted]:
        """The action (act,) in [-1, 1] for an observation (obs,), and what `observe` wants back.

        An observation may be a mapping of named parts where the training data had such. Who acts
        is decided at every episode's end, as in training (`spaars.training.deployment`).

        Raises:
            RunError: the last action is not observed yet; the observation is not the one that
                `observe` was told; the policy asked for NaN.
            DataError: the observation has another shape, or NaN. Nothing has changed then.
        """
        with self._acting:
            if self._pending is not None:
                raise RunError(
                    f"act was called again before the action of step {self._pending.step} was "
                    "observed. Call observe(acted, ...) first; if its outcome is unknown, "
                    "end_episode() cuts the episode there."
                )
            seen = self._incoming.observation(observation, "observation")
            if self._expected is not None and not np.array_equal(seen, self._expected):
                i = int(np.argmax(seen != self._expected))
                raise RunError(
                    "act was given another observation than the next_observation that observe was "
                    f"told (dimension {i}: {seen[i]:g} and {self._expected[i]:g}). Give both the "
                    "same reading; if a new episode has begun, tell observe so (terminated or "
                    "truncated), or call end_episode()."
                )
            rng = seeding.generator(self.seed, seeding.OWN_LOOP_ACT, self._steps)
            actor, policy = self._who_acts()
            explores = actor == "explore"
            if not self._episode:
                self._skill = None
            skill = self._skill
            if self._skills is not None and len(self._episode) % self._skills.skill_length == 0:
                skill = policy.choose(seen, rng if explores else None)
            if explores and self._steps < self.config.online.random_steps:
                uniform = rng.uniform(-1.0, 1.0, self.action_dim).astype(np.float32)
                decision = Decision(uniform, None, None)
            else:
                decision = policy.act(seen, skill, rng if explores else None)
            previous = self._episode[-1].executed if self._episode else None
            action = self._envelope(decision.action, previous).astype(np.float32)
            acted = Acted(
                step=self._steps,
                episode=self._episodes,
                observation=frozen(seen),
                action=frozen(action),
                actor=actor,
                gate=decision.gate,
                raw=decision.raw,
                clipped=bool((action != decision.action).any()),
                updates=policy.updates,
                skill=None if skill is None else frozen(skill),
            )
            self._skill, self._pending = skill, acted
            return action.copy(), acted

    def _who_acts(self) -> tuple[str, Snapshot]:
        """Who acts in the running episode, and with what."""
        newest = self._learner.newest  # read once: it may be swapped at any time
        if self._trials.actor == "candidate":
            if not self._episode and not self._trials.candidate_returns:
                gone_back = newest.rollbacks >= self._asked_back
                self._candidate = newest if gone_back else self._deployed
            return "candidate", self._candidate
        # Until the learner has gone back, its newest policies are those that were given up.
        if self._trials.actor == "deployed" or newest.rollbacks < self._asked_back:
            return "deployed", self._deployed
        return "explore", newest

    def observe(
        self,
        acted: Acted | Any,
        executed: Any,
        reward: Any,
        next_observation: Any,
        terminated: Any,
        truncated: Any,
        *,
        cost: float | None = None,
    ) -> None:
        """Say what came of an action.

        Args:
            acted: what `act` returned beside it.
            executed: (act,) in [-1, 1]: the action, or what was done instead.
            reward: of this step, a number.
            next_observation: (obs,); the next `act` must be given the same, unless the episode
                ends here.
            terminated: the task is over, and nothing follows: a fall, or success.
            truncated: the episode ends here for another reason, such as time.
            cost: of this step; every step needs one where --safety.budget.cost counts them.

        Where the episode ends it is on the disk when this returns. Raises RunError where `acted`
        is not the last action, DataError where a value cannot be; nothing has changed then.
        """
        with self._acting:
            self._check_pairing(acted)
            row = self._incoming.row(
                acted, executed, reward, next_observation, terminated, truncated
            )
            if cost is not None:
                new = [[self._steps + 1, finite_number(cost, "cost")]]
            elif self.config.safety.budget.cost is not None:
                raise DataError("--safety.budget.cost counts costs: give every step's `cost`.")
            else:
                new = []
            ends = bool(terminated) or bool(truncated)
            stood_in = self._stood_in or acted.actor != self._trials.actor
            entry = None
            if ends:
                self._refuse_broken_skill(row)
                total = self._return + row.reward
                actor = STAND_IN if stood_in else self._trials.actor
                entry = [self._steps + 1, total, bool(terminated), actor]
                # May fail: before all else.
                self._write_episode([*self._episode, row], entry, [*self._costs, *new])
            self._pending, self._expected = None, None if ends else row.next_observation
            self._steps += 1
            self._return += row.reward
            self._stood_in = stood_in
            self._episode.append(row)
            self._queue.append(row)
            self._costs += new
            # A budget reaches back a window, the journal to the episode's beginning.
            needed = max(self.config.safety.budget.window, len(self._episode))
            if len(self._costs) > 2 * needed:
                self._costs = self._costs[-needed:]
            if entry is not None:
                self._finish(entry)
            if ends or cost:
                self._keep_budget()

    def end_episode(self, reason: str = "cut by the user") -> None:
        """Cut the running episode: a fault, or a step whose outcome nobody knows.

        What was observed of it is learned from and journalled, as if time had run out; its return
        is not held against who acted. Without a running episode nothing happens.
        """
        with self._acting:
            if self._episode:
                self._write_episode(self._episode, None, self._costs)
                self._events.append({"step": self._steps, "event": "episode_cut", "reason": reason})
                self._queue.append(End(None))
                self._forget_episode()
                self._episodes += 1
            self._pending = self._expected = None

    def _check_pairing(self, acted: Acted | Any) -> None:
        pending = self._pending
        if pending is not None and acted is pending:
            return
        if not isinstance(acted, Acted):
            raise RunError(
                "observe wants what act returned beside the action first, got "
                f"{type(acted).__name__}: observe(acted, executed, reward, next_observation, "
                "terminated, truncated)."
            )
        what = f"the action of step {acted.step}, episode {acted.episode},"
        if pending is None:
            raise RunError(f"{what} is observed or given up already. Call act first.")
        raise RunError(
            f"{what} is not the last one, which is of step {pending.step}, episode "
            f"{pending.episode}. Observe that one; if its outcome is unknown, end_episode()."
        )

    def _refuse_broken_skill(self, row: Row) -> None:
        """What was left of a skill is not learned from, and a terminal state must be."""
        if self._skills is None or not row.terminated:
            return
        length, steps = self._skills.skill_length, len(self._episode) + 1
        if steps % length:
            raise RunError(
                f"the episode terminated after {steps} steps, inside a skill of {length}. Methods "
                "with skills need episodes that last a multiple of that: let it run on, and tell "
                "terminated at the skill's end; or call end_episode()."
            )

    # ------------------------------------------------------------------ an episode's end

    def _write_episode(
        self, rows: Sequence[Row], entry: list[Any] | None, costs: Sequence[Sequence[Any]]
    ) -> None:
        begin = self._steps - len(self._episode)
        facts = {"entry": entry, "costs": [one for one in costs if one[0] > begin]}
        self._journal.write(self._episodes, Recorded(arrays_of(rows, ended=True), facts))

    def _finish(self, entry: list[Any]) -> None:
        """The episode is journalled: decide who acts next."""
        step, total, terminated, actor = entry
        length = len(self._episode)
        self._queue.append(End(entry))
        self._history.append(entry)
        self._forget_episode()
        self._episodes += 1
        if self.config.deployment.rule == "latest":
            return
        episode = Episode(self.seed, step, total, length, terminated, actor)
        verdict = after_episode(self.config.deployment, self._trials, episode)
        if verdict is None:
            return
        self._judged(verdict)

    def _judged(self, verdict: Verdict) -> None:
        self._events.append({"step": self._steps, "event": verdict.event, "reason": verdict.reason})
        if verdict.event == "deployed":
            self._deployed = self._candidate
        elif verdict.event == "rollback":
            self._go_back(shut_gate=False)

    def _go_back(self, shut_gate: bool) -> None:
        self._asked_back += 1
        self._queue.append(RollBack(self._deployed, self._steps, shut_gate))

    def _keep_budget(self) -> None:
        if not self.config.safety.budget.limits:
            return
        since = self._rollbacks[-1] if self._rollbacks else 0
        reason = self.config.safety.budget.passed(
            self._steps, since, self._history, self._costs, self._trials.offline_return
        )
        if reason:
            self._rollbacks.append(self._steps)
            self._events.append({"step": self._steps, "event": "rollback", "reason": reason})
            abandon(self.config.deployment, self._trials, self._steps)
            self._go_back(shut_gate=True)

    def _forget_episode(self) -> None:
        self._episode, self._return, self._skill = [], 0.0, None
        self._stood_in = False

    # ------------------------------------------------------------------ learning

    def prepare(self) -> None:
        """Compile all that learning needs, now, before anything moves.

        The first `update` does it otherwise, for seconds in which acting is slower.
        """
        with self._learning:
            self._learner.prepare()

    def update(self, n: int) -> dict[str, float]:
        """`n` updates on all that was observed so far. Returns the means of their metrics.

        Before `--online.learning-starts` steps nothing is learned. Acting goes on meanwhile, with
        newer parameters every 10 updates. `updates` and `env_steps` say where the learner stands.

        Raises RunError if the critics diverged: acting keeps the parameters from before.
        """
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            raise ConfigError(f"update takes a number of updates, at least 0, got {n!r}.")
        sums: dict[str, tuple[float, float]] = {}
        done = 0
        while True:
            with self._learning:  # let go of between slices: `save` need not wait for all
                learner = self._learner
                learner.refuse_diverged()  # nothing may be made of it that acts
                self._drain()
                learns = learner.seen > self.config.online.learning_starts and learner.rows > 0
                if done >= n or not learns:
                    means = {name: total / k for name, (total, k) in sums.items() if k}
                    return means | {
                        "updates": float(learner.updates),
                        "env_steps": float(learner.seen),
                    }
                block = min(SLICE, n - done)
                for name, (total, k) in learner.learn(block).items():
                    before = sums.get(name, (0.0, 0.0))
                    sums[name] = (before[0] + total, before[1] + k)
                done += block

    def _drain(self) -> None:
        """Everything in the queue, in order."""
        items = []
        while self._queue:
            items.append(self._queue.popleft())
        self._learner.take(items)

    # ------------------------------------------------------------------ saving

    def save(self, path: str | Path | None = None) -> Path:
        """Write all that going on needs, atomically; the save before is kept, too.

        `path` is by default the learner's own directory, which its journal belongs to. Elsewhere
        it is a copy as of now, to be loaded on its own. Returns the directory.

        Safe in any thread: it waits for the running 10 updates, and acting does not wait for it.
        Not in a signal handler, which would wait for what it interrupted, forever: set a flag there
        and save in the loop.
        """
        target = self.directory if path is None else Path(path)
        with self._learning:
            self._learner.refuse_diverged()
            with self._acting:
                items = list(self._queue)
                self._queue.clear()
                acting = self._acting_state()
            self._learner.take(items)
            saved = self._checkpoint(acting)
            if target.resolve() != self.directory.resolve():
                self._copy_to(target)
            save_checkpoint(target, saved)
        return target

    def _copy_to(self, target: Path) -> None:
        if (target / "journal").exists():
            raise RunError(f"{target} has a journal of its own. Save to another directory.")
        config = target / "config.json"
        if config.exists() and json.loads(config.read_text()) != self._described:
            raise RunError(f"{target} holds something else. Save to another directory.")
        target.mkdir(parents=True, exist_ok=True)
        write_json(config, self._described)

    def _acting_state(self) -> ActingState:
        """What `act` and `observe` know. Acting waits meanwhile: no more than references."""
        arrays: dict[str, np.ndarray] = {}
        pending = self._pending
        if pending is not None:
            arrays |= {"pending/observation": pending.observation, "pending/action": pending.action}
        for name, value in (("expected", self._expected), ("skill", self._skill)):
            if value is not None:
                arrays[name] = value
        fields = ("step", "episode", "actor", "gate", "raw", "clipped", "updates")
        own = {
            "steps": self._steps,
            "first_step": self._first_step,
            "episodes": self._episodes,
            "return": self._return,
            "stood_in": self._stood_in,
            "asked_back": self._asked_back,
            "pending": pending and {name: getattr(pending, name) for name in fields},
            "events": list(self._events),
            "history": list(self._history),
            "costs": list(self._costs),
            "rollbacks": list(self._rollbacks),
            "trials": dataclasses.asdict(self._trials),
        }
        return ActingState(own, list(self._episode), arrays, self._deployed, self._candidate)

    def _checkpoint(self, acting: ActingState) -> Checkpoint:
        """In the form of a run's, so that policies are loaded and exported from it alike."""
        own, rows, arrays, deployed, candidate = acting
        arrays |= {f"running/{name}": x for name, x in arrays_of(rows, ended=False).items()}
        progress = {
            "phase": len(self._learner.agent.offline_phases()),
            "phase_updates": 0,
            "metrics_offset": 0,
            "wall_seconds": 0.0,
            "episodes": [own.pop("history")],
            "costs": [own.pop("costs")],
            "rollbacks": [own.pop("rollbacks")],
            "trials": [own.pop("trials")],
            "armed": [self._learner.armed],
        }
        own |= self._learner.progress() | {
            "policies": {
                name: {"updates": one.updates, "rollbacks": one.rollbacks}
                for name, one in (("deployed", deployed), ("candidate", candidate))
            },
        }
        trees = {
            "state": self._learner.state,
            "deployed": deployed.tree,
            "candidate": candidate.tree,
        }
        trees = {name: jax.tree.map(lambda x: x[None], tree) for name, tree in trees.items()}
        env_state = {
            "actions": [],
            "episode_index": [own["episodes"]],
            "episode_ends": [list(self._learner.ends)],
            "episode_returns": [list(self._learner.returns)],
            "env_steps": own["steps"],
            "env_errors": [0],
        }
        found = collect(progress | {OWN_LOOP: own}, trees, self._learner.replay.ring, env_state)
        return Checkpoint(found.progress, found.arrays | arrays)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """The inverse of `_checkpoint`, but for the state."""
        progress, arrays = checkpoint.progress, checkpoint.arrays
        own = progress[OWN_LOOP]
        self._steps = own["steps"]
        self._first_step, self._episodes = own["first_step"], own["episodes"]
        self._return = own["return"]
        self._stood_in = own.get("stood_in", False)  # older saves do not say
        self._asked_back = own["asked_back"]
        self._events.extend(own["events"])
        self._history, self._costs = progress["episodes"][0], progress["costs"][0]
        self._rollbacks = progress["rollbacks"][0]
        self._trials = Trials(**progress["trials"][0])
        running = {k[8:]: x for k, x in arrays.items() if k.startswith("running/")}
        self._episode = rows_of(running)
        self._learner.restore(checkpoint, own, self._episode)
        self._expected, self._skill = arrays.get("expected"), arrays.get("skill")
        if own["pending"] is not None:
            self._pending = Acted(
                observation=frozen(arrays["pending/observation"]),
                action=frozen(arrays["pending/action"]),
                skill=self._skill,
                **own["pending"],
            )
        like = jax.tree.map(lambda x: _with_seeds(x, 1), self._learner.newest.tree)
        policies = {}
        for name, facts in own["policies"].items():
            tree = jax.tree.map(lambda x: x[0], checkpoint.tree(name, like))
            policies[name] = Snapshot(self._learner.agent, tree, self.action_dim, **facts)
        self._deployed, self._candidate = policies["deployed"], policies["candidate"]

    def _replay_journal(self) -> None:
        """Take in what finished after the save. Verdicts on policies that are lost are not."""
        numbers = self._journal.after(self._episodes)
        for number in numbers:
            recorded = self._journal.read(number)
            rows, entry = rows_of(recorded.arrays), recorded.facts["entry"]
            known = len(self._episode)
            if len(rows) < known:
                raise RunError(
                    f"{self._journal.path(number)} has {len(rows)} steps, the save {known} of the "
                    "same episode: they are not of one learner."
                )
            self._recover(rows[known:], entry, dict(recorded.facts["costs"]))
        if not numbers:
            return
        self._abandon_trial()
        reason = f"{len(numbers)} episodes that finished after the last save"
        self._events.append({"step": self._steps, "event": "recovered", "reason": reason})
        self._drain()

    def _recover(
        self, rows: Sequence[Row], entry: list[Any] | None, costs: Mapping[int, float]
    ) -> None:
        """One finished episode's rows that the save lacks. `costs` by step.

        Budgets act where `observe` did: by the last step their window may be clean again.
        """
        for i, row in enumerate(rows, 1):
            self._steps += 1
            self._queue.append(row)
            cost = costs.get(self._steps)
            if cost is not None:
                self._costs.append([self._steps, cost])
            if cost and i < len(rows):
                self._keep_budget()
        self._queue.append(End(entry))
        if entry is not None:
            self._history.append(entry)
        self._forget_episode()
        self._episodes += 1
        self._pending = self._expected = None
        self._keep_budget()

    def _abandon_trial(self) -> None:
        """A trial whose episode, or candidate, is not gone on with."""
        if self._trials.actor == "candidate" or self._trials.candidate_returns:
            abandon(self.config.deployment, self._trials, self._steps)

    def _take_over(self, checkpoint: Checkpoint, index: int, seeds: int) -> None:
        """What a run, or another learner, had done online by its last checkpoint."""
        progress = checkpoint.progress
        # Such a run's returns are in evaluation's units, and a loop's own sum up its rewards.
        other_units = OWN_LOOP not in progress and bool(get_task(self.config.task).training_kwargs)
        if other_units:
            progress = without_returns(progress)
        self._learner.take_over(checkpoint._replace(progress=progress), index)
        self._steps = self._first_step = progress["env_steps"]
        self._history = [list(entry) for entry in progress["episodes"][index]]
        self._costs = [list(entry) for entry in progress["costs"][index]]
        self._rollbacks = list(progress["rollbacks"][index])
        if self.config.deployment.rule == "proven" and "trials" in progress:
            if not other_units:  # else the deployed policy is measured anew
                self._trials = Trials(**progress["trials"][index])
                self._abandon_trial()
            like = jax.tree.map(lambda x: _with_seeds(x, seeds), self._learner.newest.tree)
            tree = jax.tree.map(lambda x: x[index], checkpoint.tree("deployed", like))
            self._deployed = Snapshot(self._learner.agent, tree, self.action_dim, 0, 0)
            self._candidate = self._deployed


# ------------------------------------------------------------------ pure parts


def _with_seeds(x: Any, seeds: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype)
