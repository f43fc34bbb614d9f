"""Train a run from nothing, or go on with one. All checks come before any compute."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from spaars.data import Dataset, check_against_env, load_dataset
from spaars.errors import ConfigError, DataError, RunError
from spaars.report import write_report
from spaars.tasks import Task, env_task, get_task
from spaars.tasks.any_env import describe_env
from spaars.training import checks
from spaars.training import config as configs
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import METHODS, TrainConfig
from spaars.training.donor import check_donor, donated_prior
from spaars.training.envs import processes_for
from spaars.training.provenance import git_revision
from spaars.training.run_directory import (
    default_run_dir,
    describe_run,
    make_directories,
    only_writer,
    read_config,
    write_json,
)
from spaars.training.stepping import EnvProcesses
from spaars.training.trainer import Progress, Run, Stopped, Trainer


def train(
    config: TrainConfig | None = None,
    out: str | Path | None = None,
    *,
    env: str | Callable[..., gymnasium.Env] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    **changes: Any,
) -> Run:
    """Train from nothing into the new directory `out`. Everything is checked before computing.

    Either a `config`, or an `env` (`spaars.env_task`) and what `preset_config` takes: `method`,
    `preset`, `dataset`, ...

    Raises ConfigError, DataError or RunError with a one-line remedy; Stopped after Ctrl-C.
    """
    started = time.monotonic()
    if (config is None) == (env is None) or (config is not None and changes):
        raise ConfigError("train takes a config, or an env with `dataset` and further settings.")
    if config is None:
        assert env is not None
        config = configs.preset_config(env_task(env).name, **changes)
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
    if config.prior_from is not None:
        check_donor(config)
    made = make_directories(run_dir)  # now, so that a missing permission costs no compute
    with only_writer(run_dir):
        try:
            dataset, facts = _load(config, task, on_progress)
            config = configs.resolved(config, dataset)
            if config.prior_from is not None:
                donated_prior(config, dataset)  # refused now, if at all, by its data
            write_json(run_dir / "config.json", describe_run(config, dataset, revision, facts))
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
    steps: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Run:
    """Go on with an interrupted run, bit for bit as if it had never stopped.

    With `steps` the run, finished or not, stops at that many environment steps instead of those it
    was begun with, and learns as if it had been begun with them.

    Raises RunError if it is finished, was begun by a version that knew fewer settings, its dataset
    has changed, or another process is at it; Stopped after Ctrl-C.
    """
    path = Path(run_dir)
    with only_writer(path):
        return _go_on(path, steps, on_progress, on_message)


def _go_on(
    path: Path,
    steps: int | None,
    on_progress: Callable[[Progress], None] | None,
    on_message: Callable[[str], None] | None,
) -> Run:
    summary = path / "summary.json"
    config, described = read_config(path, complete=steps is not None or not summary.exists())
    if "own_loop" in described:
        raise RunError(
            f"{path} is the directory of an OnlineLearner, whose loop is yours: go on with "
            "OnlineLearner.load."
        )
    begun_with = config
    if steps is not None:
        config = with_steps(path, config, steps)
    elif summary.exists() and not (path / "report.html").exists():
        write_report(path)  # the run was stopped between the two
        return Run(path, json.loads(summary.read_text()))
    elif summary.exists():
        raise RunError(
            f"{path} is finished; see {path / 'report.html'}. It takes more steps with "
            "--online.steps N."
        )
    task = get_task(config.task)
    dataset, _ = _load(config, task, on_progress)
    if dataset.sha256 != described["dataset"]["sha256"]:
        raise RunError(
            f"{path}: the dataset has changed since the run began (sha256 {dataset.sha256[:12]}, "
            f"was {described['dataset']['sha256'][:12]}). Bring the old one back, or train anew."
        )
    if steps is not None:
        # Only now, all being checked, and in this order: killed between, it is the old run, whose
        # end is written anew.
        summary.unlink(missing_ok=True)
        (path / "report.html").unlink(missing_ok=True)
        write_json(path / "config.json", describe_extension(config, begun_with, described))
    with _says_how_to_go_on(path):
        trainer = Trainer(config, task, dataset, path, on_progress, on_message)
        return trainer.run(load_checkpoint(path))


def with_steps(run_dir: Path, config: TrainConfig, steps: int) -> TrainConfig:
    """The run's `config` with this number of online steps.

    Raises RunError if there is nothing to go on from, or the run is past these steps already;
    ConfigError if the settings do not allow them.
    """
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None:
        raise RunError(
            f"{run_dir} has no checkpoint to go on from: train anew with --online.steps {steps}."
        )
    taken = checkpoint.progress.get("env_steps", 0)
    if steps <= taken:
        raise RunError(
            f"--online.steps {steps}: {run_dir} has taken {taken} already; ask for more than those."
        )
    online = {"steps": steps}
    if config.online.replay_capacity in (None, config.online.steps):
        online["replay_capacity"] = steps  # all steps, as before
    new = configs.override(config, {"online": online})
    checks.check(new)
    return new


def describe_extension(
    config: TrainConfig, begun_with: TrainConfig, described: dict[str, Any]
) -> dict[str, Any]:
    """config.json of a run that goes on to other steps, and what it was asked for before."""
    earlier = {
        "online.steps": begun_with.online.steps,
        "git_revision": described.get("git_revision"),
    }
    return described | {
        "config": configs.to_json(config),
        "git_revision": git_revision(),
        "extended": [*described.get("extended", []), earlier],
    }


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
) -> tuple[Dataset, dict[str, Any]]:
    """The checked dataset, and how the env was brought into form."""

    def progress(done: int, total: int) -> None:
        if on_progress:
            on_progress(Progress("data", done, total, {}))

    env = task.make_env()  # what is wrong with it is told before anything is recorded
    env.close()
    if processes_for(task, config.online.env_processes) > 1:
        EnvProcesses(task.make_env, 1, 1).close()  # so is that it cannot be made elsewhere
    if config.dataset is None and task.behaviour is None and not task.subtasks:
        raise ConfigError(f"{task.name} embeds no data: give --dataset PATH.")
    dataset = load_dataset(task, config.dataset, config.transitions, progress=progress)
    facts = describe_env(env)
    check_parts(dataset, facts, task.env_id)
    check_against_env(
        dataset,
        env.observation_space.shape[0],  # type: ignore[index]
        env.action_space.shape[0],  # type: ignore[index]
        task.env_id,
    )
    check_skills(config, dataset)
    return dataset, facts


def check_skills(config: TrainConfig, dataset: Dataset) -> None:
    """Skills are learned from as many steps of one episode: DataError if none is so long, a warning
    if some are not. And they are run to their end: DataError if the data say that episodes may end
    before, and the task does not know better."""
    if "opal" not in METHODS[config.method].sections:
        return
    length, lengths = config.opal.skill_length, dataset.episode_lengths()
    short = int((lengths < length).sum())
    if short == len(lengths):
        raise DataError(
            f"{dataset.label}: no episode has the {length} steps of a skill; the longest has "
            f"{lengths.max()}. Lower --opal.skill-length, or log longer episodes."
        )
    if short:
        warnings.warn(
            f"{dataset.label}: {short} of {len(lengths)} episodes are shorter than the {length} "
            "steps of a skill, and nothing is learned from them",
            stacklevel=2,
        )
    ended = int(dataset.terminated.sum())
    if ended and get_task(config.task).whole_episodes is None:
        raise DataError(
            f"{dataset.label}: {ended} of {len(lengths)} episodes terminated, so one of "
            f"{config.task} may end inside a skill, which --method {config.method} cannot cut "
            "short. Use --method spaars; or let the training env go on until its time limit, and "
            "convert the data with 'terminated' false throughout."
        )


def check_parts(dataset: Dataset, facts: dict[str, Any], env_name: str) -> None:
    """Raises DataError where data and env name their observations or bound their actions
    differently; warns where the data do not say what their actions mean."""
    description = dataset.description
    theirs, ours = facts.get("observations", []), [list(p) for p in description.observations]
    if theirs and len(ours) > 1 and ours != theirs:
        names = [_dimensions(ours), _dimensions(theirs)]
        n = max(map(len, names))
        rows = zip(*(side + ["nothing"] * (n - len(side)) for side in names), strict=True)
        wrong = [f"{i}: {a} in the data, {b} in the env" for i, (a, b) in enumerate(rows) if a != b]
        raise DataError(
            f"{dataset.label}: observations are not those of {env_name}. Dimension "
            f"{'; '.join(wrong[:10])}{'; ...' if len(wrong) > 10 else ''}. Convert the data with "
            "`spaars data convert ... --columns observations=...` in the env's order, by name."
        )
    if "action_low" not in facts:
        return
    if not description.action_low:
        warnings.warn(
            f"{dataset.label}: the data do not say what their actions -1 and 1 mean; taken for "
            f"those of {env_name}, low {facts['action_low']} high {facts['action_high']}",
            stacklevel=2,
        )
        return
    for name in ("action_low", "action_high"):
        data, env = np.array(getattr(description, name)), np.array(facts[name])
        if len(data) == len(env) and not np.allclose(data, env, rtol=1e-4):
            i = int(np.argmax(np.abs(data - env)))
            raise DataError(
                f"{dataset.label}: actions were rescaled with other bounds than those of "
                f"{env_name}: dimension {i} has {name} {data[i]:g} in the data, {env[i]:g} in the "
                "env. Convert the data with the env's --action-low and --action-high."
            )


def _dimensions(parts: list[Any]) -> list[str]:
    return [f"{name}[{i}]" for name, width in parts for i in range(width)]
