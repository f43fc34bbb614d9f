"""The README's Python is run as written."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_python_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAARS_HOME", str(tmp_path / "home"))
    exec(compile(code, str(README), "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"[\d.]+ offline, [\d.]+ after online learning", printed)
    assert (tmp_path / "runs" / "first" / "report.html").stat().st_size > 10_000


def test_every_command_is_in_the_readme() -> None:
    from spaars.cli.main import COMMANDS

    text = README.read_text()
    for words in COMMANDS:
        assert f"`spaars {' '.join(words)}" in text
