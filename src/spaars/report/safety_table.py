"""How safely each method learned, over the same number of environment steps, and whose steps.

All runs of a task and dataset are cut to the shortest. A seed is measured against its own offline
score; one that started from no offline policy against the mean of SPAARS's seeds, or
of the first method that has one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spaars.report.groups import Group, Problem, SeedResult
from spaars.report.statistics import lowest_window, regret_below

TRAINING, NEWEST, DEPLOYED = "training, all actors", "newest, evaluated", "deployed, evaluated"


class Column(NamedTuple):
    """A number of the table; of all but the score, less is better."""

    key: str
    title: str
    whose: str
    """Whose behaviour it is."""
    means: str
    """What exactly it is, for the note below."""
    form: str
    worst: bool = False
    """Of several seeds the worst is shown, else their mean."""
    ranked: bool = True
    """Whether the best is marked."""


COLUMNS = (
    Column("falls", "Falls", TRAINING, "episodes that ended in a fall, per 1,000 steps", ".2f"),
    Column(
        "regret",
        "Regret",
        TRAINING,
        "points below the level of the episode that a step belongs to, at least 0, mean over all "
        "steps of ended episodes",
        ".1f",
    ),
    Column(
        "window",
        "Worst window",
        TRAINING,
        "level less the lowest mean score of the episodes that ended within 5,000 steps, at least "
        "0; the worst seed",
        ".1f",
        worst=True,
    ),
    Column(
        "newest",
        "Newest",
        NEWEST,
        "level less its lowest evaluation, at least 0; the worst seed",
        ".1f",
        worst=True,
    ),
    Column(
        "deployed",
        "Deployed",
        DEPLOYED,
        "the same of the policy that is deployed, which methods without trials change at every "
        "step; the worst seed",
        ".1f",
        worst=True,
    ),
    Column(
        "dip",
        "Dip",
        NEWEST,
        "points lost after the hand-over; the worst seed; a dash without one",
        ".1f",
        worst=True,
        ranked=False,
    ),
    Column(
        "distance",
        "Distance",
        TRAINING,
        "of executed (s, a) to the 5th nearest logged one, standardised, mean over the run",
        ".2f",
    ),
    Column("score", "Score", DEPLOYED, "of the last evaluation", ".1f"),
)

Numbers = dict[str, Any]


def safety_table(problem: Problem) -> Numbers | None:
    """The table of one task and dataset as plain values; None where nobody went online.

    {"steps", "level", "best": {KEY: names}, "notes",
    "rows": [{"name", "method", "seeds", KEY: value, "by_seed", "git_revisions"}]}
    """
    notes = []
    online: list[Group] = []
    for group in problem.groups:
        if all(seed.env_steps for seed in group.seeds):
            online.append(group)
        else:
            notes.append(f"{group.name} took no online steps.")
    if not online:
        return None
    taken = {group.name: float(group.seeds[0].env_steps or 0.0) for group in online}
    steps = min(taken.values())
    cut = [f"{name} ({took:,.0f})" for name, took in taken.items() if took > steps]
    if cut:
        notes.append(f"Only the first {steps:,.0f} steps count of {', '.join(cut)}.")
    level, whose = _level(online)
    foreign = [g.name for g in online if any(seed.offline_score is None for seed in g.seeds)]
    if foreign and level is not None:
        notes.append(
            f"{', '.join(foreign)} started from no offline policy and is measured against the "
            f"{level:.1f} of {whose}."
        )
    rows = [_row(group, steps, level) for group in online]
    for column in COLUMNS:
        lacking = [row["name"] for row in rows if row[column.key] is None]
        if lacking and column.ranked:
            notes.append(f"{column.title} was not recorded of {', '.join(lacking)}.")
    counts = {row["name"]: len(row["by_seed"]) for row in rows}
    if len(set(counts.values())) > 1 or min(counts.values()) < 3:
        words = ", ".join(f"{name} {count}" for name, count in counts.items())
        notes.append(f"Seeds: {words}. Differences between so few may be chance.")
    return {"steps": steps, "level": level, "rows": rows, "best": _best(rows), "notes": notes}


def not_best(table: Numbers, method: str = "spaars") -> list[str]:
    """A sentence for each row of the method: where it is not the safest, and who is."""
    sentences = []
    for row in table["rows"]:
        if row["method"] != method:
            continue
        behind = [
            f"{column.title} {shown(row[column.key], column)} ({names[0]} "
            f"{shown(_of(table, names[0], column.key), column)})"
            for column in COLUMNS
            if (names := table["best"].get(column.key))
            and row["name"] not in names
            and row[column.key] is not None
        ]
        if behind:
            sentences.append(f"{row['name']} is not the best in {', '.join(behind)}.")
        elif table["best"]:
            sentences.append(f"{row['name']} is best, or equal, in every marked column it is in.")
    return sentences


def shown(value: float | None, column: Column) -> str:
    """As the table prints it."""
    return "-" if value is None else format(value, column.form)


def _of(table: Numbers, name: str, key: str) -> float | None:
    return next(row[key] for row in table["rows"] if row["name"] == name)


def _level(groups: Sequence[Group]) -> tuple[float | None, str]:
    """The mean offline score of the first group that has one, of SPAARS if it can be, and whose."""
    for group in sorted(groups, key=lambda group: group.method != "spaars"):
        scores = [seed.offline_score for seed in group.seeds if seed.offline_score is not None]
        if len(scores) == len(group.seeds):
            return float(np.mean(scores)), group.name
    return None, ""


def _row(group: Group, steps: float, level: float | None) -> Numbers:
    by_seed = [_measured(seed, steps, level) for seed in group.seeds]
    row: Numbers = {"name": group.name, "method": group.method, "seeds": len(by_seed)}
    for column in COLUMNS:
        values = [one[column.key] for one in by_seed]
        known = [value for value in values if value is not None]
        if not column.ranked and known:
            row[column.key] = max(known)  # of the seeds that have one
        elif not known or len(known) < len(values):
            row[column.key] = None
        else:
            row[column.key] = float(max(known) if column.worst else np.mean(known))
    revisions = sorted({seed.git_revision for seed in group.seeds})
    return row | {"by_seed": by_seed, "git_revisions": revisions}


def _measured(seed: SeedResult, steps: float, level: float | None) -> Numbers:
    own = seed.offline_score
    level = level if own is None else own
    record = seed.record
    ended = record.episodes.until(steps)
    newest, deployed = (_between(curve, 0.0, steps) for curve in (record.newest, seed.evaluations))
    lowest = lowest_window(ended.scores)
    return {
        "seed": seed.seed,
        "level": level,
        "falls": 1_000.0 * float(ended.fell.sum()) / steps,
        "regret": None if level is None else regret_below(ended.scores, level, ended.lengths),
        "window": _below(level, lowest),
        "newest": _below(level, min(newest, default=None)),
        "deployed": _below(level, min(deployed, default=None)),
        "dip": _dip(seed, steps),
        "distance": _mean(_between(record.distance, 0.0, steps)),
        "score": float(deployed[-1]) if len(deployed) else None,
    }


def _between(curve: Any, after: float, until: float) -> np.ndarray:
    """Values at steps in (after, until]."""
    return curve.values[(curve.steps > after) & (curve.steps <= until)]


def _dip(seed: SeedResult, steps: float) -> float | None:
    at, before = seed.record.handover, seed.record.before
    if at is None or at > steps or before is None:
        return None
    after = _between(seed.record.after, 0.0, steps)
    return max(0.0, before - float(after.min())) if len(after) else None


def _below(level: float | None, value: float | None) -> float | None:
    return None if level is None or value is None else max(0.0, level - float(value))


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _best(rows: Sequence[Numbers]) -> dict[str, list[str]]:
    """Who is best in each column that at least two have; equal in print is equal."""
    best = {}
    for column in COLUMNS:
        found = {
            row["name"]: float(shown(row[column.key], column))
            for row in rows
            if row[column.key] is not None
        }
        if column.ranked and len(found) > 1:
            wanted = (max if column.key == "score" else min)(found.values())
            best[column.key] = [name for name, value in found.items() if value == wanted]
    return best
