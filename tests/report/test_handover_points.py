"""`spaars theory handover`: points from metrics alone, their correlation, and what is left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from spaars.cli.main import main
from spaars.report import load_run
from spaars.report.handover import handover_points
from spaars.report.statistics import rank_correlation


def write_run(
    path: Path, *, error: float = 0.1, lowest: float = 40.0, newest: bool = True, **changes: Any
) -> Path:
    """Armed at 8,000 steps with score 50; the bound is 100 errors of a value of 200."""
    path.mkdir(parents=True)
    weight = changes.get("weight", 1.0)
    config = {"task": "t", "method": "spaars", "seeds": [3], "learner": {"cloning_weight": weight}}
    dataset = {"label": "recorded", "sha256": "ab"}
    whole = {"config": config, "dataset": dataset, "git_revision": "0123abc"}
    (path / "config.json").write_text(json.dumps(whole))
    online = {"kind": "train", "phase": "online"}
    lines: list[dict[str, Any]] = [
        {**online, "step": 7_000, "cloning_error": 9.0, "handover_bound": 9.0, "value": 9.0},
        {
            **online,
            "step": 8_000,
            "cloning_error": error,
            "handover_bound": 100.0 * error,
            "value": 200.0,
            "raw_share": 0.0,
        },
        {**online, "step": 9_000, "cloning_error": 9.0, "raw_share": 0.25},
        {**online, "step": 10_000, "raw_share": 0.75},
        {"kind": "event", "event": "handover", "step": changes.get("step", 8_000), "reason": "x"},
    ]
    if changes.get("step", 8_000) is None:
        lines.pop()
    for step, score in {8_000: 50.0, 10_000: lowest, 15_000: 60.0, 20_000: 1.0}.items():
        evaluation = {"kind": "evaluation", "step": step, "score": 77.0, "label": "x"}
        lines.append(evaluation | ({"newest_score": score} if newest else {}))
    text = "".join(json.dumps(line | {"seed": 3}) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text)
    return path


def test_a_point_is_what_metrics_say(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", weight=0.3)
    ((point,), left_out) = handover_points([load_run(run)], 10_000)
    assert left_out == []
    assert (point.seed, point.cloning_weight, point.step) == (3, 0.3, 8_000)
    assert (point.cloning_error, point.bound) == (0.1, pytest.approx(0.05))
    assert (point.before, point.lowest, point.evaluations) == (50.0, 40.0, 2)
    assert point.dip == pytest.approx(0.2)
    assert point.raw_share == pytest.approx(0.5)
    ((wider,), _) = handover_points([load_run(run)], 12_000)
    assert wider.lowest == 1.0


def test_what_is_measured_after_the_gate_opened_at_the_same_step_is_after(tmp_path: Path) -> None:
    """A periodic evaluation may fall on the hand-over's step."""
    run = write_run(tmp_path / "a")
    periodic = {"kind": "evaluation", "step": 8_000, "seed": 3, "label": "periodic"}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(periodic | {"score": 77.0, "newest_score": 30.0}) + "\n")
    ((point,), _) = handover_points([load_run(run)], 10_000)
    assert (point.before, point.lowest, point.evaluations) == (50.0, 30.0, 3)


def test_a_gain_is_no_dip_and_what_gives_no_point_says_why(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "gain", lowest=70.0),
        write_run(tmp_path / "older", newest=False),
        write_run(tmp_path / "never", step=None),
        write_run(tmp_path / "late", step=20_000),
    ]
    points, left_out = handover_points([load_run(run) for run in runs], 10_000)
    assert [(p.run, p.dip) for p in points] == [("gain", 0.0)]
    assert "older, seed 3: the newest policy was not evaluated" in left_out[0]
    assert left_out[1] == "never, seed 3: it never handed over."
    assert "no evaluation within 10,000 steps" in left_out[2]


@pytest.mark.parametrize("n", [6, 20])
def test_rank_correlation_against_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.integers(0, 5, n).astype(float)
    y = x + rng.integers(0, 5, n)
    found = rank_correlation(x, y)
    assert found.value == pytest.approx(spearmanr(x, y).statistic)
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]
    assert 0.0 < found.p_value <= 1.0
    assert rank_correlation(x, y) == found


def test_few_points_say_little() -> None:
    four = np.arange(4.0)
    perfect = rank_correlation(four, four)
    assert perfect.value == pytest.approx(1.0)
    assert perfect.interval is None
    assert perfect.p_value == pytest.approx(2 / 24)  # forwards and backwards, of 24 orders
    assert rank_correlation(four[:2], four[:2]).value is None
    assert rank_correlation(four, np.zeros(4)).value is None


def run(capsys: Any, *argv: object, code: int = 0) -> Any:
    with pytest.raises(SystemExit) as stopped:
        main(["theory", "handover", *map(str, argv)])
    assert stopped.value.code == code
    return capsys.readouterr()


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    for i, (error, lowest) in enumerate([(0.1, 48.0), (0.2, 30.0), (0.3, 45.0)]):
        write_run(tmp_path / "runs" / f"r{i}", error=error, lowest=lowest)
    write_run(tmp_path / "runs" / "none", step=None)
    for place in ("a", "b"):
        printed = run(capsys, tmp_path / "runs", "--out", tmp_path / place).out
    words = " ".join(printed.split())
    assert "none, seed 3: it never handed over." in words
    assert "1 of 3 dips are above their bound." in words  # 40% against 10%
    assert "No interval: too few points" in words
    assert "All have the same cloning weight" in words
    for name in ("handover.json", "handover.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    content = json.loads((tmp_path / "a" / "handover.json").read_text())
    assert content["command"] == "spaars theory handover"
    assert [p["cloning_error"] for p in content["points"]] == [0.1, 0.2, 0.3]
    assert content["rank_correlation"]["value"] == pytest.approx(0.5)
    assert str(tmp_path) not in json.dumps(content)


def test_the_command_refuses(tmp_path: Path, capsys: Any) -> None:
    never = write_run(tmp_path / "runs" / "none", step=None)
    out = tmp_path / "out"
    assert "never handed over" in run(capsys, never, "--out", out, code=2).err
    assert "--window" in run(capsys, never, "--window", "0", "--out", out, code=2).err
    assert "no run given" in run(capsys, "--out", out, code=2).err
    assert not out.exists()
