"""The page of a comparison. Every number on it is one of those that go to JSON."""

import json
from typing import Any

from spaars.report import comparison_figures as plots
from spaars.report.figures import BOOTSTRAP_SEEDS, to_png
from spaars.report.groups import (
    Comparison,
    Group,
    Problem,
    final_scores,
    group_names,
    groups_named,
)
from spaars.report.markup import document, escape, figure_element, show_number
from spaars.report.records import scores_are_returns
from spaars.report.safety_table import COLUMNS, Column, not_best

Numbers = dict[str, Any]

_STYLE = """\
h3 { margin-top: 1.6rem; } figure h3 { margin-top: 0; } h3 + p { margin: 0 0 0.3rem; }
.differences thead th { min-width: 7rem; overflow-wrap: normal; text-align: right; }
.differences thead small { white-space: normal; overflow-wrap: anywhere; }
.made th, .made td { white-space: nowrap; }
"""


def render(comparison: Comparison, numbers: Numbers) -> str:
    """The page as HTML; everything that comes from the runs is escaped on its way in."""
    tasks = list(dict.fromkeys(problem.task for problem in comparison.problems))
    title = "Comparison: " + ", ".join(tasks)
    look = plots.looks(group_names(comparison))
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
    names = _count(len(group_names(comparison)), "group")
    words = f"{names}, {_count(seeds, 'seed')} in {_count(len(runs), 'run')}"
    html = f'<p class="headline">{words}.</p>'
    if few:
        html += "\n" + _note(
            f"{few} of {_count(len(groups), 'result')} with fewer than {BOOTSTRAP_SEEDS} seeds: no "
            "interval is given for these, and their order may be chance."
        )
    return html


def _task_section(problem: Problem, found: Numbers, look: plots.Looks, anchor: str) -> list[str]:
    groups = found["groups"]
    curves = {g.name: [seed.evaluations for seed in g.seeds] for g in problem.groups}
    scores = {g.name: final_scores([g]) for g in problem.groups}
    returns = scores_are_returns(problem.task)
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
            to_png(plots.performance_profiles(scores, look, returns=returns)),
            "Share of the runs whose final score lies above the one on the axis. Look for the "
            "curve that is above the others everywhere; one seed is one step.",
        ),
        _improvement_table(found),
        _safety_table(found),
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
    score = "Return" if scores_are_returns(problem.task) else "Normalised score"
    rows = [
        [
            _with_interval(group, "mean", ".1f"),
            _with_interval(group, "iqm", ".1f"),
            _seed_count(group),
            show_number(group["offline_score"], ".1f"),
            show_number(group["env_steps"], ",.0f"),
        ]
        for group in groups
    ]
    return _table(
        "Final score",
        f"{score} of the last checkpoint, never the best. Data: {problem.label}.",
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
        [("Probability", "95% interval"), ("Seeds", "")],
        groups,
        [
            [_with_interval(group, "probability", ".2f", "_of_improvement"), _seed_count(group)]
            for group in groups
        ],
        "Over all pairs of seeds, a tie counts half; 0.5 is no difference.",
    )


def _safety_table(found: Numbers) -> str:
    safety = found["safety"]
    if safety is None:
        return ""
    score = "return" if scores_are_returns(found["task"]) else "normalised score"

    def cell(row: Numbers, column: Column) -> str:
        words = show_number(row[column.key], column.form)
        best = row["name"] in safety["best"].get(column.key, ())
        return f"<strong>{words}</strong>" if best else words

    table = _table(
        "Safety",
        f"Over the first {safety['steps']:,.0f} online steps of every run; points of the "
        f"{score}; the best is bold.",
        [(column.title, column.whose) for column in COLUMNS] + [("Seeds", "")],
        safety["rows"],
        [
            [cell(row, column) for column in COLUMNS] + [show_number(float(row["seeds"]), ".0f")]
            for row in safety["rows"]
        ],
        "Level: a seed's own offline score. "
        + " ".join(f"{c.title}: {c.means}." for c in COLUMNS)
        + " A dash: not recorded.",
    )
    words = not_best(safety) + safety["notes"]
    return "\n".join([table, *(_note(one) for one in words)])


def _over_tasks_section(comparison: Comparison, numbers: Numbers, look: plots.Looks) -> list[str]:
    if len(comparison.problems) < 2:
        return []
    found, reasons = numbers["over_tasks"], numbers["not_over_tasks"]
    parts = ["<h2>Over all tasks</h2>"]
    parts += [f'<p class="soft">Not averaged: {escape(words)}</p>' for words in reasons]
    if found is None:
        return parts
    parts += [_note(words) for words in _differences_between_tasks(found)]
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
                    _seed_count(group),
                ]
                for group in found["groups"]
            ],
            "Runs are resampled within every task.",
        )
    )
    scores = {
        group["name"]: final_scores(groups_named(comparison, group["name"]))
        for group in found["groups"]
    }
    profile = figure_element(
        "over_tasks_profiles",
        "Performance profile over tasks",
        to_png(plots.performance_profiles(scores, look)),
        "Share of the runs above a score, averaged over tasks.",
    )
    return [*parts, profile, _improvement_table(found)]


def _differences_between_tasks(found: Numbers) -> list[str]:
    """Groups that differ in the same settings share a sentence."""
    sharing: dict[str, list[str]] = {}
    for group in found["groups"]:
        differs = group["differs_between_tasks"].items()
        words = "; ".join(f"{key} {', '.join(values)}" for key, values in differs)
        sharing.setdefault(words, []).append(group["name"])
    tasks = ", ".join(found["tasks"])
    return [
        f"Not the same on {tasks}: {words} ({', '.join(names)})."
        for words, names in sharing.items()
        if words
    ]


def _differences(comparison: Comparison) -> str:
    """The settings that set the groups of one method apart, in full."""
    # What a name leaves out ("+2") may differ between tasks: such a name has several columns.
    columns: dict[tuple[str, str], tuple[Group, list[Problem]]] = {}
    for problem in comparison.problems:
        for group in problem.groups:
            key = group.name, json.dumps(group.settings)
            columns.setdefault(key, (group, []))[1].append(problem)
    names = [name for name, _ in columns]
    methods = dict.fromkeys(group.method for group, _ in columns.values() if group.settings)
    tables = []
    for method in methods:
        mine = [(group, problems) for group, problems in columns.values() if group.method == method]
        head = ""
        for group, problems in mine:
            where = "; ".join(_where(problem, comparison) for problem in problems)
            small = f"<small>{escape(where)}</small>" if names.count(group.name) > 1 else ""
            head += f'<th scope="col">{_name(group.name)}{small}</th>'
        rows = "\n".join(
            f'<tr><th scope="row">{_name(key)}</th>'
            + "".join(f"<td>{escape(group.settings[key])}</td>" for group, _ in mine)
            + "</tr>"
            for key in mine[0][0].settings
        )
        tables.append(
            f'<div class="wide"><table class="seeds differences"><thead><tr><th></th>{head}'
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


def _where(problem: Problem, comparison: Comparison) -> str:
    """The task, with as much of its data as tells it apart from the page's others."""
    others = [one for one in comparison.problems if one is not problem]
    others = [one for one in others if one.task == problem.task]
    words = problem.task
    if others:
        words += f", {problem.label}"
    if any(one.label == problem.label for one in others):
        words += f", sha256 {problem.sha256}"
    return words


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
        '<h2>Seeds</h2>\n<div class="wide"><table class="made"><thead><tr><th>Run</th><th>Seed</th>'
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
        f'<h3>{escape(title)}</h3>\n<p class="soft">{escape(caption)}</p>\n'
        '<div class="wide"><table class="seeds">\n'
        f"<thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>\n"
        f'<p class="soft">{escape(note)}</p>'
    )


def _seed_count(group: Numbers) -> str:
    """Of a group on one task, or over tasks, where it has as many on each."""
    return show_number(float(group.get("runs_per_task") or len(group["seeds"])), ".0f")


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
