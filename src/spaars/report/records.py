"""Reads a run directory: config.json, metrics.jsonl and, once the run has ended, summary.json."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spaars.errors import RunError
from spaars.tasks.any_env import parse_name

Record = dict[str, Any]


class Series(NamedTuple):
    """One metric of one seed: finite values at strictly increasing steps."""

    steps: np.ndarray
    values: np.ndarray


class Run(NamedTuple):
    """What a run directory says, parsed."""

    path: Path
    config: dict[str, Any]
    """The whole of config.json: the resolved configuration and its provenance."""
    records: list[Record]
    """The lines of metrics.jsonl, in the order written."""
    summary: dict[str, Any] | None
    """summary.json; None while the run goes on or after it was interrupted."""


def load_run(run_dir: Path) -> Run:
    """Read a run directory. Only config.json is a must: a run that just began has no more."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise RunError(
            f"{run_dir}: no such run directory. Give the directory that `spaars train` wrote."
        )
    config = _read_object(run_dir / "config.json")
    if config is None:
        raise RunError(
            f"{run_dir}: not a run directory, it has no config.json. "
            "Give the directory that `spaars train` wrote."
        )
    if not isinstance(config.get("config"), dict):
        raise RunError(
            f"{run_dir / 'config.json'}: 'config' must be an object holding the run's "
            "configuration. Restore the file from a backup or train again."
        )
    summary = _read_object(run_dir / "summary.json")
    if summary is not None:
        _check_summary(summary, run_dir / "summary.json")
    return Run(run_dir, config, _read_records(run_dir / "metrics.jsonl"), summary)


def fell(episode: Record) -> bool:
    """Whether a training episode ended in a fall; older runs say only that the env ended it."""
    return bool(episode.get("fell", episode.get("terminated")))


def number(value: object) -> float | None:
    """The value as a finite float; None for anything else, null and NaN included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def select(records: Iterable[Record], kind: str, **fields: object) -> list[Record]:
    """Records of one kind whose fields have the given values: `select(r, "train", seed=0)`."""
    return [
        record
        for record in records
        if record["kind"] == kind
        and all(record.get(name) == value for name, value in fields.items())
    ]


def seeds(records: Iterable[Record]) -> list[int]:
    """Every seed that has a record, ascending."""
    return sorted({record["seed"] for record in records})


def series_by_seed(
    records: Iterable[Record], kind: str, key: str, **fields: object
) -> dict[int, Series]:
    """One metric of every seed that has any finite value of it, seeds ascending.

    Of several values at one step the last written counts. That is what both cases need: a
    resumed run may write the steps since its checkpoint twice, and an evaluation labelled
    "final" follows the periodic one of the same step.
    """
    found: dict[int, dict[int, float]] = {}
    for record in select(records, kind, **fields):
        value = number(record.get(key))
        if value is not None:
            found.setdefault(record["seed"], {})[record["step"]] = value
    return {seed: _to_series(found[seed]) for seed in sorted(found)}


def series(records: Iterable[Record], kind: str, seed: int, key: str, **fields: object) -> Series:
    """One metric of one seed; empty if it was never recorded. See `series_by_seed`."""
    found = series_by_seed(records, kind, key, seed=seed, **fields)
    return found.get(seed, _to_series({}))


def offline_scores(records: list[Record]) -> dict[int, float]:
    """Score of each seed's offline policy, evaluated before the first online step."""
    found = series_by_seed(records, "evaluation", "score", label="offline")
    return {seed: float(one.values[0]) for seed, one in found.items()}


def handover_steps(records: list[Record]) -> dict[int, int]:
    """Online step at which each seed's hand-over to the raw policy was armed first."""
    steps: dict[int, int] = {}
    for record in select(records, "event", event="handover"):
        steps.setdefault(record["seed"], record["step"])
    return steps


def scores_are_returns(task: str) -> bool:
    """Whether the task of that name is an own env, of which no reference is known."""
    # A colon alone: `module:make.<locals>.env`, a function that no module holds, is no id.
    return ":" in task or parse_name(task) is not None


def mean_of(rows: list[dict[str, Any]], key: str) -> float | None:
    """Mean over the seeds; None unless every seed has it: a mean of some would mislead."""
    values = [number(row.get(key)) for row in rows]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def worst_of(rows: list[dict[str, Any]], key: str) -> float | None:
    """The greatest value of the seeds that have one."""
    known = [value for row in rows if (value := number(row.get(key))) is not None]
    return max(known, default=None)


def flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('online.steps', 25000), ...: the names that the command line's flags have."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def plain(value: object) -> str:
    """A setting as it is printed: strings bare, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _to_series(values: dict[int, float]) -> Series:
    steps = sorted(values)
    return Series(np.array(steps, np.float64), np.array([values[s] for s in steps], np.float64))


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(
            f"{path}: not valid JSON ({error}). Restore the file from a backup or train again."
        ) from None
    if not isinstance(value, dict):
        raise RunError(f"{path}: must hold a JSON object. Restore the file or train again.")
    return value


def _read_records(path: Path) -> list[Record]:
    try:
        # Bytes, because str.splitlines also breaks at characters that JSON allows in strings.
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    filled = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    records = []
    for position, (line_number, line) in enumerate(filled):
        try:
            record = json.loads(line)
        except ValueError:
            if position == len(filled) - 1:
                break  # The process died while writing this line; all before it is whole.
            raise RunError(
                f"{path}, line {line_number}: not valid JSON. Delete that line, then try again."
            ) from None
        _check_record(record, f"{path}, line {line_number}")
        records.append(record)
    return records


def _check_record(record: object, where: str) -> None:
    types = {"kind": str, "seed": int, "step": int}
    whole = isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in types.items()
    )
    if not whole:
        raise RunError(
            f"{where}: a record needs 'kind' (string), 'seed' and 'step' (whole numbers). "
            "Delete that line, then try again."
        )


def _check_summary(summary: dict[str, Any], path: Path) -> None:
    rows = summary.get("seeds")
    whole = isinstance(rows, list) and all(
        isinstance(row, dict) and isinstance(row.get("seed"), int) for row in rows
    )
    if not (whole and rows):
        raise RunError(
            f"{path}: 'seeds' must list one object with a 'seed' per seed. "
            "Delete the file to get a report from metrics.jsonl alone."
        )
