"""`OnlineLearner`: the online phase of a run, in a loop that is the user's.

    act       the newest acting parameters (or proven ones: training.deployment), numpy alone
    observe   what came of it: into a queue, and at an episode's end onto the disk
    update    the queue into the replay, then updates in JAX; new acting parameters are swapped in

One thread acts and observes (`acting`), another updates and saves (`learning`). They share three
things: the queue, which takes and gives without a lock; one reference to an immutable snapshot,
which is swapped; and what `save` copies of the running episode, under a lock that is held for
microseconds.
"""

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spaars.data import Dataset, load_dataset
from spaars.deploy.policy import index_of
from spaars.errors import ConfigError, RunError
from spaars.own_loop.acting import Acting, ActingState
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
from spaars.own_loop.incoming import Incoming
from spaars.own_loop.journal import Journal
from spaars.own_loop.learning import SLICE, Learning
from spaars.own_loop.records import Acted, End, RollBack, Row, arrays_of, rows_of
from spaars.own_loop.snapshot import Snapshot
from spaars.tasks import get_task
from spaars.training import checks
from spaars.training import config as configs
from spaars.training.checkpoint import Checkpoint, collect, load_checkpoint, save_checkpoint
from spaars.training.config import TrainConfig
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
        known = dict(facts["dataset"].get("description", {})) | facts.get("env", {})
        self._incoming = Incoming(self.observation_dim, self.action_dim, known)
        capacity = int(facts[OWN_LOOP]["capacity"])
        journal = Journal(directory / "journal")
        # Whoever has its lock may touch it, but for `newest` of the one and `queue` of the other.
        self._learning_lock, self._acting_lock = threading.Lock(), threading.Lock()
        self._learning = Learning(config, dataset, state, capacity)
        self._acting = Acting(config, dataset, self._incoming, self._learning, journal)

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
        learner._acting.replay_journal()
        learner._learning.take(learner._observed())
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
        return self._acting.steps

    @property
    def episodes(self) -> int:
        """Episodes that finished, or were cut after a step, since it was made; all journalled."""
        return self._acting.episodes

    @property
    def updates(self) -> int:
        """Updates since it was made."""
        return self._learning.updates

    @property
    def due(self) -> int:
        """Updates that the method's own ratio (`--online.utd`) still asks for."""
        first = max(self._acting.first_step, self.config.online.learning_starts)
        return max((self.env_steps - first) * self.config.online.utd - self.updates, 0)

    @property
    def running(self) -> bool:
        """Whether an episode has begun: it goes on, or `end_episode` ends it."""
        return self._acting.running

    @property
    def pending(self) -> Acted | None:
        """The action that is not observed yet."""
        return self._acting.pending

    @property
    def events(self) -> list[dict[str, Any]]:
        """Hand-over, verdicts on candidates, rollbacks, cut episodes: step, event, reason."""
        events = [*self._acting.events, *self._learning.events]
        return sorted(events, key=lambda event: event["step"])

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
        with self._acting_lock:
            return self._acting.act(observation)

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
        with self._acting_lock:
            self._acting.observe(
                acted, executed, reward, next_observation, terminated, truncated, cost=cost
            )

    def end_episode(self, reason: str = "cut by the user") -> None:
        """Cut the running episode: a fault, or a step whose outcome nobody knows.

        What was observed of it is learned from and journalled, as if time had run out; its return
        is not held against who acted. Without a running episode nothing happens.
        """
        with self._acting_lock:
            self._acting.end_episode(reason)

    # ------------------------------------------------------------------ learning

    def prepare(self) -> None:
        """Compile all that learning needs, now, before anything moves.

        The first `update` does it otherwise, for seconds in which acting is slower.
        """
        with self._learning_lock:
            self._learning.prepare()

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
            with self._learning_lock:  # let go of between slices: `save` need not wait for all
                learning = self._learning
                learning.refuse_diverged()  # nothing may be made of it that acts
                learning.take(self._observed())
                learns = learning.seen > self.config.online.learning_starts and learning.rows > 0
                if done >= n or not learns:
                    means = {name: total / k for name, (total, k) in sums.items() if k}
                    return means | {
                        "updates": float(learning.updates),
                        "env_steps": float(learning.seen),
                    }
                block = min(SLICE, n - done)
                for name, (total, k) in learning.learn(block).items():
                    before = sums.get(name, (0.0, 0.0))
                    sums[name] = (before[0] + total, before[1] + k)
                done += block

    def _observed(self) -> list[Row | End | RollBack]:
        """Everything in the queue, in order."""
        queue, items = self._acting.queue, []
        while queue:
            items.append(queue.popleft())
        return items

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
        with self._learning_lock:
            self._learning.refuse_diverged()
            with self._acting_lock:
                items = self._observed()
                acting = self._acting.state()
            self._learning.take(items)
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

    def _checkpoint(self, acting: ActingState) -> Checkpoint:
        """In the form of a run's, so that policies are loaded and exported from it alike."""
        learning = self._learning
        policies = {"deployed": acting.deployed, "candidate": acting.candidate}
        running = arrays_of(acting.episode, ended=False)
        arrays = acting.arrays | {f"running/{name}": x for name, x in running.items()}
        progress = {
            "phase": len(learning.agent.offline_phases()),
            "phase_updates": 0,
            "metrics_offset": 0,
            "wall_seconds": 0.0,
            "armed": [learning.armed],
            **{name: [of_one_seed] for name, of_one_seed in acting.progress.items()},
        }
        facts = {
            name: {"updates": one.updates, "rollbacks": one.rollbacks}
            for name, one in policies.items()
        }
        own = acting.own | learning.progress() | {"policies": facts}
        trees = {"state": learning.state} | {name: one.tree for name, one in policies.items()}
        trees = {name: jax.tree.map(lambda x: x[None], tree) for name, tree in trees.items()}
        env_state = {
            "actions": [],
            "episode_index": [own["episodes"]],
            "episode_ends": [list(learning.ends)],
            "episode_returns": [list(learning.returns)],
            "env_steps": own["steps"],
            "env_errors": [0],
        }
        found = collect(progress | {OWN_LOOP: own}, trees, learning.replay.ring, env_state)
        return Checkpoint(found.progress, found.arrays | arrays)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """The inverse of `_checkpoint`, but for the learning state."""
        progress, arrays = checkpoint.progress, checkpoint.arrays
        own = progress[OWN_LOOP]
        rows = rows_of({k[8:]: x for k, x in arrays.items() if k.startswith("running/")})
        self._learning.restore(checkpoint, own, rows)
        policies = {
            name: self._policy_in(checkpoint, name, 0, 1, **facts)
            for name, facts in own["policies"].items()
        }
        of_one_seed = {
            name: progress[name][0] for name in ("episodes", "costs", "rollbacks", "trials")
        }
        self._acting.restore(ActingState(of_one_seed, own, rows, arrays, **policies))

    def _take_over(self, checkpoint: Checkpoint, index: int, seeds: int) -> None:
        """What a run, or another learner, had done online by its last checkpoint."""
        progress = checkpoint.progress
        # Such a run's returns are in evaluation's units, and a loop's own sum up its rewards.
        other_units = OWN_LOOP not in progress and bool(get_task(self.config.task).training_kwargs)
        if other_units:
            progress = without_returns(progress)
        self._learning.take_over(checkpoint._replace(progress=progress), index)
        deployed = None
        if self.config.deployment.rule == "proven" and "trials" in progress:
            deployed = self._policy_in(checkpoint, "deployed", index, seeds, updates=0, rollbacks=0)
        self._acting.take_over(progress, index, deployed, measured=not other_units)

    def _policy_in(
        self, checkpoint: Checkpoint, name: str, index: int, seeds: int, **facts: int
    ) -> Snapshot:
        learning = self._learning
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), learning.newest.tree
        )
        tree = jax.tree.map(lambda x: x[index], checkpoint.tree(name, like))
        return Snapshot(learning.agent, tree, self.action_dim, **facts)
