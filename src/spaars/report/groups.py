"""Runs sorted for a comparison: by task and dataset, then by method and what sets it apart.

Seeds are pooled only where everything that determines the result is the same: the task, the bytes
of the dataset, the method and its settings, the number of online steps. Git revisions may differ
within a group; the page says so.
"""

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spaars.errors import RunError
from spaars.report.records import (
    Record,
    Run,
    Series,
    fell,
    flatten,
    handover_steps,
    number,
    plain,
    select,
    series,
)

# The task, the method and the dataset have their own place; the rest cannot change a result.
# log_every is not among them: the hand-over is decided when metrics are logged.
NOT_COMPARED = {
    "task",
    "method",
    "seeds",
    "dataset",
    "prior_from",
    "transitions",
    "checkpoint_every",
    "online.env_processes",
    "online.env_errors",
    "device_memory_gib",
}

# Which methods read a section: of all others' runs it says nothing. As `training.config.METHODS`
# has it, which takes JAX to import.
READ_BY = {
    "prior": ("spaars", "latent-only"),
    "offline": ("spaars", "latent-only"),
    "learner": ("spaars", "latent-only"),
    "gate": ("spaars", "latent-only", "spaars-supe"),
    "iql": ("iql",),
    "sac": ("rlpd", "sac", "supe", "spaars-supe"),
    "opal": ("supe", "spaars-supe"),
    "supe": ("supe", "spaars-supe"),
    "easing": ("spaars-supe",),
    "raw": ("spaars-supe",),
    "bc": ("bc",),
}

# Settings that older versions did not have, at the values at which a run does what theirs did; the
# last two some had and none has now.
LATER = {
    "gate.shadow": False,
    "safety.action_low": None,
    "safety.action_high": None,
    "safety.rate_limit": None,
    "safety.budget.falls": None,
    "safety.budget.cost": None,
    "safety.budget.dip": None,
    "safety.budget.window": 5_000,
    "iql.actor_dropout": 0.0,
    "opal.decoder_columns": None,
    "standardise": True,
    "supe.novelty_from": 0,
    "supe.models_every": 4,
    "online.retrace_rate": 0.0,
    "online.splice_rate": 0.0,
    "online.best_fraction": 0.0,
    "online.best_episodes": 10,
    "online.follow_rate": 0.0,
    "online.n_steps": 1,
}

# Told apart over the whole page, other settings only within a task and dataset: some follow from
# the task, such as the latent dimension, and would split every method by task.
TOLD_APART_ALWAYS = ("preset", "online.steps")

LISTED = 3
"""So many differing settings are spelt out in a name; of more, as few as tell the groups apart."""


class Episodes(NamedTuple):
    """Training episodes of one seed in the order in which they ended, whoever acted."""

    scores: Series
    """At the environment step of their end."""
    lengths: np.ndarray
    fell: np.ndarray
    """Whether the env ended them."""

    def until(self, step: float) -> "Episodes":
        """Those that ended at this step or before."""
        kept = self.scores.steps <= step
        scores = Series(self.scores.steps[kept], self.scores.values[kept])
        return Episodes(scores, self.lengths[kept], self.fell[kept])


class SeedRecord(NamedTuple):
    """What one seed did, step by step, for `report.safety_table`."""

    episodes: Episodes
    newest: Series
    """Evaluations of the newest policy; empty where an older version did not evaluate it."""
    distance: Series
    """Mean kNN distance of executed steps to the data."""
    handover: float | None
    """Step of the first hand-over."""
    before: float | None
    """Score of the newest policy just before it."""
    after: Series
    """Its evaluations since, which may begin at that same step."""


class SeedResult(NamedTuple):
    """What one seed of a finished run achieved. Scores are normalised to 0..100, or returns."""

    run: str
    """Name of its run directory."""
    seed: int
    git_revision: str
    env_steps: float | None
    final_score: float
    offline_score: float | None
    """None of a method that starts from no offline policy; what is relative to it is None too."""
    dip_worst: float | None
    """Points lost after the hand-over; None without a hand-over."""
    drop_below_offline: float | None
    """Offline score less the worst evaluation, at least 0."""
    falls_per_1k: float | None
    evaluations: Series
    """Of the deployed policy."""
    record: SeedRecord


class Group(NamedTuple):
    """Seeds that differ in nothing else: what is averaged."""

    name: str
    method: str
    settings: dict[str, str]
    """Those in which the groups of this method differ, by flag name."""
    compared: dict[str, str]
    """All that were compared."""
    seeds: tuple[SeedResult, ...]
    """Ascending."""


class Problem(NamedTuple):
    """One task with one dataset: the groups in it may be compared."""

    task: str
    label: str
    sha256: str
    groups: tuple[Group, ...]


class Comparison(NamedTuple):
    problems: tuple[Problem, ...]
    left_out: tuple[str, ...]
    """A sentence for each run or seed that has no result to compare."""


class _Entry(NamedTuple):
    problem: tuple[str, str, str]
    method: str
    settings: dict[str, str]
    path: Path
    result: SeedResult


def group_runs(runs: Sequence[Run]) -> Comparison:
    """Sort the seeds of all finished runs; groups stand in the order in which they first come."""
    entries: list[_Entry] = []
    left_out = []
    for run, name in zip(runs, run_names([run.path for run in runs]), strict=True):
        if run.summary is None:
            left_out.append(f"{name} is unfinished: it has no summary.json.")
            continue
        for row in run.summary["seeds"]:
            if number(row.get("final_score")) is None:
                left_out.append(f"{name}, seed {row['seed']}, ended without a final evaluation.")
            else:
                entries.append(_entry(run, name, row))
    if not entries:
        raise RunError(
            f"nothing to compare: {' '.join(left_out)} Go on with `spaars resume RUN` first."
        )
    entries = _with_one_label(entries)
    titles = _titles(entries)
    sorted_out: dict[tuple[str, str, str], dict[tuple[str, str], list[_Entry]]] = {}
    for entry in entries:
        groups = sorted_out.setdefault(entry.problem, {})
        groups.setdefault(_key(entry), []).append(entry)
    problems = tuple(
        Problem(*problem, tuple(_group(members, *titles[key]) for key, members in groups.items()))
        for problem, groups in sorted_out.items()
    )
    return Comparison(problems, tuple(left_out))


def _with_one_label(entries: list[_Entry]) -> list[_Entry]:
    """The same bytes by one label, whatever their file was called: the first of those given.

    Kitchen replays that an older version named after their file have the label of now, `TASK (N
    demos)`.
    """
    labels: dict[tuple[str, str], str] = {}
    for task, label, sha256 in (entry.problem for entry in entries):
        known = labels.setdefault((task, sha256), label)
        if label.startswith(f"{task} (") and not known.startswith(f"{task} ("):
            labels[task, sha256] = label
    renamed = []
    for entry in entries:
        task, _, sha256 = entry.problem
        renamed.append(entry._replace(problem=(task, labels[task, sha256], sha256)))
    return renamed


def group_names(comparison: Comparison) -> list[str]:
    """Every name once; a group of the same name may stand in several problems."""
    return list(dict.fromkeys(g.name for p in comparison.problems for g in p.groups))


def groups_named(comparison: Comparison, name: str) -> list[Group]:
    """At most one of every problem."""
    return [g for p in comparison.problems for g in p.groups if g.name == name]


def final_scores(groups: Sequence[Group]) -> np.ndarray:
    """(runs, tasks), of groups with equally many seeds."""
    return np.array([[seed.final_score for seed in group.seeds] for group in groups]).T


def run_names(paths: Sequence[Path]) -> list[str]:
    """The directories' names, with as much of the path before them as tells them apart."""
    absolute = [path.resolve() for path in paths]
    common = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(common).as_posix() for path in absolute]


def _entry(run: Run, name: str, row: Record) -> _Entry:
    config = run.config["config"]
    settings = _settings(config)
    result = _seed_result(run, name, row)
    if result.env_steps is not None:
        settings["online.steps"] = f"{result.env_steps:.0f}"  # those taken, not those asked for
    dataset = run.config.get("dataset") or (run.summary or {}).get("dataset")
    dataset = dataset if isinstance(dataset, dict) else {}
    label = str(dataset.get("label", "not recorded"))
    # Data of which nothing is known are not known to be the same as any other.
    sha256 = str(dataset.get("sha256") or f"not recorded in {name}")
    problem = (str(config.get("task", "not recorded")), label, sha256)
    return _Entry(problem, str(config.get("method", "not recorded")), settings, run.path, result)


def _settings(config: dict[str, Any]) -> dict[str, str]:
    """What decides a run's result beside task, data and method, by flag name."""
    method = config.get("method")

    def decides(key: str) -> bool:
        return key not in NOT_COMPARED and method in READ_BY.get(key.split(".")[0], (method,))

    values = LATER | dict(flatten(config))
    return {key: plain(_one_form(value)) for key, value in values.items() if decides(key)}


def _one_form(value: Any) -> Any:
    """Whole floats as ints: 0 from Python and 0.0 from the command line are one setting."""
    if isinstance(value, list):
        return [_one_form(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _seed_result(run: Run, name: str, row: dict[str, Any]) -> SeedResult:
    seed = row["seed"]
    evaluations = series(run.records, "evaluation", seed, "score")
    if not len(evaluations.steps):
        raise RunError(
            f"{run.path}: summary.json lists seed {seed}, but metrics.jsonl holds no evaluation "
            "of it. Bring metrics.jsonl back or leave this run out."
        )
    offline = number(row.get("offline_score"))
    before, after = _handover(run.records, seed)
    return SeedResult(
        run=name,
        seed=seed,
        git_revision=str(run.config.get("git_revision", "not recorded")),
        env_steps=number(row.get("env_steps")),
        final_score=float(row["final_score"]),
        offline_score=offline,
        dip_worst=number(row.get("dip_worst")),
        drop_below_offline=None if offline is None else number(row.get("drop_below_offline")),
        falls_per_1k=number(row.get("falls_per_1k")),
        evaluations=evaluations,
        record=SeedRecord(
            episodes=_episodes(run.records, seed),
            newest=series(run.records, "evaluation", seed, "newest_score"),
            distance=series(run.records, "train", seed, "knn_distance", phase="online"),
            handover=number(handover_steps(run.records).get(seed)),
            before=before,
            after=after,
        ),
    )


def _handover(records: Sequence[Record], seed: int) -> tuple[float | None, Series]:
    """Score of the newest policy just before the first hand-over, and all since.

    By the order of the lines: a periodic evaluation at the same step is from after it.
    """
    lines = select(records, "evaluation", seed=seed)
    at = next((i for i, one in enumerate(lines) if one.get("label") == "handover"), len(lines))
    before = number(lines[at].get("newest_score")) if at < len(lines) else None
    return before, series(lines[at + 1 :], "evaluation", seed, "newest_score")


def _episodes(records: Sequence[Record], seed: int) -> Episodes:
    """Of several lines at one step the last counts, as for any series."""
    found = {}
    for line in select(records, "episode", seed=seed):
        score = number(line.get("score"))
        if score is not None:
            found[line["step"]] = score, number(line.get("length")), fell(line)
    steps = np.array(sorted(found), np.float64)
    rows = [found[step] for step in sorted(found)]
    # One env a seed: where an older version did not write lengths, episodes follow each other.
    between = np.diff(steps, prepend=0.0)
    lengths = [own or gap for (_, own, _), gap in zip(rows, between, strict=True)]
    return Episodes(
        Series(steps, np.array([score for score, _, _ in rows], np.float64)),
        np.array(lengths, np.float64),
        np.array([ended for _, _, ended in rows], bool),
    )


def _key(entry: _Entry) -> tuple[str, str]:
    return entry.method, json.dumps(entry.settings, sort_keys=True)


def _group(entries: list[_Entry], name: str, settings: dict[str, str]) -> Group:
    entries = sorted(entries, key=lambda entry: entry.result.seed)
    for one, other in pairwise(entries):
        if one.result.seed == other.result.seed:
            raise RunError(
                f"seed {one.result.seed} of {name} comes twice, from {one.path} and from "
                f"{other.path}. Leave one of them out: seeds are averaged as independent runs."
            )
    results = tuple(entry.result for entry in entries)
    return Group(name, entries[0].method, settings, entries[0].settings, results)


def _titles(entries: list[_Entry]) -> dict[tuple[str, str], tuple[str, dict[str, str]]]:
    """For every group its name and the settings in which its method's groups differ."""
    titles = {}
    for method in {entry.method: None for entry in entries}:
        mine = [entry for entry in entries if entry.method == method]
        keys = _differing(mine)
        named = keys if len(keys) <= LISTED else _fewest(mine, keys)
        hidden = len(keys) - len(named)
        for entry in mine:
            settings = {key: _setting(entry, key) for key in keys}
            words = [f"{key}={settings[key]}" for key in named]
            words += [f"+{hidden}"] if hidden else []
            name = f"{method} ({', '.join(words)})" if words else method
            titles[_key(entry)] = name, settings
    return titles


def _differing(entries: list[_Entry]) -> list[str]:
    """The settings of one method's entries that take several values; the foremost come first."""
    keys = dict.fromkeys([*TOLD_APART_ALWAYS, *(key for e in entries for key in e.settings)])
    problems = {entry.problem for entry in entries}

    def values(key: str, problem: object = None) -> set[str]:
        return {_setting(e, key) for e in entries if problem is None or e.problem == problem}

    return [
        key
        for key in keys
        if (key in TOLD_APART_ALWAYS and len(values(key)) > 1)
        or any(len(values(key, problem)) > 1 for problem in problems)
    ]


def _fewest(entries: list[_Entry], keys: list[str]) -> list[str]:
    """The first of the keys that tell apart, within each problem, all that `keys` tell apart."""

    def told_apart(some: list[str]) -> int:
        return len({(e.problem, *(_setting(e, key) for key in some)) for e in entries})

    named = [key for key in TOLD_APART_ALWAYS if key in keys]
    for key in keys:
        if told_apart([*named, key]) > told_apart(named):
            named.append(key)
    return named


def _setting(entry: _Entry, key: str) -> str:
    """Its value, or that an older version's configuration did not have it."""
    return entry.settings.get(key, "absent")
