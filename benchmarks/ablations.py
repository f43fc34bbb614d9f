"""The ablations' figures and table, from results/ablations.

    python benchmarks/ablations.py     # docs/figures/ablation-*.png, the table of docs/ablations.md

Each figure shows the whole method and the variants that answer one question. Drawn is the *newest*
policy: deployment by evidence would hide what the part does to the learner.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from results import between_marks

from spaars.report import load_run
from spaars.report.comparison_figures import learning_curves, looks
from spaars.report.figures import to_small_png
from spaars.report.records import Run, Series, handover_steps, select, series

ROOT = Path(__file__).parents[1]
TASK = "hopper-medium"
VARIANTS = ROOT / "results" / "ablations" / TASK
STEPS = 20_000

FIGURES = {
    "cloning": ("no-cloning",),
    "gate": ("gate-never", "gate-always", "gate-step"),
    "pessimism": ("gate-unpessimistic",),
    "latent-dim": ("k1", "k2", "k6"),
    "n-step": ("three-steps",),
}


class Seed(NamedTuple):
    """What the table says of a seed."""

    seed: int
    newest: Series
    deployed: Series
    reconstruction: float
    """Mean squared reconstruction error of the prior, at the end of its training."""
    raw_share: float
    """Mean over the steps since the hand-over, or over all where there was none."""
    falls: int


def read(directory: Path) -> list[Seed]:
    """Every seed of a variant, up to STEPS online steps."""
    runs = sorted(path.parent for path in directory.glob("s*/summary.json"))
    return [seed_of(load_run(path)) for path in runs]


def seed_of(run: Run) -> Seed:
    (seed,) = run.config["config"]["seeds"]
    share = until(series(run.records, "train", seed, "raw_share", phase="online"))
    after = share.values[share.steps > handover_steps(run.records).get(seed, 0)]
    return Seed(
        seed=seed,
        newest=until(series(run.records, "evaluation", seed, "newest_score")),
        deployed=until(series(run.records, "evaluation", seed, "score")),
        reconstruction=float(
            series(run.records, "train", seed, "reconstruction", phase="prior").values[-1]
        ),
        raw_share=float(after.mean()) if len(after) else 0.0,
        falls=sum(e["terminated"] for e in select(run.records, "episode") if e["step"] <= STEPS),
    )


def until(curve: Series, last: int = STEPS) -> Series:
    kept = curve.steps <= last
    return Series(curve.steps[kept], curve.values[kept])


def markdown(variants: dict[str, list[Seed]]) -> str:
    lines = [
        "| variant | seeds | deployed at 20k | newest at 20k | newest, mean of 10k to 20k | "
        "reconstruction error | raw share after the hand-over | falls per 1,000 steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, seeds in variants.items():
        late = [seed.newest.values[seed.newest.steps >= STEPS // 2].mean() for seed in seeds]
        cells: list[Any] = [
            name,
            len(seeds),
            f"{np.mean([seed.deployed.values[-1] for seed in seeds]):.1f}",
            f"{np.mean([seed.newest.values[-1] for seed in seeds]):.1f}",
            f"{np.mean(late):.1f}",
            f"{np.mean([seed.reconstruction for seed in seeds]):.3f}",
            f"{np.mean([seed.raw_share for seed in seeds]):.2f}",
            f"{np.mean([seed.falls for seed in seeds]) / STEPS * 1_000:.2f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def read_all(variants: Path = VARIANTS) -> dict[str, list[Seed]]:
    """Every variant, the whole method first, on the seeds that all of them have."""
    if not variants.is_dir():
        raise SystemExit(
            f"{variants} is not there: run `spaars bench benchmarks/ablations.toml`, then "
            "`python benchmarks/results.py collect runs/ablations`"
        )
    found = {path.name: read(path) for path in sorted(variants.iterdir())}
    found = {"spaars": found.pop("spaars", [])} | found
    shared = set.intersection(*({one.seed for one in seeds} for seeds in found.values()))
    if not shared:
        raise SystemExit(f"{variants}: no seed that every variant and `spaars` have finished")
    return {name: [s for s in seeds if s.seed in shared] for name, seeds in found.items()}


def write(seeds: dict[str, list[Seed]], page: Path, figures: Path) -> None:
    """The table between the page's marks, and a figure for each question that was run."""
    text = between_marks(page.read_text(), "ablations", markdown(seeds))
    figures.mkdir(exist_ok=True)
    for figure, variants in FIGURES.items():
        shown = {name: seeds[name] for name in ("spaars", *variants) if name in seeds}
        if any(name in seeds for name in variants):
            curves = {name: [one.newest for one in found] for name, found in shown.items()}
            png = to_small_png(learning_curves(curves, looks(list(shown))))
            (figures / f"ablation-{figure}.png").write_bytes(png)
    page.write_text(text)


if __name__ == "__main__":
    write(read_all(), ROOT / "docs" / "ablations.md", ROOT / "docs" / "figures")
