"""What made a file: versions, git revision, command. Written into every run and result."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("spaars", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco")


def versions() -> dict[str, str]:
    """Installed versions of what the results depend on, Python included."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def git_revision() -> str:
    """Commit of this source tree, `-dirty` if it has uncommitted changes; 'unknown' outside git."""

    def git(*args: str) -> str:
        result = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
        result.check_returncode()
        return result.stdout.strip()

    try:
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def command_line() -> str:
    """The command as typed, without the path of the executable."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
