"""The configuration of a run: frozen, complete, and the source of the command line's flags."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import tyro

from spaars.algos.agent import Agent
from spaars.algos.bc import BC, BCConfig
from spaars.algos.config import LearnerConfig, OfflineConfig
from spaars.algos.gate import GateConfig
from spaars.algos.iql import IQL, IQLConfig
from spaars.algos.sac import SAC, SACConfig
from spaars.algos.spaars import Spaars
from spaars.algos.spaars_supe import EasingConfig, RawConfig, SpaarsSupe
from spaars.algos.supe import Supe, SupeConfig
from spaars.data import Dataset
from spaars.data.replay import best_rows, logged_rows
from spaars.data.sources import absolute
from spaars.errors import unknown_name
from spaars.priors.cvae import PriorConfig
from spaars.priors.opal import OpalConfig
from spaars.safety import SafetyConfig
from spaars.tasks import get_task
from spaars.training.deployment import DeploymentConfig
from spaars.training.online import OnlineConfig

Preset = Literal["smoke", "quick", "full"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How policies are evaluated while they learn."""

    every: int = 5_000
    """Environment steps between two evaluations."""
    episodes: int = 20
    """Episodes per evaluation, always the same initial states."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that determines a run's result."""

    task: tyro.conf.Suppress[str]
    """Task name, such as hopper-medium; on the command line the first word, not a flag."""
    method: str = "spaars"
    """spaars; spaars-supe, with skills instead of single actions; latent-only, whose gate never
    opens; or a peer: iql, rlpd, sac, bc, supe."""
    preset: Preset = "quick"
    """Starting point of all other values: smoke (a minute, touches every phase), quick (minutes),
    full (hours)."""
    seeds: tuple[int, ...] = (0,)
    """Seeds trained side by side in one process."""
    dataset: Path | None = None
    """D4RL HDF5 or npz file, a directory (episodes as npz, LeRobotDataset v3, Minari) or minari:ID;
    None records the task's embedded behaviour policy."""
    prior_from: Path | None = None
    """Run directory whose trained behaviour prior is taken instead of training one: of the same
    data, seeds and prior settings, whatever its method."""
    transitions: int = 1_000_000
    """Transitions recorded when no dataset is given."""
    standardise: bool = True
    """Networks see observations standardised by the dataset, each dimension within 10 of its
    deviations; otherwise as they are, within 10 of their units."""
    checkpoint_every: int = 5_000
    """Updates (offline) or environment steps (online) between two checkpoints."""
    log_every: int = 1_000
    """Updates (offline) or environment steps (online) between two lines of metrics."""
    device_memory_gib: float | None = None
    """What dataset and replay may take of the device's memory. A dataset that is larger stays in
    the computer's memory, and only the rows of the next updates are uploaded. None: four fifths of
    an accelerator's; on a CPU there is nothing to upload."""
    prior: PriorConfig = PriorConfig()
    offline: OfflineConfig = OfflineConfig()
    learner: LearnerConfig = LearnerConfig()
    gate: GateConfig = GateConfig()
    online: OnlineConfig = OnlineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    deployment: DeploymentConfig = DeploymentConfig()
    safety: SafetyConfig = SafetyConfig()
    iql: IQLConfig = IQLConfig()
    sac: SACConfig = SACConfig()
    bc: BCConfig = BCConfig()
    opal: OpalConfig = OpalConfig()
    supe: SupeConfig = SupeConfig()
    raw: RawConfig = RawConfig()
    easing: EasingConfig = EasingConfig()

    def agent(self) -> Agent:
        """The agent that this configuration describes."""
        return METHODS[self.method].build(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """An agent, what it reads of the configuration, and the settings that make the method."""

    build: Callable[[TrainConfig], Agent]
    sections: tuple[str, ...]
    """Sections of TrainConfig that the agent reads; a change in any other is refused."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Settings on top of the shared preset of that name."""


def _spaars(c: TrainConfig) -> Agent:
    return Spaars(c.prior, c.offline, c.learner, c.gate, c.online.utd)


def _supe(c: TrainConfig) -> Supe:
    logged = logged_rows(c.sac.batch_size, c.online.offline_fraction or 0.0)
    return Supe(c.opal, c.supe, c.sac, c.online.utd, c.online.learning_starts, logged)


def _spaars_supe(c: TrainConfig) -> Agent:
    best = best_rows(c.sac.batch_size, c.online.offline_fraction or 0.0, c.online.best_fraction)
    return SpaarsSupe(_supe(c), c.raw, c.gate, c.easing, best)


# The harness (data, replay, envs, evaluation) is shared, so that a comparison differs in the
# agent and its recipe: sampling, updates, deployment. The peers' settings are the published ones
# (design section 4) where they can run on two cores; a comment says where not.
_LATEST = {"rule": "latest"}
_PLAIN_REPLAY = {"start_fraction": 0.0, "recent_fraction": 0.0}

_SUPE: dict[str, Any] = {
    "online": {
        "chunk": 40,  # whole skills, and whole chunks in the kitchen's 280 steps
        "utd": 20,
        **_PLAIN_REPLAY,
        "learning_starts": 5_000,
    },
    "sac": {
        "hidden": (256, 256, 256),
        "critics": 10,
        "layer_norm": True,
        "target_subset": 2,
        "actor_aggregate": "mean",
        "actor_every": 20,
        "target_entropy_scale": 0.5,
        "entropy_backup": False,
    },
}
# Published: 1,000,000 updates of the prior, 300,000 steps, 20 updates per step of ten critics and
# one of the actor. One of five critics fits two cores; a narrower encoder costs a fifth and
# reconstructs nearly as well (docs/lab-notebook.md).
_SUPE_PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "opal": {"updates": 250, "hidden": (64, 64), "recurrent": 32, "batch_size": 64},
        "supe": {"hidden": (64, 64), "novelty_features": 32, "novelty_from": 800},
        "sac": {"hidden": (64, 64), "critics": 3, "actor_every": 1, "batch_size": 64},
        "online": {"steps": 1_600, "utd": 1, "learning_starts": 400},
        "log_every": 200,
        "checkpoint_every": 400,
        "evaluation": {"every": 400},
    },
    "quick": {
        "opal": {"updates": 20_000, "recurrent": 64},
        "sac": {"critics": 5, "actor_every": 1, "batch_size": 128},
        "online": {"steps": 100_000, "utd": 1},
        "evaluation": {"every": 10_000},
    },
}

PRIORS = ("prior", "opal")
"""Sections that say what a behaviour prior is; a method reads one of them or none."""

METHODS: dict[str, Method] = {
    "spaars": Method(build=_spaars, sections=("prior", "offline", "learner", "gate")),
    "latent-only": Method(
        build=_spaars,
        sections=("prior", "offline", "learner", "gate"),
        settings={"gate": {"rule": "never"}},
    ),
    "iql": Method(
        build=lambda c: IQL(c.iql),
        sections=("iql",),
        # Fine-tuning: one update per step, uniform over logged and online data.
        settings={
            "online": {
                "utd": 1,
                "offline_fraction": None,
                **_PLAIN_REPLAY,
                "learning_starts": 0,
            },
            "deployment": _LATEST,
        },
        presets={
            "smoke": {"iql": {"updates": 1_000, "hidden": (64, 64)}},
            "quick": {"iql": {"updates": 100_000}},  # published: 1,000,000
        },
    ),
    "rlpd": Method(
        build=lambda c: SAC(c.sac),
        sections=("sac",),
        settings={
            "online": {
                "utd": 20,
                **_PLAIN_REPLAY,
                "random_steps": 5_000,
                "learning_starts": 5_000,
            },
            "sac": {
                "critics": 10,
                "layer_norm": True,
                "target_subset": 2,
                "actor_aggregate": "mean",
                "actor_every": 20,
                "target_entropy_scale": 0.5,
            },
            "deployment": _LATEST,
        },
        presets={
            "smoke": {
                "online": {"utd": 1, "random_steps": 500, "learning_starts": 500},
                "sac": {"critics": 3, "actor_every": 1, "hidden": (64, 64)},
            },
            # Published: 20 updates per step. Two as the other methods, at equal compute.
            "quick": {"online": {"utd": 2}, "sac": {"actor_every": 2}},
        },
    ),
    "sac": Method(
        build=lambda c: SAC(c.sac),
        sections=("sac",),
        settings={
            "online": {
                "utd": 1,
                "offline_fraction": 0.0,
                **_PLAIN_REPLAY,
                "random_steps": 5_000,
                "learning_starts": 5_000,
            },
            "deployment": _LATEST,
        },
        presets={
            "smoke": {
                "online": {"random_steps": 500, "learning_starts": 500},
                "sac": {"hidden": (64, 64)},
            }
        },
    ),
    "supe": Method(
        build=_supe,
        sections=("opal", "supe", "sac"),
        # Published: observations as they are. Standardised by few demonstrations, a kettle that
        # falls is 60 deviations away, and its novelty drowns the task (docs/lab-notebook.md).
        settings={**_SUPE, "deployment": _LATEST, "standardise": False},
        presets=_SUPE_PRESETS,
    ),
    "spaars-supe": Method(
        build=_spaars_supe,
        sections=("opal", "supe", "sac", "easing", "raw", "gate"),
        settings={
            **_SUPE,
            # Returns of tasks for skills are counts; two episodes tell little of their mean.
            "deployment": {"trial_episodes": 5},
            # SUPE's own order, the other way round, has not been run (docs/lab-notebook.md).
            "supe": {"bonus_from": 10_000, "novelty_from": 0},
        },
        presets={
            "smoke": _SUPE_PRESETS["smoke"]
            | {
                "supe": _SUPE_PRESETS["smoke"]["supe"] | {"bonus_from": 400, "novelty_from": 0},
                "easing": {"updates": 250, "steps": 400},
                "raw": {"hidden": (64, 64), "critics": 3, "cloning_steps": 400},
                "deployment": {"trial_episodes": 1},
                "gate": {
                    "earliest_step": 800,
                    "latest_step": 1_200,
                    "ramp_steps": 200,
                    "plateau_window": 400,
                },
            },
            "quick": _SUPE_PRESETS["quick"]
            | {
                "sac": _SUPE_PRESETS["quick"]["sac"] | {"actor_every": 4},
                "gate": {"earliest_step": 50_000, "latest_step": 70_000},
            },
        },
    ),
    "bc": Method(
        build=lambda c: BC(c.bc),
        sections=("bc",),
        settings={"online": {"steps": 0}},
        presets={"smoke": {"bc": {"updates": 1_000, "hidden": (64, 64)}}},
    ),
}

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "transitions": 5_000,
        "checkpoint_every": 500,
        "log_every": 250,
        "prior": {"updates": 500, "hidden": (64, 64)},
        "offline": {"updates": 1_000},
        "learner": {
            "hidden": (64, 64),
            "critics": 3,
            "warmup_steps": 100,
            "regression_steps": 200,
            "cloning_steps": 500,
        },
        "gate": {
            "earliest_step": 500,
            "latest_step": 750,
            "ramp_steps": 250,
            "plateau_window": 250,
        },
        "online": {"steps": 1_500, "learning_starts": 100},
        "deployment": {"trial_episodes": 1, "every": 250},
        "evaluation": {"every": 500, "episodes": 3},
    },
    "quick": {
        "transitions": 300_000,
        "prior": {"updates": 10_000},
        "offline": {"updates": 15_000},
        "gate": {
            "earliest_step": 6_000,
            "latest_step": 8_000,
            "plateau_window": 2_000,
            "ramp_steps": 1_000,
        },
        "online": {"steps": 20_000, "utd": 2},
    },
    "full": {
        "gate": {"earliest_step": 20_000},
        "online": {"utd": 2},
    },
}


def preset_config(
    task: str, method: str = "spaars", preset: str = "quick", **changes: Any
) -> TrainConfig:
    """The configuration of a method and preset; nested changes are given as dicts.

    >>> preset_config("hopper-medium", online={"steps": 10_000}, seeds=(0, 1))
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    config = TrainConfig(task=task, method=method, preset=preset)  # type: ignore[arg-type]
    own = METHODS[method]
    of_task = get_task(task).settings
    layers = (of_task.get("", {}), PRESETS[preset], own.settings, own.presets.get(preset, {}))
    for layer in (*layers, of_task.get(method, {}), changes):
        config = override(config, layer)
    return config


def override(config: Any, changes: Mapping[str, Any], path: str = "") -> Any:
    """`dataclasses.replace`, nested; an unknown field is an error that suggests the nearest."""
    known = {field.name for field in dataclasses.fields(config)}
    new = {}
    for name, value in changes.items():
        if name not in known:
            raise unknown_name("config field", path + name, (path + n for n in known))
        old = getattr(config, name)
        nested = dataclasses.is_dataclass(old) and isinstance(value, Mapping)
        if isinstance(value, list):  # as JSON and TOML give it, and as many write it
            value = tuple(value)
        new[name] = override(old, value, f"{path}{name}.") if nested else value
    return dataclasses.replace(config, **new)


# Flags that `resolved` gives a value where they are left open.
FILLED_IN = ("--prior.latent-dim", "--online.replay-capacity", "--iql.reward-scale")

# Flags that say how a run is computed, not what comes out.
WITHOUT_EFFECT = ("--online.env-processes", "--device-memory-gib")


def resolved(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """What is left open, filled in, so that config.json says it all."""
    open_fields: dict[str, Any] = {
        "dataset": absolute(config.dataset) if config.dataset is not None else None,
        "prior_from": config.prior_from.resolve() if config.prior_from is not None else None,
        "online": {"replay_capacity": config.online.replay_capacity or config.online.steps or None},
    }
    read = METHODS[config.method].sections
    if "prior" in read:
        open_fields["prior"] = {"latent_dim": config.prior.latent_dim or dataset.action_dim}
    if "iql" in read and config.iql.reward_scale is None:
        open_fields["iql"] = {"reward_scale": published_reward_scale(dataset)}
    return override(config, open_fields)


def published_reward_scale(dataset: Dataset) -> float:
    """1000 / (best - worst return) over the dataset's whole episodes (IQL's locomotion recipe).

    1 where fewer than two episodes differ.
    """
    returns = dataset.episode_returns()
    span = float(returns.max() - returns.min()) if len(returns) else 0.0
    return 1_000.0 / span if span > 0.0 else 1.0


def to_json(config: Any) -> dict[str, Any]:
    """Nested plain values; paths become strings."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


GONE = {"online": {"follow_rate": 0.0, "n_steps": 1}}
"""Fields that versions before had, with the value at which they did nothing."""


def from_json(values: Mapping[str, Any]) -> TrainConfig:
    """The inverse of `to_json`. Unknown fields are refused, but for those of `GONE`."""

    def tuples(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    values = {name: tuples(value) for name, value in values.items()}
    for section, fields in GONE.items():
        if isinstance(own := values.get(section), Mapping):
            left = {n: v for n, v in own.items() if n not in fields or v != fields[n]}
            values[section] = left
    for name in ("dataset", "prior_from"):
        if values.get(name) is not None:
            values[name] = Path(values[name])
    return override(TrainConfig(task=values["task"]), values)


def missing(values: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Flags that matter to the method and that `values`, the JSON of `config`, do not mention."""
    unread = {name for method in METHODS.values() for name in method.sections}
    unread -= set(METHODS[config.method].sections)
    return [flag for flag in _missing(values, config) if flag[2:].split(".")[0] not in unread]


def _missing(values: Mapping[str, Any], config: Any, path: str = "--") -> list[str]:
    found = []
    for field in dataclasses.fields(config):
        flag, value = f"{path}{field.name}".replace("_", "-"), getattr(config, field.name)
        if field.name not in values:
            if flag not in WITHOUT_EFFECT:
                found.append(flag)
        elif dataclasses.is_dataclass(value):
            found += _missing(values[field.name], value, f"{flag}.")
    return found
