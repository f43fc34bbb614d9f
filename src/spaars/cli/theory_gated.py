"""`spaars theory gated --lq`."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from spaars.cli.plain import plain_console
from spaars.cli.theory_output import write
from spaars.errors import ConfigError
from spaars.report.theory_figures import Estimate, gated_improvement
from spaars.theory.gated import ERROR_KINDS, GATE_KINDS, GatedStudy, Measured
from spaars.theory.study import bootstrap_interval

SAYS = (
    "J(gated) - J(latent) in percent of |J(latent)|, mean and 95% bootstrap interval over "
    "problems; the raw policy beats the latent one, by the latent policy's true Q, in half of the "
    "start states, and critics err by at most eta (in units of its mean absolute advantage there). "
    "Returns, the share of open steps and the bound (margin - 2 eta) P(g = 1) / (1 - gamma) are "
    "exact: no noise, and the gate closes for good once a step's discount is below 0.001. "
    "Pessimism about the ensemble's spread opens the gate less often where members err "
    "independently and is blind where they err alike; a margin of 2 eta never loses, but gains "
    "less."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What a gate gains or costs whose critics err."""

    lq: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure on random linear-quadratic problems."""
    out: Path = Path("theory")
    """Directory for gated-lq.json and gated-lq.png."""
    study: tyro.conf.OmitArgPrefixes[GatedStudy] = GatedStudy()
    """The problems, errors and gates."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars theory gated")
    if not args.lq:
        raise ConfigError(
            "say what to measure on: `spaars theory gated --lq` takes random linear-quadratic "
            "problems. Of a run, `spaars theory gap RUN` plays the gate open and shut."
        )
    measured = args.study.run()
    grid = sorted(args.study.eta)

    console = plain_console()
    rows: list[dict[str, Any]] = []
    tables, panels = [], {}
    for kind in ERROR_KINDS:
        of_kind = [
            _row([row for row in measured if (row.errors, row.gate, row.eta) == (kind, gate, eta)])
            for gate in GATE_KINDS
            for eta in grid
        ]
        tables.append(_table(f"Errors {kind}, {args.study.problems} problems", of_kind))
        panels[f"{kind} errors"] = _lines(of_kind)
        rows += of_kind
    bounds = {f"{gate} bound": str(gate) for gate in GATE_KINDS}
    result = {"rows": rows, "problems": [row._asdict() for row in measured]}
    settings, figure = dataclasses.asdict(args.study), gated_improvement(grid, panels, bounds)
    write(console, args.out, "gated-lq", settings, result, figure)

    console.print(*tables, sep="\n")
    violated = sum(row["violated"] for row in rows)
    console.print(
        f"The improvement is below its bound in {violated} of {len(measured)} cases.",
    )
    console.print(SAYS)
    return 1 if violated else 0


def _row(cell: list[Measured]) -> dict[str, Any]:
    """The problems of one kind of error, gate and eta."""
    improvement = np.array([row.improvement for row in cell])
    low, high = bootstrap_interval(improvement)
    return {
        "errors": cell[0].errors,
        "gate": cell[0].gate,
        "eta": cell[0].eta,
        "open_share": float(np.mean([row.open_share for row in cell])),
        "improvement": {"mean": float(improvement.mean()), "low": low, "high": high},
        "worst": float(improvement.min()),
        "bound": float(np.mean([row.bound for row in cell])),
        "violated": sum(not row.holds for row in cell),
    }


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    table.add_column("gate")
    for column in ("eta", "open", "improvement, %", "worst, %", "bound, %"):
        table.add_column(column, justify="right")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        mean, low, high = (100.0 * value for value in row["improvement"].values())
        table.add_row(
            row["gate"],
            f"{row['eta']:g}",
            f"{row['open_share']:.3f}",
            f"{mean:z.2f} [{low:z.2f}, {high:z.2f}]",
            f"{100.0 * row['worst']:z.2f}",
            f"{100.0 * row['bound']:z.1f}",
            end_section=following is not None and following["gate"] != row["gate"],
        )
    return table


def _lines(rows: list[dict[str, Any]]) -> dict[str, Estimate]:
    """Of every gate its improvement and its bound, over eta."""
    lines = {}
    for gate in GATE_KINDS:
        here = [row for row in rows if row["gate"] == gate]
        ends = [[row["improvement"][end] for row in here] for end in Estimate._fields]
        lines[str(gate)] = Estimate(*np.array(ends))
        bound = np.array([row["bound"] for row in here])
        lines[f"{gate} bound"] = Estimate(bound, bound, bound)
    return lines
