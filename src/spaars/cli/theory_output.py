"""What the theory commands share: what they measure on, and how results are written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

import spaars
from spaars.data.files import atomic_write
from spaars.errors import ConfigError
from spaars.report.figures import to_png


def require_run(run: Path | None, command: str) -> Path:
    """The run to measure on; ConfigError where neither it nor --lq is given."""
    if run is None:
        raise ConfigError(
            f"say what to measure on: `spaars theory {command} --lq` takes random "
            "linear-quadratic problems, where everything is known exactly; "
            f"`spaars theory {command} RUN` a trained run, where it is estimated."
        )
    return run


def describe(run: Path, described: dict[str, Any], env_steps: int) -> dict[str, Any]:
    """What a result on a run is labelled with; no path of this machine."""
    return {
        "run": run.resolve().name,
        "task": described["config"]["task"],
        "method": described["config"]["method"],
        "dataset": described["dataset"]["label"],
        "git_revision": described.get("git_revision", "not recorded"),
        "env_steps": env_steps,
    }


def write(
    console: Console,
    out: Path,
    name: str,
    settings: dict[str, Any],
    result: dict[str, Any],
    figure: Figure,
) -> None:
    """OUT/NAME.json and .png, each whole or absent; NAME is the command's words, as gap-lq.

    Before anything else is printed: a reader who closes the pipe early still finds them.
    """
    described = {
        "command": "spaars theory " + name.replace("-lq", " --lq").replace("-run", " RUN"),
        "version": spaars.__version__,
        "settings": settings,
        **result,
    }
    text = json.dumps(_plain(described), indent=1, allow_nan=False)
    for suffix, content in (("json", text.encode() + b"\n"), ("png", to_png(figure))):
        path = out / f"{name}.{suffix}"
        with atomic_write(path) as file:
            file.write(content)
        console.print(f"wrote {path}", soft_wrap=True)


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: null stands for them."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, float):  # numpy's float64 too
        return float(value) if np.isfinite(value) else None
    return value
