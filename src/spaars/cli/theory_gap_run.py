"""`spaars theory gap RUN`."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from spaars.cli.plain import plain_console
from spaars.cli.theory_output import describe, require_run, write
from spaars.deploy.trained import ARMS, Trained, load_trained, play
from spaars.errors import ConfigError, RunError
from spaars.report.records import Run, load_run, series
from spaars.report.theory_figures import run_gap
from spaars.tasks import get_task
from spaars.theory.study import bootstrap_interval
from spaars.theory.trained import TARGETS, TrainedGap, TrainedGapStudy
from spaars.training.evaluate import EvalResult

ACTIONS = {"raw": "raw policy's", "best": "best by the critics"}
SAYS = (
    "eps is how far an action lies from what the decoder can give, the difference what the run's "
    "own critics say that costs along the way, and the Lipschitz bound what their steepest slopes "
    "would allow, all in discounted return. "
    "The measured gain is the same policies and critics in the same episodes with the gate open "
    "and shut, so it is what the gate wins, not the gap to an optimal policy that nobody knows. "
    "Critics are maximised over their own errors and the states are the replay's: the difference "
    "of the best action is optimistic, and no line is a guarantee."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What the decoder of a trained run costs, estimated. With --lq in the place of RUN: on random
    linear-quadratic problems, exactly (see `spaars theory gap --lq --help`)."""

    run: tyro.conf.Positional[Path | None] = None
    """Run directory with a checkpoint, of spaars, latent-only or spaars-supe."""
    latent_only: Path | None = None
    """Run of latent-only to compare with: same task and dataset, same seeds."""
    deployed: bool = False
    """Look at the deployed policies and critics instead of the newest."""
    episodes: int = 20
    """Evaluation episodes per seed and gate; 0 plays none."""
    out: Path = Path("theory")
    """Directory for gap-run.json and gap-run.png."""
    study: tyro.conf.OmitArgPrefixes[TrainedGapStudy] = TrainedGapStudy()
    """Where and how finely to look."""

    def check(self) -> None:
        """ConfigError names the flag that is out of range."""
        self.study.check()
        if self.episodes < 0 or self.episodes == 1:
            raise ConfigError(
                f"--episodes must be 0 or at least 2, for an interval; got {self.episodes}."
            )


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars theory gap")
    path = require_run(args.run, "gap")
    args.check()
    trained = load_trained(path, deployed=args.deployed)
    other = None if args.latent_only is None else against(path, args.latent_only)

    gaps = []
    for i in range(len(trained.config.seeds)):
        states, actions = trained.draw(i, args.study.states, args.study.seed)
        gaps.append(args.study.run(trained.parts(i), states, actions))
    task = get_task(trained.config.task)
    played = play(trained, task, args.episodes) if args.episodes else {}
    scores = {arm: task.score(result.returns) for arm, result in played.items()}
    rows = [_row(trained, i, gap, scores, played) for i, gap in enumerate(gaps)]

    console = plain_console()
    figure = run_gap(
        {ACTIONS[name]: np.concatenate([gap.eps[name] for gap in gaps]) for name in TARGETS},
        _lines(rows),
    )
    settings = dataclasses.asdict(args.study) | {
        "deployed": args.deployed,
        "episodes": args.episodes,
    }
    result = describe(path, trained.described, trained.env_steps)
    result |= {"rows": rows, "latent_only": other}
    write(console, args.out, "gap-run", settings, result, figure)
    _print(console, trained, rows, other)
    console.print(SAYS)
    return 0


def _row(
    trained: Trained,
    i: int,
    gap: TrainedGap,
    scores: dict[str, np.ndarray],
    played: dict[str, EvalResult],
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "seed": trained.config.seeds[i],
        "armed": trained.armed[i],
        "states": len(gap.eps["raw"]),
        "slope_95": gap.slope_95,
        "slope_max": gap.slope_max,
        "value": gap.value,
        **{name: dataclasses.asdict(getattr(gap, name)) for name in TARGETS},
    }
    if not played:
        return row | {"gates": None, "gain": None}
    returns = {arm: result.discounted[i] for arm, result in played.items()}
    row["gates"] = {
        arm: {
            "score": float(scores[arm][i].mean()),
            "discounted_return": float(returns[arm].mean()),
            "raw_share": float(played[arm].facts["raw_share"][i]),
        }
        for arm in ARMS
    }
    row["gain"] = {
        "score": _paired(scores["open"][i] - scores["shut"][i]),
        "discounted_return": _paired(returns["open"] - returns["shut"]),
    }
    return row


def _paired(differences: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_interval(differences)
    return {"mean": float(differences.mean()), "low": low, "high": high}


def against(path: Path, other: Path) -> list[dict[str, Any]]:
    """For each common seed the newest policies' scores of both runs, at the last common step."""
    ours, theirs = load_run(path), load_run(other)
    gate = theirs.config["config"].get("gate") or {}
    if theirs.config["config"].get("method") != "latent-only" and gate.get("rule") != "never":
        raise ConfigError(
            f"--latent-only {other} is a run of {theirs.config['config'].get('method')} whose gate "
            "may open. Give a run of latent-only, or one with --gate.rule never."
        )
    for what, of in (
        ("task", lambda run: run.config["config"].get("task")),
        ("dataset", lambda run: (run.config.get("dataset") or {}).get("sha256")),
    ):
        if of(ours) != of(theirs):
            raise ConfigError(
                f"--latent-only {other} has another {what} than {path}: {of(theirs)}, not "
                f"{of(ours)}. Only runs on the same can be compared."
            )
    rows = [
        row
        for seed in ours.config["config"]["seeds"]
        if (row := _compared(seed, ours, theirs)) is not None
    ]
    if not rows:
        raise RunError(
            f"{path} and {other} share no seed that both evaluated at the same step. Train both "
            "with the same --seeds and --evaluation.every."
        )
    return rows


def _compared(seed: int, ours: Run, theirs: Run) -> dict[str, Any] | None:
    curves = [series(run.records, "evaluation", seed, "newest_score") for run in (ours, theirs)]
    common = np.intersect1d(curves[0].steps, curves[1].steps)
    if not common.size:
        return None
    at = common[-1]
    score, latent = (float(curve.values[curve.steps == at][0]) for curve in curves)
    facts = {"seed": seed, "step": int(at), "score": score, "latent_only": latent}
    return facts | {"difference": score - latent}


def _lines(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """What the figure compares, in discounted return, a value per seed."""
    lines = {}
    if rows[0]["gain"] is not None:
        gains = [row["gain"]["discounted_return"]["mean"] for row in rows]
        lines["measured: open less shut"] = gains
    for name, words in ACTIONS.items():
        lines[f"difference: {words}"] = [row[name]["difference"] for row in rows]
        lines[f"Lipschitz 95%: {words}"] = [row[name]["lipschitz_95"] for row in rows]
        lines[f"Lipschitz max: {words}"] = [row[name]["lipschitz_max"] for row in rows]
    return lines


def _print(
    console: Console,
    trained: Trained,
    rows: list[dict[str, Any]],
    other: list[dict[str, Any]] | None,
) -> None:
    where = f"{trained.path.name} at {trained.env_steps:,} steps"
    table = Table(title=f"{where}: discounted return, eps in units of action")
    for column in ("seed", "action", "eps", "95%", "difference", "chosen", "Lips. 95%", "max"):
        table.add_column(column, justify="right")
    for row in rows:
        for name in TARGETS:
            found = row[name]
            spread = f"[{found['difference_low']:.2f}, {found['difference_high']:.2f}]"
            table.add_row(
                str(row["seed"]),
                name,
                f"{found['eps_mean']:.3f}",
                f"{found['eps_95']:.3f}",
                f"{found['difference']:.2f} {spread}",
                f"{found['difference_chosen']:.2f}",
                f"{found['lipschitz_95']:.1f}",
                f"{found['lipschitz_max']:.1f}",
            )
    console.print(table)
    values = ", ".join(f"{row['value']:.1f} (seed {row['seed']})" for row in rows)
    console.print(
        f"raw: the raw policy's action; best: of highest min Q found. Value of the latent action: "
        f"{values}. Brackets: lowest and highest critic. chosen: latent by Q, not by distance.",
    )
    if rows[0]["gates"] is not None:
        table = Table(title="Same policies and episodes, three gates: score")
        for column in ("seed", "open", "raw acts", "shut", "raw alone", "open less shut [95%]"):
            table.add_column(column, justify="right")
        for row in rows:
            gates, gain = row["gates"], row["gain"]["score"]
            table.add_row(
                str(row["seed"]),
                f"{gates['open']['score']:.1f}",
                f"{gates['open']['raw_share']:.1%}",
                f"{gates['shut']['score']:.1f}",
                f"{gates['raw']['score']:.1f}",
                f"{gain['mean']:.1f} [{gain['low']:.1f}, {gain['high']:.1f}]",
            )
        console.print(table)
    unarmed = [str(row["seed"]) for row in rows if not row["armed"]]
    if unarmed:
        console.print(
            f"The gate of seed {', '.join(unarmed)} was never armed: there the raw policy is a "
            "clone, and the open gate is what the critics would do with it.",
        )
    for row in other or []:
        console.print(
            f"Seed {row['seed']} at {row['step']:,} steps, newest policies: {row['score']:.1f}, "
            f"latent-only {row['latent_only']:.1f}, difference {row['difference']:.1f} points.",
        )
