"""Train a run from nothing, or go on with one. All checks come before any compute."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from spaars.data import Dataset, check_against_env, load_dataset
from spaars.errors import RunError
from spaars.report import write_report
from spaars.tasks import Task, get_task
from spaars.training import checks
from spaars.training import config as configs
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import TrainConfig
from spaars.training.provenance import git_revision
from spaars.training.run_directory import (
    default_run_dir,
    describe_run,
    make_directories,
    read_config,
    write_json,
)
from spaars.training.trainer import Progress, Run, Stopped, Trainer


def train(
    config: TrainConfig,
    out: str | Path | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Run:
    """Train from nothing into the new directory `out`. Everything is checked before computing.

    Raises ConfigError, DataError or RunError with a one-line remedy; Stopped after Ctrl-C.
    """
    started = time.monotonic()
    checks.check(config)
    checks.refuse_unread(config)
    revision = git_revision()  # now: the tree may change while the data are recorded
    task = get_task(config.task)
    run_dir = Path(out) if out is not None else default_run_dir(config)
    if (run_dir / "config.json").exists():
        raise RunError(
            f"{run_dir} exists. Go on with `spaars resume {run_dir}`, or choose another --out."
        )
    # An empty directory may be what a run left that was killed while it recorded its data.
    if run_dir.exists() and not (run_dir.is_dir() and not any(run_dir.iterdir())):
        raise RunError(f"{run_dir} exists and is no run directory. Choose another --out.")
    made = make_directories(run_dir)  # now, so that a missing permission costs no compute
    try:
        dataset = _load(config, task, on_progress)
        config = configs.resolved(config, dataset)
        write_json(run_dir / "config.json", describe_run(config, dataset, revision))
    except BaseException:
        for directory in made:
            if not any(directory.iterdir()):
                directory.rmdir()
        raise
    with _says_how_to_go_on(run_dir):
        trainer = Trainer(config, task, dataset, run_dir, on_progress, on_message)
        return trainer.run(started=started)


def resume(
    run_dir: str | Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Run:
    """Go on with an interrupted run, bit for bit as if it had never stopped."""
    path = Path(run_dir)
    summary = path / "summary.json"
    config, described = read_config(path, complete=not summary.exists())
    if summary.exists() and not (path / "report.html").exists():
        write_report(path)  # the run was stopped between the two
        return Run(path, json.loads(summary.read_text()))
    if summary.exists():
        raise RunError(f"{path} is finished; see {path / 'report.html'}.")
    task = get_task(config.task)
    dataset = _load(config, task, on_progress)
    if dataset.sha256 != described["dataset"]["sha256"]:
        raise RunError(
            f"{path}: the dataset has changed since the run began (sha256 {dataset.sha256[:12]}, "
            f"was {described['dataset']['sha256'][:12]}). Bring the old one back, or train anew."
        )
    with _says_how_to_go_on(path):
        trainer = Trainer(config, task, dataset, path, on_progress, on_message)
        return trainer.run(load_checkpoint(path))


@contextmanager
def _says_how_to_go_on(run_dir: Path) -> Iterator[None]:
    """A Ctrl-C that the trainer could not wait for: the last checkpoint stands."""
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped at once; go on from the last checkpoint with `spaars resume {run_dir}`"
        ) from None


def _load(
    config: TrainConfig, task: Task, on_progress: Callable[[Progress], None] | None
) -> Dataset:
    def progress(done: int, total: int) -> None:
        if on_progress:
            on_progress(Progress("data", done, total, {}))

    dataset = load_dataset(task, config.dataset, config.transitions, progress=progress)
    env = task.make_env()
    try:
        check_against_env(
            dataset,
            env.observation_space.shape[0],  # type: ignore[index]
            env.action_space.shape[0],  # type: ignore[index]
            task.env_id,
        )
    finally:
        env.close()
    return dataset
