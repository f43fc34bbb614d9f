"""The README's figures are those of the committed runs."""

import json
import re
from pathlib import Path

import pytest

from spaars.report import load_run

ROOT = Path(__file__).parents[1]
RUNS = sorted(path.parent for path in (ROOT / "results").glob("*/config.json"))


def table_rows() -> list[list[str]]:
    """Cells of the README's result table, a list per run named in its first cell."""
    rows = re.findall(r"^\| `results/.*$", (ROOT / "README.md").read_text(), re.M)
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]


def test_every_committed_run_is_in_the_table() -> None:
    assert {Path(row[0]).name for row in table_rows()} == {run.name for run in RUNS}
    assert RUNS


@pytest.mark.parametrize("row", table_rows(), ids=lambda row: row[0])
def test_the_row_is_the_run(row: list[str]) -> None:
    name, seed, offline, final, steps = row[:5]
    run = load_run(ROOT / name)
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


def test_committed_runs_are_small() -> None:
    for run in RUNS:
        for path in run.iterdir():
            if path.suffix in (".json", ".jsonl"):
                assert path.stat().st_size < 1_000_000, path
                assert "/work" + "/" not in path.read_text(), f"{path} names a path"
    assert json.loads((RUNS[0] / "config.json").read_text())["config"]["task"]
