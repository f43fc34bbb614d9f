"""The acting half of an `OnlineLearner`: who acts, and what came of it. One thread at a time."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from spaars import seeding
from spaars.data import Dataset
from spaars.errors import DataError, RunError
from spaars.own_loop.beginning import envelope_of
from spaars.own_loop.incoming import Incoming, finite_number
from spaars.own_loop.journal import Journal, Recorded
from spaars.own_loop.learning import Learning
from spaars.own_loop.records import Acted, End, RollBack, Row, arrays_of, frozen, rows_of
from spaars.own_loop.snapshot import Decision, Snapshot
from spaars.tasks import get_task
from spaars.training.config import TrainConfig
from spaars.training.deployment import STAND_IN, Trials, Verdict, abandon, after_episode
from spaars.training.envs import Episode
from spaars.training.logged import logged_return


class ActingState(NamedTuple):
    """What going on needs, at one moment."""

    progress: dict[str, Any]
    """JSON, as a run's progress has it of one seed: history, costs, rollbacks, trials."""
    own: dict[str, Any]
    """JSON that no run has."""
    episode: list[Row]
    """The running episode."""
    arrays: dict[str, np.ndarray]
    deployed: Snapshot
    candidate: Snapshot


class Acting:
    """The running episode, who acts in it, and the history that decides so.

    Of `learning` it reads `newest` alone. `queue` may be popped from by any thread.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        incoming: Incoming,
        learning: Learning,
        journal: Journal,
    ):
        self.config, self.seed, self.action_dim = config, config.seeds[0], dataset.action_dim
        self.incoming, self.journal = incoming, journal
        self.envelope = envelope_of(config, self.action_dim)
        self.skills = learning.skills
        self._learning = learning
        self.steps, self.episodes, self.first_step = 0, 0, 0
        self.episode: list[Row] = []
        """The running one's rows."""
        self.total = 0.0
        """Its return so far."""
        self.stood_in = False
        """Whether the deployed policy did, in the running episode."""
        self.pending: Acted | None = None
        """The action that is not observed yet."""
        self.expected: np.ndarray | None = None
        """The observation that the next action must be asked for with."""
        self.skill: np.ndarray | None = None
        self.trials = Trials(
            actor="deployed" if config.deployment.rule == "proven" else "explore",
            logged_return=logged_return(get_task(config.task), dataset),
        )
        self.history: list[list[Any]] = []
        """Of finished episodes: step at the end, return, whether it terminated, who acted."""
        self.costs: list[list[Any]] = []
        self.rollbacks: list[int] = []
        self.asked_back = 0
        """How often the learner was asked to go back."""
        self.events: list[dict[str, Any]] = []
        self.queue: deque[Row | End | RollBack] = deque()
        """What learning has not taken in yet."""
        self.deployed = self.candidate = learning.newest

    @property
    def running(self) -> bool:
        return self.pending is not None or bool(self.episode)

    def act(self, observation: Any) -> tuple[np.ndarray, Acted]:
        """As `OnlineLearner.act`."""
        if self.pending is not None:
            raise RunError(
                f"act was called again before the action of step {self.pending.step} was "
                "observed. Call observe(acted, ...) first; if its outcome is unknown, "
                "end_episode() cuts the episode there."
            )
        seen = self.incoming.observation(observation, "observation")
        if self.expected is not None and not np.array_equal(seen, self.expected):
            i = int(np.argmax(seen != self.expected))
            raise RunError(
                "act was given another observation than the next_observation that observe was "
                f"told (dimension {i}: {seen[i]:g} and {self.expected[i]:g}). Give both the "
                "same reading; if a new episode has begun, tell observe so (terminated or "
                "truncated), or call end_episode()."
            )
        rng = seeding.generator(self.seed, seeding.OWN_LOOP_ACT, self.steps)
        actor, policy = self._who_acts()
        explores = actor == "explore"
        if not self.episode:
            self.skill = None
        skill = self.skill
        if self.skills is not None and len(self.episode) % self.skills.skill_length == 0:
            skill = policy.choose(seen, rng if explores else None)
        if explores and self.steps < self.config.online.random_steps:
            uniform = rng.uniform(-1.0, 1.0, self.action_dim).astype(np.float32)
            decision = Decision(uniform, None, None)
        else:
            decision = policy.act(seen, skill, rng if explores else None)
        previous = self.episode[-1].executed if self.episode else None
        action = self.envelope(decision.action, previous).astype(np.float32)
        acted = Acted(
            step=self.steps,
            episode=self.episodes,
            observation=frozen(seen),
            action=frozen(action),
            actor=actor,
            gate=decision.gate,
            raw=decision.raw,
            clipped=bool((action != decision.action).any()),
            updates=policy.updates,
            skill=None if skill is None else frozen(skill),
        )
        self.skill, self.pending = skill, acted
        return action.copy(), acted

    def _who_acts(self) -> tuple[str, Snapshot]:
        """Who acts in the running episode, and with what."""
        newest = self._learning.newest  # read once: it may be swapped at any time
        if self.trials.actor == "candidate":
            if not self.episode and not self.trials.candidate_returns:
                gone_back = newest.rollbacks >= self.asked_back
                self.candidate = newest if gone_back else self.deployed
            return "candidate", self.candidate
        # Until the learner has gone back, its newest policies are those that were given up.
        if self.trials.actor == "deployed" or newest.rollbacks < self.asked_back:
            return "deployed", self.deployed
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
        """As `OnlineLearner.observe`."""
        self._check_pairing(acted)
        row = self.incoming.row(acted, executed, reward, next_observation, terminated, truncated)
        if cost is not None:
            new = [[self.steps + 1, finite_number(cost, "cost")]]
        elif self.config.safety.budget.cost is not None:
            raise DataError("--safety.budget.cost counts costs: give every step's `cost`.")
        else:
            new = []
        ends = bool(terminated) or bool(truncated)
        stood_in = self.stood_in or acted.actor != self.trials.actor
        entry = None
        if ends:
            self._refuse_broken_skill(row)
            total = self.total + row.reward
            actor = STAND_IN if stood_in else self.trials.actor
            entry = [self.steps + 1, total, bool(terminated), actor]
            # May fail: before all else.
            self._write_episode([*self.episode, row], entry, [*self.costs, *new])
        self.pending, self.expected = None, None if ends else row.next_observation
        self.steps += 1
        self.total += row.reward
        self.stood_in = stood_in
        self.episode.append(row)
        self.queue.append(row)
        self.costs += new
        # A budget reaches back a window, the journal to the episode's beginning.
        needed = max(self.config.safety.budget.window, len(self.episode))
        if len(self.costs) > 2 * needed:
            self.costs = self.costs[-needed:]
        if entry is not None:
            self._finish(entry)
        if ends or cost:
            self._keep_budget()

    def end_episode(self, reason: str) -> None:
        """As `OnlineLearner.end_episode`."""
        if self.episode:
            self._write_episode(self.episode, None, self.costs)
            self.events.append({"step": self.steps, "event": "episode_cut", "reason": reason})
            self.queue.append(End(None))
            self._forget_episode()
            self.episodes += 1
        self.pending = self.expected = None

    def _check_pairing(self, acted: Acted | Any) -> None:
        pending = self.pending
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
        if self.skills is None or not row.terminated:
            return
        length, steps = self.skills.skill_length, len(self.episode) + 1
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
        begin = self.steps - len(self.episode)
        facts = {"entry": entry, "costs": [one for one in costs if one[0] > begin]}
        self.journal.write(self.episodes, Recorded(arrays_of(rows, ended=True), facts))

    def _finish(self, entry: list[Any]) -> None:
        """The episode is journalled: decide who acts next."""
        step, total, terminated, actor = entry
        length = len(self.episode)
        self.queue.append(End(entry))
        self.history.append(entry)
        self._forget_episode()
        self.episodes += 1
        if self.config.deployment.rule == "latest":
            return
        episode = Episode(self.seed, step, total, length, terminated, actor)
        verdict = after_episode(self.config.deployment, self.trials, episode)
        if verdict is None:
            return
        self._judged(verdict)

    def _judged(self, verdict: Verdict) -> None:
        self.events.append({"step": self.steps, "event": verdict.event, "reason": verdict.reason})
        if verdict.event == "deployed":
            self.deployed = self.candidate
        elif verdict.event == "rollback":
            self._go_back(shut_gate=False)

    def _go_back(self, shut_gate: bool) -> None:
        self.asked_back += 1
        self.queue.append(RollBack(self.deployed, self.steps, shut_gate))

    def _keep_budget(self) -> None:
        if not self.config.safety.budget.limits:
            return
        since = self.rollbacks[-1] if self.rollbacks else 0
        reason = self.config.safety.budget.passed(
            self.steps, since, self.history, self.costs, self.trials.offline_return
        )
        if reason:
            self.rollbacks.append(self.steps)
            self.events.append({"step": self.steps, "event": "rollback", "reason": reason})
            abandon(self.config.deployment, self.trials, self.steps)
            self._go_back(shut_gate=True)

    def _forget_episode(self) -> None:
        self.episode, self.total, self.skill = [], 0.0, None
        self.stood_in = False

    # ------------------------------------------------------------------ saving

    def state(self) -> ActingState:
        """Acting waits meanwhile: no more than references."""
        arrays: dict[str, np.ndarray] = {}
        pending = self.pending
        if pending is not None:
            arrays |= {"pending/observation": pending.observation, "pending/action": pending.action}
        for name, value in (("expected", self.expected), ("skill", self.skill)):
            if value is not None:
                arrays[name] = value
        progress = {
            "episodes": list(self.history),
            "costs": list(self.costs),
            "rollbacks": list(self.rollbacks),
            "trials": asdict(self.trials),
        }
        fields = ("step", "episode", "actor", "gate", "raw", "clipped", "updates")
        own = {
            "steps": self.steps,
            "first_step": self.first_step,
            "episodes": self.episodes,
            "return": self.total,
            "stood_in": self.stood_in,
            "asked_back": self.asked_back,
            "pending": pending and {name: getattr(pending, name) for name in fields},
            "events": list(self.events),
        }
        rows = list(self.episode)
        return ActingState(progress, own, rows, arrays, self.deployed, self.candidate)

    def restore(self, state: ActingState) -> None:
        """The inverse of `state`."""
        progress, own = state.progress, state.own
        self.history, self.costs = progress["episodes"], progress["costs"]
        self.rollbacks, self.trials = progress["rollbacks"], Trials(**progress["trials"])
        self.steps, self.first_step, self.episodes = (
            own[name] for name in ("steps", "first_step", "episodes")
        )
        self.total, self.asked_back = own["return"], own["asked_back"]
        self.stood_in = own["stood_in"]
        self.events = list(own["events"])
        self.episode = state.episode
        self.expected, self.skill = state.arrays.get("expected"), state.arrays.get("skill")
        if own["pending"] is not None:
            self.pending = Acted(
                observation=frozen(state.arrays["pending/observation"]),
                action=frozen(state.arrays["pending/action"]),
                skill=self.skill,
                **own["pending"],
            )
        self.deployed, self.candidate = state.deployed, state.candidate

    def replay_journal(self) -> None:
        """Take in what finished after the save. Verdicts on policies that are lost are not."""
        numbers = self.journal.after(self.episodes)
        for number in numbers:
            recorded = self.journal.read(number)
            rows, entry = rows_of(recorded.arrays), recorded.facts["entry"]
            known = len(self.episode)
            if len(rows) < known:
                raise RunError(
                    f"{self.journal.path(number)} has {len(rows)} steps, the save {known} of the "
                    "same episode: they are not of one learner."
                )
            self._recover(rows[known:], entry, dict(recorded.facts["costs"]))
        if numbers:
            self._abandon_trial()
            reason = f"{len(numbers)} episodes that finished after the last save"
            self.events.append({"step": self.steps, "event": "recovered", "reason": reason})

    def _recover(
        self, rows: Sequence[Row], entry: list[Any] | None, costs: Mapping[int, float]
    ) -> None:
        """One finished episode's rows that the save lacks. `costs` by step.

        Budgets act where `observe` did: by the last step their window may be clean again.
        """
        for i, row in enumerate(rows, 1):
            self.steps += 1
            self.queue.append(row)
            cost = costs.get(self.steps)
            if cost is not None:
                self.costs.append([self.steps, cost])
            if cost and i < len(rows):
                self._keep_budget()
        self.queue.append(End(entry))
        if entry is not None:
            self.history.append(entry)
        self._forget_episode()
        self.episodes += 1
        self.pending = self.expected = None
        self._keep_budget()

    def _abandon_trial(self) -> None:
        """A trial whose episode, or candidate, is not gone on with."""
        if self.trials.actor == "candidate" or self.trials.candidate_returns:
            abandon(self.config.deployment, self.trials, self.steps)

    def take_over(
        self, progress: Mapping[str, Any], index: int, deployed: Snapshot | None, measured: bool
    ) -> None:
        """What seed `index` of a run had done online. `deployed` if it deploys by proof.

        Not `measured`: its returns are in other units, and so the deployed policy's are forgotten.
        """
        self.steps = self.first_step = progress["env_steps"]
        self.history = [list(entry) for entry in progress["episodes"][index]]
        self.costs = [list(entry) for entry in progress["costs"][index]]
        self.rollbacks = list(progress["rollbacks"][index])
        if deployed is None:
            return
        self.deployed = self.candidate = deployed
        if measured:
            self.trials = Trials(**progress["trials"][index])
            self._abandon_trial()
