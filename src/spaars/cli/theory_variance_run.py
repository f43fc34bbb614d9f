"""`spaars theory variance RUN`."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from spaars.cli.plain import plain_console
from spaars.cli.theory_output import describe, require_run, write
from spaars.deploy.trained import load_trained
from spaars.report.theory_figures import Estimate, run_variances
from spaars.theory.trained import RunVariances, TrainedVarianceStudy, Variances, ratio_of_means

ESTIMATORS = {
    "score_value": "score, values",
    "score_advantage": "score, advantages",
    "reparameterised": "reparameterised",
}
COLUMNS = ("seed", "sigma", "k/d", "values", "advantages", "reparam.", "relative")
SAYS = (
    "Ratios of the variance of policy gradients in k latents to that in d raw actions on the run's "
    "own critics, for tanh-Gaussians of the same mean action and the same sigma before tanh; 95% "
    "bootstrap intervals over states of the replay. "
    "k/d is what the bounds say, and what a weight gives that hardly depends on the sampled "
    "action, as values do; advantages and slopes also carry how far a unit of latent moves the "
    "action, which no bound speaks of. "
    "'Relative' divides the reparameterised variance by the squared mean gradient, which cancels "
    "units: above 100% the latent gradient is the noisier one for what it says."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Variance of policy gradients on a trained run. With --lq in the place of RUN: on random
    linear-quadratic problems (see `spaars theory variance --lq --help`)."""

    run: tyro.conf.Positional[Path | None] = None
    """Run directory with a checkpoint, of spaars, latent-only or spaars-supe."""
    deployed: bool = False
    """Look at the deployed policies and critics instead of the newest."""
    out: Path = Path("theory")
    """Directory for variance-run.json and variance-run.png."""
    study: tyro.conf.OmitArgPrefixes[TrainedVarianceStudy] = TrainedVarianceStudy()
    """What to sample."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars theory variance")
    path = require_run(args.run, "variance")
    args.study.check()
    trained = load_trained(path, deployed=args.deployed)
    rows = []
    for i, seed in enumerate(trained.config.seeds):
        states, _ = trained.draw(i, args.study.states, args.study.seed)
        rows += [
            _row(seed, found, args.study.seed) for found in args.study.run(trained.parts(i), states)
        ]

    console = plain_console()
    settings = dataclasses.asdict(args.study) | {"deployed": args.deployed}
    result = describe(path, trained.described, trained.env_steps) | {"rows": rows}
    share = rows[0]["latents"] / rows[0]["actions"]
    figure = run_variances(np.array([row["sigma"] for row in rows]), share, _estimates(rows))
    write(console, args.out, "variance-run", settings, result, figure)

    k, d = rows[0]["latents"], rows[0]["actions"]
    where = f"{path.name} at {trained.env_steps:,} steps, k = {k}, d = {d}"
    table = Table(title=f"{where}: latent / raw variance in percent")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["seed"]),
            f"{row['sigma']:g}",
            f"{100 * k / d:.0f}",
            *(_words(row[name]) for name in ESTIMATORS),
            _words(row["relative"]),
        )
    console.print(table)
    console.print(SAYS)
    return 0


def _row(seed: int, found: RunVariances, bootstrap_seed: int) -> dict[str, Any]:
    def ratio(name: str) -> dict[str, float]:
        pair = getattr(found.latent, name), getattr(found.raw, name)
        mean, low, high = ratio_of_means(*pair, bootstrap_seed)
        return {"mean": mean, "low": low, "high": high}

    return {
        "seed": seed,
        "sigma": found.sigma,
        "latents": found.latents,
        "actions": found.actions,
        "states": len(found.raw.signal),
        **{name: ratio(name) for name in ESTIMATORS},
        "relative": relative(found.latent, found.raw),
        "latent_means": {name: value.mean() for name, value in found.latent._asdict().items()},
        "raw_means": {name: value.mean() for name, value in found.raw._asdict().items()},
    }


def relative(latent: Variances, raw: Variances) -> dict[str, float] | None:
    """Ratio of reparameterised variance over squared mean gradient; None where a mean gradient
    cannot be told from 0."""
    signals = latent.signal.mean(), raw.signal.mean()
    if min(signals) <= 0.0:
        return None
    noise = latent.reparameterised.mean() / raw.reparameterised.mean()
    return {"mean": float(noise * signals[1] / signals[0])}


def _estimates(rows: list[dict[str, Any]]) -> dict[str, Estimate]:
    return {
        words: Estimate(*(np.array([row[name][end] for row in rows]) for end in Estimate._fields))
        for name, words in ESTIMATORS.items()
    }


def _words(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    if "low" not in found:
        return f"{100 * found['mean']:.0f}"
    return f"{100 * found['mean']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
