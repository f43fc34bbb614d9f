"""Compares runs: the numbers, written as JSON for machines beside the page that prints them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spaars.errors import RunError, unknown_name
from spaars.report.comparison_page import Numbers, render
from spaars.report.figures import BOOTSTRAP_SEEDS
from spaars.report.groups import (
    Comparison,
    Group,
    Problem,
    SeedResult,
    final_scores,
    group_names,
    group_runs,
    groups_named,
)
from spaars.report.markup import write_file
from spaars.report.records import load_run, mean_of, scores_are_returns, worst_of
from spaars.report.safety_table import safety_table
from spaars.report.statistics import (
    Statistic,
    iqm,
    mean,
    probability_of_improvement,
    steps_to_threshold,
    stratified_bootstrap_interval,
)

DEFAULT_THRESHOLDS = (90.0,)
KEYS = ("thresholds", "tasks", "over_tasks", "not_over_tasks", "left_out")
"""Of the JSON: what has them may be written anew."""
SERIES = ("evaluations", "record")
"""Of a seed: drawn and measured, not written."""


def write_comparison(
    run_dirs: Sequence[Path],
    out: Path,
    *,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    baseline: str | None = None,
) -> Path:
    """Write the page `out` (.html) and its numbers (.json, same stem); returns the page's path.

    `baseline` names the group that the others are compared with, by default the first of every
    task and dataset. Raises RunError when a directory is no readable run, nothing has ended, or a
    .json that is no comparison's lies where the numbers go.
    """
    out = Path(out)
    if out.suffix != ".html":
        raise RunError(f"{out}: the page's name must end in .html; the numbers go beside it.")
    if not thresholds or not np.all(np.isfinite(thresholds)):
        raise RunError(
            f"thresholds must be finite scores, at least one, got {list(thresholds)}. "
            "Give for example --thresholds 60 90."
        )
    _check_place(out.with_suffix(".json"))
    comparison = group_runs([load_run(path) for path in run_dirs])
    numbers = compare(comparison, thresholds, baseline)
    page = render(comparison, numbers).encode("utf-8", "replace")
    text = json.dumps(numbers, indent=1, allow_nan=False) + "\n"
    write_file(out.with_suffix(".json"), text.encode())
    return write_file(out, page)


def _check_place(path: Path) -> None:
    """Nobody named this file: `--out RUN/config.html` must not cost the run its config.json."""
    if not path.exists():
        return
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found.keys() >= set(KEYS):
        raise RunError(
            f"{path}: the comparison's numbers would go there, but it holds something else. "
            "Give the page another name, or move that file away."
        )


def compare(
    comparison: Comparison,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    baseline: str | None = None,
) -> Numbers:
    """All numbers of the page as plain values: what JSON holds and the tables print."""
    names = group_names(comparison)
    if baseline is not None and baseline not in names:
        raise unknown_name("baseline", baseline, names)
    over_tasks, reasons = _over_tasks(comparison, baseline)
    return {
        "thresholds": [float(threshold) for threshold in thresholds],
        "tasks": [_task(problem, thresholds, baseline) for problem in comparison.problems],
        "over_tasks": over_tasks,
        "not_over_tasks": reasons,
        "left_out": list(comparison.left_out),
    }


def _task(problem: Problem, thresholds: Sequence[float], baseline: str | None) -> Numbers:
    scores = {group.name: final_scores([group]) for group in problem.groups}
    against = _baseline(scores, baseline)
    return {
        "task": problem.task,
        "dataset": {"label": problem.label, "sha256": problem.sha256},
        "baseline": against,
        "safety": safety_table(problem),
        "groups": [
            {
                **_group(group, thresholds),
                **_score_statistics(scores[group.name]),
                **_improvement(group.name, against, scores),
            }
            for group in problem.groups
        ],
    }


def _group(group: Group, thresholds: Sequence[float]) -> Numbers:
    rows = [_seed(seed) for seed in group.seeds]
    return {
        "name": group.name,
        "method": group.method,
        "differs_in": group.settings,
        "seeds": rows,
        "git_revisions": sorted({seed.git_revision for seed in group.seeds}),
        "env_steps": mean_of(rows, "env_steps"),  # all the same: it tells groups apart
        "offline_score": mean_of(rows, "offline_score"),
        "steps_to_threshold": [_steps_to(group, threshold) for threshold in thresholds],
        "safety": {
            "handed_over": sum(seed.dip_worst is not None for seed in group.seeds),
            "dip_worst": worst_of(rows, "dip_worst"),
            "drop_below_offline_worst": _worst_of_all(rows, "drop_below_offline"),
            "falls_per_1k": mean_of(rows, "falls_per_1k"),
        },
    }


def _seed(seed: SeedResult) -> Numbers:
    return {key: value for key, value in seed._asdict().items() if key not in SERIES}


def _steps_to(group: Group, threshold: float) -> Numbers:
    steps = steps_to_threshold([seed.evaluations for seed in group.seeds], threshold)
    median = float(np.median(steps))
    return {
        "threshold": float(threshold),
        "median": median if np.isfinite(median) else None,  # None: not reached
        "reached": int(np.isfinite(steps).sum()),
    }


def _score_statistics(scores: np.ndarray) -> Numbers:
    """Of final scores, (runs, tasks)."""
    return {
        "mean": float(mean(scores)),
        "mean_interval": _interval(mean, scores),
        "iqm": float(iqm(scores)),
        "iqm_interval": _interval(iqm, scores),
    }


def _improvement(name: str, against: str | None, scores: dict[str, np.ndarray]) -> Numbers:
    """Of a group over the baseline; nothing to say of the baseline itself."""
    probability = interval = None
    if against is not None and name != against:
        pair = scores[name], scores[against]
        probability = float(probability_of_improvement(*pair))
        interval = _interval(probability_of_improvement, *pair)
    return {"probability_of_improvement": probability, "probability_interval": interval}


def _interval(statistic: Callable[..., Statistic], *scores: np.ndarray) -> list[float] | None:
    """The 95% interval, or None of so few seeds that it would pretend to know."""
    if min(len(array) for array in scores) < BOOTSTRAP_SEEDS:
        return None
    return [float(end) for end in stratified_bootstrap_interval(statistic, *scores)]


def _over_tasks(comparison: Comparison, baseline: str | None) -> tuple[Numbers | None, list[str]]:
    """Statistics over all tasks, and for what is missing in them a sentence each."""
    problems = comparison.problems
    if len(problems) < 2:
        return None, []
    tasks = [problem.task for problem in problems]
    for task in dict.fromkeys(tasks):
        if tasks.count(task) > 1:
            return None, [f"{task} comes with {tasks.count(task)} datasets."]
    if returns := [task for task in tasks if scores_are_returns(task)]:
        return None, [f"Scores of {' and '.join(returns)} are returns: no two envs share a scale."]
    members, reasons = _members(comparison)
    if not members:
        return None, reasons
    scores = {name: final_scores(groups) for name, groups in members.items()}
    against = _baseline(scores, baseline)
    return {
        "tasks": tasks,
        "baseline": against,
        "groups": [
            {
                "name": name,
                "runs_per_task": len(scores[name]),
                "differs_between_tasks": _differs_between(problems, groups),
                **_score_statistics(scores[name]),
                **_improvement(name, against, scores),
            }
            for name, groups in members.items()
        ],
    }, reasons


def _members(comparison: Comparison) -> tuple[dict[str, list[Group]], list[str]]:
    """The groups that are in every task with the same number of seeds: one of each task."""
    found: dict[str, list[Group]] = {}
    reasons = []
    for name in group_names(comparison):
        groups = groups_named(comparison, name)
        counts = [len(group.seeds) for group in groups]
        if len(groups) < len(comparison.problems):
            reasons.append(f"{name} was not run on every task.")
        elif len(set(counts)) > 1:
            words = " and ".join(str(count) for count in counts)
            reasons.append(f"{name} has {words} seeds: the tasks would weigh differently.")
        else:
            found[name] = groups
    return found, reasons


def _differs_between(problems: Sequence[Problem], groups: Sequence[Group]) -> dict[str, list[str]]:
    """Settings that the groups of one name do not share, a value for each task."""
    keys = dict.fromkeys(key for group in groups for key in group.compared)
    values = {key: [group.compared.get(key, "absent") for group in groups] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _baseline(scores: dict[str, np.ndarray], baseline: str | None) -> str | None:
    """The group that the others are held against; None where the asked one is not."""
    if baseline is None:
        return next(iter(scores))
    return baseline if baseline in scores else None


def _worst_of_all(rows: list[Numbers], key: str) -> float | None:
    """The greatest value, if every seed has one."""
    return None if mean_of(rows, key) is None else worst_of(rows, key)
