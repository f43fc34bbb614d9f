"""`spaars report RUN...`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from spaars.errors import RunError
from spaars.report import DEFAULT_THRESHOLDS, write_comparison, write_report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Rebuild a run's figures and report.html (an interrupted run gets one too), or with --out
    compare runs on one page. A directory of runs, such as what `spaars bench` wrote, stands for all
    of them; given alone, its page is DIR/report.html. Seeds are averaged where task, dataset,
    method, settings and online steps are the same; unfinished runs are named and left out."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run directories, as written by `spaars train`, or directories of them. Several need --out."""
    out: Path | None = None
    """Page to write the comparison to, PAGE.html; its numbers go to PAGE.json beside it."""
    thresholds: tuple[float, ...] = DEFAULT_THRESHOLDS
    """Scores for the comparison's table of steps until an evaluation first reached them."""
    baseline: str | None = None
    """Group that the others are compared with, as the page names it; by default the first one."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars report")
    if not args.runs:
        raise RunError("no run given. Name at least one directory that `spaars train` wrote.")
    runs = [run for path in args.runs for run in runs_at(path)]
    out = args.out
    if out is None and len(args.runs) == 1 and runs != list(args.runs):
        out = args.runs[0] / "report.html"
    if out is not None:
        path = write_comparison(runs, out, thresholds=args.thresholds, baseline=args.baseline)
    elif len(runs) > 1:
        raise RunError(
            f"{len(runs)} runs make a comparison, which needs a place: add --out PAGE.html."
        )
    elif args.thresholds != DEFAULT_THRESHOLDS or args.baseline is not None:
        raise RunError("--thresholds and --baseline belong to a comparison: add --out PAGE.html.")
    else:
        path = write_report(runs[0])
    # Not through rich: it would wrap a long path over lines and break copying it.
    print(f"wrote {path}")
    return 0


def runs_at(path: Path) -> list[Path]:
    """The run at `path`, or where that is a directory of others, all runs below it."""
    if (path / "config.json").exists() or not path.is_dir():
        return [path]
    below = sorted(config.parent for config in path.rglob("config.json"))
    if not below:
        raise RunError(f"{path}: neither a run nor a directory of runs: there is no config.json.")
    return below
