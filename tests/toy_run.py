"""Trains or resumes the toy task in a process of its own, for the tests that kill it.

python toy_run.py RUN DATASET [--resume] [--interrupt-at STAGE DONE] [--limit-file-size N]
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import toy
from spaars.cli.main import exit_code_of
from spaars.tasks import register
from spaars.training.config import TrainConfig, preset_config
from spaars.training.run import resume, train
from spaars.training.trainer import Progress


def config(dataset: Path, **changes: object) -> TrainConfig:
    return preset_config(
        "point",
        preset="smoke",
        **{
            "dataset": dataset,
            "prior": {"updates": 500},
            "offline": {"updates": 500},
            "online": {"steps": 1_000, "learning_starts": 100},
            "checkpoint_every": 250,
            **changes,
        },
    )


def stop_at(stage: str, done: int) -> Callable[[Progress], None]:
    """Ctrl-C there, in this process."""

    def interrupt(progress: Progress) -> None:
        if progress.stage == stage and progress.done == done:
            os.kill(os.getpid(), signal.SIGINT)

    return interrupt


def after(flag: str, words: int) -> list[str]:
    """The words after a flag, none if it is not given."""
    return sys.argv[sys.argv.index(flag) + 1 :][:words] if flag in sys.argv else []


def main() -> None:
    run, dataset = Path(sys.argv[1]), Path(sys.argv[2])
    register(toy.POINT)
    at = after("--interrupt-at", 2)
    if limit := after("--limit-file-size", 1):  # fails a write as a full disk does
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), int(limit[0])))

    interrupt = stop_at(at[0], int(at[1])) if at else None
    if "--resume" in sys.argv:
        resume(run, on_progress=interrupt)
    else:
        train(config(dataset), run, on_progress=interrupt)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
