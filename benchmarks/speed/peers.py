"""The same work by other libraries, each in an environment of its own, in turn with ours."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.speed.measure import Record, ratios, spread
from benchmarks.speed.worker import Worker

MUJOCO = ("gymnasium[mujoco]==1.4.0", "mujoco==3.11.0")
PACKAGES = {
    "stable-baselines3": ("stable-baselines3==2.9.2", "torch==2.13.0", *MUJOCO),
    "sbx": ("sbx-rl==0.28.0", "torch==2.13.0", *MUJOCO),
    "d3rlpy": ("d3rlpy==2.8.1", "torch==2.13.0"),
}
"""What is installed, pinned. Whatever index pip is set up with decides which build of torch."""
SHOWN = ("stable-baselines3", "sbx-rl", "d3rlpy", "torch", "jax", "gymnasium", "mujoco", "numpy")
OURS = "ours"
CHUNK = 50
ROWS = 100_000


class Job(NamedTuple):
    """A worker: whose Python runs which module with which words."""

    env: str
    module: str
    words: tuple[str, ...]
    unit: str


def jobs(steps: int) -> dict[str, Job]:
    n, chunk, rows = str(steps), str(CHUNK), str(ROWS)
    return {
        "ours, SAC": Job(OURS, "peer_ours", ("sac", n, "plain"), "env step"),
        "ours, SAC, LayerNorm": Job(OURS, "peer_ours", ("sac", n, "layer-norm"), "env step"),
        "Stable-Baselines3 SAC": Job("stable-baselines3", "peer_sb3", (n, "1"), "env step"),
        "SBX SAC": Job("sbx", "peer_sbx", (n, "1", "plain"), "env step"),
        "SBX SAC, LayerNorm": Job("sbx", "peer_sbx", (n, "1", "layer-norm"), "env step"),
        f"SBX SAC, {chunk} at once": Job("sbx", "peer_sbx", (n, chunk, "plain"), "env step"),
        f"SBX SAC, LayerNorm, {chunk} at once": Job(
            "sbx", "peer_sbx", (n, chunk, "layer-norm"), "env step"
        ),
        "ours, IQL": Job(OURS, "peer_ours", ("iql", n, rows), "update"),
        "d3rlpy IQL": Job("d3rlpy", "peer_d3rlpy", (n, rows), "update"),
    }


COMPARED = (
    ("ours, SAC", "Stable-Baselines3 SAC"),
    ("ours, SAC, LayerNorm", "Stable-Baselines3 SAC"),
    ("ours, SAC", "SBX SAC"),
    ("ours, SAC, LayerNorm", "SBX SAC, LayerNorm"),
    ("ours, SAC", f"SBX SAC, {CHUNK} at once"),
    ("ours, SAC, LayerNorm", f"SBX SAC, LayerNorm, {CHUNK} at once"),
    ("ours, IQL", "d3rlpy IQL"),
)


def install(env_dir: Path, name: str) -> Path:
    """The Python of a peer's environment, which is made or completed where it has to be."""
    python = env_dir.absolute() / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", env_dir / name], check=True)
    # Where everything is there already, pip only looks.
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True)
    return python


def installed(python: Path) -> list[str]:
    """What the environment holds of what matters."""
    frozen = subprocess.run(
        [python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True
    )
    lines = frozen.stdout.split()
    return [line for line in lines if line.split("==")[0].lower().replace("_", "-") in SHOWN]


def run(
    env_dir: Path, quick: bool, repetitions: int, say: Callable[[str], None]
) -> Iterator[Record]:
    """Rates of all workers, `repetitions` times in turn, and ours over the peers'."""
    pythons: dict[str, Path | str] = {OURS: sys.executable}
    versions = {}
    for name in PACKAGES:
        say(f"environment of {name}")
        python = install(env_dir, name)
        pythons[name], versions[name] = python, installed(python)
    todo = jobs(100 if quick else 500)
    workers: dict[str, Worker] = {}
    found: dict[str, list[float]] = {name: [] for name in todo}
    try:
        for name, job in todo.items():
            say(f"{name} warms up")
            workers[name] = Worker(pythons[job.env], job.module, job.words)
        for repetition in range(repetitions):
            say(f"repetition {repetition + 1} of {repetitions}")
            for name, worker in workers.items():
                found[name].append(worker.rate())
    finally:
        for worker in workers.values():
            worker.end()
    yield {
        "peer_versions": versions,
        "rates": {
            name: {"unit": todo[name].unit, "rate": spread(rates)} for name, rates in found.items()
        },
        "ratios": [
            {"ours": ours, "peer": peer, "ratio": spread(ratios(found[ours], found[peer]))}
            for ours, peer in COMPARED
        ],
    }
