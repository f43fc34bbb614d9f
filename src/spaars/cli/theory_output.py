"""What the theory commands share: what they measure on, and how results are written."""

import dataclasses
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


def require_lq(lq: bool, command: str) -> None:
    """ConfigError unless asked for linear-quadratic problems, the only thing to measure on yet."""
    if not lq:
        raise ConfigError(
            f"say what to measure on: `spaars theory {command} --lq` takes random "
            "linear-quadratic problems, where everything is known exactly."
        )


def write(
    console: Console,
    out: Path,
    command: str,
    study: Any,
    result: dict[str, Any],
    figure: Figure,
) -> None:
    """OUT/COMMAND-lq.json and .png, each whole or absent. `study` is a dataclass of settings.

    Before anything else is printed: a reader who closes the pipe early still finds them.
    """
    described = {
        "command": f"spaars theory {command} --lq",
        "version": spaars.__version__,
        "settings": dataclasses.asdict(study),
        **result,
    }
    text = json.dumps(_plain(described), indent=1, allow_nan=False)
    for suffix, content in (("json", text.encode() + b"\n"), ("png", to_png(figure))):
        path = out / f"{command}-lq.{suffix}"
        with atomic_write(path) as file:
            file.write(content)
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: null stands for them."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, float):  # numpy's float64 too
        return float(value) if np.isfinite(value) else None
    return value
