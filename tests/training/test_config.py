import dataclasses
import json
from pathlib import Path

import pytest

from spaars.errors import ConfigError
from spaars.training.checks import check
from spaars.training.config import (
    METHODS,
    PRESETS,
    TrainConfig,
    from_json,
    override,
    preset_config,
    to_json,
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_of_every_method_is_consistent(method, preset):
    skills = "opal" in METHODS[method].sections
    config = preset_config("kitchen-mixed" if skills else "hopper-medium", method, preset)
    check(config)
    assert (config.method, config.preset) == (method, preset)
    hash(config.agent())  # jit needs it
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_json_round_trip_of_everything_that_is_not_plain():
    config = preset_config(
        "hopper-medium",
        seeds=(3, 1),
        dataset=Path("some/where.npz"),
        prior={"hidden": (7, 8, 9), "latent_dim": 2},
        gate={"rule": "step", "step": 50},
        online={"replay_capacity": 1_000},
    )
    again = from_json(json.loads(json.dumps(to_json(config))))
    assert again == config
    assert isinstance(again.dataset, Path)
    assert hash(again.agent()) == hash(config.agent())  # lists would not hash


def test_lists_are_taken_for_tuples():
    config = preset_config("hopper-medium", seeds=[3, 1], prior={"hidden": [7, 8]})
    assert config == preset_config("hopper-medium", seeds=(3, 1), prior={"hidden": (7, 8)})


def test_layers_override_each_other():
    config = preset_config("hopper-medium", "latent-only", "smoke", online={"utd": 3}, seeds=(1, 2))
    assert config.online.utd == 3  # the caller's
    assert config.online.steps == PRESETS["smoke"]["online"]["steps"]  # beside it
    assert config.gate.rule == "never"  # the method's
    assert config.learner.discount == TrainConfig(task="").learner.discount  # nobody's


def test_override_replaces_a_section_given_whole():
    config = TrainConfig(task="hopper-medium")
    gate = dataclasses.replace(config.gate, margin=2.0)
    assert override(config, {"gate": gate}).gate is gate
    assert config.gate.margin == 0.0


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"seed": (1,)}, "unknown config field 'seed'. Did you mean 'seeds'?"),
        ({"gate": {"pesimism": 1.0}}, "'gate.pesimism'. Did you mean 'gate.pessimism'?"),
        ({"online": {"step": 5}}, "'online.step'. Did you mean 'online.steps'?"),
    ],
)
def test_unknown_fields_suggest_the_nearest(changes, hint):
    with pytest.raises(ConfigError) as error:
        override(TrainConfig(task="hopper-medium"), changes)
    assert hint in str(error.value)
    with pytest.raises(ConfigError):
        from_json(to_json(TrainConfig(task="hopper-medium")) | changes)


@pytest.mark.parametrize(
    ("name", "hint"),
    [({"method": "spars"}, "Did you mean 'spaars'?"), ({"preset": "qick"}, "'quick'?")],
)
def test_unknown_methods_and_presets_suggest_the_nearest(name, hint):
    with pytest.raises(ConfigError, match="unknown") as error:
        preset_config("hopper-medium", **name)
    assert hint in str(error.value)


def test_what_is_gone_is_passed_over_where_it_did_nothing():
    config = TrainConfig(task="hopper-medium")
    old = to_json(config)
    old["online"]["follow_rate"] = 0.0
    assert from_json(old) == config
    old["online"]["follow_rate"] = 0.02
    with pytest.raises(ConfigError, match=r"online\.follow_rate"):
        from_json(old)
