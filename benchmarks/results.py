"""What is committed under results/, and the tables made from it.

    python benchmarks/results.py collect runs/locomotion   # finished runs -> results/locomotion
    python benchmarks/results.py tables                    # results/table.json, tables in pages

A suite of results lies in results/SUITE/TASK/VARIANT/sSEED; of a run only what is small is kept.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spaars.report import load_run
from spaars.report.comparison import compare
from spaars.report.groups import group_runs
from spaars.report.safety_table import COLUMNS, not_best, safety_table, shown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
SUITES = ("locomotion", "kitchen", "locomotion-three-steps", "locomotion-quick", "ablations")
"""In the order of the tables."""
EXPERIMENTS = ("handover",)
"""Runs that a page of docs/ evaluates. What else lies in results/ are single runs, compared with
nothing."""
THRESHOLD = 90.0
PEERS = ("spaars", "rlpd", "iql", "sac")
"""Whose safety is compared; docs/safety.md says which of them are missing."""
KEPT = ("config.json", "metrics.jsonl", "summary.json")

Row = dict[str, Any]


def runs_of(suite: str, results: Path = RESULTS) -> list[Path]:
    return sorted(path.parent for path in (results / suite).glob("*/*/s*/summary.json"))


def collect(source: Path, results: Path = RESULTS) -> list[Path]:
    """Copy every finished run of a suite, without this machine's paths."""
    if source.resolve() == (results / source.name).resolve():
        raise SystemExit(f"{source} is where the runs would go")
    collected = []
    for summary in sorted(source.glob("*/*/s*/summary.json")):
        texts = {name: (summary.parent / name).read_text() for name in KEPT}
        run = results / source.name / summary.parent.relative_to(source)
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        for name, text in texts.items():
            (run / name).write_text(text.replace(f"{source.resolve().parent}/", "runs/"))
        collected.append(run)
    return collected


def table(results: Path = RESULTS) -> list[Row]:
    """A row per suite, task, dataset and group of seeds."""
    return [
        _row(suite, task, group)
        for suite in SUITES
        if (runs := runs_of(suite, results))
        for task in compare(group_runs([load_run(run) for run in runs]), (THRESHOLD,))["tasks"]
        for group in task["groups"]
    ]


def _row(suite: str, task: Row, group: Row) -> Row:
    (steps,) = group["steps_to_threshold"]
    low, high = group["mean_interval"] or (None, None)
    everyone = steps["reached"] == len(group["seeds"])
    return {
        "suite": suite,
        "task": task["task"],
        "dataset": task["dataset"]["label"],
        "method": group["name"],
        "seeds": [seed["seed"] for seed in group["seeds"]],
        "env_steps": group["env_steps"],
        "offline_mean": group["offline_score"],
        "score_mean": group["mean"],
        "score_iqm": group["iqm"],
        "ci_low": low,
        "ci_high": high,
        "dip_worst": group["safety"]["dip_worst"],
        "below_offline_worst": group["safety"]["drop_below_offline_worst"],
        "falls_per_1k": group["safety"]["falls_per_1k"],
        "steps_to_threshold": steps["median"] if everyone else None,
        "threshold": THRESHOLD,
        "threshold_reached_by": steps["reached"],
        "revision": ", ".join(_short(revision) for revision in group["git_revisions"]),
    }


def _short(revision: str) -> str:
    """Seven digits, and whether the tree differed from it."""
    return revision[:7] + ("-dirty" if revision.endswith("-dirty") else "")


def markdown(rows: Sequence[Row]) -> str:
    """As README.md and results/README.md print it."""
    lines = [
        "| task | method | seeds | online steps | offline | final | steps to 90 (reached by) | "
        "worst evaluation below offline | falls per 1,000 steps | revision |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        n, reached = len(row["seeds"]), row["threshold_reached_by"]
        low, high, steps = row["ci_low"], row["ci_high"], row["steps_to_threshold"]
        interval = "" if low is None else f" [{low:.1f}, {high:.1f}]"
        cells = [
            row["task"],
            row["method"],
            str(n),
            _number(row["env_steps"], 0),
            _number(row["offline_mean"]),
            _number(row["score_mean"]) + interval,
            f"{_number(steps, 0)} ({reached} of {n})",
            _number(row["below_offline_worst"]),
            _number(row["falls_per_1k"], 2),
            f"`{row['revision']}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def between_marks(page: str, name: str, text: str) -> str:
    """The page with `text` between its two marks of that name."""
    begin, end = f"<!-- table {name} -->", f"<!-- end of table {name} -->"
    head, first, rest = page.partition(begin)
    _, second, tail = rest.partition(end)
    if not (first and second):
        raise SystemExit(f"no place for the table: {begin} or {end} is missing")
    return f"{head}{begin}\n{text}\n{end}{tail}"


def safety_markdown(suite: str, results: Path = RESULTS) -> str:
    """The safety tables of a suite, one for each task and dataset, as docs/safety.md prints them.

    Says which of PEERS have no run, and where SPAARS is not the safest.
    """
    runs = [load_run(run) for run in runs_of(suite, results)]
    parts = []
    for problem in group_runs(runs).problems if runs else ():
        found = safety_table(problem)
        if found is None:
            continue
        heads = ["method", "seeds", *(f"{c.title} ({c.whose})" for c in COLUMNS), "revision"]
        lines = [f"**{problem.task}**, {problem.label}, first {found['steps']:,.0f} steps:", ""]
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for row in found["rows"]:
            cells = [
                f"**{shown(row[c.key], c)}**"
                if row["name"] in found["best"].get(c.key, ())
                else shown(row[c.key], c)
                for c in COLUMNS
            ]
            seeds = ", ".join(str(seed["seed"]) for seed in row["by_seed"])
            revisions = ", ".join(f"`{_short(revision)}`" for revision in row["git_revisions"])
            lines.append("| " + " | ".join([row["name"], seeds, *cells, revisions]) + " |")
        there = {row["method"] for row in found["rows"]}
        missing = [f"No run of {peer}." for peer in PEERS if peer not in there]
        lines += ["", " ".join([*not_best(found), *found["notes"], *missing])]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or "Nothing was run online yet."


def with_tables(page: str, rows: Sequence[Row]) -> str:
    """Every table that the page has a place for."""
    for suite in SUITES:
        if f"<!-- table safety-{suite} -->" in page:
            page = between_marks(page, f"safety-{suite}", safety_markdown(suite))
        if f"<!-- table {suite} -->" in page:
            mine = [row for row in rows if row["suite"] == suite]
            page = between_marks(page, suite, markdown(mine))
    return page


PAGES = (ROOT / "README.md", RESULTS / "README.md", ROOT / "docs" / "safety.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("collect").add_argument("source", type=Path, help="a suite's --out")
    commands.add_parser("tables")
    args = parser.parse_args()
    if args.command == "collect":
        for run in collect(args.source):
            print(run.relative_to(ROOT))
        return
    rows = table()
    (RESULTS / "table.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
    for page in PAGES:
        page.write_text(with_tables(page.read_text(), rows))
    print(f"{len(rows)} rows")


if __name__ == "__main__":
    main()
