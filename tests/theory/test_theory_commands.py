"""`spaars theory ... --lq`: tables, figures, JSON, and bad input."""

import json

import pytest

from spaars.cli.main import main
from spaars.theory import gap as gap_module

TINY = {
    "gap": ["--problems", "3", "--states", "2", "--actions", "3", "--gamma", "0.5"],
    "variance": ["--problems", "3", "--actions", "2", "3", "--latents", "1", "--samples", "50"],
    "gated": [
        "--problems",
        "2",
        "--actions",
        "3",
        "--latents",
        "1",
        "--starts",
        "4",
        "--eta",
        "0",
        "1",
        "--gamma",
        "0.5",
    ],
}


def run(capsys, *argv, code=0):
    with pytest.raises(SystemExit) as stopped:
        main(["theory", *map(str, argv)])
    assert stopped.value.code == code
    return capsys.readouterr()


@pytest.mark.parametrize("command", TINY)
def test_writes_a_table_a_figure_and_json(command, tmp_path, capsys):
    for place in ("a", "b"):
        out = tmp_path / "deep" / place
        printed = run(capsys, command, "--lq", *TINY[command], "--out", out).out
    assert "┏" in printed
    assert f"{command}-lq.png" in printed
    files = sorted(path.name for path in out.iterdir())
    assert files == [f"{command}-lq.json", f"{command}-lq.png"]
    for name in files:  # the same seed, the same bytes
        assert (out / name).read_bytes() == (tmp_path / "deep" / "a" / name).read_bytes()
    assert (out / files[1]).read_bytes().startswith(b"\x89PNG")
    content = json.loads((out / files[0]).read_text())
    assert content["command"] == f"spaars theory {command} --lq"
    assert content["settings"]["problems"] == int(TINY[command][1])
    assert content["rows"]


def test_rows_of_the_gap(tmp_path, capsys):
    printed = run(capsys, "gap", "--lq", *TINY["gap"], "--out", tmp_path).out
    assert "violated in 0 of 6 cases" in " ".join(printed.split())
    content = json.loads((tmp_path / "gap-lq.json").read_text())
    assert [row["k"] for row in content["rows"]] == [1, 2]
    assert all(row["violated"] == 0 for row in content["rows"])
    first = content["problems"]["1"]
    assert len(first) == 3
    assert first[0]["gap"] <= first[0]["difference"] <= first[0]["lipschitz"]


def test_a_violated_chain_is_told_and_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gap_module.Gap, "holds", lambda self: False)
    printed = run(capsys, "gap", "--lq", *TINY["gap"], "--out", tmp_path, code=1).out
    assert "violated in 6 of 6 cases" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["gap"], ["--lq", "spaars theory gap --lq", "spaars theory gap RUN"]),
        (["variance"], ["--lq", "RUN"]),
        (["gated"], ["--lq", "gap RUN"]),
        (["gapp", "--lq"], ["unknown command", "'theory gap'"]),
        (["gap", "--lq", "--actions", "1"], ["--actions", "at least 2"]),
        (["gap", "--lq", "--gamma", "nan"], ["--gamma"]),
        (["gap", "--lq", "--error", "-1"], ["--error"]),
        (["variance", "--lq", "--sigma", "0"], ["--sigma"]),
        (["variance", "--lq", "--latents", "16"], ["fewer latents"]),
        (["gated", "--lq", "--latents", "6"], ["--latents", "--actions (6)"]),
        (["gated", "--lq", "--eta", "-1"], ["--eta"]),
    ],
)
def test_bad_input(argv, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = run(capsys, *argv, code=2).err.strip()
    assert error.startswith("spaars: error: ")
    assert "\n" not in error
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path, capsys):
    (tmp_path / "theory").write_text("not a directory")
    error = run(capsys, "gap", "--lq", *TINY["gap"], "--out", tmp_path / "theory", code=2).err
    assert "theory" in error
    assert "Traceback" not in error


def test_usage_names_the_commands(capsys):
    assert "theory gap --lq|RUN" in run(capsys).out
