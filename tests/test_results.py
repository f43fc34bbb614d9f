"""The tables in README.md and results/README.md are those of the committed runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from spaars.report import load_run
from spaars.report.comparison import write_comparison

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
RUNS = sorted(path.parent for path in RESULTS.rglob("config.json"))
BENCH = RESULTS / "locomotion-quick"


def rows(path: Path, first: str) -> list[list[str]]:
    """Cells of the table rows of a page whose first cell matches `first`."""
    found = re.findall(rf"^\| {first}.*$", path.read_text(), re.M)
    return [[cell.strip(" `*") for cell in row.strip("|").split("|")] for row in found]


# ------------------------------------------------------------------ single runs

SINGLE = rows(RESULTS / "README.md", "`(?:before-deployment|single)/")


def test_every_single_run_is_in_the_table() -> None:
    names = {str(run.relative_to(RESULTS)) for run in RUNS if BENCH not in run.parents}
    assert {row[0] for row in SINGLE} == names


@pytest.mark.parametrize("row", SINGLE, ids=lambda row: row[0])
def test_the_row_is_the_run(row: list[str]) -> None:
    name, seed, offline, final, steps = row[:5]
    run = load_run(RESULTS / name)
    assert run.config["git_revision"]
    assert run.config["versions"]["jax"]
    evaluations = [r for r in run.records if r["kind"] == "evaluation" and r["seed"] == int(seed)]
    assert offline == f"{evaluations[0]['score']:.1f}"
    assert evaluations[0]["label"] == "offline"
    assert final == f"{evaluations[-1]['score']:.1f}"
    assert steps.replace(",", "") == str(evaluations[-1]["step"])
    if run.summary is not None:
        (summary,) = (s for s in run.summary["seeds"] if s["seed"] == int(seed))
        assert summary["final_score"] == evaluations[-1]["score"]


# ------------------------------------------------------------------ the comparison


def numbers(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_table_is_made_from_the_committed_runs(tmp_path: Path) -> None:
    runs = [run for run in RUNS if BENCH in run.parents]
    assert runs
    write_comparison(runs, tmp_path / "table.html")
    assert numbers(tmp_path / "table.json") == numbers(BENCH / "table.json")


def expected_rows() -> list[list[str]]:
    """The README's comparison, from table.json."""
    found = []
    for task in numbers(BENCH / "table.json")["tasks"]:
        for group in task["groups"]:
            safety, (steps,) = group["safety"], group["steps_to_threshold"]
            n, reached = len(group["seeds"]), steps["reached"]
            interval = group["mean_interval"]
            found.append(
                [
                    task["task"],
                    group["name"],
                    str(n),
                    _number(group["offline_score"]),
                    f"{group['mean']:.1f}"
                    + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else ""),
                    (f"{steps['median']:,.0f}" if reached == n else "-") + f" ({reached} of {n})",
                    _number(safety["drop_below_offline_worst"]),
                    _number(safety["falls_per_1k"], 2),
                ]
            )
    return found


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def test_the_readme_shows_that_table() -> None:
    assert rows(ROOT / "README.md", "(?:hopper|walker2d)-medium ") == expected_rows()


def test_committed_runs_are_small() -> None:
    for run in RUNS:
        for path in run.iterdir():
            if path.suffix in (".json", ".jsonl"):
                assert path.stat().st_size < 1_000_000, path
                for place in ("/work/", "/tmp/", "/root/"):
                    assert place not in path.read_text(), f"{path} names a path"


if __name__ == "__main__":  # the rows to paste
    print("\n".join("| " + " | ".join(row) + " |" for row in expected_rows()))
