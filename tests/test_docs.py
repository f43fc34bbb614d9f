"""The documentation does what it says: pages are run, errors provoked, generated pages compared."""

import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaars.cli.main import main
from spaars.training.config import TrainConfig, preset_config
from spaars.training.trainer import Run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"(?:`(?P<file>\w+\.py)`:\n\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.S
)


def run_page(page: Path, run_line) -> None:
    """In the working directory: files are written, Python executed, and every line of bash run."""
    for block in BLOCK.finditer(page.read_text()):
        if block["file"]:
            Path(block["file"]).write_text(block["code"])
        elif block["language"] == "python":
            exec(compile(block["code"], str(page), "exec"), {})
        else:
            for line in block["code"].splitlines():
                run_line(line)


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a line of a page here, where JAX is loaded already and compiles nothing twice."""
    monkeypatch.chdir(tmp_path)

    def run_line(line: str) -> None:
        words = shlex.split(line)
        if words[0] == "export":
            assert words == ["export", "PYTHONPATH=."]
            monkeypatch.syspath_prepend(tmp_path)
        elif words[0] == "python":
            (_, script) = words
            runpy.run_path(script, run_name="__main__")
        else:
            assert words[0] == "spaars", line
            with pytest.raises(SystemExit) as stopped:
                main(words[1:])
            assert stopped.value.code == 0, line

    return run_line


def test_your_own_data(in_process, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "your-own-data.md"
    run_page(page, in_process)
    printed = capsys.readouterr().out
    assert re.search(r"return -\d+\.\d, last command \[.*\] degrees per second", printed)
    assert (tmp_path / "runs" / "arm" / "report.html").stat().st_size > 10_000
    # What the page shows of `convert` is what came out, but for the digest.
    (shown,) = re.findall(r"```text\n(from .*?)```", page.read_text(), re.S)
    for line in shown.splitlines():
        assert line.removesuffix("...") in printed


@pytest.fixture(scope="module")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded once for the pages that use the embedded data."""
    return tmp_path_factory.mktemp("home")


def test_quickstart_and_readme(
    in_process,
    data_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPAARS_HOME", str(data_home))
    run_page(DOCS / "quickstart.md", in_process)
    first = Path("runs/first")
    assert (first / "policy-s0.npz.md").exists()
    assert (first / "report.html").stat().st_size > 10_000

    # README.md makes the very same run, in Python: it is not trained twice.
    def train(config: TrainConfig, out: str) -> Run:
        assert config == preset_config("hopper-medium", preset="smoke")
        assert Path(out) == first
        return Run(first, json.loads((first / "summary.json").read_text()))

    monkeypatch.setattr("spaars.training.run.train", train)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"[\d.]+ offline, [\d.]+ after online learning", printed)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["quickstart.md", "your-own-data.md"])
def test_pages_in_a_shell(
    page: str, data_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a person would: each command by bash, in a process of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAARS_HOME", str(data_home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def run_line(line: str) -> None:
        if line.startswith("export "):
            monkeypatch.setenv(*line.removeprefix("export ").split("=", 1))
        else:
            subprocess.run(["bash", "-ec", line], check=True)

    run_page(DOCS / page, run_line)


def test_every_command_is_in_the_readme() -> None:
    from spaars.cli.main import COMMANDS

    text = (ROOT / "README.md").read_text()
    for words in COMMANDS:
        assert f"`spaars {' '.join(words)}" in text


# ------------------------------------------------------------------ troubleshooting


def log(path: str, observation_dim: int = 11, **changes: np.ndarray) -> None:
    """A file that hopper-medium would take, but for the changes."""
    n, rng = 30, np.random.default_rng(0)
    states = rng.normal(size=(n, observation_dim)).astype(np.float32)
    arrays = {
        "observations": states,
        "actions": rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        "rewards": np.ones(n, np.float32),
        "next_observations": states,
        "terminated": np.arange(n) % 10 == 9,
        "truncated": np.zeros(n, bool),
    } | changes
    np.savez(path, **arrays)


def make_files() -> None:
    """In the working directory, what the commands below are given."""
    log("log.npz")
    log("nan.npz", rewards=np.where(np.arange(30) == 7, np.nan, 1.0))
    log("degrees.npz", actions=np.linspace(-90, 45, 90).reshape(30, 3))
    log("wide.npz", observation_dim=12)
    np.savez("names.npz", qpos=np.zeros((30, 5)), cmd=np.zeros((30, 3)), reward=np.zeros(30))
    with pytest.raises(SystemExit):
        main(["data", "convert", "log.npz", "converted.npz"])
    Path("runs/old").mkdir(parents=True)
    Path("runs/old/config.json").write_text("{}")


PROVOKED = (
    "train hoper-medium",
    "train --preset smoke hopper-medium",
    "train hopper-medium --online.steps 777",
    "train hopper-medium --method iql --gate.pessimism 1",
    "train hopper-medium --method supe",
    "train door-human",
    "train hopper-medium --dataset absent.hdf5",
    "train hopper-medium --dataset nan.npz",
    "train hopper-medium --dataset degrees.npz",
    "train hopper-medium --dataset wide.npz",
    "data inspect names.npz",
    "data convert log.npz out.npz --rewards zero",
    "data convert converted.npz out.npz --action-low -2 --action-high 2",
    "train --env my_robot:Arm-v0 --dataset log.npz",
    "train --env CartPole-v1 --dataset log.npz",
    "train hopper-medium --safety.action-low -2",
    "train hopper-medium --safety.budget.cost 5",
    "train hopper-medium --out runs/old",
    "resume runs",
    "eval log.npz",
)
"""What provokes messages of docs/troubleshooting.md."""


def source() -> str:
    """All of src/, the parts of each string literal joined."""
    texts = [path.read_text() for path in sorted((ROOT / "src").rglob("*.py"))]
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts))


def test_quoted_errors_are_the_real_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"^spaars: error: (.*)$", page, re.M)
    monkeypatch.chdir(tmp_path)
    make_files()
    before = sorted(tmp_path.rglob("*"))
    patterns = {text: re.escape(text).replace(re.escape("[...]"), ".*") for text in quoted}
    unseen = set(quoted)
    for line in PROVOKED:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(shlex.split(line))
        assert stopped.value.code == 2
        message = capsys.readouterr().err.strip().removeprefix("spaars: error: ")
        (found,) = (text for text, pattern in patterns.items() if re.fullmatch(pattern, message))
        unseen -= {found}
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written
    # The others take hours, a robot or a missing package: their words stand in the source.
    ours = source()
    for text in unseen:
        for piece in text.split("[...]"):
            assert piece.strip() in ours, text


# ------------------------------------------------------------------ generated pages and links


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date() -> None:
    make_pages = load(DOCS / "make_pages.py")
    for name, make in make_pages.PAGES.items():
        assert (DOCS / name).read_text() == make(), "run `python docs/make_pages.py`"
    used: set[str] = set()
    make_pages.presets_page(used)
    assert used == set(make_pages.ORIGIN)  # nothing is explained that is no setting any more


PAGES = sorted(DOCS.glob("*.md"))


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found.read_text()), target


def test_the_index_has_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    for page in PAGES:
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


def test_figures_are_small_and_shown() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for path in sorted((DOCS / "figures").glob("*.png")):
        assert path.stat().st_size < 150_000, path
        assert f"figures/{path.name}" in text, path
        with Image.open(path) as image:
            assert image.mode == "P", path
