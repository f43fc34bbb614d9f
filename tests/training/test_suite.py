"""Suite files: what they ask for, and one clear line for everything they can get wrong."""

from pathlib import Path

import pytest

from spaars.errors import ConfigError, SpaarsError
from spaars.training.config import METHODS, PRESETS, preset_config
from spaars.training.suite import load_suite, with_settings

HEAD = 'tasks = ["hopper-medium"]\nseeds = [1]\n'
VARIANT = '[[variants]]\nmethod = "spaars"\n'


def suite(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return path


def test_every_cell_with_its_configuration(tmp_path: Path) -> None:
    data = tmp_path / "log.npz"
    data.write_bytes(b"")
    file = suite(
        tmp_path,
        f"""
        tasks = ["hopper-medium", "walker2d-medium"]
        seeds = [3, 1]
        preset = "smoke"
        [settings]
        online.steps = 2_000
        "online.learning-starts" = 150
        learner.tau = 0.02
        [[variants]]
        method = "spaars"
        [[variants]]
        name = "small"
        method = "spaars"
        preset = "quick"
        seeds = [3]
        [variants.settings]
        learner = {{ tau = 0.5, hidden = [32, 16] }}
        dataset = "{data}"
        [[variants]]
        method = "latent-only"
        tasks = ["walker2d-medium"]
        """,
    )
    cells = load_suite(file, tmp_path / "out")
    # The first seed of everything first, and within it the first task.
    assert [cell.name for cell in cells] == [
        "hopper-medium/spaars/s3",
        "hopper-medium/small/s3",
        "walker2d-medium/latent-only/s3",
        "walker2d-medium/spaars/s3",
        "walker2d-medium/small/s3",
        "hopper-medium/spaars/s1",
        "walker2d-medium/latent-only/s1",
        "walker2d-medium/spaars/s1",
    ]
    by_name = {cell.name: cell for cell in cells}
    online = {"steps": 2_000, "learning_starts": 150}
    assert by_name["hopper-medium/small/s3"].config == preset_config(
        "hopper-medium",
        "spaars",
        "quick",
        seeds=(3,),
        online=online,
        learner={"tau": 0.5, "hidden": (32, 16)},
        dataset=data,
    )
    assert by_name["walker2d-medium/latent-only/s1"].config == preset_config(
        "walker2d-medium",
        "latent-only",
        "smoke",
        seeds=(1,),
        online=online,
        learner={"tau": 0.02},
    )
    path = tmp_path / "out" / "hopper-medium" / "spaars" / "s1"
    assert by_name["hopper-medium/spaars/s1"].path == path
    assert by_name["hopper-medium/spaars/s1"].log == path.parent / "s1.log"


def test_one_name_may_have_other_settings_on_another_task(tmp_path: Path) -> None:
    text = "seeds = [1]\n" + "".join(
        f'[[variants]]\nmethod = "spaars"\ntasks = ["{task}"]\nsettings.learner.tau = {tau}\n'
        for task, tau in (("hopper-medium", 0.1), ("walker2d-medium", 0.2))
    )
    assert [c.config.learner.tau for c in load_suite(suite(tmp_path, text), tmp_path)] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks = [", ["not valid TOML", "end of document"]),
        ("", ["'variants'", "[[variants]]", "nothing"]),
        (HEAD + "variants = []", ["'variants'", "[]"]),
        (HEAD + "variants = [1]", ["'variants'", "[1]"]),
        ("sees = [1]\n" + HEAD + VARIANT, ["unknown key 'sees'", "'seeds'"]),
        (HEAD + VARIANT + "nam = 'x'", ["variant 'spaars'", "unknown key 'nam'", "'name'"]),
        (HEAD + "[[variants]]\nname = 'x'", ["variant 'x'", "method", "nothing"]),
        (HEAD + "[[variants]]\nmethod = 'spars'", ["variant 'spars'", "did you mean 'spaars'"]),
        (HEAD + VARIANT + "name = 'a/b'", ["'a/b'", "directory"]),
        (HEAD + VARIANT + "name = '..'", ["'..'", "directory"]),
        (HEAD + VARIANT + "name = 3", ["name 3", "directory"]),
        (HEAD + VARIANT + "preset = 'quik'", ["unknown preset", "'quick'"]),
        (HEAD + VARIANT + "preset = 3", ["preset", "3"]),
        (HEAD + VARIANT + "tasks = ['hoper-medium']", ["unknown task", "'hopper-medium'"]),
        (HEAD + VARIANT + "tasks = 'hopper-medium'", ["'tasks'", "list"]),
        ("seeds = [1]\n" + VARIANT, ["'tasks'", "nothing"]),
        ("tasks = ['hopper-medium']\n" + VARIANT, ["'seeds'", "nothing"]),
        (HEAD + VARIANT + "seeds = []", ["'seeds'", "[]"]),
        (HEAD + VARIANT + "seeds = [true]", ["'seeds'", "True"]),
        (HEAD + VARIANT + "seeds = [-1]", ["--seeds", "-1"]),
        (HEAD + VARIANT + "seeds = [2, 2]", ["hopper-medium/spaars/s2", "twice"]),
        (HEAD + VARIANT + VARIANT, ["hopper-medium/spaars/s1", "twice", "names"]),
        (HEAD + VARIANT + VARIANT + "name = 'x'", ["x/s1", "same run", "spaars/s1"]),
        ("settings = 3\n" + HEAD + VARIANT, ["settings", "table", "3"]),
        (HEAD + "settings.online.stes = 1\n" + VARIANT, ["'online.stes'", "'online.steps'"]),
        (HEAD + VARIANT + "settings.steps = 1", ["'steps'", "'online.steps'"]),
        (HEAD + VARIANT + "settings.online = 1", ["unknown setting 'online'"]),
        (HEAD + VARIANT + "settings.transitions.x = 1", ["'transitions.x'"]),
        (HEAD + VARIANT + "settings.seeds = [1]", ["'seeds'", "beside settings"]),
        (HEAD + VARIANT + "settings.method = 'x'", ["'method'", "beside settings"]),
        (HEAD + VARIANT + "settings.online.steps = 77", ["--online.steps", "multiple"]),
        (
            HEAD + VARIANT + "settings.online.steps = 'x'",
            ["'online.steps'", "a whole number", "'x'"],
        ),
        (
            HEAD + VARIANT + "settings.online.steps = [1]",
            ["'online.steps'", "a whole number", "[1]"],
        ),
        (
            HEAD + VARIANT + "settings.online.steps = true",
            ["'online.steps'", "a whole number", "True"],
        ),
        (HEAD + VARIANT + "settings.online.steps = 50.5", ["'online.steps'", "a whole"]),
        (HEAD + VARIANT + "settings.learner.tau = nan", ["--learner.tau", "finite"]),
        (HEAD + VARIANT + "settings.learner.tau = 2020-01-01", ["'learner.tau'", "2020-01-01"]),
        (
            HEAD + VARIANT + "settings.learner.hidden = 64",
            ["'learner.hidden'", "a list (a whole number, ...)", "64"],
        ),
        (HEAD + VARIANT + "settings.learner.hidden = ['x']", ["'learner.hidden'", "'x'"]),
        (HEAD + VARIANT + "settings.learner.hidden = [[1]]", ["'learner.hidden'", "[1]"]),
        (HEAD + VARIANT + "settings.learner.hidden = []", ["--learner.hidden", "at least 1"]),
        (HEAD + VARIANT + "settings.gate.rule = 3", ["'gate.rule'", "one of", "'never'"]),
        (HEAD + VARIANT + "settings.gate.rule = 'nevr'", ["'gate.rule'", "'never'", "'nevr'"]),
        (HEAD + VARIANT + "settings.dataset = 3", ["'dataset'", "a path"]),
        (HEAD + VARIANT + "settings.dataset = 'absent.npz'", ["absent.npz", "no such file"]),
        (
            HEAD + VARIANT + "settings.online.steps = 50\nsettings.'online.steps' = 100",
            ["'online.steps'", "twice"],
        ),
    ],
)
def test_wrong_words(text: str, words: list[str], tmp_path: Path) -> None:
    file = suite(tmp_path, text)
    with pytest.raises(SpaarsError) as caught:
        load_suite(file, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith(str(file))
    assert "\n" not in message
    for word in words:
        assert word.lower() in message.lower()
    assert not (tmp_path / "out").exists()


def test_binary_file(tmp_path: Path) -> None:
    file = tmp_path / "suite.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_suite(file, tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_field_is_a_setting(method: str, preset: str) -> None:
    """Its own value, given as TOML has it, changes nothing."""
    from spaars.training.suite import NOT_SETTINGS, _fields

    config = preset_config("hopper-medium", method, preset)
    settings = {}
    for name, _ in _fields(config):
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        if name not in NOT_SETTINGS and value is not None:
            settings[name] = list(value) if isinstance(value, tuple) else value
    assert len(settings) > 30
    assert with_settings(config, settings) == config


def test_none_is_a_word() -> None:
    config = preset_config("hopper-medium")
    assert config.deployment.caution is not None
    assert with_settings(config, {"deployment": {"caution": "None"}}).deployment.caution is None
    with pytest.raises(ConfigError, match=r"'online\.steps' must be a whole number, got 'None'"):
        with_settings(config, {"online": {"steps": "None"}})
