"""Does a rollback recover a run whose critic was corrupted on purpose?

    python -m benchmarks.collapse RUN --out DIR                # every arm, in turn
    python -m benchmarks.collapse RUN --out DIR --arms budget  # one; again for others
    python -m benchmarks.collapse RUN --out DIR --report       # the table of what is there

RUN is a run of spaars with a checkpoint (not one that is still training); it stays as it is. A copy
of it for each arm goes on for --steps from the same checkpoint, in which the first --members
critics are mirrored:

    Q'(s, a) = 2 c - Q(s, a),   c = the mean of Q over the run's replay

in the online and the target network. Values keep their mean and the order of actions is reversed;
as targets and policies take the minimum over the critics, one mirrored critic speaks wherever the
others are above average. The arms:

    budget      budget of falls (--falls in --window steps), and deployment's own rollback
    no-budget   deployment's own rollback only (of a candidate that fails its trial)
    none        neither: the collapse takes its course
    control     nothing corrupted, neither limited: what the steps would have done

The deployed policy is held by evidence alone; so the newest policy is what tells. The budget's
first window reaches back before the corruption: allow more falls than the run had by itself.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from spaars.data.files import atomic_write
from spaars.deploy.trained import Trained, load_trained
from spaars.errors import ConfigError
from spaars.report.records import load_run, select
from spaars.tasks import get_task
from spaars.training.checkpoint import load_checkpoint, save_checkpoint
from spaars.training.evaluate import Evaluator
from spaars.training.run import resume

ARMS = ("budget", "no-budget", "none", "control")
WITHIN = 5.0
"""Points of the pre-collapse score within which a policy counts as recovered."""
COPIED = ("config.json", "metrics.jsonl")
CRITICS = ("state/critics/params", "state/target_critics")

Numbers = dict[str, Any]


def mirrored(
    arrays: dict[str, np.ndarray], centres: np.ndarray, members: Sequence[int]
) -> dict[str, np.ndarray]:
    """A checkpoint's arrays with the last layers of some critics turned round `centres` (S, E)."""
    arrays = dict(arrays)
    for root in CRITICS:
        for member in members:
            layers = f"{root}/members/{member}/layers/"
            last = max(int(n[len(layers) :].split("/")[0]) for n in arrays if n.startswith(layers))
            weight, bias = f"{layers}{last}/weight", f"{layers}{last}/bias"
            arrays[weight] = -arrays[weight]
            turned = 2.0 * centres[:, member, None] - arrays[bias]
            arrays[bias] = turned.astype(arrays[bias].dtype)
    return arrays


def centres_of(trained: Trained) -> np.ndarray:
    """Mean Q of every seed's critics over its replay, (S, E)."""
    rows = [trained.draw(i, 10_000, 0) for i in range(len(trained.config.seeds))]
    return np.stack(
        [
            np.asarray(trained.parts(i).critics(jnp.asarray(states), jnp.asarray(actions))).mean(1)
            for i, (states, actions) in enumerate(rows)
        ]
    )


def prepare(source: Path, arm: Path, name: str, args: argparse.Namespace) -> None:
    """A copy of the run that goes on from its checkpoint under the arm's settings."""
    trained = load_trained(source)
    described = json.loads((source / "config.json").read_text())
    config = described["config"]
    config["online"]["steps"] = trained.env_steps + args.steps
    config["evaluation"]["every"] = args.every
    budget = {"falls": None, "cost": None, "dip": None, "window": args.window}
    config["safety"]["budget"] = budget | ({"falls": args.falls} if name == "budget" else {})
    if name in ("none", "control"):
        config["deployment"]["rollback"] = None
    checkpoint = load_checkpoint(source)
    assert checkpoint is not None  # load_trained found it
    if name != "control":
        arrays = mirrored(checkpoint.arrays, centres_of(trained), range(args.members))
        checkpoint = checkpoint._replace(arrays=arrays)
    arm.mkdir(parents=True)
    for file in COPIED:
        shutil.copy(source / file, arm / file)
    save_checkpoint(arm, checkpoint)
    _write(arm / "config.json", described)  # last: without it the directory is no run


def before(source: Path) -> Numbers:
    """Score of both policies at the checkpoint, in the run's own evaluation episodes."""
    scores = {}
    for name in ("newest", "deployed"):
        trained = load_trained(source, deployed=name == "deployed")
        c, task = trained.config, get_task(trained.config.task)
        evaluator = Evaluator(
            trained.agent, task.make_env, c.seeds, c.evaluation.episodes, safety=c.safety
        )
        try:
            scores[name] = task.score(evaluator(trained.acting).returns).mean(1).tolist()
        finally:
            evaluator.close()
    return {"seeds": list(c.seeds), "step": trained.env_steps, **scores}


def after(arm: Path, start: Numbers) -> list[Numbers]:
    """What became of each seed, steps counted from the corruption."""
    run, at, rows = load_run(arm), start["step"], []
    for i, seed in enumerate(start["seeds"]):
        found = [
            record
            for record in select(run.records, "evaluation", seed=seed)
            if record["step"] > at and record["label"] != "handover"
        ]
        # Of two at one step the last counts: a final one follows a periodic one.
        curve = {r["step"] - at: (r["newest_score"], r["score"]) for r in found}
        newest = [score for score, _ in curve.values()]
        enough = start["newest"][i] - WITHIN
        back = [step for step, (score, _) in curve.items() if score < enough]
        since = next((step for step in curve if step > max(back, default=0)), None)
        episodes = [r for r in select(run.records, "episode", seed=seed) if r["step"] > at]
        events = select(run.records, "event", seed=seed, event="rollback")
        rows.append(
            {
                "seed": seed,
                "newest_before": start["newest"][i],
                "newest_lowest": min(newest),
                "newest_final": newest[-1],
                "recovered_from": since,
                "deployed_before": start["deployed"][i],
                "deployed_final": list(curve.values())[-1][1],
                "steps": max(curve),
                "falls": sum(bool(r["terminated"]) for r in episodes),
                "rollbacks": [[r["step"] - at, r["reason"]] for r in events if r["step"] > at],
                "evaluations": [[step, *scores] for step, scores in curve.items()],
            }
        )
    return rows


def table(arms: dict[str, list[Numbers]]) -> str:
    """In Markdown."""
    lines = [
        "| arm | seed | newest before | lowest | final | within 5 from step | deployed before | "
        "final | rollbacks | falls | steps |",
        "|---" * 11 + "|",
    ]
    for name, rows in arms.items():
        for row in rows:
            since = row["recovered_from"]
            cells = [
                name,
                str(row["seed"]),
                f"{row['newest_before']:.1f}",
                f"{row['newest_lowest']:.1f}",
                f"{row['newest_final']:.1f}",
                "never" if since is None else f"{since:,}",
                f"{row['deployed_before']:.1f}",
                f"{row['deployed_final']:.1f}",
                str(len(row["rollbacks"])),
                str(row["falls"]),
                f"{row['steps']:,}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _write(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def check(source: Path, args: argparse.Namespace) -> Trained:
    """Everything that can be wrong, before anything is copied or computed."""
    trained = load_trained(source)
    c = trained.config
    if c.method != "spaars" or c.deployment.rule != "proven":
        raise ConfigError(f"{source}: give a run of spaars with --deployment.rule proven.")
    members = c.learner.critics
    if not 1 <= args.members <= members:
        raise ConfigError(f"--members must be from 1 to the run's {members} critics.")
    for flag in ("steps", "every", "window", "falls"):
        if getattr(args, flag) < (flag != "falls"):
            raise ConfigError(f"--{flag} is too small: {getattr(args, flag)}.")
    for flag, value in (("--steps", args.steps), ("--every", args.every)):
        if value % c.online.chunk:
            raise ConfigError(f"{flag} must be a multiple of the run's chunk, {c.online.chunk}.")
    return trained


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="run of spaars with a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="where the arms go")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS[:3])
    parser.add_argument("--report", action="store_true", help="only the table of what is there")
    parser.add_argument("--steps", type=int, default=10_000, help="env steps to go on for")
    parser.add_argument("--every", type=int, default=2_500, help="env steps between evaluations")
    parser.add_argument("--members", type=int, default=1, help="critics to mirror")
    parser.add_argument("--falls", type=int, default=4, help="falls that a window may hold")
    parser.add_argument("--window", type=int, default=2_000, help="env steps of a window")
    args = parser.parse_args(argv)
    check(args.run, args)
    start_file = args.out / "before.json"
    if not args.report and not start_file.exists():
        args.out.mkdir(parents=True, exist_ok=True)
        _write(start_file, before(args.run))
    start = json.loads(start_file.read_text())
    for name in () if args.report else args.arms:
        arm = args.out / name
        if not (arm / "config.json").exists():
            shutil.rmtree(arm, ignore_errors=True)  # what was left of a copy that was cut short
            prepare(args.run, arm, name, args)
        if not (arm / "summary.json").exists():
            print(f"{name}: going on from step {start['step']:,}", flush=True)
            resume(arm, on_message=lambda text: print(f"  {text}", flush=True))
    done = [name for name in ARMS if (args.out / name / "summary.json").exists()]
    arms = {name: after(args.out / name, start) for name in done}
    described = json.loads((args.run / "config.json").read_text())
    settings = {key: getattr(args, key) for key in ("steps", "every", "members", "falls", "window")}
    result = {
        "run": args.run.resolve().name,
        "task": described["config"]["task"],
        "git_revision": described["git_revision"],
        "settings": settings,
        "before": start,
        "arms": arms,
    }
    _write(args.out / "collapse.json", result)
    print(table(arms))


if __name__ == "__main__":
    from spaars.cli.main import exit_code_of

    raise SystemExit(exit_code_of(main))
