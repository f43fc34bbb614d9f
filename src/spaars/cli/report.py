"""`spaars report RUN`."""

import dataclasses
from pathlib import Path

import tyro

from spaars.report import write_report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Rebuild a run's figures and report.html; an interrupted run gets one too."""

    run: tyro.conf.Positional[Path]
    """Run directory, as written by `spaars train`."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars report")
    # Not through rich: it would wrap a long path over lines and break copying it.
    print(f"wrote {write_report(args.run)}")
    return 0
