"""Write a run's policy as one file that needs neither the run nor this package, and its card."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from gymnasium.spaces import Box

from spaars.data.files import atomic_write
from spaars.deploy.card import model_card
from spaars.deploy.graph import graphs_of
from spaars.deploy.numpy_policy import DESCRIPTION, FORMAT
from spaars.deploy.onnx_policy import onnx_bytes
from spaars.deploy.policy import Loaded, index_of, load_acting, load_exported
from spaars.errors import ConfigError
from spaars.tasks import get_task
from spaars.training.config import TrainConfig
from spaars.training.provenance import command_line, git_revision, versions
from spaars.training.run_directory import read_config

Format = Literal["npz", "onnx"]


def export(
    run_dir: str | Path,
    format: Format = "npz",
    *,
    seed: int | None = None,
    newest: bool = False,
    out: str | Path | None = None,
) -> Path:
    """Write the deployed (or the `newest`) policy of `run_dir`'s last checkpoint.

    The file goes to `out`, by default `policy-sSEED.FORMAT` in the run directory, and a model card
    beside it, the same name with `.md` added. Returns the file's path.

    Raises:
        RunError: no run, no checkpoint, no such seed.
        ConfigError: `out` does not end in the format; a policy that remembers something (a skill,
            the last action under a rate limit) as ONNX.
    """
    run_dir = Path(run_dir)
    config, described = read_config(run_dir)
    index = index_of(run_dir, config, seed)
    suffix = f".{format}"
    path = Path(out) if out is not None else run_dir / f"policy-s{config.seeds[index]}{suffix}"
    if path.suffix != suffix:
        raise ConfigError(f"--out {path} must end in {suffix}, or choose another --format.")
    loaded = load_acting(run_dir, config, newest)
    one = jax.tree.map(lambda leaf: leaf[index], loaded.acting)
    envelope = None
    if config.safety.limits_actions:
        envelope = config.safety.envelope(Box(-1.0, 1.0, (loaded.action_dim,)))
    graphs, arrays = graphs_of(config.agent(), one, loaded.action_dim, envelope)
    description: dict[str, Any] = {
        "format": FORMAT,
        "observation_dim": loaded.observation_dim,
        "action_dim": loaded.action_dim,
        "about": facts(run_dir, config, described, loaded, index, newest),
    }
    if envelope is not None:
        limits = {
            "low": envelope.low,
            "high": envelope.high,
            "largest change": envelope.rate_limit,
        }
        description["about"]["envelope"] = {
            name: [float(x) for x in limit] for name, limit in limits.items() if limit is not None
        }
    columns = of_robot(described).get("observations", [])
    if columns and sum(width for _, width in columns) == loaded.observation_dim:
        description["observations"] = columns
    if "skills" in graphs:
        agent: Any = config.agent()
        description |= {"skill_length": agent.skill_length, "skill_dim": agent.skill_dim}
    if format == "npz":
        contents = npz_bytes(description | {"graphs": graphs}, arrays)
    elif "skills" in graphs:
        raise ConfigError(
            f"--format onnx: policies of --method {config.method} remember the running skill, "
            "which an ONNX graph cannot. Use --format npz."
        )
    elif envelope is not None and envelope.rate_limit is not None:
        raise ConfigError(
            "--format onnx: a policy with --safety.rate-limit remembers its last action, which an "
            "ONNX graph cannot. Use --format npz."
        )
    else:
        contents = onnx_bytes(graphs["actions"], arrays, description)
    with atomic_write(path) as file:
        file.write(contents)
    load_exported(path)  # what was written can be read
    with atomic_write(path.with_name(path.name + ".md")) as file:
        file.write(model_card(path.name, contents, description, arrays).encode())
    return path


def npz_bytes(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """As `numpy.savez` writes arrays, with the description as a member of its own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        # With a fixed date the same policy is the same bytes.
        file.writestr(zipfile.ZipInfo(DESCRIPTION), json.dumps(description))
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return buffer.getvalue()


def of_robot(described: dict[str, Any]) -> dict[str, Any]:
    """Names of observations and bounds of actions: of the env, or of the data where it has none."""
    known = dict(described["dataset"].get("description", {}))
    return known | described.get("env", {})


def facts(
    run_dir: Path,
    config: TrainConfig,
    described: dict[str, Any],
    loaded: Loaded,
    index: int,
    newest: bool,
) -> dict[str, Any]:
    """What is known about the policy. What was not measured is not in it."""
    task, seed = get_task(config.task), config.seeds[index]
    bounds = of_robot(described)
    about: dict[str, Any] = {
        "task": task.name,
        "env": task.env_id,
        "method": config.method,
        "seed": seed,
        "policy": "newest" if newest else "deployed",
        "env_steps": loaded.progress.get("env_steps", 0),
        "data": described["dataset"]["label"],
        "data_sha256": described["dataset"]["sha256"],
        "action_low": list(bounds.get("action_low", ())) or [-1.0] * loaded.action_dim,
        "action_high": list(bounds.get("action_high", ())) or [1.0] * loaded.action_dim,
    }
    evaluations = _evaluations(run_dir, loaded.progress["metrics_offset"], seed)
    if evaluations:
        about["scores"] = _scores(evaluations, newest)
    summary = run_dir / "summary.json"
    if summary.exists():
        own = json.loads(summary.read_text())["seeds"][index]
        names = ("dip_worst", "drop_below_offline", "falls_per_1k")
        about["safety"] = {name: own[name] for name in names if own.get(name) is not None}
    about["trained"] = {
        name: described[name]
        for name in ("git_revision", "command", "versions")
        if name in described
    }
    about["exported"] = {
        "git_revision": git_revision(),
        "command": command_line(),
        "versions": versions(),
    }
    return about


def _evaluations(run_dir: Path, offset: int, seed: int) -> list[dict[str, Any]]:
    """The seed's evaluations up to the checkpoint; what came later is of other policies.

    None where nothing was evaluated, as by an `OnlineLearner`.
    """
    if not (run_dir / "metrics.jsonl").exists():
        return []
    with (run_dir / "metrics.jsonl").open("rb") as file:
        records = [json.loads(line) for line in file.read(offset).splitlines()]
    return [r for r in records if r["kind"] == "evaluation" and r["seed"] == seed]


def _scores(evaluations: list[dict[str, Any]], newest: bool) -> dict[str, Any]:
    first, last = evaluations[0], evaluations[-1]
    scores: dict[str, Any] = {"step": last["step"], "episodes": last["episodes"]}
    if first["label"] == "offline":
        scores["offline"] = first["score"]
    if newest and last["newest_score"] != last["score"]:
        return scores | {"score": last["newest_score"]}
    return scores | {
        "score": last["score"],
        "score_std": last["score_std"],
        "return_mean": last["return_mean"],
        "falls": last["falls"],
    }
