"""The tables in README.md and results/README.md are those of the committed runs."""

import json
import re
import sys
from pathlib import Path

import pytest

from spaars.report import load_run
from spaars.report.handover import handover_points

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import ablations  # noqa: E402
import results  # noqa: E402

RESULTS = ROOT / "results"
RUNS = sorted(path.parent for path in RESULTS.rglob("config.json"))
README = (ROOT / "README.md").read_text()


def rows(path: Path, first: str) -> list[list[str]]:
    """Cells of the table rows of a page whose first cell matches `first`."""
    found = re.findall(rf"^\| {first}.*$", path.read_text(), re.M)
    return [[cell.strip(" `*") for cell in row.strip("|").split("|")] for row in found]


# ------------------------------------------------------------------ single runs

SINGLE = rows(RESULTS / "README.md", "`(?:before-deployment|single)/")


def test_the_handovers_are_those_of_the_page() -> None:
    runs = [load_run(run) for run in results.runs_of("handover")]
    points, left_out = handover_points(runs, 1)
    assert (len(points), left_out) == (8, [])
    page = (RESULTS.parent / "docs" / "theory.md").read_text()
    for weight in {point.cloning_weight for point in points}:
        ours = sorted((p for p in points if p.cloning_weight == weight), key=lambda p: p.seed)
        name = "1 (default)" if weight == 1.0 else f"{weight:g}"
        cells = [
            name,
            ", ".join(f"{p.cloning_error:.3f}" for p in ours),
            ", ".join(f"{p.bound:.0%}" for p in ours),
            ", ".join(f"{p.lowest:.1f}" for p in ours),
            ", ".join(f"{p.dip:.0%}" for p in ours),
        ]
        assert f"| {' | '.join(cells)} |" in page
        assert all(p.dip < p.bound for p in ours)


def test_every_single_run_is_in_the_table() -> None:
    suites = {RESULTS / suite for suite in results.SUITES + results.EXPERIMENTS}
    names = {str(r.relative_to(RESULTS)) for r in RUNS if suites.isdisjoint(r.parents)}
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


# ------------------------------------------------------------------ the tables


def test_the_tables_are_made_from_the_committed_runs() -> None:
    table = results.table()
    assert json.loads((RESULTS / "table.json").read_text()) == table
    for page in results.PAGES:
        assert results.with_tables(page.read_text(), table) == page.read_text()
    shown = {row["suite"] for row in table if f"table {row['suite']} -->" in README}
    assert shown == {"locomotion", "kitchen"}


SUITES = [suite for suite in results.SUITES if (RESULTS / suite).is_dir()]
VARIANTS = [path for suite in SUITES for path in sorted((RESULTS / suite).glob("*/*"))]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: str(v.relative_to(RESULTS)))
def test_every_variant_has_a_row_that_says_what_its_runs_do(variant: Path) -> None:
    """Against the runs' own summaries, by other means."""
    runs = [json.loads(path.read_text())["seeds"] for path in variant.glob("s*/summary.json")]
    seeds = sorted((row for rows in runs for row in rows), key=lambda row: row["seed"])

    def mean(key: str) -> object:
        values = [row[key] for row in seeds]
        return None if None in values else pytest.approx(sum(values) / len(values))

    found = [
        row
        for row in results.table()
        if (row["suite"], row["task"]) == (variant.parts[-3], variant.parts[-2])
        and row["seeds"] == [row["seed"] for row in seeds]
        and row["env_steps"] == seeds[0]["env_steps"]
        and row["score_mean"] == mean("final_score")
    ]
    (row,) = found
    assert (row["offline_mean"], row["falls_per_1k"]) == (
        mean("offline_score"),
        mean("falls_per_1k"),
    )


def test_ablations_compare_the_same_seeds(tmp_path: Path) -> None:
    """On committed runs: latent-only is the gate that never opens, of which seed 1 is there."""
    quick = RESULTS / "locomotion-quick" / "hopper-medium"
    variants = tmp_path / "variants"
    variants.mkdir()
    (variants / "gate-never").symlink_to(quick / "latent-only")
    (variants / "spaars").symlink_to(quick / "spaars")
    seeds = ablations.read_all(variants)
    assert {name: [one.seed for one in found] for name, found in seeds.items()} == {
        "spaars": [1],
        "gate-never": [1],
    }
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table ablations -->\nold\n<!-- end of table ablations -->\nb\n")
    ablations.write(seeds, page, tmp_path / "figures")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["ablation-gate.png"]
    text = page.read_text()
    assert text.startswith("a\n<!-- table")
    assert text.endswith("-->\nb\n")
    assert "old" not in text
    for name, row in zip(seeds, rows(page, "(?:spaars|gate-never) "), strict=True):
        directory = {"spaars": "spaars", "gate-never": "latent-only"}[name]
        summary = json.loads((quick / directory / "s1" / "summary.json").read_text())["seeds"][0]
        assert row[:3] == [name, "1", f"{summary['final_score']:.1f}"]
        assert row[3] == f"{summary['newest_score']:.1f}"
        assert row[7] == f"{summary['falls_per_1k']:.2f}"
        assert (row[6] == "0.00") == (name == "gate-never")


def test_collect_keeps_what_is_small_and_no_path(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "suite" / "task" / "variant" / "s1"
    run.mkdir(parents=True)
    for name in (*results.KEPT, "report.html"):
        (run / name).write_text(f"--out {tmp_path}/runs/suite/task/variant/s1")
    unfinished = run.parent / "s2"
    unfinished.mkdir()
    (unfinished / "config.json").write_text("{}")
    (copy,) = results.collect(tmp_path / "runs" / "suite", tmp_path / "results")
    assert copy == tmp_path / "results" / "suite" / "task" / "variant" / "s1"
    assert sorted(path.name for path in copy.iterdir()) == sorted(results.KEPT)
    assert (copy / "config.json").read_text() == "--out runs/suite/task/variant/s1"


def test_committed_runs_are_small() -> None:
    for run in RUNS:
        for path in run.iterdir():
            if path.suffix in (".json", ".jsonl"):
                assert path.stat().st_size < 1_000_000, path
                for place in ("/work/", "/tmp/", "/root/"):
                    assert place not in path.read_text(), f"{path} names a path"
