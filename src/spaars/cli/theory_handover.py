"""`spaars theory handover RUN...`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.table import Table

from spaars.cli.plain import plain_console
from spaars.cli.report import runs_at
from spaars.cli.theory_output import write
from spaars.errors import ConfigError, RunError
from spaars.report.handover import HandoverPoint, handover_points
from spaars.report.records import load_run
from spaars.report.statistics import RankCorrelation, rank_correlation
from spaars.report.theory_figures import handover_scatter
from spaars.theory.study import require_at_least

SAYS = (
    "Each point is a seed's hand-over: how far the raw policy's actions were from the decoded ones "
    "just before, and what share of its score the newest policy lost within the window after. "
    "The bound is L_Q times that distance over 1 - gamma, as a share of the critics' value; L_Q is "
    "a 95th percentile, value is discounted and score is not, so it is an estimate, and a point "
    "above the line would not refute the statement. "
    "It speaks of the raw policy alone: where an open gate hands over few steps, or the latent "
    "policy changes after the hand-over, a dip has other causes."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Cloning error against the dip after the hand-over, over runs. Reads metrics.jsonl alone:
    needs no checkpoint."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run directories, or directories of them. Best of different cloning weights."""
    window: int = 10_000
    """Environment steps after the hand-over within which a dip counts."""
    seed: int = 0
    """Seed of the permutations, of more than seven points."""
    out: Path = Path("theory")
    """Directory for handover.json and handover.png."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars theory handover")
    require_at_least(1, {"--window": args.window})
    require_at_least(0, {"--seed": args.seed})
    if not args.runs:
        raise ConfigError("no run given. Name the directories that `spaars train` wrote.")
    paths = list(dict.fromkeys(path.resolve() for given in args.runs for path in runs_at(given)))
    runs = [load_run(path) for path in paths]
    points, left_out = handover_points(runs, args.window)
    if not points:
        raise RunError(f"no run gives a point: {' '.join(left_out)}")
    errors, dips = (
        np.array([getattr(p, name) for p in points]) for name in ("cloning_error", "dip")
    )
    correlation = rank_correlation(errors, dips, args.seed)
    bounds = np.array([p.bound for p in points])

    console = plain_console()
    revisions = sorted({str(run.config.get("git_revision", "not recorded")) for run in runs})
    result: dict[str, Any] = {
        "git_revisions": revisions,
        "points": [p._asdict() for p in points],
        "left_out": left_out,
        "above_bound": int((dips > bounds).sum()),
        "rank_correlation": correlation._asdict(),
    }
    settings = {"window": args.window, "seed": args.seed}
    write(console, args.out, "handover", settings, result, handover_scatter(errors, dips, bounds))
    console.print(_table(points))
    for words in left_out:
        console.print(f"Left out: {words}")
    console.print(
        f"{result['above_bound']} of {len(points)} dips are above their bound. "
        + words_of(correlation, len(points)),
    )
    weights = {p.cloning_weight for p in points}
    if len(weights) == 1 and len(points) > 1:
        console.print(
            "All have the same cloning weight: the errors differ by chance and task, so this does "
            "not show what the weight does.",
        )
    console.print(SAYS)
    return 0


def _table(points: list[HandoverPoint]) -> Table:
    table = Table(title="Hand-over: shares of the value and of the score before")
    columns = ("run", "seed", "weight", "error", "bound", "before", "lowest", "dip", "raw acts")
    for column in columns:
        justify: Any = "left" if column == "run" else "right"
        table.add_column(column, justify=justify, overflow="fold")
    for p in points:
        table.add_row(
            p.run,
            str(p.seed),
            "-" if p.cloning_weight is None else f"{p.cloning_weight:g}",
            f"{p.cloning_error:.3f}",
            f"{p.bound:.0%}",
            f"{p.before:.1f}",
            f"{p.lowest:.1f}",
            f"{p.dip:.0%}",
            "-" if p.raw_share is None else f"{p.raw_share:.0%}",
        )
    return table


def words_of(correlation: RankCorrelation, points: int) -> str:
    """What may be said of it, and what may not."""
    if correlation.value is None:
        reason = "fewer than three points" if points < 3 else "all errors or all dips are the same"
        return f"No rank correlation: {reason}."
    words = f"Rank correlation of error and dip {correlation.value:.2f}"
    if correlation.interval is not None:
        low, high = correlation.interval
        words += f" [{low:.2f}, {high:.2f}]"
    words += f" over {points} points, p = {correlation.p_value:.2g}."
    if correlation.interval is None:
        words += " No interval: too few points, or a perfect order."
    elif correlation.interval[0] <= 0.0 <= correlation.interval[1]:
        words += " The interval contains 0: this does not show that either follows the other."
    return words
