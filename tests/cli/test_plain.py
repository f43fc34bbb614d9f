"""What others wrote is printed as it stands, though rich's markup looks the same."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from spaars.cli import eval as eval_command
from spaars.cli.console import RunDisplay
from spaars.cli.main import main
from spaars.cli.train import show
from spaars.tasks import get_task
from spaars.training.evaluate import EvalResult
from spaars.training.trainer import Run

ROOT = Path(__file__).parents[2]


def test_an_env_error_in_brackets_is_shown_and_ends_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with RunDisplay() as display:
        display.message("no message on [/joint_states], [b]retry[/b] :car:")
    assert "no message on [/joint_states], [b]retry[/b] :car:" in capsys.readouterr().out


def test_names_in_brackets_are_shown_after_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    keys = "offline_score handover_score final_score dip_worst drop_below_offline falls_per_1k"
    row = dict.fromkeys(f"seed {keys} env_steps wall_seconds".split(), 1.0)
    summary = {"method": "spaars", "dataset": {"label": "cup[/v2]"}, "seeds": [row]}
    show(RunDisplay(), Run(Path("runs/[v2]"), summary))
    printed = capsys.readouterr().out
    assert "spaars on cup[/v2]" in " ".join(printed.split())
    assert "report: runs/[v2]/report.html" in printed


def test_names_in_brackets_are_shown_by_theory_handover(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the table, where a run has a point, and in the sentence, where it has none."""
    for name in ("a[/x]", "b[/x]"):
        whole = ROOT / "results/handover/hopper-medium/cloning-0/s2"
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / "b[/x]/metrics.jsonl").write_text("")
    with pytest.raises(SystemExit) as stopped:
        main(["theory", "handover", str(tmp_path), "--out", str(tmp_path / "out[/x]")])
    assert not stopped.value.code
    printed = "".join(capsys.readouterr().out.split())
    for words in ("a[/x]", "Leftout:b[/x],seed2", "out[/x]/handover.json"):
        assert words in printed


def test_names_in_brackets_are_shown_by_eval(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = np.ones((1, 2))
    result = EvalResult(one, one, one.astype(int), one > 1.0, {})
    found = get_task("hopper-medium"), (0,), "cup[/v2]", result
    monkeypatch.setattr(eval_command, "_run", lambda args: found)
    eval_command.run(["runs/[/v2]"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "runs/[/v2]: 20 episodes a seed" in printed
    assert "trained on cup[/v2]" in printed
