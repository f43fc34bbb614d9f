"""`spaars export RUN`."""

import dataclasses
from pathlib import Path

import tyro

from spaars.deploy.export import Format, export


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Write the deployed policy of a run's last checkpoint as one file, with its model card."""

    path: tyro.conf.Positional[Path]
    """Run directory."""
    format: Format = "npz"
    """npz: loaded with numpy alone (spaars.deploy.numpy_policy); onnx: for any ONNX runtime."""
    seed: int | None = None
    """Which of the run's seeds; default: the first."""
    newest: bool = False
    """The newest policy, deployed or not."""
    out: Path | None = None
    """File to write; default: policy-sSEED.FORMAT in the run directory."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars export")
    path = export(args.path, args.format, seed=args.seed, newest=args.newest, out=args.out)
    print(f"wrote {path} and {path}.md")
    return 0
