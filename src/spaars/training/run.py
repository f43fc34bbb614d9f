"""Train a run from nothing, or go on with one. All checks come before any compute."""

from collections.abc import Callable
from pathlib import Path

from spaars.data import Dataset, check_against_env, load_dataset
from spaars.errors import RunError
from spaars.tasks import Task, get_task
from spaars.training import config as configs
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import TrainConfig
from spaars.training.provenance import git_revision
from spaars.training.run_directory import default_run_dir, describe_run, read_config, write_json
from spaars.training.trainer import Progress, Run, Trainer


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
    configs.check(config)
    revision = git_revision()  # now: the tree may change while the data are recorded
    task = get_task(config.task)
    run_dir = Path(out) if out is not None else default_run_dir(config)
    if run_dir.exists():
        raise RunError(
            f"{run_dir} exists. Go on with `spaars resume {run_dir}`, or choose another --out."
        )
    run_dir.mkdir(parents=True)  # now, so that a missing permission costs no compute
    try:
        dataset = _load(config, task, on_progress)
        write_json(run_dir / "config.json", describe_run(config, dataset, revision))
    except BaseException:
        if not any(run_dir.iterdir()):
            run_dir.rmdir()
        raise
    return Trainer(config, task, dataset, run_dir, on_progress, on_message).run()


def resume(
    run_dir: str | Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Run:
    """Go on with an interrupted run, bit for bit as if it had never stopped."""
    path = Path(run_dir)
    config, described = read_config(path)
    if (path / "summary.json").exists():
        raise RunError(f"{path} is finished; see {path / 'report.html'}.")
    task = get_task(config.task)
    dataset = _load(config, task, on_progress)
    if dataset.sha256 != described["dataset"]["sha256"]:
        raise RunError(
            f"{path}: the dataset has changed since the run began (sha256 {dataset.sha256[:12]}, "
            f"was {described['dataset']['sha256'][:12]}). Bring the old one back, or train anew."
        )
    trainer = Trainer(config, task, dataset, path, on_progress, on_message)
    return trainer.run(load_checkpoint(path))


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
