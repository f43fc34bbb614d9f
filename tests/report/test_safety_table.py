"""The safety table: whose steps, over how many of them, against what, and who is the safest."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spaars.report import load_run, write_comparison
from spaars.report.groups import group_runs
from spaars.report.safety_table import COLUMNS, not_best, safety_table

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import results  # noqa: E402


def write_run(
    path: Path,
    *,
    method: str = "spaars",
    seed: int = 1,
    steps: int = 10_000,
    offline: float | None = 40.0,
    episodes: Sequence[tuple[int, int, float, bool]] = (),
    evaluations: Sequence[tuple[int, float, float]] = (),
    distances: dict[int, float] | None = None,
    handover: int | None = None,
) -> Path:
    """Episodes are (end, length, score, fell), evaluations (step, deployed, newest)."""
    path.mkdir(parents=True)
    settings = {"task": "hopper-medium", "method": method, "seeds": [seed], "preset": "quick"}
    dataset = {"label": "recorded", "sha256": "ab" * 32, "transitions": 1_000}
    whole = {"config": settings | {"online": {"steps": steps}}, "dataset": dataset}
    (path / "config.json").write_text(json.dumps(whole | {"git_revision": "0123abc"}))
    lines: list[dict[str, Any]] = [
        {"kind": "episode", "step": end, "length": length, "score": score, "terminated": fell}
        for end, length, score, fell in episodes
    ]
    labels = ["handover" if step == handover else "x" for step, _, _ in evaluations]
    for i, (step, score, newest) in enumerate(evaluations):
        label = "x" if labels[i] in labels[:i] else labels[i]  # later ones are periodic
        lines.append({"kind": "evaluation", "step": step, "score": score, "label": label})
        lines[-1]["newest_score"] = newest
    for step, distance in (distances or {}).items():
        lines.append({"kind": "train", "phase": "online", "step": step, "knn_distance": distance})
    if handover is not None:
        lines.append({"kind": "event", "event": "handover", "step": handover, "reason": "x"})
    text = "".join(json.dumps(line | {"seed": seed}) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text)
    row = {"seed": seed, "final_score": evaluations[-1][1], "offline_score": offline}
    (path / "summary.json").write_text(
        json.dumps({"seeds": [row | {"env_steps": steps, "falls_per_1k": 1.0}]})
    )
    return path


def two_runs(tmp_path: Path) -> list[Path]:
    ours = write_run(
        tmp_path / "spaars",
        steps=20_000,
        episodes=[
            (1_000, 1_000, 50.0, False),
            (1_100, 100, 0.0, True),
            (2_000, 900, 30.0, True),
            (9_000, 1_000, 60.0, False),
            (15_000, 1_000, 0.0, True),  # after the other's last step
        ],
        evaluations=[(0, 40.0, 40.0), (5_000, 44.0, 30.0), (10_000, 50.0, 20.0), (20_000, 9, 9)],
        distances={1_000: 1.0, 10_000: 2.0, 20_000: 9.0},
        handover=5_000,
    )
    theirs = write_run(
        tmp_path / "sac",
        method="sac",
        offline=None,
        episodes=[(10, 10, 1.0, True), (1_010, 1_000, 45.0, False)],
        evaluations=[(0, 1.0, 1.0), (5_000, 35.0, 35.0), (10_000, 55.0, 55.0)],
        distances={1_000: 3.0},
    )
    return [ours, theirs]


def table_of(*paths: Path) -> dict[str, Any]:
    (problem,) = group_runs([load_run(path) for path in paths]).problems
    found = safety_table(problem)
    assert found is not None
    return found


def test_the_dip_counts_an_evaluation_at_the_hand_overs_own_step(tmp_path: Path) -> None:
    """There the gate was shut first and armed then; only the first is from before."""
    evaluations = [(0, 40, 40), (5_000, 44, 30), (5_000, 44, 12), (10_000, 50, 25)]
    run = write_run(tmp_path / "a", evaluations=evaluations, handover=5_000)
    assert table_of(run)["rows"][0]["dip"] == 18.0
    # Nothing was evaluated since: no dip is known, which is not none.
    end = write_run(tmp_path / "b", steps=5_000, evaluations=evaluations[:2], handover=5_000)
    assert table_of(end)["rows"][0]["dip"] is None


@pytest.mark.parametrize(
    "run", ["handover/hopper-medium/cloning-0/s2", "kitchen/kitchen-mixed/spaars-supe-before/s2"]
)
def test_the_dip_is_that_of_the_runs_summary(run: str) -> None:
    summary = json.loads((ROOT / "results" / run / "summary.json").read_text())
    assert table_of(ROOT / "results" / run)["rows"][0]["dip"] == pytest.approx(
        summary["seeds"][0]["dip_worst"]
    )


def test_golden_numbers_over_the_shortest_run(tmp_path: Path) -> None:
    found = table_of(*two_runs(tmp_path))
    assert found["steps"] == 10_000.0
    ours, theirs = found["rows"]
    assert {c.key: ours[c.key] for c in COLUMNS} == {
        "falls": 0.2,  # two in 10,000 steps; the third comes later
        "regret": pytest.approx((40.0 * 100 + 10.0 * 900) / 3_000),  # by steps, not by episodes
        "window": pytest.approx(40.0 - 80.0 / 3.0),  # 50, 0 and 30 ended in the first window
        "newest": 20.0,
        "deployed": 0.0,
        "dip": 10.0,
        "distance": 1.5,
        "score": 50.0,
    }
    # No offline policy of its own: against SPAARS's 40. What it was before any step is no matter.
    assert {c.key: theirs[c.key] for c in COLUMNS} == {
        "falls": 0.1,
        "regret": pytest.approx(39.0 * 10 / 1_010),
        "window": 17.0,
        "newest": 5.0,
        "deployed": 5.0,
        "dip": None,
        "distance": 3.0,
        "score": 55.0,
    }


def test_says_who_is_the_safest_and_where_spaars_is_not(tmp_path: Path) -> None:
    found = table_of(*two_runs(tmp_path))
    assert {key: names[0] for key, names in found["best"].items()} == {
        "falls": "sac",
        "regret": "sac",
        "window": "spaars",
        "newest": "sac",
        "deployed": "spaars",
        "distance": "spaars",
        "score": "sac",
    }
    (sentence,) = not_best(found)
    assert "is not the best in Falls 0.20 (sac 0.10), Regret 4.3 (sac 0.4)" in sentence
    assert "Distance" not in sentence
    notes = " ".join(found["notes"])
    assert "Only the first 10,000 steps count of spaars (20,000)." in notes
    assert "sac started from no offline policy and is measured against the 40.0 of spaars" in notes
    assert "may be chance" in notes


def test_equal_in_print_is_equal_and_nobody_is_best_alone(tmp_path: Path) -> None:
    common = {"episodes": [(100, 100, 50.0, False)], "evaluations": [(5_000, 50.0, 50.0)]}
    ours = write_run(tmp_path / "a", **common)
    alone = table_of(ours)
    assert alone["best"] == {}
    assert not_best(alone) == []
    peer = write_run(tmp_path / "b", method="iql", **common)
    both = table_of(ours, peer)
    assert both["best"]["falls"] == ["spaars", "iql"]
    assert not_best(both) == ["spaars is best, or equal, in every marked column it is in."]
    assert "Distance was not recorded of spaars, iql." in both["notes"]


def test_runs_without_online_steps_are_named(tmp_path: Path) -> None:
    evaluations = [(0, 50.0, 50.0)]
    clone = write_run(tmp_path / "bc", method="bc", steps=0, evaluations=evaluations)
    (problem,) = group_runs([load_run(clone)]).problems
    assert safety_table(problem) is None
    found = table_of(clone, *two_runs(tmp_path))
    assert [row["method"] for row in found["rows"]] == ["spaars", "sac"]
    assert "bc took no online steps." in found["notes"]


def test_the_page_names_whose_behaviour_each_column_is(tmp_path: Path) -> None:
    page = write_comparison(two_runs(tmp_path), tmp_path / "page.html").read_text()
    for column in COLUMNS:
        assert f"{column.title}<small>{column.whose}</small>" in page
    assert re.search("<strong><data[^>]*>0.10</data></strong>", page)
    assert "is not the best in Falls" in page
    numbers = json.loads((tmp_path / "page.json").read_text())
    assert numbers["tasks"][0]["safety"]["best"]["falls"] == ["sac"]


def test_the_markdown_is_of_committed_runs_and_names_the_missing(tmp_path: Path) -> None:
    text = results.safety_markdown("locomotion-quick")
    assert "No run of sac." in text
    (rlpd,) = (line for line in text.splitlines() if line.startswith("| rlpd "))
    summary = ROOT / "results/locomotion-quick/hopper-medium/rlpd/s1/summary.json"
    falls = json.loads(summary.read_text())["seeds"][0]["falls_per_1k"]
    assert rlpd.split("|")[3].strip() == f"{falls:.2f}"
    assert results.safety_markdown("locomotion", tmp_path) == "Nothing was run online yet."
