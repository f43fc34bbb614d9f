"""The protocol of a process that is measured piece by piece. Standard library only.

The worker says "ready" once it is warm. For each line it then reads it does a piece of work and
says how many units and seconds it took, so that many workers can be measured in turn.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.speed.measure import ROOT, timed


def serve(units: float, work: Callable[[], object]) -> None:
    """Warm up, then measure `work`, which does `units`, as often as asked."""
    # What libraries print is no answer, even if they kept the stream they were imported with.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    work()
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        took = timed(work)
        print(json.dumps({"units": units, "seconds": took.clock}), file=answers, flush=True)


class Worker:
    """The other end: a module of this package run by some environment's Python."""

    def __init__(self, python: Path | str, module: str, words: Sequence[str]):
        self.name = " ".join((module, *words))
        self.process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.speed.{module}", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while self._answer() != "ready\n":
            pass  # libraries print while they are imported

    def rate(self) -> float:
        """Units per second of one piece of work."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = json.loads(self._answer())
        return answer["units"] / answer["seconds"]

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}; see above")
        return line
