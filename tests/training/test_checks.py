import json

import pytest

from spaars.errors import ConfigError
from spaars.training.checks import check, refuse_unread
from spaars.training.config import (
    METHODS,
    TrainConfig,
    from_json,
    override,
    preset_config,
    to_json,
)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"method": "sparrs"}, "unknown method"),
        ({"seeds": ()}, "--seeds"),
        ({"seeds": (1, 1)}, "--seeds"),
        ({"seeds": (-1, 2)}, "--seeds"),
        ({"method": "latent-only"}, "--gate.rule never"),
        ({"gate": {"rule": "step"}}, "--gate.step"),
        ({"gate": {"step": 50}}, "--gate.step"),
        ({"gate": {"earliest_step": 200, "latest_step": 100}}, "--gate.earliest-step"),
        ({"gate": {"raw_share_cap": 1.5}}, "--gate.raw-share-cap"),
        ({"transitions": 0}, "--transitions"),
        ({"checkpoint_every": 0}, "--checkpoint-every"),
        ({"checkpoint_every": 75}, "--checkpoint-every"),
        ({"log_every": 0}, "--log-every"),
        ({"log_every": 75}, "--log-every"),
        ({"learner": {"critics": 0}}, "--learner.critics"),
        ({"learner": {"batch_size": 0}}, "--learner.batch-size"),
        ({"learner": {"discount": 1.0}}, "--learner.discount"),
        ({"learner": {"discount": 0.0}}, "--learner.discount"),
        ({"learner": {"tau": 0.0}}, "--learner.tau"),
        ({"learner": {"tau": 1.0}}, "--learner.tau"),
        ({"offline": {"expectile": 1.0}}, "--offline.expectile"),
        ({"offline": {"expectile": 0.0}}, "--offline.expectile"),
        ({"prior": {"latent_dim": 0}}, "--prior.latent-dim"),
        ({"online": {"steps": 75}}, "--online.steps"),
        ({"online": {"chunk": 0}}, "--online.chunk"),
        ({"online": {"utd": 0}}, "--online.utd"),
        ({"deployment": {"steadiness": 1.5}}, "--deployment.steadiness"),
        ({"online": {"offline_fraction": -0.1}}, "--online.offline-fraction"),
        ({"online": {"offline_fraction": 1.1}}, "--online.offline-fraction"),
        ({"online": {"replay_capacity": 49}}, "--online.replay-capacity"),
        ({"evaluation": {"every": 0}}, "--evaluation.every"),
        ({"evaluation": {"every": 75}}, "--evaluation.every"),
        ({"evaluation": {"episodes": 0}}, "--evaluation.episodes"),
        ({"method": "bc", "online": {"steps": 50}}, "--online.steps 0"),
        ({"method": "sac", "online": {"steps": 0}}, "give it --online.steps"),
        ({"method": "sac", "online": {"steps": 5_000}}, "--online.learning-starts (5000)"),
        ({"method": "rlpd", "sac": {"target_subset": 11}}, "--sac.target-subset (11)"),
        ({"method": "rlpd", "deployment": {"rule": "proven"}}, "--deployment.rule latest"),
        ({"deployment": {"every": 0}}, "--deployment.every"),
        ({"deployment": {"rollback": 20.0}}, "--deployment.rollback"),
        ({"deployment": {"trial_episodes": 0}}, "--deployment.trial-episodes"),
        ({"online": {"offline_fraction": None}}, "--online.start-fraction"),
    ],
)
def test_contradictions_are_refused_by_the_name_of_the_flag(changes, flag):
    changes = dict(changes)
    method = changes.pop("method", "spaars")
    if method in METHODS and method != "latent-only":
        config = preset_config("hopper-medium", method, **changes)
    else:
        config = override(TrainConfig(task="hopper-medium"), {"method": method, **changes})
    with pytest.raises(ConfigError) as error:
        check(config)
    assert flag in str(error.value)


@pytest.mark.usefixtures("point_task")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"safety": {"action_low": (-1.5,)}}, r"--safety.action-low .* the env's own bounds"),
        ({"safety": {"action_high": (1.0, 1.0, 1.0)}}, "--safety.action-high takes .* the 2 dim"),
        ({"safety": {"action_low": (0.5,), "action_high": (0.2,)}}, "must be below --safety.act"),
        ({"safety": {"action_low": (float("nan"),)}}, "--safety.action-low must be a finite num"),
        ({"safety": {"rate_limit": (0.0,)}}, "--safety.rate-limit must be positive"),
        ({"safety": {"rate_limit": (-0.1,)}}, "--safety.rate-limit must be .*, not negative"),
        ({"safety": {"budget": {"window": 0}}}, "--safety.budget.window must be at least 1"),
        ({"safety": {"budget": {"falls": -1}}}, "--safety.budget.falls must be .* not negative"),
        ({"safety": {"budget": {"dip": 1.5}}}, r"--safety.budget.dip must lie in .0, 1."),
        (
            {"safety": {"budget": {"cost": 1.0}}},
            "which point does not report. .* --safety.budget.f",
        ),
        (
            {"safety": {"budget": {"falls": 1}}, "deployment": {"rule": "latest"}},
            "--safety.budget.. needs a deployed policy .* --deployment.rule proven",
        ),
        ({"safety": {"budget": {"falls": 1}}, "online": {"steps": 0}}, "--online.steps is 0"),
        ({"gate": {"shadow": True, "rule": "never"}}, "--gate.shadow shows .* --gate.rule never"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(preset_config("point", preset="smoke", **changes))


@pytest.mark.usefixtures("point_task")
@pytest.mark.parametrize(
    "safety",
    [
        {"action_low": (-1.0,), "action_high": (0.5, 1.0), "rate_limit": (0.1, 3.0)},
        {"budget": {"falls": 0, "cost": 0.0, "dip": 0.0, "window": 1}},
    ],
)
def test_limits_that_can_be_kept_are_not_refused(safety: dict) -> None:
    config = preset_config("point-cost", preset="smoke", safety=safety)
    check(config)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"online": {"steps": 0}},
        {"gate": {"earliest_step": 100, "latest_step": 100}},
        {"gate": {"rule": "step", "step": 1_000}},
        {"gate": {"raw_share_cap": 0.0}},
        {"online": {"offline_fraction": 0.0}},
        {"online": {"offline_fraction": 1.0}},
        {"online": {"replay_capacity": 50}},
        {"method": "latent-only", "gate": {"rule": "never"}},
    ],
)
def test_what_is_just_allowed_is_not_refused(changes):
    check(override(TrainConfig(task="hopper-medium"), changes))


@pytest.mark.parametrize(
    ("method", "changes", "flag"),
    [
        ("spaars", {"sac": {"critics": 3}}, "--sac.critics"),
        ("rlpd", {"gate": {"pessimism": 1.0}}, "--gate.pessimism"),
        ("iql", {"offline": {"expectile": 0.9}}, "--offline.expectile"),
    ],
)
def test_settings_that_the_method_does_not_read_are_refused(method, changes, flag):
    asked = preset_config("hopper-medium", method, **changes)
    with pytest.raises(ConfigError) as error:
        refuse_unread(asked)
    assert flag in str(error.value)
    check(asked)  # an old run under other defaults can still be read
    refuse_unread(preset_config("hopper-medium", method))


@pytest.mark.usefixtures("point_task")
@pytest.mark.parametrize("method", ["supe", "spaars-supe"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "hopper-medium"}, "may end inside a skill"),
        ({"opal": {"skill_length": 1}}, "--opal.skill-length must be at least 2"),
        ({"opal": {"skill_length": 3}}, "does not divide the 40 steps"),
        (
            {"opal": {"skill_length": 20}, "online": {"chunk": 50}},
            "--online.chunk .50. must be a multiple of .* .20., such as 40",
        ),
        ({"online": {"replay_capacity": 42}}, "--online.replay-capacity .42. must be a multiple"),
        (
            {"opal": {"skill_length": 16}, "online": {"chunk": 80}, "log_every": 400},
            "does not divide the 40 steps .* Choose 2 or 4 or 5 or 8 or 10",
        ),
        ({"online": {"offline_fraction": 1.0}}, "its own steps"),
        ({"online": {"offline_fraction": None}}, "its own steps"),
        ({"online": {"start_fraction": 0.4}}, "leave out --online.start-fraction"),
        ({"online": {"recent_fraction": 0.4}}, "leave out --online.recent-fraction"),
        ({"opal": {"decoder_columns": (0, 4)}}, "columns 0 to 3"),
        ({"opal": {"decoder_columns": (1, 1)}}, "must be distinct columns"),
        ({"opal": {"decoder_columns": ()}}, "must be distinct columns"),
        ({"online": {"splice_rate": 1.5}}, r"--online.splice-rate must lie in \[0, 1\]"),
        ({"online": {"splice_rate": 0.6, "retrace_rate": 0.6}}, "they sum to more than 1"),
        (
            {
                "online": {"splice_rate": 0.5, "retrace_rate": 0.5},
                "deployment": {"rule": "proven"},
            },
            "leave no episode in which",
        ),
        ({"online": {"best_episodes": 129}}, "--online.best-episodes must be at most 128"),
        ({"online": {"random_steps": 100}, "deployment": {"rule": "latest"}}, "--online.random-st"),
    ],
)
def test_what_skills_cannot_do_is_refused(method: str, changes: dict, words: str) -> None:
    task = changes.get("task", "point-on")
    rest = {name: value for name, value in changes.items() if name != "task"}
    check(preset_config("point-on", method, "smoke"))
    with pytest.raises(ConfigError, match=words):
        check(preset_config(task, method, "smoke", **rest))


@pytest.mark.parametrize("option", ["splice_rate", "retrace_rate", "best_fraction"])
def test_retracing_needs_skills(option: str) -> None:
    flag = option.replace("_", "-")
    with pytest.raises(ConfigError, match=rf"spaars has no skills; leave out --online\.{flag}"):
        check(preset_config("hopper-medium", "spaars", "smoke", online={option: 0.1}))
