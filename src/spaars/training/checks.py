"""Configurations that contradict themselves are refused before anything is computed."""

import dataclasses
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from spaars.data.replay import logged_rows
from spaars.data.rows import BEST_KEPT
from spaars.errors import ConfigError, unknown_name
from spaars.tasks import get_task
from spaars.tasks.any_env import time_limit
from spaars.training.config import METHODS, PRIORS, TrainConfig, preset_config


def check(config: TrainConfig) -> None:
    """Refuse what contradicts itself, naming the flags and the remedy."""
    c = config
    check_fields(c)
    if c.method not in METHODS:
        raise unknown_name("method", c.method, METHODS)
    if not c.seeds or len(set(c.seeds)) != len(c.seeds) or max(c.seeds) >= 2**32:
        raise ConfigError(f"--seeds must be distinct integers from 0 to 2^32 - 1, got {c.seeds}.")
    if c.prior_from is not None and not {*PRIORS} & {*METHODS[c.method].sections}:
        raise ConfigError(f"--method {c.method} has no behaviour prior; leave --prior-from out.")
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
        "--online.recent-episodes": c.online.recent_episodes,
        "--online.utd": c.online.utd,
        "--online.env-processes": 1 if c.online.env_processes is None else c.online.env_processes,
        "--evaluation.every": c.evaluation.every,
        "--evaluation.episodes": c.evaluation.episodes,
        "--iql.batch-size": c.iql.batch_size,
        "--deployment.trial-episodes": c.deployment.trial_episodes,
        "--sac.batch-size": c.sac.batch_size,
        "--sac.critics": c.sac.critics,
        "--sac.actor-every": c.sac.actor_every,
        "--sac.target-subset": c.sac.target_subset if c.sac.target_subset is not None else 1,
        "--bc.batch-size": c.bc.batch_size,
        "--online.best-episodes": c.online.best_episodes,
        "--opal.skill-length": c.opal.skill_length,
        "--opal.latent-dim": c.opal.latent_dim,
        "--opal.recurrent": c.opal.recurrent,
        "--opal.batch-size": c.opal.batch_size,
        "--supe.novelty-features": c.supe.novelty_features,
        "--raw.critics": c.raw.critics,
        "--safety.budget.window": c.safety.budget.window,
    }
    for flag, value in positive.items():
        if value < 1:
            raise ConfigError(f"{flag} must be at least 1, got {value}.")
    _check_skills(c)
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
    _check_safety(c)
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
    if c.device_memory_gib is not None and not c.device_memory_gib >= 0.0:
        raise ConfigError(
            f"--device-memory-gib must be at least 0, got {c.device_memory_gib}. Leave it out to "
            "use what the device has."
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
        "--online.retrace-rate": c.online.retrace_rate,
        "--online.splice-rate": c.online.splice_rate,
        "--online.best-fraction": c.online.best_fraction,
        "--deployment.rollback": c.deployment.rollback or 0.0,
        "--deployment.steadiness": c.deployment.steadiness or 0.0,
        "--deployment.caution": c.deployment.caution or 0.0,
        "--safety.budget.dip": c.safety.budget.dip or 0.0,
        "--gate.raw-share-cap": c.gate.raw_share_cap,
    }.items():
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"{flag} must lie in [0, 1], got {share}.")
    if c.online.retrace_rate + c.online.splice_rate > 1.0:
        raise ConfigError(
            f"--online.retrace-rate ({c.online.retrace_rate}) and --online.splice-rate "
            f"({c.online.splice_rate}) are shares of the same episodes; they sum to more than 1."
        )
    if c.online.retrace_rate + c.online.splice_rate == 1.0 and c.deployment.rule == "proven":
        raise ConfigError(
            f"--online.retrace-rate ({c.online.retrace_rate}) and --online.splice-rate "
            f"({c.online.splice_rate}) leave no episode in which the policy itself explores, and "
            "without one none is ever tried and deployed. Lower one of them."
        )
    if c.online.best_episodes > BEST_KEPT:
        raise ConfigError(
            f"--online.best-episodes must be at most {BEST_KEPT}, got {c.online.best_episodes}."
        )
    for flag, share in {
        "--learner.discount": c.learner.discount,
        "--offline.expectile": c.offline.expectile,
        "--offline.tau": c.offline.tau,
        "--learner.tau": c.learner.tau,
        "--learner.average-tau": c.learner.average_tau,
        "--iql.discount": c.iql.discount,
        "--iql.expectile": c.iql.expectile,
        "--iql.tau": c.iql.tau,
        "--raw.discount": c.raw.discount,
        "--raw.tau": c.raw.tau,
        "--sac.discount": c.sac.discount,
        "--sac.tau": c.sac.tau,
    }.items():
        if not 0.0 < share < 1.0:
            raise ConfigError(f"{flag} must lie in (0, 1), got {share}.")
    if not 0.0 <= c.iql.actor_dropout < 1.0:
        raise ConfigError(f"--iql.actor-dropout must lie in [0, 1), got {c.iql.actor_dropout}.")
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
        "--opal.learning-rate": c.opal.learning_rate,
        "--raw.learning-rate": c.raw.learning_rate,
        "--supe.learning-rate": c.supe.learning_rate,
        "--supe.novelty-learning-rate": c.supe.novelty_learning_rate,
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


def _check_skills(c: TrainConfig) -> None:
    """Whole skills everywhere: they begin at fixed steps of the run."""
    if "opal" not in METHODS[c.method].sections:
        for flag, value in {
            "--online.retrace-rate": c.online.retrace_rate,
            "--online.splice-rate": c.online.splice_rate,
            "--online.best-fraction": c.online.best_fraction,
        }.items():
            if value:
                raise ConfigError(f"--method {c.method} has no skills; leave out {flag}.")
        return
    length, task = c.opal.skill_length, get_task(c.task)
    if length < 2:
        raise ConfigError(f"--opal.skill-length must be at least 2, got {length}.")
    if task.whole_episodes is False:
        raise ConfigError(
            f"--method {c.method}: an episode of {c.task} may end inside a skill, which would be "
            "cut short. It needs a task whose training episodes go on until their time limit, such "
            "as kitchen-mixed."
        )
    env = task.make_env(training=True)
    limit = time_limit(env)
    assert env.observation_space.shape is not None
    (observed,) = env.observation_space.shape
    env.close()
    columns = c.opal.decoder_columns
    if columns is not None and (len({*columns}) != len(columns) or not columns):
        raise ConfigError(f"--opal.decoder-columns must be distinct columns, got {columns}.")
    if columns is not None and max(columns) >= observed:
        raise ConfigError(
            f"--opal.decoder-columns {columns}: observations of {c.task} have columns 0 to "
            f"{observed - 1}."
        )
    if limit is None:
        raise ConfigError(
            f"--method {c.method}: {c.task} has no time limit that is known. Register it with "
            "max_episode_steps, or wrap it in gymnasium.wrappers.TimeLimit: skills must fit into "
            "an episode."
        )
    if limit % length:
        whole = [str(n) for n in range(2, 11) if limit % n == 0]
        raise ConfigError(
            f"--opal.skill-length ({length}) does not divide the {limit} steps of an episode of "
            f"{c.task}: the last skill would be cut short. "
            + (f"Choose {' or '.join(whole)}." if whole else "Give the env another time limit.")
        )
    for flag, steps in {
        "--online.chunk": c.online.chunk,
        "--online.replay-capacity": c.online.replay_capacity or length,
    }.items():
        if steps % length:
            near = max(steps - steps % length, length)
            raise ConfigError(
                f"{flag} ({steps}) must be a multiple of --opal.skill-length ({length}), such as "
                f"{near}."
            )
    share, batch = c.online.offline_fraction, c.sac.batch_size
    if share is None or logged_rows(batch, share) == batch:
        raise ConfigError(
            f"--method {c.method} learns what rewards are from its own steps: give "
            f"--online.offline-fraction a number that leaves some of a batch of {batch} to them, "
            f"got {share}."
        )
    eased = "easing" in METHODS[c.method].sections and c.easing.updates > 0
    if eased and not logged_rows(batch, share):
        raise ConfigError(
            f"--method {c.method} first clones the logged skills of a batch: give "
            f"--online.offline-fraction a number that leaves them some of its {batch} rows, got "
            f"{share}, or set --easing.updates to 0."
        )
    for flag, value in {
        "--online.random-steps": c.online.random_steps,
        "--online.start-fraction": c.online.start_fraction,
        "--online.recent-fraction": c.online.recent_fraction,
    }.items():
        if value:
            raise ConfigError(f"--method {c.method} acts and learns by skills; leave out {flag}.")


def _check_safety(c: TrainConfig) -> None:
    """Limits that fit the env's actions, budgets that have something to count and to go back to."""
    if c.gate.shadow and c.gate.rule == "never":
        raise ConfigError(
            "--gate.shadow shows what a gate would do, but --gate.rule never has none. Leave "
            "--gate.shadow out, or use --method spaars with --gate.rule advantage."
        )
    budget = c.safety.budget
    if budget.limits and not c.online.steps:
        raise ConfigError("--safety.budget.* counts online steps, but --online.steps is 0.")
    if budget.limits and c.deployment.rule == "latest":
        raise ConfigError(
            "--safety.budget.* needs a deployed policy to go back to, and --deployment.rule latest "
            "keeps none. Use --deployment.rule proven."
        )
    if not (c.safety.limits_actions or budget.cost is not None):
        return
    env = get_task(c.task).make_env(training=True)
    try:
        c.safety.envelope(env.action_space)
        if budget.cost is not None:
            env.reset(seed=0)
            *_, info = env.step(np.zeros(env.action_space.shape, np.float32))
            if "cost" not in info:
                raise ConfigError(
                    f"--safety.budget.cost counts info['cost'], which {c.task} does not report. "
                    "Have the env report it at every step, 0.0 where nothing is violated, or use "
                    "--safety.budget.falls."
                )
    finally:
        env.close()


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
                signed = field.metadata.get("signed", False)
                number_like = whole and not isinstance(number, (str, bool))
                if not number_like or not (number >= 0 or signed) or not math.isfinite(number):
                    kind = "finite number" if "float" in wanted else "whole number"
                    kind += "" if signed else ", not negative"
                    raise ConfigError(f"{flag} must be a {kind}, got {number!r}.")
        if field.name == "hidden" and (not numbers or min(numbers) < 1):
            raise ConfigError(f"{flag} must list layer widths of at least 1, got {value}.")
