"""`spaars eval RUN`."""

import dataclasses
import json
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from spaars.deploy.policy import load_acting
from spaars.errors import ConfigError
from spaars.tasks import get_task
from spaars.training.evaluate import Evaluator
from spaars.training.run_directory import read_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Evaluate a run's last checkpoint, by default with the deterministic policy."""

    path: tyro.conf.Positional[Path]
    """Run directory."""
    episodes: int = 20
    """Episodes per seed; the first ones are those of the run's own evaluations."""
    offset: int = 0
    """Skip this many of the fixed evaluation episodes (fresh ones: the run's own number)."""
    stochastic: bool = False
    """Sample actions as exploration does, instead of taking the deterministic ones."""
    newest: bool = False
    """Evaluate the newest policy, deployed or not."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars eval")
    if args.episodes < 1 or args.offset < 0:
        raise ConfigError(
            f"--episodes must be at least 1 and --offset at least 0, "
            f"got {args.episodes} and {args.offset}."
        )
    config, described = read_config(args.path)
    task = get_task(config.task)
    acting, _ = load_acting(args.path, config, args.newest)
    evaluator = Evaluator(
        config.agent(),
        task.make_env,
        config.seeds,
        args.episodes,
        stochastic=args.stochastic,
        offset=args.offset,
        safety=config.safety,
    )
    result = evaluator(acting)
    evaluator.close()
    scores = task.score(result.returns)
    rows = [
        {
            "seed": seed,
            "score": float(scores[i].mean()),
            "score_std": float(scores[i].std()),
            "return_mean": float(result.returns[i].mean()),
            "length_mean": float(result.lengths[i].mean()),
            "falls": 0 if task.success_ends else int(result.terminated[i].sum()),
            **{name: float(value[i]) for name, value in result.facts.items()},
        }
        for i, seed in enumerate(config.seeds)
    ]
    if args.json:
        print(json.dumps({"task": config.task, "episodes": args.episodes, "seeds": rows}))
        return 0
    table = Table(title=f"{args.path}: {args.episodes} episodes a seed")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    console = Console()
    console.print(table)
    console.print(f"trained on {described['dataset']['label']}", highlight=False)
    return 0
