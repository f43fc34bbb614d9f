"""Runs the cells of a suite, each in a process of its own; what is done is skipped."""

import dataclasses
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, Literal, NamedTuple

from spaars.data.sources import absolute
from spaars.errors import RunError
from spaars.report.records import load_run
from spaars.training import config as configs
from spaars.training.config import TrainConfig, preset_config
from spaars.training.run_directory import lock, read_config
from spaars.training.suite import Cell

State = Literal["done", "resume", "train"]
Outcome = Literal["skipped", "done", "resumed", "failed", "stopped"]

# -P: unlike the `spaars` script, `python -m` would import modules from the current directory.
PROGRAM = (sys.executable, "-P", "-m", "spaars")
# Seconds between two looks at the processes.
POLL = 0.1


class Result(NamedTuple):
    """What became of a cell."""

    cell: Cell
    outcome: Outcome
    score: float | None
    """final_score, once the run is finished."""
    seconds: float
    """The run's own wall time, all its parts together; of a failed run, this part's."""
    reason: str = ""
    """Why it failed: the last line of its log."""


def state_of(cell: Cell) -> State:
    """What is left to do. Raises RunError if the directory holds anything but this very run.

    A run of fewer online steps is gone on with.
    """
    path = cell.path
    if not (path / "config.json").exists():
        # An empty directory may be what a run left that was killed while it recorded its data.
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise RunError(
                f"{path} exists and is no run directory. Move it, or choose another --out."
            )
        return "train"
    there, described = read_config(path)
    dataset = cell.config.dataset
    donor = cell.config.prior_from
    paths = {
        "dataset": absolute(dataset) if dataset else None,
        "prior_from": donor.resolve() if donor else None,
    }
    asked = configs.override(cell.config, paths)
    steps = asked.online.steps
    longer = steps > there.online.steps and (path / "checkpoints").is_dir()
    if longer:
        there = configs.override(there, {"online": {"steps": steps}})
    changed = [
        f"{flag} is {_word(old)} there and {_word(new)} in the suite"
        for flag, old, new in differences(there, asked)
        if not (new is None and flag in configs.FILLED_IN) and flag not in configs.WITHOUT_EFFECT
    ]
    if unknown := configs.missing(described["config"], there):
        raise RunError(
            f"{path} is a run of an older spaars, which did not know {', '.join(unknown)}. Choose "
            "another --out, or move that directory away."
        )
    if changed:
        raise RunError(
            f"{path} is a run with other settings: {'; '.join(changed)}. Rename the variant, "
            "choose another --out, or move that directory away."
        )
    if longer or not (path / "summary.json").exists():
        return "resume"
    load_run(path)  # a damaged one is better known before the others have run for hours
    return "done"


def command_of(cell: Cell, state: State) -> list[str]:
    """The words after `spaars`, which leave the cell done."""
    if state == "train":
        return [*train_words(cell.config), "--out", str(cell.path)]
    asked, there = cell.config.online.steps, read_config(cell.path)[0].online.steps
    more = ["--online.steps", str(asked)] if asked != there else []
    return ["resume", str(cell.path), *more]


def train_words(config: TrainConfig) -> list[str]:
    """`train TASK ...` with the flags that make exactly this configuration of its preset."""
    words = ["train", config.task, "--method", config.method, "--preset", config.preset]
    words += ["--seeds", *map(str, config.seeds)]
    preset = preset_config(config.task, config.method, config.preset, seeds=config.seeds)
    for flag, _, value in differences(preset, config):
        if isinstance(value, bool):
            section, _, name = flag.removeprefix("--").rpartition(".")
            words.append(flag if value else f"--{section}{'.' if section else ''}no-{name}")
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(flag, value in `a`, value in `b`) of every field in which two configurations differ."""
    for field in dataclasses.fields(a):
        old, new = getattr(a, field.name), getattr(b, field.name)
        if dataclasses.is_dataclass(old) and type(old) is type(new):
            yield from differences(old, new, f"{path}{field.name}.")
        elif old != new:
            yield f"--{path}{field.name}".replace("_", "-"), old, new


def run_cells(
    cells: Sequence[Cell],
    jobs: int = 1,
    *,
    on_result: Callable[[Result], None] = lambda result: None,
    on_message: Callable[[str], None] = lambda text: None,
    program: Sequence[str] = PROGRAM,
) -> list[Result]:
    """Run what is not done, `jobs` at a time; a failed cell does not stop the others.

    After Ctrl-C the running cells save and end, and no others begin: the list is then shorter, or
    has cells that were 'stopped'.
    """
    waiting, running, results = list(reversed(cells)), list[_Running](), list[Result]()

    def record(result: Result) -> None:
        results.append(result)
        on_result(result)

    with _StopSignals() as stop:
        try:
            while running or (waiting and not stop.asked):
                while waiting and len(running) < jobs and not stop.asked:
                    begun = _begin(waiting.pop(), program)
                    if isinstance(begun, Result):
                        record(begun)
                    else:
                        running.append(begun)
                for run in list(running):
                    if run.process.poll() is not None:
                        running.remove(run)
                        record(run.result(bool(stop.asked)))
                    elif run.signalled < len(stop.asked):
                        if not run.signalled:
                            on_message(f"stopping: {run.cell.name} saves what it has")
                        run.process.send_signal(stop.asked[run.signalled])
                        run.signalled += 1
                if running:
                    time.sleep(POLL)
        finally:  # empty unless something went wrong right here, such as a closed terminal
            for run in running:
                run.process.send_signal(signal.SIGINT)
            for run in running:
                run.process.wait()
    return results


@dataclasses.dataclass
class _Running:
    cell: Cell
    state: State
    process: subprocess.Popen[bytes]
    began: float
    signalled: int = 0

    def result(self, stop_asked: bool) -> Result:
        seconds, code = time.monotonic() - self.began, self.process.returncode
        if code == 0:
            try:
                return _finished(self.cell, "resumed" if self.state == "resume" else "done")
            except RunError as error:
                return Result(self.cell, "failed", None, seconds, str(error))
        if stop_asked and code in (130, -signal.SIGINT, -signal.SIGTERM):
            return Result(self.cell, "stopped", None, seconds)
        lines = self.cell.log.read_text(errors="replace").split("\n")
        reason = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if code < 0:
            reason = f"killed by {signal.Signals(-code).name}; the log ends with: {reason}"
        return Result(self.cell, "failed", None, seconds, reason)


def _begin(cell: Cell, program: Sequence[str]) -> _Running | Result:
    try:
        # A finished one is done only as far as it was asked for: the suite may ask for more steps.
        if (cell.path / "summary.json").exists() and state_of(cell) == "done":
            return _finished(cell, "skipped")
    except RunError as error:
        return Result(cell, "failed", None, 0.0, str(error))
    cell.log.parent.mkdir(parents=True, exist_ok=True)
    with cell.log.open("a") as log:
        # Another bench, or a run that outlived a killed one: two processes must not write one
        # run. The process inherits the lock with its output and holds it as long as it lives.
        if not lock(log):
            reason = f"another process is at it; wait for it, or end it ({cell.log} is locked)"
            return Result(cell, "failed", None, 0.0, reason)
        try:
            state = state_of(cell)  # only now is it sure that nobody changes it
            if state == "done":
                return _finished(cell, "skipped")
        except RunError as error:
            return Result(cell, "failed", None, 0.0, str(error))
        words = command_of(cell, state)
        log.write(f"$ {shlex.join(['spaars', *words])}\n")
        log.flush()
        process = subprocess.Popen(
            [*program, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A terminal sends Ctrl-C to the whole group; the run must hear it once, from here,
            # since the second one makes it stop without saving.
            start_new_session=True,
        )
    return _Running(cell, state, process, time.monotonic())


def _finished(cell: Cell, outcome: Outcome) -> Result:
    summary = load_run(cell.path).summary
    if summary is None:
        raise RunError(f"{cell.path} has no summary.json.")
    seed = summary["seeds"][0]
    return Result(cell, outcome, seed.get("final_score"), seed.get("wall_seconds", 0.0))


def _word(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


class _StopSignals:
    """While inside, Ctrl-C and TERM are only noted; the loop hands them on."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "_StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self.ask)
        return self

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.asked.append(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
