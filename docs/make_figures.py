"""The figures of docs/how-it-works.md and of the kitchen's results, from committed results and the
embedded behaviour policy.

    python docs/make_figures.py

They are committed, so that the page can be read where nothing is installed.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from spaars.data.behaviour import BehaviourPolicy
from spaars.report import figures, load_run
from spaars.report.comparison_figures import learning_curves, looks
from spaars.report.groups import group_runs
from spaars.report.strip import frame, strip
from spaars.seeding import BEHAVIOUR_EPISODE, episode_seed
from spaars.tasks import get_task

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
HOPPER = ROOT / "results" / "locomotion" / "hopper-medium" / "spaars" / "s1"
WALKER = ROOT / "results" / "locomotion" / "walker2d-medium" / "spaars" / "s1"
KITCHEN = ROOT / "results" / "kitchen" / "kitchen-mixed"
FRAMES = 8


def logged_episode(index: int = 0) -> Figure:
    """Episode `index` of the data that hopper-medium records, as stick figures."""
    task = get_task("hopper-medium")
    policy, env = BehaviourPolicy.load(task.behaviour_file), task.make_env()
    noise = np.random.Generator(np.random.Philox(key=[0, index]))
    observation, _ = env.reset(seed=episode_seed(BEHAVIOUR_EPISODE, 0, index))
    robot, over = env.unwrapped, False
    frames = [frame(robot.model, robot.data, 0)]
    while not over:
        observation, _, terminated, truncated, _ = env.step(policy.act(observation, noise))
        frames.append(frame(robot.model, robot.data, len(frames)))
        over = terminated or truncated
    env.close()
    shown = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    return strip({"": [frames[i] for i in shown]})


def kitchen_curves() -> Figure:
    """Every method that goes online, deployed; of SPAARS-SUPE the newest policy, too.

    Without what an earlier version of it did.
    """
    paths = [path.parent for path in sorted(KITCHEN.glob("*/s*/summary.json"))]
    runs = [load_run(path) for path in paths if not path.parent.name.endswith("-before")]
    (problem,) = group_runs(runs).problems
    curves = {}
    for group in problem.groups:
        if group.seeds[0].env_steps:
            curves[group.name] = [seed.evaluations for seed in group.seeds]
        if group.method == "spaars-supe":
            curves[f"{group.name}, newest policy"] = [seed.record.newest for seed in group.seeds]
    return learning_curves(curves, looks(list(curves)))


def main() -> None:
    hopper, walker = load_run(HOPPER).records, load_run(WALKER).records
    drawn = {
        "how-data": logged_episode(),
        "how-learning": figures.learning_curve(hopper),
        "how-cloning": figures.cloning_error(hopper),
        "how-gate": figures.gate_share(hopper),
        "how-deployment": figures.learning_curve(walker),
        "kitchen-curves": kitchen_curves(),
    }
    for name, figure in drawn.items():
        assert figure is not None
        (FIGURES / f"{name}.png").write_bytes(figures.to_small_png(figure))
        print(f"docs/figures/{name}.png")


if __name__ == "__main__":
    main()
