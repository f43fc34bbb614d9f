"""`spaars eval RUN|POLICY`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from spaars.cli.plain import plain_console
from spaars.deploy.numpy_policy import NumpyPolicy, PolicyError
from spaars.deploy.policy import is_exported, load_acting, load_exported
from spaars.errors import ConfigError, DataError
from spaars.tasks import Task, get_task
from spaars.training.envs import processes_for
from spaars.training.evaluate import EvalResult, Evaluator, evaluation_seed, run_episodes
from spaars.training.run_directory import read_config
from spaars.training.stepping import open_envs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Evaluate a run's last checkpoint, by default with the deterministic policy, or a policy that
    `spaars export` wrote."""

    path: tyro.conf.Positional[Path]
    """Run directory, or an exported .npz or .onnx."""
    task: str | None = None
    """Of an exported policy: evaluate it on this task, or Gymnasium env, instead of its own."""
    episodes: int = 20
    """Episodes per seed; the first ones are those of the run's own evaluations."""
    offset: int = 0
    """Skip this many of the fixed evaluation episodes (fresh ones: the run's own number)."""
    stochastic: bool = False
    """Sample actions as exploration does, instead of taking the deterministic ones."""
    newest: bool = False
    """Evaluate the newest policy, deployed or not."""
    env_processes: int | None = None
    """Processes that step the envs; None: one for every core in the kitchen, 1 elsewhere."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars eval")
    if args.episodes < 1 or args.offset < 0:
        raise ConfigError(
            f"--episodes must be at least 1 and --offset at least 0, "
            f"got {args.episodes} and {args.offset}."
        )
    if args.env_processes is not None and args.env_processes < 1:
        raise ConfigError(f"--env-processes must be at least 1, got {args.env_processes}.")
    task, seeds, label, result = (_exported if is_exported(args.path) else _run)(args)
    scores = task.score(result.returns)
    rows = [
        {
            "seed": seed,
            "score": float(scores[i].mean()),
            "score_std": float(scores[i].std()),
            "return_mean": float(result.returns[i].mean()),
            "length_mean": float(result.lengths[i].mean()),
            "falls": 0 if task.success_ends else int(result.fell[i].sum()),
            **{name: float(value[i]) for name, value in result.facts.items()},
        }
        for i, seed in enumerate(seeds)
    ]
    if args.json:
        print(json.dumps({"task": task.name, "episodes": args.episodes, "seeds": rows}))
        return 0
    table = Table(title=f"{args.path}: {args.episodes} episodes a seed")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    console = plain_console()
    console.print(table)
    console.print(f"trained on {label}")
    return 0


Evaluated = tuple[Task, tuple[int, ...], str, EvalResult]


def _run(args: Args) -> Evaluated:
    if args.task is not None:
        raise ConfigError("--task is for exported policies; a run is evaluated on its own task.")
    config, described = read_config(args.path)
    task = get_task(config.task)
    acting = load_acting(args.path, config, args.newest).acting
    evaluator = Evaluator(
        config.agent(),
        task.make_env,
        config.seeds,
        args.episodes,
        stochastic=args.stochastic,
        offset=args.offset,
        safety=config.safety,
        processes=processes_for(task, args.env_processes),
    )
    try:
        return task, config.seeds, described["dataset"]["label"], evaluator(acting)
    finally:
        evaluator.close()


def _exported(args: Args) -> Evaluated:
    if args.stochastic or args.newest:
        raise ConfigError(
            "--stochastic and --newest are for runs; an exported policy is deterministic and one."
        )
    policy = load_exported(args.path)
    task, seed = task_of(policy, args.task), int(policy.about["seed"])
    envs = open_envs(task.make_env, args.episodes, processes_for(task, args.env_processes))
    try:
        check_fit(policy, envs, task, args.path)

        def act(observations: np.ndarray, step: int) -> tuple[np.ndarray, dict[str, Any]]:
            computed = policy.compute(observations[0])
            facts = {}
            if "gate_advantage" in computed:
                facts["raw_share"] = computed["gate_advantage"].T > 0.0
            return computed["actions"][None], facts

        reset_seeds = [evaluation_seed(seed, args.offset + i) for i in range(args.episodes)]
        result = run_episodes(envs, [reset_seeds], act)
    except PolicyError as error:
        raise DataError(f"{args.path}: {error}") from error
    finally:
        envs.close()
    return task, (seed,), str(policy.about["data"]), result


def task_of(policy: NumpyPolicy, name: str | None) -> Task:
    """The named task, or the policy's own."""
    return get_task(name if name is not None else str(policy.about["task"]))


def check_fit(policy: Any, env: Any, task: Task, path: Path) -> None:
    """Raises DataError unless the policy's dimensions are the env's."""
    for what, ours, theirs in (
        ("observations", policy.observation_dim, env.observation_space.shape[0]),
        ("actions", policy.action_dim, env.action_space.shape[0]),
    ):
        if ours != theirs:
            raise DataError(
                f"{path}: the policy has {what} of {ours} dimensions, those of {task.env_id} have "
                f"{theirs}. It was trained on {policy.about['task']}; choose another --task."
            )
