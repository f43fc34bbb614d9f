"""Which policy is deployed: the newest, or the last one that proved itself.

Between 5,000 and 25,000 online steps the newest policy swings by 50 points and more
(docs/lab-notebook.md), whatever it will become. With the rule 'proven' the deployed policy, which
is evaluated, saved for use and reported, starts as the offline policy and is replaced only by a
candidate that beat it in trial episodes. Every training episode has one of three actors:

    deployed    deployed policy, deterministic: measures it at first; later again after a tie, and
                after a bad exploration
    explore     newest policy, sampled; or something else, which says nothing of it (`ROUTES`,
                `STAND_IN`: the episode's record says which)
    candidate   a frozen copy of the newest policy, deterministic: its trial

All of them are stored for learning and count as online steps.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spaars.training.envs import Episode

DeploymentRule = Literal["proven", "latest"]
Actor = Literal["explore", "candidate", "deployed"]
ROUTES = ("retrace", "splice")
"""Exploring episodes in which something else than the policy chose (spaars.training.retracing)."""
STAND_IN = "stand-in"
"""Exploring episode of an `OnlineLearner` in which the deployed policy acted, for a while or all
along, because the learner's thread had not yet gone back to it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeploymentConfig:
    """Which policy is evaluated, saved for use and reported."""

    rule: DeploymentRule = "proven"
    """proven: the last one that beat its predecessor in trial episodes, at first the offline
    policy; latest: the newest, whatever it does."""
    trial_episodes: int = 2
    """Training episodes by whose mean return a candidate must win, at least; it wins once it is
    ahead by twice the standard error of the difference, or has been tried as often as the deployed
    policy has been measured, lest what is known well give way to what was lucky once. It loses as
    soon as its mean is not ahead. By a tie, too, but then the deployed policy, which may owe its
    mean to a lucky trial, is measured by one episode more."""
    steadiness: float | None = 0.1
    """It also loses as soon as one of them falls short of the deployed policy's return by more than
    this share, lest a policy that falls now and then be deployed on a lucky draw; None: never."""
    every: int = 2_000
    """Environment steps from the end of one trial to the next."""
    rollback: float | None = 0.2
    """A candidate worse than the deployed policy by more than this share of its return is given up
    if every exploration since the last trial was, too: the learner's policies go back to the
    deployed ones, its critics stay; None: never. So one good episode after a trial gives the
    learner the time until the next but one to mend what went wrong after it."""
    caution: float | None = 0.5
    """After an exploring episode that falls short of the deployed policy's return by more than this
    share, the deployed policy acts for one episode while the learner digests it; None: never."""


@dataclasses.dataclass
class Trials:
    """Where one seed stands. JSON types only: it travels in the checkpoint."""

    actor: Actor = "deployed"
    """Who acts in the running episode."""
    candidate_returns: list[float] = dataclasses.field(default_factory=list)
    """Of the running trial."""
    best_explored: float | None = None
    """Highest return of an exploration since the last trial."""
    deployed_returns: list[float] = dataclasses.field(default_factory=list)
    """Of all episodes of the deployed policy, its trial included."""
    offline_return: float | None = None
    """Mean return of the offline policy; None while it is being measured."""
    offline_best: float | None = None
    """Highest return of the offline policy in the episodes that measured it."""
    logged_return: float | None = None
    """Mean return of the logged episodes, which a candidate must beat too."""
    next_trial: int = 0
    """The first episode that begins at this environment step or later is a trial."""

    @property
    def deployed_return(self) -> float:
        return float(np.mean(self.deployed_returns))

    @property
    def outstanding(self) -> float:
        """Returns above this beat the deployed policy's mean and the best of the offline one."""
        if not self.deployed_returns:
            return -np.inf
        own = self.deployed_return
        return own if self.offline_best is None else max(own, self.offline_best)

    @property
    def to_beat(self) -> float:
        own = self.deployed_return
        return own if self.logged_return is None else max(own, self.logged_return)


class Verdict(NamedTuple):
    """What was found out about a policy: an event of the run, and why, in words.

    measured: the offline policy; deployed: a candidate won; kept: it lost; rollback: by far, as
    all exploration since the last trial did.
    """

    event: Literal["measured", "deployed", "kept", "rollback"]
    reason: str


def after_episode(config: DeploymentConfig, trials: Trials, episode: Episode) -> Verdict | None:
    """Note an episode's end and say who acts next. Returns a verdict if there is one."""
    verdict, remeasure = None, False
    if trials.actor == "deployed":
        trials.deployed_returns.append(episode.episode_return)
        if len(trials.deployed_returns) == config.trial_episodes and not trials.next_trial:
            trials.offline_return = trials.deployed_return
            trials.offline_best = max(trials.deployed_returns)
            verdict = Verdict("measured", f"offline policy: {_words(trials.deployed_returns)}")
    elif trials.actor == "candidate":
        trials.candidate_returns.append(episode.episode_return)
        verdict = judge(config, trials)
        remeasure = np.mean(trials.candidate_returns) == trials.deployed_return
    elif episode.actor == "explore":
        best = trials.best_explored
        trials.best_explored = max(episode.episode_return, best if best is not None else -np.inf)
        remeasure = _short_of(trials, config.caution, episode.episode_return)

    if verdict is not None:
        if verdict.event == "deployed":
            trials.deployed_returns = trials.candidate_returns
        trials.candidate_returns, trials.best_explored = [], None
        trials.next_trial = episode.env_step + config.every

    if not trials.next_trial:
        trials.actor = "deployed"  # still being measured
    elif trials.candidate_returns or (
        # Without an exploration since the last one, nothing would say whether to give up the loser.
        episode.env_step >= trials.next_trial and trials.best_explored is not None
    ):
        trials.actor = "candidate"
    else:
        trials.actor = "deployed" if remeasure else "explore"
    return verdict


def abandon(config: DeploymentConfig, trials: Trials, env_step: int) -> None:
    """The learner was rolled back in the middle of an episode: nobody else acts on in it.

    Its return says nothing about a candidate, so it counts as an exploration.
    """
    if trials.actor == "candidate":
        trials.actor = "explore"
    if trials.next_trial:
        trials.candidate_returns, trials.best_explored = [], None
        trials.next_trial = env_step + config.every


def judge(config: DeploymentConfig, trials: Trials) -> Verdict | None:
    """The verdict on the candidate, None while it is open."""
    returns = trials.candidate_returns
    mean, to_beat = float(np.mean(returns)), trials.to_beat
    words = f"candidate: {_words(returns)}; to beat: {to_beat:.4g}"
    if _short_of(trials, config.steadiness, returns[-1]):
        words += f"; its last episode returned {returns[-1]:.4g}"
    elif mean > to_beat:
        tried = len(returns) >= config.trial_episodes
        return Verdict("deployed", words) if tried and _proven(trials) else None
    best = mean if trials.best_explored is None else max(mean, trials.best_explored)
    given_up = _short_of(trials, config.rollback, best)
    return Verdict("rollback" if given_up else "kept", words)


def _proven(trials: Trials) -> bool:
    """Whether a candidate that is ahead need not be tried further."""
    candidate, deployed = trials.candidate_returns, trials.deployed_returns
    error = np.sqrt(sum(np.var(x) / len(x) for x in (candidate, deployed)))
    ahead = np.mean(candidate) - trials.deployed_return
    return bool(ahead > 2.0 * error) or len(candidate) >= len(deployed)


def _short_of(trials: Trials, share: float | None, value: float) -> bool:
    """Whether `value` is below the deployed policy's return by more than `share` of it."""
    own = trials.deployed_return
    return share is not None and value < own - share * abs(own)


def _words(returns: Sequence[float]) -> str:
    episodes = f"{len(returns)} episode{'s' if len(returns) > 1 else ''}"
    return f"mean return {np.mean(returns):.4g} in {episodes}"


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
        first: Actor = "deployed" if config.rule == "proven" else "explore"
        self.trials = [Trials(actor=first, logged_return=logged_return) for _ in seeds]

    @property
    def actors(self) -> list[Actor]:
        """Who acts in each seed's running episode."""
        return [trials.actor for trials in self.trials]

    @property
    def explores(self) -> np.ndarray:
        """Whose running episode explores, (S,)."""
        return np.array([actor == "explore" for actor in self.actors])

    @property
    def on_trial(self) -> np.ndarray:
        """Whose running episode is a candidate's, (S,)."""
        return np.array([actor == "candidate" for actor in self.actors])

    def offer(self, acting: Any) -> None:
        """The newest policies, at the start of a chunk: candidates where no trial is running."""
        if self.config.rule == "latest":
            self.deployed = acting
        else:
            self.candidate = select(self.on_trial, self.candidate, acting)

    def proven(self) -> Any:
        """What acts where a seed does not explore: the candidate on trial, else the deployed."""
        if self.config.rule == "latest":
            return self.deployed
        return select(self.on_trial, self.candidate, self.deployed)

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

    def abandon(self, which: np.ndarray, env_step: int) -> None:
        """Trials that run or are due end without a verdict where `which` (S,)."""
        for i in np.flatnonzero(which):
            abandon(self.config, self.trials[i], env_step)

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
