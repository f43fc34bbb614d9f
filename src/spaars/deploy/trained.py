"""A run's last checkpoint taken apart for `spaars theory`: decoder, critics, policies, replay."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spaars.algos.gate import GateConfig
from spaars.algos.spaars import Spaars
from spaars.algos.spaars_supe import SpaarsSupe
from spaars.algos.supe import to_latent
from spaars.deploy.policy import load_acting
from spaars.errors import ConfigError, RunError
from spaars.tasks import Task
from spaars.theory.trained import Parts
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import METHODS, TrainConfig
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
            agent = self.agent
            return Parts(
                decode=lambda obs, u: agent.decode(acting.prior, obs, u),
                critics=acting.critics,
                raw=lambda obs: acting.raw_average(obs).mode(),
                latent=lambda obs: acting.latent_average(obs).mode(),
                discount=agent.discount,
            )
        skills = self.agent.skills
        return Parts(
            decode=lambda obs, u: acting.skill.prior.decode(obs, to_latent(u)),
            critics=acting.critics,
            raw=lambda obs: acting.raw(obs).mode(),
            latent=lambda obs: skills.choose_standardised(acting.skill, obs, None),
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
        return np.asarray(normaliser(self.observations[index, rows])), self.actions[index, rows]

    @property
    def armed(self) -> list[bool]:
        """Whether each seed's gate has been armed."""
        return np.asarray(self.acting.armed).tolist()


def load_trained(run_dir: Path, *, deployed: bool = False) -> Trained:
    """The newest (or the `deployed`) agent of the last checkpoint, and its replay.

    Raises RunError if there is no run or no checkpoint with online steps, ConfigError if the method
    has no decoder and critics of raw actions side by side.
    """
    config, described = read_config(run_dir)
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
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None:
        finished = (run_dir / "summary.json").exists()
        remedy = (
            "Committed results hold no networks: train the run again (its config.json has the "
            "command) or copy its checkpoints/ here."
            if finished
            else f"Go on with `spaars resume {run_dir}`."
        )
        raise RunError(f"{run_dir} has no checkpoint. {remedy}")
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
            discount=trained.agent.discount,
        )
        try:
            results[arm] = evaluator(acting)
        finally:
            evaluator.close()
    return results
