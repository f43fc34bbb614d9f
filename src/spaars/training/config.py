"""The configuration of a run: frozen, complete, and the source of the command line's flags."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from spaars.algos.agent import Agent
from spaars.algos.bc import BC, BCConfig
from spaars.algos.config import LearnerConfig, OfflineConfig
from spaars.algos.gate import GateConfig
from spaars.algos.iql import IQL, IQLConfig
from spaars.algos.sac import SAC, SACConfig
from spaars.algos.spaars import Spaars
from spaars.data import Dataset
from spaars.errors import ConfigError, unknown_name
from spaars.priors.cvae import PriorConfig
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
    """spaars, latent-only (its gate never opens), or a peer: iql, rlpd, sac, bc."""
    preset: Preset = "quick"
    """Starting point of all other values: smoke (a minute, touches every phase), quick (minutes),
    full (hours)."""
    seeds: tuple[int, ...] = (0,)
    """Seeds trained side by side in one process."""
    dataset: Path | None = None
    """D4RL HDF5 or npz file; None records the task's embedded behaviour policy."""
    transitions: int = 1_000_000
    """Transitions recorded when no dataset is given."""
    checkpoint_every: int = 5_000
    """Updates (offline) or environment steps (online) between two checkpoints."""
    log_every: int = 1_000
    """Updates (offline) or environment steps (online) between two lines of metrics."""
    prior: PriorConfig = PriorConfig()
    offline: OfflineConfig = OfflineConfig()
    learner: LearnerConfig = LearnerConfig()
    gate: GateConfig = GateConfig()
    online: OnlineConfig = OnlineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    deployment: DeploymentConfig = DeploymentConfig()
    iql: IQLConfig = IQLConfig()
    sac: SACConfig = SACConfig()
    bc: BCConfig = BCConfig()

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


# The harness (data, replay, envs, evaluation) is shared, so that a comparison differs in the
# agent alone. The peers' settings are the published ones (design section 4) where they can run
# on two cores; a comment says where not.
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
                "start_fraction": 0.0,
                "recent_fraction": 0.0,
                "learning_starts": 0,
            },
            "deployment": {"rule": "latest"},
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
                "start_fraction": 0.0,
                "recent_fraction": 0.0,
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
            "deployment": {"rule": "latest"},
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
                "start_fraction": 0.0,
                "recent_fraction": 0.0,
                "random_steps": 5_000,
                "learning_starts": 5_000,
            },
            "deployment": {"rule": "latest"},
        },
        presets={
            "smoke": {
                "online": {"random_steps": 500, "learning_starts": 500},
                "sac": {"hidden": (64, 64)},
            }
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
    for layer in (PRESETS[preset], own.settings, own.presets.get(preset, {}), changes):
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
        new[name] = override(old, value, f"{path}{name}.") if nested else value
    return dataclasses.replace(config, **new)


def check(config: TrainConfig) -> None:
    """Refuse what contradicts itself, naming the flags and the remedy."""
    c = config
    check_fields(c)
    if c.method not in METHODS:
        raise unknown_name("method", c.method, METHODS)
    if not c.seeds or len(set(c.seeds)) != len(c.seeds) or max(c.seeds) >= 2**32:
        raise ConfigError(f"--seeds must be distinct integers from 0 to 2^32 - 1, got {c.seeds}.")
    if c.method == "latent-only" and c.gate.rule != "never":
        raise ConfigError(
            f"--method latent-only means --gate.rule never, got '{c.gate.rule}'. "
            "Use --method spaars to choose a gate."
        )
    if (c.gate.rule == "step") != (c.gate.step is not None):
        raise ConfigError("--gate.rule step and --gate.step N go together; give both or neither.")
    positive = {
        "--transitions": c.transitions,
        "--checkpoint-every": c.checkpoint_every,
        "--log-every": c.log_every,
        "--learner.critics": c.learner.critics,
        "--learner.batch-size": c.learner.batch_size,
        "--offline.batch-size": c.offline.batch_size,
        "--prior.latent-dim": c.prior.latent_dim if c.prior.latent_dim is not None else 1,
        "--online.chunk": c.online.chunk,
        "--online.start-steps": c.online.start_steps,
        "--online.recent-steps": c.online.recent_steps,
        "--online.utd": c.online.utd,
        "--evaluation.every": c.evaluation.every,
        "--evaluation.episodes": c.evaluation.episodes,
        "--iql.batch-size": c.iql.batch_size,
        "--deployment.trial-episodes": c.deployment.trial_episodes,
        "--sac.batch-size": c.sac.batch_size,
        "--sac.critics": c.sac.critics,
        "--sac.actor-every": c.sac.actor_every,
        "--sac.target-subset": c.sac.target_subset if c.sac.target_subset is not None else 1,
        "--bc.batch-size": c.bc.batch_size,
    }
    for flag, value in positive.items():
        if value < 1:
            raise ConfigError(f"{flag} must be at least 1, got {value}.")
    for flag, value in {
        "--online.steps": c.online.steps,
        "--evaluation.every": c.evaluation.every,
        "--log-every": c.log_every,
        "--checkpoint-every": c.checkpoint_every,
    }.items():
        if value % c.online.chunk:
            raise ConfigError(
                f"{flag} must be a multiple of --online.chunk ({c.online.chunk}), got {value}: "
                "the run only looks up between two chunks."
            )
    if c.deployment.rule == "proven" and c.online.random_steps:
        raise ConfigError(
            "--deployment.rule proven needs a policy from the first step on, but "
            f"--online.random-steps is {c.online.random_steps}. Use --deployment.rule latest."
        )
    if c.deployment.every < c.online.chunk:
        raise ConfigError(
            f"--deployment.every must be at least --online.chunk ({c.online.chunk}), got "
            f"{c.deployment.every}: candidates are taken between two chunks."
        )
    if c.method == "bc" and c.online.steps:
        raise ConfigError("--method bc learns from the logged data only: leave --online.steps 0.")
    if c.method in ("rlpd", "sac") and not c.online.steps:
        raise ConfigError(f"--method {c.method} learns online only: give it --online.steps.")
    for flag, steps in {
        "--online.learning-starts": c.online.learning_starts,
        "--online.random-steps": c.online.random_steps,
    }.items():
        if c.online.steps and steps >= c.online.steps:
            raise ConfigError(
                f"{flag} ({steps}) must be below --online.steps ({c.online.steps}): nothing would "
                "be learned online."
            )
    if c.online.offline_fraction is None and (c.online.start_fraction or c.online.recent_fraction):
        raise ConfigError(
            "--online.offline-fraction None draws every row alike: set --online.start-fraction and "
            "--online.recent-fraction to 0."
        )
    if (c.sac.target_subset or 1) > c.sac.critics:
        raise ConfigError(
            f"--sac.target-subset ({c.sac.target_subset}) is more than --sac.critics "
            f"({c.sac.critics})."
        )
    for flag, share in {
        "--online.offline-fraction": c.online.offline_fraction or 0.0,
        "--online.start-fraction": c.online.start_fraction,
        "--online.recent-fraction": c.online.recent_fraction,
        "--deployment.rollback": c.deployment.rollback or 0.0,
        "--deployment.caution": c.deployment.caution or 0.0,
        "--gate.raw-share-cap": c.gate.raw_share_cap,
    }.items():
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"{flag} must lie in [0, 1], got {share}.")
    for flag, share in {
        "--learner.discount": c.learner.discount,
        "--offline.expectile": c.offline.expectile,
        "--offline.tau": c.offline.tau,
        "--learner.tau": c.learner.tau,
        "--learner.average-tau": c.learner.average_tau,
        "--iql.discount": c.iql.discount,
        "--iql.expectile": c.iql.expectile,
        "--iql.tau": c.iql.tau,
        "--sac.discount": c.sac.discount,
        "--sac.tau": c.sac.tau,
    }.items():
        if not 0.0 < share < 1.0:
            raise ConfigError(f"{flag} must lie in (0, 1), got {share}.")
    gated = "gate" in METHODS[c.method].sections and c.online.steps > 0
    watched = {
        "advantage": {"--gate.plateau-window": c.gate.plateau_window},
        "step": {"--gate.step": c.gate.step or 0},
    }.get(c.gate.rule if gated else "never", {})
    for flag, steps in watched.items():
        if steps < 1 or steps % c.log_every:
            raise ConfigError(
                f"{flag} must be a positive multiple of --log-every ({c.log_every}), got {steps}: "
                "the hand-over is decided when metrics are logged."
            )
    if gated and c.gate.rule == "step" and (c.gate.step or 0) >= c.online.steps:
        raise ConfigError(
            f"--gate.step ({c.gate.step}) must come before --online.steps ({c.online.steps})."
        )
    for flag, size in {
        "--learner.learning-rate": c.learner.learning_rate,
        "--learner.learning-rate-end": c.learner.learning_rate_end,
        "--offline.learning-rate": c.offline.learning_rate,
        "--learner.initial-temperature": c.learner.initial_temperature,
        "--prior.latent-bound": c.prior.latent_bound,
        "--iql.learning-rate": c.iql.learning_rate,
        "--iql.reward-scale": c.iql.reward_scale if c.iql.reward_scale is not None else 1.0,
        "--sac.learning-rate": c.sac.learning_rate,
        "--sac.initial-temperature": c.sac.initial_temperature,
        "--bc.learning-rate": c.bc.learning_rate,
    }.items():
        if not size > 0.0:
            raise ConfigError(f"{flag} must be positive, got {size}.")
    if c.gate.earliest_step > c.gate.latest_step:
        raise ConfigError(
            f"--gate.earliest-step ({c.gate.earliest_step}) is after --gate.latest-step "
            f"({c.gate.latest_step})."
        )
    capacity = c.online.replay_capacity
    if capacity is not None and capacity < c.online.chunk:
        raise ConfigError(
            f"--online.replay-capacity ({capacity}) must hold at least one --online.chunk "
            f"({c.online.chunk})."
        )


def refuse_unread(config: TrainConfig) -> None:
    """A setting that the method does not read would be a silent mistake.

    For what is asked for; the configuration of an old run may stem from other defaults.
    """
    default = preset_config(config.task, config.method, config.preset)
    read = METHODS[config.method].sections
    sections = {name for method in METHODS.values() for name in method.sections}
    for section in sorted(sections - set(read)):
        mine, theirs = getattr(config, section), getattr(default, section)
        for field in dataclasses.fields(mine):
            if getattr(mine, field.name) != getattr(theirs, field.name):
                flag = f"--{section}.{field.name}".replace("_", "-")
                raise ConfigError(
                    f"--method {config.method} does not read {flag}. Leave it out; it reads "
                    + ", ".join(f"--{name}.*" for name in (*read, "online", "evaluation"))
                    + "."
                )


def check_fields(config: Any, path: str = "") -> None:
    """Every field, whatever its meaning: of its type, finite, not negative, a known choice."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flag = f"--{path}{field.name}".replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{path}{field.name}.")
            continue
        choices = get_args(hints[field.name]) if get_origin(hints[field.name]) is Literal else ()
        if choices and value not in choices:
            raise unknown_name(f"{flag} choice", str(value), choices)
        numbers = value if isinstance(value, tuple) else (value,)
        wanted = str(field.type)
        for number in numbers:
            if ("int" in wanted or "float" in wanted) and number is not None:
                whole = isinstance(number, int) or "float" in wanted
                if isinstance(number, (str, bool)) or not whole or not 0 <= number < math.inf:
                    kind = "finite number" if "float" in wanted else "whole number"
                    raise ConfigError(f"{flag} must be a {kind}, not negative, got {number!r}.")
        if field.name == "hidden" and (not numbers or min(numbers) < 1):
            raise ConfigError(f"{flag} must list layer widths of at least 1, got {value}.")


# Flags that `resolved` gives a value where they are left open.
FILLED_IN = ("--prior.latent-dim", "--online.replay-capacity", "--iql.reward-scale")


def resolved(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """What is left open, filled in, so that config.json says it all."""
    open_fields: dict[str, Any] = {
        "dataset": config.dataset.resolve() if config.dataset is not None else None,
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


def from_json(values: Mapping[str, Any]) -> TrainConfig:
    """The inverse of `to_json`; unknown fields are refused."""

    def tuples(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    values = {name: tuples(value) for name, value in values.items()}
    if values.get("dataset") is not None:
        values["dataset"] = Path(values["dataset"])
    return override(TrainConfig(task=values["task"]), values)
