"""`spaars bench SUITE.toml`."""

import dataclasses
import shlex
from collections import Counter
from pathlib import Path

import tyro

from spaars.errors import ConfigError
from spaars.training.bench import Result, command_of, run_cells, state_of
from spaars.training.suite import Cell, load_suite
from spaars.training.trainer import Stopped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Run a suite: every task with every variant and seed, each in a process and a run directory
    of its own, DIR/TASK/VARIANT/sSEED. What is done is skipped, what was interrupted is resumed;
    a directory with other settings than the suite's is an error.

    The suite file is TOML: lists `tasks` and `seeds`, `preset`, a table `[settings]` of flags of
    `spaars train`, and a `[[variants]]` table for each thing compared: `method`, `name` (default:
    the method), its own `settings`, and `tasks`, `seeds` or `preset` if they differ. docs/bench.md
    has an example.
    """

    suite: tyro.conf.Positional[Path]
    """Suite file."""
    out: Path | None = None
    """Directory of the runs; default: runs/ and the suite file's name without suffix."""
    jobs: int = 1
    """Runs at a time."""
    dry_run: bool = False
    """Only list the runs, their state and the command that is left to do."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars bench")
    if args.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {args.jobs}.")
    out = args.out if args.out is not None else Path("runs") / args.suite.stem
    cells = load_suite(args.suite, out)
    states = [state_of(cell) for cell in cells]
    if args.dry_run:
        for cell, state in zip(cells, states, strict=True):
            command = "" if state == "done" else shlex.join(["spaars", *command_of(cell, state)])
            print(f"{cell.name}  {state:<6}  {command}".rstrip())
        return 0

    count = Counter(states)
    # Not through rich, here and below: long lines must stay whole, and logs get them as they come.
    print(
        f"{len(cells)} runs in {out}: {count['done']} done, {count['resume']} to resume, "
        f"{count['train']} to train, {args.jobs} at a time; what they print is in {out}/*/*/*.log",
        flush=True,
    )
    left = len(cells)
    width = max(len(cell.name) for cell in cells)

    def show(result: Result) -> None:
        nonlocal left
        left -= result.outcome != "stopped"
        score = "-" if result.score is None else f"{result.score:.1f}"
        print(
            f"{result.cell.name:<{width}}  {result.outcome:<8} final {score:>6}"
            f"  {result.seconds / 60:6.1f} min  {left} left",
            flush=True,
        )

    results = run_cells(
        cells, args.jobs, on_result=show, on_message=lambda text: print(text, flush=True)
    )
    failed = [result for result in results if result.outcome == "failed"]
    for result in failed:
        print(f"failed: {result.cell.name}: {result.reason} (log: {result.cell.log})")
    again = shlex.join(["spaars", "bench", str(args.suite), "--out", str(out)])
    if left:
        raise Stopped(f"stopped with {left} of {len(cells)} runs left; go on with `{again}`")
    if failed:
        print(f"{len(failed)} of {len(cells)} runs failed; once mended, go on with `{again}`")
    finished = [result.cell for result in results if result.score is not None]
    if finished:
        print(f"compare them: {_report_command(finished, out)}")
    return 1 if failed else 0


def _report_command(cells: list[Cell], out: Path) -> str:
    runs = [str(cell.path) for cell in cells]
    return shlex.join(["spaars", "report", *runs, "--out", str(out / "report.html")])
