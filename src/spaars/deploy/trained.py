"""A run's last checkpoint taken apart for `spaars theory`: decoder, critics, policies, replay."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from spaars.algos import supe
from spaars.algos.gate import GateConfig
from spaars.algos.spaars import Spaars
from spaars.algos.spaars_supe import SpaarsSupe
from spaars.algos.supe import to_latent
from spaars.deploy.policy import load_acting
from spaars.errors import ConfigError, RunError
from spaars.nn import TanhGaussianPolicy
from spaars.priors.opal import SkillDecoder
from spaars.tasks import Task
from spaars.theory.trained import Parts
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import METHODS, TrainConfig
from spaars.training.envs import processes_for
from spaars.training.evaluate import EvalResult, Evaluator
from spaars.training.run_directory import read_config

ARMS = ("open", "shut", "raw")


class Trained(NamedTuple):
    """All seeds of a run, as its last checkpoint left them."""

    path: Path
    config: TrainConfig
    described: dict[str, Any]
    """The whole of config.json."""
    agent: Spaars | SpaarsSupe
    acting: Any
    """What the policies read, leaves (S, ...)."""
    env_steps: int
    observations: Float[np.ndarray, "S filled obs"]
    """Of the online replay, as the env gave them."""
    actions: Float[np.ndarray, "S filled act"]
    """Executed there."""

    def seed(self, index: int) -> Any:
        """What the policies of one seed read."""
        return jax.tree.map(lambda leaf: leaf[index], self.acting)

    def parts(self, index: int) -> Parts:
        """One seed's decoder, critics and deterministic policies."""
        acting = self.seed(index)
        if isinstance(self.agent, Spaars):
            return Parts(
                decode=Partial(self.agent.decode, acting.prior),
                critics=acting.critics,
                raw=Partial(_mode, acting.raw_average),
                latent=Partial(_mode, acting.latent_average),
                discount=self.agent.discount,
            )
        return Parts(
            decode=Partial(_decode_skill, acting.skill.prior),
            critics=acting.critics,
            raw=Partial(_mode, acting.raw),
            latent=Partial(_skill, acting.skill),
            discount=self.agent.discount,
        )

    def draw(self, index: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to `count` states of one seed's replay, standardised, and the actions executed there.

        Without replacement; all there are where there are fewer.
        """
        filled = self.observations.shape[1]
        rng = np.random.default_rng([seed, self.config.seeds[index]])
        rows = np.sort(rng.permutation(filled)[:count])
        acting = self.seed(index)
        normaliser = (
            acting.normaliser if isinstance(self.agent, Spaars) else acting.skill.normaliser
        )
        states = normaliser(jnp.asarray(self.observations[index, rows]))
        return np.asarray(states), self.actions[index, rows]

    @property
    def armed(self) -> list[bool]:
        """Whether each seed's gate has been armed."""
        return np.asarray(self.acting.armed).tolist()


def _mode(policy: TanhGaussianPolicy, observations: Array) -> Array:
    return policy(observations).mode()


def _decode_skill(prior: SkillDecoder, observations: Array, u: Array) -> Array:
    return prior.decode(observations, to_latent(u))


def _skill(acting: supe.Acting, observations: Array) -> Array:
    return supe.Supe.choose_standardised(acting, observations, None)


def load_trained(run_dir: Path, *, deployed: bool = False) -> Trained:
    """The newest (or the `deployed`) agent of the last checkpoint, and its replay.

    Raises RunError if there is no run or no checkpoint with online steps, ConfigError if the method
    has no decoder and critics of raw actions side by side.
    """
    # First: an older run's config.json may not be readable, and need not be.
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None and (run_dir / "config.json").exists():
        raise _no_checkpoint(run_dir)
    config, described = read_config(run_dir)
    assert checkpoint is not None  # where there is no run either, that has raised
    agent = config.agent()
    if not isinstance(agent, Spaars | SpaarsSupe):
        fitting = [
            name
            for name, method in METHODS.items()
            if isinstance(method.build(config), Spaars | SpaarsSupe)
        ]
        raise ConfigError(
            f"{run_dir} is a run of {config.method}, which has no behaviour prior beside critics "
            f"of raw actions. Give a run of {', '.join(fitting)}."
        )
    if not checkpoint.progress.get("env_steps") or "ring/observations" not in checkpoint.arrays:
        raise RunError(
            f"{run_dir}: its last checkpoint is from before the first online step, so there is no "
            f"replay to measure on. Go on with `spaars resume {run_dir}`."
        )
    return Trained(
        path=run_dir,
        config=config,
        described=described,
        agent=agent,
        acting=load_acting(run_dir, config, newest=not deployed).acting,
        env_steps=int(checkpoint.progress["env_steps"]),
        observations=checkpoint.arrays["ring/observations"],
        actions=checkpoint.arrays["ring/actions"],
    )


def _no_checkpoint(run_dir: Path) -> RunError:
    remedy = (
        "Committed results hold no networks: train the run again (its config.json has the "
        "command) or copy its checkpoints/ here."
        if (run_dir / "summary.json").exists()
        else f"Go on with `spaars resume {run_dir}`."
    )
    return RunError(f"{run_dir} has no checkpoint. {remedy}")


def play(trained: Trained, task: Task, episodes: int) -> dict[str, EvalResult]:
    """The same evaluation episodes under three gates, same policies and critics throughout.

    open: armed, and opened by the critics as the run's pessimism and margin say; shut: the latent
    policy alone; raw: the raw policy alone. Deterministic.
    """
    c = trained.config
    results = {}
    for arm in ARMS:
        gate = GateConfig(
            rule="always" if arm == "raw" else "advantage",
            pessimism=c.gate.pessimism,
            margin=c.gate.margin,
        )
        acting = trained.acting._replace(
            armed=jnp.full(len(c.seeds), arm != "shut"),
        )
        evaluator = Evaluator(
            dataclasses.replace(trained.agent, gate=gate),
            task.make_env,
            c.seeds,
            episodes,
            safety=c.safety,
            processes=processes_for(task, c.online.env_processes),
            discount=trained.agent.discount,
        )
        try:
            results[arm] = evaluator(acting)
        finally:
            evaluator.close()
    return results
