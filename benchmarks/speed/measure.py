"""Rates of pieces of work, measured in turn, so that what else the machine does hits all alike.

Imports no JAX: `pin` has to come before it.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

Record = dict[str, Any]


def pin(cores: int) -> None:
    """Run on the first `cores` cores that this process may use. Children inherit them."""
    allowed = sorted(os.sched_getaffinity(0))
    if cores > len(allowed):
        raise SystemExit(f"--cores {cores}: only {len(allowed)} may be used here")
    os.sched_setaffinity(0, allowed[:cores])


def one_core() -> bool:
    return len(os.sched_getaffinity(0)) == 1


class Seconds(NamedTuple):
    """What a piece of work took."""

    cpu: float
    """Processor time of this process, all threads."""
    wall: float

    @property
    def clock(self) -> float:
        """On one core its processor time, which is the wall time on an otherwise idle machine
        whatever runs beside; on several cores wall time, which needs a machine of its own."""
        return self.cpu if one_core() else self.wall


def timed(work: Callable[[], Any]) -> Seconds:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


class Case(NamedTuple):
    """A piece of work that can be repeated: `run` does `units` of it and waits for the end."""

    name: str
    units: float
    run: Callable[[], Any]


def rates(cases: Sequence[Case], repetitions: int, seconds: float) -> dict[str, list[float]]:
    """Units per second of every case, once per repetition, the cases in turn.

    Each measurement lasts about `seconds`. The first runs, which may compile, do not count.
    """
    calls = {}
    for case in cases:
        case.run()
        calls[case.name] = max(1, round(seconds / max(timed(case.run).clock, 1e-9)))
    found: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(repetitions):
        for case in cases:
            n = calls[case.name]
            took = timed(lambda case=case, n=n: [case.run() for _ in range(n)])  # type: ignore[misc]
            found[case.name].append(case.units * n / took.clock)
    return found


def spread(values: Sequence[float]) -> Record:
    """Median, lowest and highest of the repetitions, and all of them, to four digits."""
    kept = [float(f"{value:.4g}") for value in values]
    ordered = sorted(kept)
    middle = len(ordered) // 2
    median = (ordered[middle] + ordered[-1 - middle]) / 2
    return {"median": median, "low": ordered[0], "high": ordered[-1], "values": kept}


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Repetition by repetition."""
    return [a / b for a, b in zip(over, under, strict=True)]


def fresh_process(module: str, *words: str, env: dict[str, str] | None = None) -> Record:
    """What `python -m module words...` prints as its last line, a JSON object."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{module} {shlex.join(words)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().split("\n")[-1])


def peak_memory() -> int:
    """Most bytes that this process had resident at once (Linux).

    Not `ru_maxrss`: that begins at the parent's.
    """
    (line,) = (x for x in Path("/proc/self/status").read_text().split("\n") if "VmHWM" in x)
    return int(line.split()[1]) * 1024


def machine() -> Record:
    """Facts of this machine; nothing that names it."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = (line for line in info.read_text().split("\n") if line.startswith("model name"))
        cpu = next(named, f":{cpu}").split(":")[1].strip()
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def command(words: Sequence[str]) -> str:
    """As typed, without this machine's paths."""
    short = (Path(word).name if Path(word).is_absolute() else word for word in words)
    return shlex.join(["python", "-m", "benchmarks.speed", *short])
