"""`spaars theory variance --lq`; without --lq, of a run (theory_variance_run.py)."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from spaars.cli import theory_variance_run
from spaars.cli.plain import plain_console
from spaars.cli.theory_output import write
from spaars.report.theory_figures import Estimate, variance_ratios
from spaars.theory.study import bootstrap_interval
from spaars.theory.variance import VarianceStudy

ESTIMATORS = {
    "score_return": "score, returns",
    "score_advantage": "score, advantages",
    "reparameterised": "reparameterised",
}
SAYS = (
    "Ratios of the variance of policy gradients in k latents to that in d raw actions, same mean "
    "action and exploration sigma; 95% bootstrap intervals over problems. "
    "k/d is the ratio of the two bounds dim A_max^2 / sigma^2, and the ratio of the variances "
    "where the size of the weight has nothing to do with the sampled action, as for returns "
    "dominated by the noise of later steps. "
    "With exact advantages latents gain more than k/d, since they also see a smaller part of the "
    "advantage; larger --sigma or smaller --noise brings returns there, too."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Variance of policy gradients in latents and in raw actions."""

    lq: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure on random linear-quadratic problems."""
    out: Path = Path("theory")
    """Directory for variance-lq.json and variance-lq.png."""
    study: tyro.conf.OmitArgPrefixes[VarianceStudy] = VarianceStudy()
    """The grid and the problems."""


def run(argv: list[str]) -> int:
    if "--lq" not in argv:
        return theory_variance_run.run(argv)
    args = tyro.cli(Args, args=argv, prog="spaars theory variance")
    cells = args.study.run()

    console = plain_console()
    title = f"Latent / raw variance in percent, {args.study.problems} problems for each d"
    table = Table(title=title)
    for column in ("d", "k", "k/d", *ESTIMATORS.values()):
        table.add_column(column, justify="right")
    rows = []
    for cell in cells:
        row: dict[str, Any] = {"actions": cell.actions, "latents": cell.latents}
        words = []
        for name in ESTIMATORS:
            values = getattr(cell, name)
            low, high = bootstrap_interval(values, args.study.seed)
            row[name] = {"mean": values.mean(), "low": low, "high": high, "problems": values}
            words.append(f"{100 * values.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        row["exact_advantage"] = cell.exact_advantage
        row["exact_reparameterised"] = cell.exact_reparameterised
        rows.append(row)
        share = f"{100 * cell.latents / cell.actions:.1f}"
        table.add_row(str(cell.actions), str(cell.latents), share, *words)
    ratios = {
        words: Estimate(*(np.array([row[name][end] for row in rows]) for end in Estimate._fields))
        for name, words in ESTIMATORS.items()
    }
    figure = variance_ratios(
        np.array([cell.latents for cell in cells]),
        np.array([cell.actions for cell in cells]),
        ratios,
    )
    write(console, args.out, "variance-lq", dataclasses.asdict(args.study), {"rows": rows}, figure)
    console.print(table)
    console.print(SAYS)
    return 0
