"""A suite file: which runs a comparison is made of (docs/bench.md describes the format)."""

import dataclasses
import datetime
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from spaars.data.sources import exists
from spaars.errors import ConfigError, DataError, unknown_name
from spaars.tasks import get_task
from spaars.training import checks
from spaars.training import config as configs
from spaars.training.config import TrainConfig, override, preset_config

SUITE_KEYS = ("tasks", "seeds", "preset", "settings", "variants")
VARIANT_KEYS = ("name", "method", "tasks", "seeds", "preset", "settings")
# They have their own keys, since they name the cell.
NOT_SETTINGS = ("task", "method", "preset", "seeds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a suite: a task, a variant and a seed."""

    variant: str
    config: TrainConfig
    path: Path
    """Its run directory, OUT/TASK/VARIANT/sSEED."""

    @property
    def name(self) -> str:
        return "/".join(self.path.parts[-3:])

    @property
    def log(self) -> Path:
        """What the run prints; beside the run directory, which only the run itself fills."""
        return self.path.with_name(self.path.name + ".log")


def load_suite(file: Path, out: Path) -> list[Cell]:
    """The cells of a suite file, every one checked; the first seed of everything comes first.

    Raises ConfigError or DataError, naming the file and the variant.
    """
    try:
        with file.open("rb") as handle:
            suite = tomllib.load(handle)
    except ValueError as error:  # not TOML, or not even text
        raise ConfigError(f"{file} is not valid TOML: {error}.") from error
    with _named(str(file)):
        _check_keys(suite, SUITE_KEYS)
        variants = _list(suite.get("variants"), "variants", dict, "[[variants]] tables")
    cells: dict[tuple[int, int, str], Cell] = {}  # by (rank of the seed, of the task, name)
    asked: dict[TrainConfig, str] = {}
    for i, variant in enumerate(variants, 1):
        with _named(f"{file}: variant {variant.get('name', variant.get('method', i))!r}"):
            for rank, cell in _variant_cells(suite, variant, out):
                if any(cell.path == other.path for other in cells.values()):
                    raise ConfigError(
                        f"{cell.name} comes up twice. Remove one, or give the variants "
                        "different names."
                    )
                twin = asked.setdefault(cell.config, cell.name)
                if twin != cell.name:
                    raise ConfigError(
                        f"{cell.name} is the same run as {twin}: method and settings are equal. "
                        "Change a setting or remove one of them."
                    )
                cells[*rank, cell.name] = cell
    return [cells[key] for key in sorted(cells, key=lambda key: key[:2])]


def _variant_cells(
    suite: dict[str, Any], variant: dict[str, Any], out: Path
) -> Iterator[tuple[tuple[int, int], Cell]]:
    _check_keys(variant, VARIANT_KEYS)
    both = {**suite, **variant}
    method = both.get("method")
    if not isinstance(method, str):
        got = "nothing" if method is None else repr(method)
        raise ConfigError(f"method must be one of {', '.join(configs.METHODS)}; got {got}.")
    name, preset = variant.get("name", method), both.get("preset", "quick")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ConfigError(
            f"name {name!r} names a directory: use letters, digits, '-', '_' and '.' only."
        )
    if not isinstance(preset, str):
        raise ConfigError(f'preset must be text, got {preset!r}. Write preset = "quick".')
    tasks = _list(both.get("tasks"), "tasks", str, 'names, such as tasks = ["hopper-medium"]')
    seeds = _list(both.get("seeds"), "seeds", int, "whole numbers, such as seeds = [1, 2, 3]")
    for (i, seed), (j, task) in ((s, t) for s in enumerate(seeds) for t in enumerate(tasks)):
        get_task(task)
        config = preset_config(task, method, preset, seeds=(seed,))
        for settings in (suite.get("settings", {}), variant.get("settings", {})):
            config = with_settings(config, settings)
        checks.check(config)
        checks.refuse_unread(config)
        if config.dataset is not None and not exists(config.dataset):
            raise DataError(
                f"{config.dataset}: no such file or directory. Mend the setting 'dataset'."
            )
        yield (i, j), Cell(variant=name, config=config, path=out / task / name / f"s{seed}")


def with_settings(config: TrainConfig, settings: Any) -> TrainConfig:
    """The configuration with a TOML table's settings: flags of `train`, nested or dotted."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f"settings must be a table, got {settings!r}. Write [settings].")
    known = {name: hint for name, hint in _fields(config) if name not in NOT_SETTINGS}
    seen = set()
    for name, value in _flat(settings):
        if name in NOT_SETTINGS:
            raise ConfigError(
                f"'{name}' is no setting. Write it beside settings, not within: "
                f"{', '.join(VARIANT_KEYS)}."
            )
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ConfigError(
                f"unknown setting '{name}'.{hint} They are the flags of `spaars train`; "
                "its --help lists them."
            )
        if name in seen:
            raise ConfigError(f"setting '{name}' is given twice. Remove one.")
        seen.add(name)
        changes = _from_toml(name, value, known[name])
        for part in reversed(name.split(".")):
            changes = {part: changes}
        config = override(config, changes)
    return config


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """("online.steps", 50) for every value; `--online.replay-capacity`'s dash is welcome."""
    for key, value in table.items():
        name = path + key.replace("-", "_")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _fields(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """("online.steps", int) for every field of a configuration, sections unfolded."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{path}{name}.")
        else:
            yield path + name, hint


def _from_toml(name: str, value: Any, hint: Any) -> Any:
    """The value as the field's type has it; what is in range `checks.check` says.

    TOML has no null: "None" stands for it, as on the command line.
    """
    if value == "None" and type(None) in _options(hint):
        return None
    options = [o for o in _options(hint) if o is not type(None)]
    for option in options:
        with suppress(TypeError):
            return _converted(value, option)
    shown = value.isoformat() if isinstance(value, datetime.date | datetime.time) else repr(value)
    raise ConfigError(
        f"setting '{name}' must be {' or '.join(_words(o) for o in options)}, got {shown}."
    )


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _converted(value: Any, hint: Any) -> Any:
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind is tuple and isinstance(value, list):
        return tuple(_converted(entry, args[0]) for entry in value)
    if kind is Literal and value in args:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:  # not isinstance: True is an int
        return value
    raise TypeError


def _words(hint: Any) -> str:
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind is tuple:
        return f"a list ({_words(args[0])}, ...)"
    if kind is Literal:
        return f"one of {', '.join(map(repr, args))}"
    words = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return words.get(kind, "text")


def _list(value: Any, key: str, kind: type, words: str) -> list[Any]:
    whole = isinstance(value, list) and all(type(entry) is kind for entry in value)
    if not whole or not value:
        got = "nothing" if value is None else repr(value)
        raise ConfigError(f"'{key}' must be a list of {words}; got {got}.")
    return value


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise unknown_name("key", key, known)


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Says where in the suite the mistake is."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(f"{place}: {error}") from None
