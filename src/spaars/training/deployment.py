"""Which policy is deployed: the newest, or the last one that proved itself.

Between 5,000 and 25,000 online steps the newest policy swings by 50 points and more
(docs/lab-notebook.md), whatever it will become. With the rule 'proven' the deployed policy, which
is evaluated, saved for use and reported, starts as the offline policy and is replaced only by a
candidate that beat it in trial episodes: whole training episodes with the candidate's
deterministic actions, stored for learning and counted as online steps like all others.

    explore ... explore | trial of the newest policy | explore ... explore | trial ...
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spaars.training.envs import Episode

DeploymentRule = Literal["proven", "latest"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeploymentConfig:
    """Which policy is evaluated, saved for use and reported."""

    rule: DeploymentRule = "proven"
    """proven: the last one that beat its predecessor in trial episodes, at first the offline
    policy; latest: the newest, whatever it does."""
    trial_episodes: int = 2
    """Training episodes by whose mean return a candidate must win; it loses as soon as its mean
    is behind."""
    every: int = 2_000
    """Environment steps from the end of one trial to the next."""
    rollback: float | None = 0.2
    """A candidate that loses by more than this share of the deployed policy's return is given up:
    the learner's policies go back to the deployed ones, its critics stay; None: never."""


@dataclasses.dataclass
class Trials:
    """Where one seed stands. JSON types only: it travels in the checkpoint."""

    on_trial: bool = True
    """Whether the running episode is a trial. The first ones measure the offline policy."""
    returns: list[float] = dataclasses.field(default_factory=list)
    """Of the candidate's trial episodes so far."""
    logged_return: float | None = None
    """Mean return of the logged episodes, which a candidate must beat too."""
    deployed_return: float | None = None
    """What a candidate must beat; None until the offline policy is measured."""
    next_trial: int = 0
    """The first episode that begins at this environment step or later is a trial."""


class Verdict(NamedTuple):
    """How a trial ended: 'deployed', 'kept' (the old one), or 'rollback'; and why, in words."""

    event: Literal["deployed", "kept", "rollback"]
    reason: str


def after_episode(config: DeploymentConfig, trials: Trials, episode: Episode) -> Verdict | None:
    """Note an episode's end. Returns the verdict if it ended a trial."""
    verdict = None
    if trials.on_trial:
        trials.returns.append(episode.episode_return)
        verdict = judge(config, trials)
        if verdict is not None:
            if verdict.event == "deployed":
                bar = trials.logged_return if trials.deployed_return is None else None
                mean = float(np.mean(trials.returns))
                trials.deployed_return = mean if bar is None else max(mean, bar)
            trials.on_trial, trials.returns = False, []
            trials.next_trial = episode.env_step + config.every
    if episode.env_step >= trials.next_trial:
        trials.on_trial = True
    return verdict


def judge(config: DeploymentConfig, trials: Trials) -> Verdict | None:
    """The verdict on the candidate, None while it is open."""
    n, mean, rival = len(trials.returns), float(np.mean(trials.returns)), trials.deployed_return
    words = f"mean return {mean:.4g} in {n} trial episode{'s' if n > 1 else ''}"
    if rival is None:
        return Verdict("deployed", f"the offline policy: {words}") if _full(config, n) else None
    words = f"{words}, to beat: {rival:.4g}"
    if mean > rival:
        return Verdict("deployed", words) if _full(config, n) else None
    far = config.rollback is not None and mean < rival - config.rollback * abs(rival)
    return Verdict("rollback" if far else "kept", words)


def _full(config: DeploymentConfig, episodes: int) -> bool:
    return episodes >= config.trial_episodes


class Deployment:
    """Deployed and candidate policies of a population: `Agent.acting` of every seed, (S, ...)."""

    def __init__(
        self,
        config: DeploymentConfig,
        acting: Any,
        seeds: Sequence[int],
        logged_return: float | None = None,
    ):
        self.config, self.seeds = config, list(seeds)
        self.deployed = self.candidate = acting
        proven = config.rule == "proven"
        self.trials = [Trials(on_trial=proven, logged_return=logged_return) for _ in seeds]

    @property
    def on_trial(self) -> np.ndarray:
        """Whose running episode is a trial, (S,)."""
        return np.array([trials.on_trial for trials in self.trials])

    def offer(self, acting: Any) -> None:
        """The newest policies, at the start of a chunk: candidates of all that are not on trial."""
        if self.config.rule == "latest":
            self.deployed = acting
        else:
            self.candidate = select(self.on_trial, self.candidate, acting)

    def after_episode(self, episode: Episode) -> Verdict | None:
        """Note an episode's end; deploys the candidate if it won."""
        if self.config.rule == "latest":
            return None
        i = self.seeds.index(episode.seed)
        verdict = after_episode(self.config, self.trials[i], episode)
        if verdict is not None and verdict.event == "deployed":
            won = np.arange(len(self.seeds)) == i
            self.deployed = select(won, self.candidate, self.deployed)
        return verdict

    def state(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(trials) for trials in self.trials]

    def restore(self, trials: list[dict[str, Any]], deployed: Any, candidate: Any) -> None:
        self.trials = [Trials(**values) for values in trials]
        self.deployed, self.candidate = deployed, candidate


@jax.jit
def select(which: Any, yes: Any, no: Any) -> Any:
    """Seed by seed, `yes` where `which` (S,), else `no`."""

    def pick(a: Any, b: Any) -> Any:
        return jnp.where(which.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, yes, no)
