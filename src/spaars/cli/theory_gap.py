"""`spaars theory gap --lq`; without --lq, of a run (theory_gap_run.py)."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from spaars.cli import theory_gap_run
from spaars.cli.plain import plain_console
from spaars.cli.theory_output import write
from spaars.report.theory_figures import gap_against_bounds
from spaars.theory.gap import Gap, GapStudy

SAYS = (
    "The exploitation gap is what the best policy over latents returns less than the best over raw "
    "actions; both come from Riccati equations and are exact. "
    "Clipping the optimal actions to the decoder's image bounds it through the performance "
    "difference lemma, and a Lipschitz constant of Q* times the mean reconstruction error bounds "
    "that. "
    "gap / difference says what retraining in the latent space wins over clipping, difference / "
    "Lipschitz is at most 1/2 for a quadratic Q*, whose slope vanishes at the optimal action."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What a decoder costs, and the bounds on it."""

    lq: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure on random linear-quadratic problems."""
    out: Path = Path("theory")
    """Directory for gap-lq.json and gap-lq.png."""
    study: tyro.conf.OmitArgPrefixes[GapStudy] = GapStudy()
    """The problems."""


def run(argv: list[str]) -> int:
    if "--lq" not in argv:
        return theory_gap_run.run(argv)
    args = tyro.cli(Args, args=argv, prog="spaars theory gap")
    gaps = args.study.run()
    rows = [_row(k, found) for k, found in gaps.items()]

    console = plain_console()
    every = [gap for found in gaps.values() for gap in found]
    scale = np.array([abs(gap.best_return) for gap in every])
    share = np.array([gap.gap for gap in every]) / scale
    figure = gap_against_bounds(
        share,
        {
            "difference": np.array([gap.difference for gap in every]) / scale,
            "Lipschitz": np.array([gap.lipschitz for gap in every]) / scale,
        },
    )
    problems = {k: [dataclasses.asdict(gap) for gap in found] for k, found in gaps.items()}
    write(
        console,
        args.out,
        "gap-lq",
        dataclasses.asdict(args.study),
        {"rows": rows, "problems": problems},
        figure,
    )

    title = f"{args.study.problems} problems, n = {args.study.states}, d = {args.study.actions}"
    table = Table(title=f"{title}: median [5%, 95%] over problems")
    columns = ("k", "gap, % of |J*|", "gap / difference", "difference / Lipschitz", "gap / Lips.")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        both = row["gap_over_lipschitz"]
        table.add_row(
            str(row["k"]),
            _spread_words([100.0 * share for share in row["gap_share"]], ".3g"),
            _spread_words(row["gap_over_difference"], ".2f"),
            _spread_words(row["difference_over_lipschitz"], ".2f"),
            f"{both[1]:.2f}" if both else "-",
        )
    console.print(table)
    total = args.study.problems * len(rows)
    violated = sum(row["violated"] for row in rows)
    infinite = sum(row["infinite"] for row in rows)
    console.print(
        f"0 <= gap <= difference <= Lipschitz is violated in {violated} of {total} cases; in "
        f"{infinite} the Lipschitz bound is infinite, and ratios are over the others.",
    )
    console.print(SAYS)
    return 1 if violated else 0


def _row(k: int, gaps: list[Gap]) -> dict[str, Any]:
    """A rank's table row; ratios are over the problems with finite bounds."""
    finite = [gap for gap in gaps if np.isfinite(gap.lipschitz)]
    return {
        "k": k,
        "gap_share": _spread([gap.gap / abs(gap.best_return) for gap in gaps]),
        "gap_over_difference": _spread([gap.gap / gap.difference for gap in finite]),
        "difference_over_quadratic": _spread([gap.difference / gap.quadratic for gap in finite]),
        "difference_over_lipschitz": _spread([gap.difference / gap.lipschitz for gap in finite]),
        "gap_over_lipschitz": _spread([gap.gap / gap.lipschitz for gap in finite]),
        "largest_truncation": max((gap.truncation / gap.mean_error for gap in finite), default=0.0),
        "infinite": len(gaps) - len(finite),
        "violated": sum(not gap.holds() for gap in gaps),
    }


def _spread(values: list[float]) -> list[float]:
    """5th, 50th and 95th percentile; none of no values."""
    return np.percentile(values, (5, 50, 95)).tolist() if values else []


def _spread_words(spread: list[float], digits: str) -> str:
    if not spread:
        return "-"
    low, middle, high = (format(value, digits) for value in spread)
    return f"{middle} [{low}, {high}]"
