"""Strips of stick figures: what a robot did, frame beside frame, without a graphics driver.

A MuJoCo model says where its links are; they are drawn from the front, x to the right and z up.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spaars.report.figures import DIP_COLOUR, MEAN_COLOUR, SEED_COLOURS, styled

FRONT = (0, 2)
"""World axes that are drawn: x and z."""
ROUND_GEOMS = (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER)
MOVED = 0.02
"""Metres by which a site must move to be drawn as moved."""
ROAMS = 1.5
"""Metres of travel beyond which each panel follows the robot."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One moment, in world coordinates (metres)."""

    step: int
    links: np.ndarray
    """(n, 2, 3): both ends of every link that can move."""
    sites: np.ndarray
    """(m, 3): marked points, in the model's order."""
    caption: str = ""


def frame(model: mujoco.MjModel, data: mujoco.MjData, step: int, caption: str = "") -> Frame:
    """The links and sites of a MuJoCo model as they are now."""
    movable = np.zeros(model.nbody, bool)
    for body in range(1, model.nbody):
        movable[body] = movable[model.body_parentid[body]] or model.body_jntnum[body] > 0
    links, drawn = [], set()
    for geom in range(model.ngeom):
        body = int(model.geom_bodyid[geom])
        if movable[body] and model.geom_type[geom] in ROUND_GEOMS:
            along = data.geom_xmat[geom].reshape(3, 3)[:, 2] * model.geom_size[geom, 1]
            links.append((data.geom_xpos[geom] - along, data.geom_xpos[geom] + along))
            drawn.add(body)
    for body in np.flatnonzero(movable).tolist():
        parent = model.body_parentid[body]
        if movable[parent] and parent not in drawn:
            links.append((data.xpos[parent], data.xpos[body]))
    ends = np.array(links, np.float64).reshape(-1, 2, 3)
    return Frame(step, ends, np.array(data.site_xpos, np.float64), caption)


@styled
def strip(rows: Mapping[str, Sequence[Frame]]) -> Figure:
    """One row of panels for each label; a row's last frames may be missing.

    Sites that have moved since the row's first frame are marked, with a line from where they were.
    """
    columns = max(len(frames) for frames in rows.values())
    everything = [f for frames in rows.values() for f in frames]
    roams = max(_travel(frames) for frames in rows.values()) > ROAMS
    low, high = _bounds([_ends(f) - _shift(f, roams) for f in everything])
    width, height = 1.6 * (high - low) / (high - low).max()
    size = (width * columns + 0.4, (height + 0.35) * len(rows) + 0.2)
    fig = Figure(figsize=size, layout="constrained")
    axes = fig.subplots(len(rows), columns, squeeze=False)
    for i, (label, frames) in enumerate(rows.items()):
        axes[i, 0].set_ylabel(label)
        for ax, now in zip(axes[i], frames, strict=False):
            _draw(ax, frames[0], now)
            shift = _shift(now, roams)
            ax.set_xlim(low[0] + shift[0], high[0] + shift[0])
            ax.set_ylim(low[1], high[1])
            caption = f"\n{now.caption}" if now.caption else ""
            ax.set_title(f"step {now.step}{caption}", fontsize=8)
        for ax in axes[i]:
            ax.set(xticks=[], yticks=[])
            ax.set_aspect("equal", adjustable="box")
            ax.grid(False)
        for ax in axes[i, len(frames) :]:
            ax.set_axis_off()
    return fig


def _draw(ax: Axes, first: Frame, now: Frame) -> None:
    for link in now.links[..., FRONT]:
        ax.plot(*link.T, "-", color=SEED_COLOURS[0], lw=1.8, solid_capstyle="round")
    was, is_ = first.sites[:, FRONT], now.sites[:, FRONT]
    moved = np.linalg.norm(first.sites - now.sites, axis=-1) > MOVED
    ax.plot(*is_[~moved].T, ".", color=MEAN_COLOUR, ms=2.0, alpha=0.4)
    for a, b in zip(was[moved], is_[moved], strict=True):
        ax.plot(*np.stack([a, b]).T, "-", color=DIP_COLOUR, lw=0.8, alpha=0.7)
    ax.plot(*is_[moved].T, ".", color=DIP_COLOUR, ms=4.0)


def _ends(now: Frame) -> np.ndarray:
    return now.links[..., FRONT].reshape(-1, 2)


def _middle(now: Frame) -> float:
    return float(_ends(now)[:, 0].mean())


def _shift(now: Frame, roams: bool) -> np.ndarray:
    return np.array([_middle(now), 0.0]) if roams else np.zeros(2)


def _travel(frames: Sequence[Frame]) -> float:
    middles = [_middle(f) for f in frames]
    return max(middles) - min(middles)


def _bounds(clouds: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    points = np.concatenate(clouds)
    margin = 0.05 * float(np.ptp(points, axis=0).max())
    return points.min(0) - margin, points.max(0) + margin
