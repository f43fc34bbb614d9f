"""A behaviour prior that another run has trained already."""

import dataclasses
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from spaars.data import Dataset
from spaars.errors import ConfigError, RunError
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import METHODS, PRIORS, TrainConfig
from spaars.training.logged import standardisation
from spaars.training.run_directory import read_config

LEARNED_WITH = {"prior": ("batch_size", "learning_rate")}
"""Of the section `offline`, what a kind of prior is trained with, too."""


def check_donor(config: TrainConfig) -> tuple[TrainConfig, dict[str, Any]]:
    """The config.json of the run `config.prior_from`, if its prior can be taken, whatever the data.

    Raises:
        ConfigError: the other run's prior is another one, by its settings or seeds.
        RunError: there is no such run, or it has not trained its prior yet.
    """
    assert config.prior_from is not None
    donor = Path(config.prior_from)
    theirs, described = read_config(donor)
    flag = f"--prior-from {donor}"
    section = next(name for name in PRIORS if name in METHODS[config.method].sections)
    if section not in METHODS[theirs.method].sections:
        raise ConfigError(
            f"{flag}: --method {theirs.method} trains no prior that --method {config.method} takes."
        )
    fields = [(section, field.name) for field in dataclasses.fields(getattr(config, section))]
    fields += [("offline", name) for name in LEARNED_WITH.get(section, ())]
    for of, name in fields:
        a, b = (getattr(getattr(one, of), name) for one in (config, theirs))
        if a != b and not (a is None and name == "latent_dim"):  # which the data decide
            shown = f"--{of}.{name}".replace("_", "-")
            raise ConfigError(f"{flag}: its prior has {shown} {b}, this run asks for {a}.")
    if theirs.standardise != config.standardise:
        read = ("as they are", "standardised")
        raise ConfigError(
            f"{flag}: its prior reads observations {read[theirs.standardise]}, this run "
            f"{read[config.standardise]} (--standardise, --no-standardise)."
        )
    if missing := [seed for seed in config.seeds if seed not in theirs.seeds]:
        raise ConfigError(f"{flag}: it has seeds {list(theirs.seeds)}, not {missing}.")
    if not (donor / "checkpoints").is_dir():
        raise RunError(f"{flag}: its prior is not trained yet; `spaars resume {donor}` goes on.")
    return theirs, described


def donated_prior(config: TrainConfig, dataset: Dataset) -> Any:
    """The trained prior, leaves (S, ...), of the run `config.prior_from`.

    Raises as `check_donor` does, and ConfigError if it learned from other data.
    """
    theirs, described = check_donor(config)
    donor = Path(config.prior_from or "")
    flag = f"--prior-from {donor}"
    if described["dataset"]["sha256"] != dataset.sha256:
        raise ConfigError(
            f"{flag}: it learned from other data ({described['dataset']['label']}) than this run "
            f"({dataset.label})."
        )
    checkpoint = load_checkpoint(donor)
    if checkpoint is None or checkpoint.progress["phase"] < 1:
        raise RunError(f"{flag}: its prior is not trained yet; `spaars resume {donor}` goes on.")
    agent: Any = config.agent()
    moments = [jnp.asarray(values) for values in standardisation(config, dataset)]

    def init() -> Any:
        return agent.init(jax.random.key(0), *moments, dataset.action_dim)

    fresh = jax.eval_shape(lambda: reduce(getattr, agent.prior_in, init()))
    # As many seeds as they have; all other shapes are ours.
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(theirs.seeds), *x.shape), x.dtype), fresh
    )
    place: Any = theirs.agent()
    trained = checkpoint.tree("/".join(("state", *place.prior_in)), like)
    rows = jnp.array([theirs.seeds.index(seed) for seed in config.seeds])
    return jax.tree.map(lambda x: x[rows], trained)


def with_prior(config: TrainConfig, state: Any, prior: Any) -> Any:
    """The population's `state` with this prior."""
    agent: Any = config.agent()
    return _with(state, agent.prior_in, prior)


def _with(state: Any, place: tuple[str, ...], value: Any) -> Any:
    name, *rest = place
    inner = _with(getattr(state, name), tuple(rest), value) if rest else value
    return state._replace(**{name: inner})
