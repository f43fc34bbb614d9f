"""The report of synthetic runs: complete, interrupted, cut off, hostile, malformed."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from spaars.cli import report as cli
from spaars.errors import RunError
from spaars.report import figures, load_run, write_report
from spaars.report.page import COLUMNS, PLATES, headline
from spaars.report.records import Run, Series, handover_steps, offline_scores, series

HOSTILE = "<script>alert('1')</script> & \"quoted\" <img src=http://evil.example/x.png>"


def write_run(
    path: Path, *, seed_count: int = 1, interrupted: bool = False, label: str = "synthetic"
) -> Path:
    """A run directory as the trainer leaves it: short, but with every kind of record."""
    path.mkdir(parents=True)
    config = {
        "config": {
            "task": "hopper-medium",
            "method": "spaars",
            "preset": "default",
            "seeds": seed_count,
            "dataset": label,
            "online": {"steps": 20_000, "utd": 1},
            "gate": {"kappa": 0.5},
        },
        "dataset": {"label": label, "sha256": "ab" * 32, "transitions": 300_000},
        "versions": {"python": "3.11.2", "jax": "0.10.2"},
        "git_revision": "0123abc",
        "command": f"spaars train hopper-medium --note {label}",
        "backend": "cpu",
    }
    (path / "config.json").write_text(json.dumps(config))
    records = [r for seed in range(seed_count) for r in _records(seed, interrupted)]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (path / "metrics.jsonl").write_text(text)
    if not interrupted:
        (path / "summary.json").write_text(json.dumps(_summary(seed_count, label)))
    return path


def _records(seed: int, interrupted: bool) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    steps = list(range(1_000, 12_000 if interrupted else 20_001, 1_000))
    records: list[dict[str, Any]] = []

    def add(kind: str, step: int, **fields: Any) -> None:
        records.append({"kind": kind, "seed": seed, "step": step, **fields})

    for step in steps:
        left = np.exp(-step / 3e3)
        error = {"prior_loss": 0.1 + left, "reconstruction": 0.08 + left, "kl": 2.0 - left}
        add("train", step, phase="prior", **error)
        loss = {"critic_loss": 0.5 + 50 * left, "value_loss": 0.2 + left, "q_mean": 90 * (1 - left)}
        spread = {"q_std": 2 + left, "advantage_mean": -left, "latent_regression": 1 + left}
        add("train", step, phase="offline", **loss, **spread, raw_regression=1 - left)
    add("evaluation", 0, label="offline", score=43.7 + seed, raw_share=0.0, falls=20)
    for step in steps:
        gate = 0.12 * max(0.0, 1 - np.exp(-(step - 10_000) / 4e3))
        error = 0.3 * np.exp(-step / 5e3)
        add("train", step, phase="online", raw_share=gate, cloning_error=error)
        for half in (350, 900):
            fell = bool(rng.random() < 0.4)
            total = float(1_400 + 0.08 * step + 300 * rng.normal())
            add("episode", step - 1_000 + half, **{"return": total, "terminated": fell})
        if step == 10_000:
            add("event", step, event="handover", reason="the bound 2.1 is below 3.0")
            add("evaluation", step, label="handover", score=81.0 + seed, raw_share=0.0)
        elif step % 5_000 == 0:
            score = {5_000: 38.0, 15_000: 95.0}.get(step, 99.2)
            add("evaluation", step, label="periodic", score=score + 2 * seed, raw_share=gate)
    if not interrupted:
        add("evaluation", 20_000, label="final", score=99.25 + seed, raw_share=0.1)
    return records


def _summary(seed_count: int, label: str) -> dict[str, Any]:
    rows = [
        {
            "seed": seed,
            "offline_score": 43.7 + seed,
            "handover_score": 81.0 + seed,
            "handover_step": 10_000,
            "final_score": 99.25 + seed,
            "newest_score": 97.5 + seed,
            "dip_worst": 3.125 - seed,
            "drop_below_offline": 5.7 - seed,
            "falls_per_1k": 0.4375,
            "env_steps": 20_000,
            "wall_seconds": 4_321.5,
            "safety": {"knn_distance": {"mean": 1.5 + seed, "max": 2.5}, "rollbacks": 2},
        }
        for seed in range(seed_count)
    ]
    dataset = {"label": label, "sha256": "ab" * 32, "transitions": 300_000}
    names = {"task": "hopper-medium", "method": "spaars", "preset": "default"}
    return {**names, "dataset": dataset, "seeds": rows, "evaluation_episodes": 20}


class Page(HTMLParser):
    """What a browser would make of the page: tags with attributes, table numbers, text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.words.append(data)

    @property
    def numbers(self) -> list[float]:
        return [float(a["value"] or "nan") for tag, a in self.tags if tag == "data"]


def assert_self_contained(path: Path) -> None:
    page = Page(path)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "a"}
    for _, attributes in page.tags:
        assert not {"href", "srcset", "style", "onload", "onerror"} & attributes.keys()
        if "src" in attributes:
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
    source = path.read_text(encoding="utf-8")
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = write_run(tmp_path_factory.mktemp("report") / "run", label=HOSTILE)
    write_report(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = write_run(tmp_path_factory.mktemp("report") / "run", seed_count=3)
    write_report(run_dir)
    return run_dir


def test_page_is_self_contained_and_escaped(one_seed: Path) -> None:
    path = one_seed / "report.html"
    assert_self_contained(path)
    assert HOSTILE in Page(path).text  # as text, whole
    assert "<script" not in path.read_text()
    assert "http:" not in re.sub(r"&lt;img src=http:", "", path.read_text())


def test_table_equals_summary(one_seed: Path, three_seeds: Path) -> None:
    for run_dir, count in ((one_seed, 1), (three_seeds, 3)):
        rows = json.loads((run_dir / "summary.json").read_text())["seeds"]
        expected = []
        for column in COLUMNS:
            values = [row[column.key] for row in rows]
            expected += ([np.mean(values)] if count > 1 else []) + values
        for row in rows:
            expected += list(row["safety"]["knn_distance"].values())
        expected += [row["safety"]["rollbacks"] for row in rows]
        assert Page(run_dir / "report.html").numbers == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("interrupted", [False, True])
def test_scores_of_an_own_env_are_said_to_be_returns(tmp_path: Path, interrupted: bool) -> None:
    run_dir = write_run(tmp_path / "run", interrupted=interrupted)
    assert "Scores are normalised: 0 is a random policy" in Page(write_report(run_dir)).text
    config = (run_dir / "config.json").read_text()
    for task in ("my_arm:Reach-v0", "Reach-v0", "my_arm:make.<locals>.reach"):
        (run_dir / "config.json").write_text(config.replace("hopper-medium", task, 1))
        text = Page(write_report(run_dir)).text
        assert "Scores are returns: no reference of this env is known. A dash" in text
        assert "normalised" not in text


def test_wall_time_is_said_to_be_the_whole_runs(three_seeds: Path) -> None:
    """The seeds of a population are trained at once: each has the run's time, none its own."""
    text = Page(three_seeds / "report.html").text
    assert "Wall time of the whole run, all seeds together" in text


def test_headlines(one_seed: Path, three_seeds: Path) -> None:
    assert headline(load_run(one_seed)) == (
        "Offline policy 43.7 \u2192 99.2 after 20,000 online steps (1 seed, last checkpoint, "
        "20 evaluation episodes); worst dip after the hand-over 3.1 points. "
        "At its lowest 5.7 points below the offline score."
    )
    assert headline(load_run(three_seeds)) == (
        "Offline policy 44.7 \u2192 100.2 after 20,000 online steps (mean of 3 seeds, last "
        "checkpoint, 20 evaluation episodes each); worst dip after the hand-over 3.1 points in "
        "the worst seed. At its lowest 5.7 points below the offline score in the worst seed."
    )


def test_headline_without_handover_or_dip(one_seed: Path) -> None:
    run = load_run(one_seed)
    assert run.summary is not None
    row = run.summary["seeds"][0]

    def words(**fields: Any) -> str:
        return headline(run._replace(summary={**run.summary, "seeds": [{**row, **fields}]}))

    none = words(handover_step=None, handover_score=None, dip_worst=None, drop_below_offline=0.0)
    assert "; no hand-over to the raw policy took place. Never evaluated below" in none
    assert "; no dip after the hand-over." in words(dip_worst=0.0)
    assert words(final_score=None) == "The run ended without a final evaluation."
    assert words(offline_score=float("nan")).startswith("Final score 99.2 after")


def test_figures_are_written_and_embedded(one_seed: Path, three_seeds: Path) -> None:
    for run_dir in (one_seed, three_seeds):
        files = sorted((run_dir / "figures").iterdir())
        assert [file.stem for file in files] == sorted(plate.name for plate in PLATES)
        assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
        tags = [tag for tag, _ in Page(run_dir / "report.html").tags]
        assert tags.count("img") == len(PLATES)
    assert "95% bootstrap interval" in Page(three_seeds / "report.html").text
    assert "bootstrap" not in Page(one_seed / "report.html").text


def test_page_tells_events_commands_configuration_and_provenance(one_seed: Path) -> None:
    text = Page(one_seed / "report.html").text
    for words in (
        "hand-over armed",
        "the bound 2.1 is below 3.0",
        "spaars resume ",
        "spaars eval ",
        "online.steps",
        "gate.kappa",
        "ab" * 32,
        "0123abc",
        "0.10.2",
        "72 min",
    ):
        assert words in text


def test_rebuilding_gives_the_same_bytes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", seed_count=3, interrupted=True)
    before = dict(matplotlib.rcParams)
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first
    assert dict(matplotlib.rcParams) == before
    assert not list(run_dir.rglob("*.tmp"))


def test_interrupted_run_with_a_cut_off_last_line(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", interrupted=True)
    whole = len(load_run(run_dir).records)
    with open(run_dir / "metrics.jsonl", "ab") as file:
        file.write(b'{"kind": "evaluation", "seed": 0, "step": 12000, "lab\xc3')
    assert len(load_run(run_dir).records) == whole
    path = write_report(run_dir)
    assert_self_contained(path)
    page = Page(path)
    assert "the run was interrupted or still goes on" in page.text
    assert (
        "Unfinished run: offline policy 43.7 \u2192 81.0 after 10,000 online steps so far (1 seed)."
        in page.text
    )
    assert page.numbers[:5] == [43.7, 81.0, 10_000.0, 10_000.0, 11_000.0]
    shares = [r["raw_share"] for r in load_run(run_dir).records if r.get("phase") == "online"]
    assert page.numbers[5:] == pytest.approx([np.mean(shares), max(shares), 0.0])


def test_run_that_just_began(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "summary.json").unlink()
    text = Page(write_report(run_dir)).text
    assert "nothing has been recorded yet" in text
    assert text.count("left out, metrics.jsonl holds no") == len(PLATES)


def test_safety_is_told_as_far_as_it_was_measured(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", seed_count=2)
    text = Page(write_report(run_dir)).text
    assert "kNN distance" in text
    assert "Rollbacks" in text
    for absent in ("Actions clipped", "Cost", "Stopped by signal"):
        assert absent not in text
    summary = json.loads((run_dir / "summary.json").read_text())
    summary["stops"] = [0, 1_250]
    summary["seeds"][1]["safety"] |= {"cost": 12.5, "knn_distance": HOSTILE}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    text = Page(write_report(run_dir)).text
    assert "Stopped by signal, saved and resumed at step 0, 1,250." in text
    assert "12.5" in text
    for row in summary["seeds"]:
        row["safety"] = {}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    assert "kNN distance" not in Page(write_report(run_dir)).text
    (run_dir / "metrics.jsonl").write_text("")
    assert "Measured, not guaranteed" not in Page(write_report(run_dir)).text


def test_subtasks_are_told_first_and_last(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", seed_count=2)
    assert "Subtasks" not in Page(write_report(run_dir)).text
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if record["kind"] == "evaluation":
            share = {"offline": 0.05, "final": 0.95}.get(record["label"], 0.5)
            record |= {"completed/kettle": share, f"completed/{HOSTILE}": 0.25}
            if record["seed"] == 1:
                del record["completed/kettle"]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    page = Page(write_report(run_dir))
    words = " ".join(page.text.split())
    assert "kettle 95% first 5% 0% first 0%" in words
    assert {0.95, 0.05, 0.25} <= set(page.numbers)
    assert f"{HOSTILE} 25% first 25% 25% first 25%" in words
    for record in records:
        if record["kind"] == "evaluation" and record["label"] == "final":
            record.pop("completed/kettle", None)
            del record[f"completed/{HOSTILE}"]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    words = " ".join(Page(write_report(run_dir)).text.split())
    assert f"{HOSTILE} 0% first 25% 0% first 25%" in words


def test_missing_metric_leaves_its_figure_out(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    write_report(run_dir)
    lines = (run_dir / "metrics.jsonl").read_text().replace('"cloning_error"', '"other"')
    (run_dir / "metrics.jsonl").write_text(lines)
    page = Page(write_report(run_dir))
    assert "left out, metrics.jsonl holds no 'cloning_error' of the online phase" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == len(PLATES) - 1
    assert not (run_dir / "figures" / "cloning_error.png").exists()  # the old one is gone too


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "text", True])
def test_values_that_cannot_be_drawn_are_passed_over(value: Any) -> None:
    record = {"kind": "evaluation", "seed": 0, "step": 5, "label": "periodic", "score": value}
    assert figures.learning_curve([record]) is None
    good = {**record, "step": 10, "score": 50.0}
    assert series([record, good], "evaluation", 0, "score").steps.tolist() == [10.0]
    assert figures.to_png(figures.learning_curve([record, good]))  # type: ignore[arg-type]


def test_gate_share_draws_what_was_executed() -> None:
    record = {"kind": "train", "phase": "online", "seed": 0, "step": 9, "gate": 0.5}
    assert figures.gate_share([record]) is None
    figure = figures.gate_share([record | {"raw_share": 0.2}])
    assert figure is not None
    assert figure.axes[0].lines[0].get_ydata() == [0.2]


def test_series_keeps_the_last_value_of_a_step_and_sorts() -> None:
    rows = [(10, 1.0), (20, 2.0), (10, 3.0)]
    records = [{"kind": "evaluation", "seed": 4, "step": s, "score": v} for s, v in rows]
    found = series(records, "evaluation", 4, "score")
    assert (found.steps.tolist(), found.values.tolist()) == ([10.0, 20.0], [3.0, 2.0])
    assert not len(series(records, "evaluation", 5, "score").steps)


def test_offline_scores_and_handover_steps(three_seeds: Path) -> None:
    records = load_run(three_seeds).records
    assert offline_scores(records) == {0: 43.7, 1: 44.7, 2: 45.7}
    assert handover_steps(records) == {0: 10_000, 1: 10_000, 2: 10_000}


def test_band_of_two_seeds_is_their_range_and_of_three_a_bootstrap_interval() -> None:
    one = Series(np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0]))
    two = Series(np.array([0.0, 20.0]), np.array([4.0, 4.0]))  # 10 by interpolation
    band = figures.mean_band({0: one, 1: two})
    assert band is not None
    assert band.steps.tolist() == [0.0, 10.0, 20.0]
    assert band.mean.tolist() == [2.0, 7.0, 12.0]
    assert band.low.tolist() == [0.0, 4.0, 4.0]
    assert band.high.tolist() == [4.0, 10.0, 20.0]
    assert figures.mean_band({0: one}) is None
    # Of three seeds a resample is all-lowest with chance 1/27 > 2.5%, so the ends are reached.
    three = figures.mean_band(
        {s: Series(np.array([0.0]), np.array([v])) for s, v in enumerate((1.0, 2.0, 6.0))}
    )
    assert three is not None
    assert (three.low[0], three.mean[0], three.high[0]) == (1.0, 3.0, 6.0)
    # Of ten it is narrower than the range, and near the normal interval of the mean.
    values = np.random.default_rng(1).normal(size=10)
    ten = figures.mean_band(
        {s: Series(np.array([0.0]), np.array([v])) for s, v in enumerate(values)}
    )
    assert ten is not None
    half = 1.96 * values.std() / np.sqrt(10)
    assert ten.low[0] == pytest.approx(values.mean() - half, abs=0.1)
    assert ten.high[0] == pytest.approx(values.mean() + half, abs=0.1)


def _write(name: str, text: str) -> Any:
    return lambda run_dir: (run_dir / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run_dir: (run_dir / "config.json").unlink(), "not a run directory, it has no"),
        (_write("config.json", '{"config": {'), "config.json: not valid JSON"),
        (_write("config.json", "[]"), "config.json: must hold a JSON object"),
        (_write("config.json", '{"config": 1}'), "'config' must be an object"),
        (_write("metrics.jsonl", 'x\n{"kind":"event","seed":0,"step":1}\n'), "line 1: not valid"),
        (_write("metrics.jsonl", '\n{"kind":"event","seed":0}\n'), "line 2: a record needs"),
        (_write("metrics.jsonl", "3\n"), "line 1: a record needs"),
        (_write("summary.json", "{"), "summary.json: not valid JSON"),
        (_write("summary.json", "{}"), "summary.json: 'seeds' must list"),
        (_write("summary.json", '{"seeds": []}'), "summary.json: 'seeds' must list"),
    ],
)
def test_malformed_run(tmp_path: Path, damage: Any, words: str) -> None:
    run_dir = write_run(tmp_path / "run")
    damage(run_dir)
    with pytest.raises(RunError) as caught:
        write_report(run_dir)
    message = str(caught.value)
    assert words in message
    assert str(run_dir) in message
    assert "\n" not in message
    assert not (run_dir / "report.html").exists()


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run directory"):
        load_run(tmp_path / "absent")


def test_command_prints_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = write_run(tmp_path / "run", interrupted=True)
    assert cli.run([str(run_dir)]) == 0
    assert capsys.readouterr().out == f"wrote {run_dir / 'report.html'}\n"


def test_half_a_surrogate_pair_does_not_stop_the_report(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", interrupted=True, label="broken \ud83d label")
    assert "broken ? label" in Page(write_report(run_dir)).text


def test_render_needs_no_files() -> None:
    run = Run(Path("runs/a b"), {"config": {}}, [], None)
    from spaars.report.page import render

    page = render(run, {})
    assert "spaars resume &#x27;runs/a b&#x27;" in page
    assert "not recorded" in page
