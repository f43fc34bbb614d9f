"""A page that compares runs, and the same numbers as JSON beside it for a machine to read."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaars.errors import RunError, unknown_name
from spaars.report import comparison_figures as plots
from spaars.report.figures import BOOTSTRAP_SEEDS, to_png
from spaars.report.groups import Comparison, Group, Problem, SeedResult, group_runs
from spaars.report.markup import document, escape, figure_element, show_number, write_file
from spaars.report.records import load_run, mean_of, worst_of
from spaars.report.statistics import (
    iqm,
    mean,
    probability_of_improvement,
    steps_to_threshold,
    stratified_bootstrap_interval,
)

Numbers = dict[str, Any]

DEFAULT_THRESHOLDS = (90.0,)

_STYLE = """\
.seeds caption { text-align: left; color: var(--soft); padding-bottom: 0.3rem; }
.seeds tbody th { max-width: 14rem; font-weight: 600; }
.seeds td.words { text-align: left; white-space: normal; min-width: 9rem; }
section { break-before: auto; }
"""


def write_comparison(
    run_dirs: Sequence[Path],
    out: Path,
    *,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    baseline: str | None = None,
) -> Path:
    """Write the page `out` (.html) and its numbers (.json, same stem); returns the page's path.

    `baseline` names the group that the others are compared with, by default the first of every
    task and dataset. Raises RunError when a directory is no readable run or nothing has ended.
    """
    out = Path(out)
    if out.suffix != ".html":
        raise RunError(f"{out}: the page's name must end in .html; the numbers go beside it.")
    comparison = group_runs([load_run(path) for path in run_dirs])
    numbers = compare(comparison, thresholds, baseline)
    page = render(comparison, numbers).encode("utf-8", "replace")
    text = json.dumps(numbers, indent=1, allow_nan=False) + "\n"
    write_file(out.with_suffix(".json"), text.encode())
    return write_file(out, page)


# ---------------------------------------------------------------------- the numbers


def compare(
    comparison: Comparison,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    baseline: str | None = None,
) -> Numbers:
    """All numbers of the page as plain values: what JSON holds and the tables print."""
    names = _group_names(comparison)
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


def _group_names(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(g.name for p in comparison.problems for g in p.groups))


def _task(problem: Problem, thresholds: Sequence[float], baseline: str | None) -> Numbers:
    scores = {group.name: _final_scores(group) for group in problem.groups}
    against = _baseline(scores, baseline)
    return {
        "task": problem.task,
        "dataset": {"label": problem.label, "sha256": problem.sha256},
        "baseline": against,
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
            "lowest_window_below_offline_worst": _worst_of_all(rows, "lowest_window"),
            "regret_below_offline": mean_of(rows, "regret"),
            "falls_per_1k": mean_of(rows, "falls_per_1k"),
        },
    }


def _seed(seed: SeedResult) -> Numbers:
    return {key: value for key, value in seed._asdict().items() if key != "evaluations"}


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


def _interval(statistic: Callable[..., np.ndarray], *scores: np.ndarray) -> list[float] | None:
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
    members, reasons = _members(comparison)
    if not members:
        return None, reasons
    scores = {name: _matrix(groups) for name, groups in members.items()}
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
    for name in _group_names(comparison):
        groups = [g for p in comparison.problems for g in p.groups if g.name == name]
        counts = [len(group.seeds) for group in groups]
        if len(groups) < len(comparison.problems):
            reasons.append(f"{name} was not run on every task.")
        elif len(set(counts)) > 1:
            words = " and ".join(str(count) for count in counts)
            reasons.append(f"{name} has {words} seeds: the tasks would weigh differently.")
        else:
            found[name] = groups
    return found, reasons


def _matrix(groups: Sequence[Group]) -> np.ndarray:
    """Final scores (runs, tasks)."""
    return np.concatenate([_final_scores(group) for group in groups], axis=1)


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


def _final_scores(group: Group) -> np.ndarray:
    """(runs, 1): the runs of one task."""
    return np.array([[seed.final_score] for seed in group.seeds])


def _worst_of_all(rows: list[Numbers], key: str) -> float | None:
    """The greatest value, if every seed has one."""
    return None if mean_of(rows, key) is None else worst_of(rows, key)


# ---------------------------------------------------------------------- the page


def render(comparison: Comparison, numbers: Numbers) -> str:
    """The page as HTML; everything that comes from the runs is escaped on its way in."""
    tasks = list(dict.fromkeys(problem.task for problem in comparison.problems))
    title = "Comparison: " + ", ".join(tasks)
    look = plots.looks(_group_names(comparison))
    parts = [f"<h1>{escape(title)}</h1>", _headline(comparison)]
    parts += [_note("Left out: " + words) for words in numbers["left_out"]]
    for place, (problem, found) in enumerate(
        zip(comparison.problems, numbers["tasks"], strict=True)
    ):
        parts += _task_section(problem, found, look, f"task{place + 1}")
    parts += _over_tasks_section(comparison, numbers, look)
    parts += [_differences(comparison), _runs(comparison)]
    return document(title, "\n".join(part for part in parts if part), _STYLE)


def _headline(comparison: Comparison) -> str:
    groups = [group for problem in comparison.problems for group in problem.groups]
    runs = {seed.run for group in groups for seed in group.seeds}
    seeds = sum(len(group.seeds) for group in groups)
    few = sum(len(group.seeds) < BOOTSTRAP_SEEDS for group in groups)
    words = f"{_count(seeds, 'seed')} in {_count(len(runs), 'run')}, {_count(len(groups), 'group')}"
    html = f'<p class="headline">{words}.</p>'
    if few:
        html += "\n" + _note(
            f"{few} of {_count(len(groups), 'group')} with fewer than {BOOTSTRAP_SEEDS} seeds: no "
            "interval is given for these, and their order may be chance."
        )
    return html


def _task_section(problem: Problem, found: Numbers, look: plots.Looks, anchor: str) -> list[str]:
    groups = found["groups"]
    curves = {g.name: [seed.evaluations for seed in g.seeds] for g in problem.groups}
    scores = {g.name: _final_scores(g) for g in problem.groups}
    return [
        f"<h2>{escape(problem.task)}</h2>",
        f'<p class="soft">Dataset: {escape(problem.label)}, '
        f"sha256 <code>{escape(problem.sha256)}</code></p>",
        *_warnings(groups),
        _scores_table(problem, groups),
        figure_element(
            f"{anchor}_curves",
            "Learning curves",
            to_png(plots.learning_curves(curves, look)),
            "Mean over the seeds of the evaluations. Look for a curve that rises early and never "
            "falls below where it starts. Bands: 95% bootstrap interval of the mean from "
            f"{BOOTSTRAP_SEEDS} seeds on; of two seeds their range.",
        ),
        _efficiency_table(groups),
        figure_element(
            f"{anchor}_profiles",
            "Performance profile",
            to_png(plots.performance_profiles(scores, look)),
            "Share of the runs whose final score lies above the one on the axis. Look for the "
            "curve that is above the others everywhere; one seed is one step.",
        ),
        _improvement_table(found),
        _safety_table(groups),
    ]


def _warnings(groups: list[Numbers]) -> list[str]:
    """What a reader must know before comparing the rows."""
    words = []
    if len({group["env_steps"] for group in groups}) > 1:
        words.append(
            "The groups took different numbers of online steps: their final scores are not at "
            "equal experience."
        )
    for group in groups:
        if len(group["git_revisions"]) > 1:
            words.append(
                f"The seeds of {group['name']} were trained at different git revisions: "
                f"{', '.join(group['git_revisions'])}."
            )
    return [_note(one) for one in words]


def _scores_table(problem: Problem, groups: list[Numbers]) -> str:
    rows = [
        [
            _with_interval(group, "mean", ".1f"),
            _with_interval(group, "iqm", ".1f"),
            show_number(len(group["seeds"]), "d"),
            show_number(group["offline_score"], ".1f"),
            show_number(group["env_steps"], ",.0f"),
        ]
        for group in groups
    ]
    return _table(
        "Final score",
        f"Normalised score of the last checkpoint, never the best. Data: {problem.label}.",
        [
            ("Mean", "95% interval"),
            ("IQM", "95% interval"),
            ("Seeds", ""),
            ("Offline", "mean"),
            ("Online steps", ""),
        ],
        groups,
        rows,
        "IQM: mean of the middle half of the seeds, of fewer than four seeds their mean. "
        "Intervals: stratified bootstrap over seeds, percentile method; a dash below "
        f"{BOOTSTRAP_SEEDS} seeds. Offline: score before the first online step, a dash for a "
        "method without an offline policy.",
    )


def _efficiency_table(groups: list[Numbers]) -> str:
    rows = [
        [_reached(one, len(group["seeds"])) for one in group["steps_to_threshold"]]
        for group in groups
    ]
    return _table(
        "Sample efficiency",
        "Online steps until an evaluation first scored at least",
        [(f"{one['threshold']:g}", "") for one in groups[0]["steps_to_threshold"]],
        groups,
        rows,
        "Median over all seeds, in which a seed that never got there counts as infinitely late: "
        '"not reached" unless more than half of them did. As fine as the evaluations are apart.',
    )


def _reached(one: Numbers, seeds: int) -> str:
    median = one["median"]
    words = "not reached" if median is None else show_number(median, ",.0f")
    return f"{words}<small>{one['reached']} of {_count(seeds, 'seed')}</small>"


def _improvement_table(found: Numbers) -> str:
    groups = [group for group in found["groups"] if group["name"] != found["baseline"]]
    if not groups:
        return ""
    if found["baseline"] is None:
        return (
            "<h3>Probability of improvement</h3>\n"
            '<p class="soft">Left out: the baseline was not run here.</p>'
        )
    return _table(
        "Probability of improvement",
        f"That a run scores higher than one of {found['baseline']}",
        [("Probability", "95% interval")],
        groups,
        [[_with_interval(group, "probability", ".2f", "_of_improvement")] for group in groups],
        "Over all pairs of seeds, a tie counts half; 0.5 is no difference.",
    )


def _safety_table(groups: list[Numbers]) -> str:
    rows = []
    for group in groups:
        safety, seeds = group["safety"], len(group["seeds"])
        dip = show_number(safety["dip_worst"], ".1f")
        if safety["handed_over"] not in (0, seeds):
            dip += f"<small>{safety['handed_over']} of {seeds} seeds</small>"
        rows.append(
            [
                dip,
                show_number(safety["drop_below_offline_worst"], ".1f"),
                show_number(safety["lowest_window_below_offline_worst"], ".1f"),
                show_number(safety["regret_below_offline"], ".2f"),
                show_number(safety["falls_per_1k"], ".2f"),
                show_number(seeds, "d"),
            ]
        )
    return _table(
        "Safety",
        "Points of the normalised score; worst seed, or mean over the seeds",
        [
            ("Dip", "worst"),
            ("Drop", "worst"),
            ("Low", "worst"),
            ("Regret", "mean"),
            ("Falls", "mean"),
            ("Seeds", ""),
        ],
        groups,
        rows,
        "Dip: lost in evaluations after the hand-over. Drop: lowest evaluation, below the offline "
        "score. Low: lowest mean of the training episodes that ended within 5,000 steps, below the "
        "offline score. Regret: points below the offline score, mean over training episodes. "
        "Falls: training episodes that ended in one, per 1,000 steps. Training episodes explore, "
        "the offline score does not. A dash: no hand-over, no offline policy, or not recorded.",
    )


def _over_tasks_section(comparison: Comparison, numbers: Numbers, look: plots.Looks) -> list[str]:
    if len(comparison.problems) < 2:
        return []
    found, reasons = numbers["over_tasks"], numbers["not_over_tasks"]
    parts = ["<h2>Over all tasks</h2>"]
    parts += [f'<p class="soft">Not averaged: {escape(words)}</p>' for words in reasons]
    if found is None:
        return parts
    for group in found["groups"]:
        if differs := group["differs_between_tasks"]:
            words = "; ".join(f"{key} {', '.join(values)}" for key, values in differs.items())
            parts.append(
                _note(f"{group['name']} differs between {', '.join(found['tasks'])}: {words}.")
            )
    parts.append(
        _table(
            "Final score over tasks",
            f"{', '.join(found['tasks'])}, each with the data above",
            [("Mean", "95% interval"), ("IQM", "95% interval"), ("Seeds", "of each task")],
            found["groups"],
            [
                [
                    _with_interval(group, "mean", ".1f"),
                    _with_interval(group, "iqm", ".1f"),
                    show_number(group["runs_per_task"], "d"),
                ]
                for group in found["groups"]
            ],
            "Runs are resampled within every task.",
        )
    )
    members, _ = _members(comparison)
    scores = {name: _matrix(groups) for name, groups in members.items()}
    profile = figure_element(
        "over_tasks_profiles",
        "Performance profile over tasks",
        to_png(plots.performance_profiles(scores, look)),
        "Share of the runs above a score, averaged over tasks.",
    )
    return [*parts, profile, _improvement_table(found)]


def _differences(comparison: Comparison) -> str:
    """The settings that set the groups of one method apart, in full."""
    groups = list({g.name: g for p in comparison.problems for g in p.groups}.values())
    methods = dict.fromkeys(group.method for group in groups if group.settings)
    tables = []
    for method in methods:
        mine = [group for group in groups if group.method == method]
        head = "".join(f'<th scope="col">{_name(group.name)}</th>' for group in mine)
        rows = "\n".join(
            f'<tr><th scope="row">{_name(key)}</th>'
            + "".join(f"<td>{escape(group.settings[key])}</td>" for group in mine)
            + "</tr>"
            for key in mine[0].settings
        )
        tables.append(
            f'<div class="wide"><table class="settings differences"><thead><tr><th></th>{head}'
            f"</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
        )
    if not tables:
        return ""
    return (
        "<h2>What sets the groups apart</h2>\n"
        + "\n".join(tables)
        + '\n<p class="soft">"+2" in a name stands for two further settings. Absent: the version '
        "that made the run did not have it.</p>"
    )


def _runs(comparison: Comparison) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(seed.run)}</td><td>{seed.seed}</td><td>{_name(group.name)}</td>"
        f"<td>{show_number(seed.final_score, '.1f')}</td>"
        f"<td><code>{escape(seed.git_revision[:7])}</code></td></tr>"
        for problem in comparison.problems
        for group in problem.groups
        for seed in group.seeds
    )
    return (
        '<h2>Seeds</h2>\n<div class="wide"><table><thead><tr><th>Run</th><th>Seed</th>'
        "<th>Group</th><th>Final</th><th>Revision</th></tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _table(
    title: str,
    caption: str,
    columns: list[tuple[str, str]],
    groups: list[Numbers],
    rows: list[list[str]],
    note: str,
) -> str:
    """A row for each group; the cells are HTML, all else is text."""
    head = "".join(
        f'<th scope="col">{escape(name)}'
        + (f"<small>{escape(what)}</small>" if what else "")
        + "</th>"
        for name, what in columns
    )
    lines = "\n".join(
        f'<tr><th scope="row">{_name(group["name"])}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for group, cells in zip(groups, rows, strict=True)
    )
    return (
        f'<h3>{escape(title)}</h3>\n<div class="wide"><table class="seeds">\n'
        f"<caption>{escape(caption)}</caption>\n"
        f"<thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>\n"
        f'<p class="soft">{escape(note)}</p>'
    )


def _with_interval(group: Numbers, key: str, form: str, of: str = "") -> str:
    ends = group[f"{key}_interval"]
    interval = "-" if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"
    return f"{show_number(group[key + of], form)}<small>{interval}</small>"


def _name(words: str) -> str:
    """May break where a setting's name has a dot or an equals sign."""
    return escape(words).replace(".", ".<wbr>").replace("=", "=<wbr>").replace("_", "_<wbr>")


def _note(words: str) -> str:
    return f'<p class="note">{escape(words)}</p>'


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
