"""The figures of a report: pure functions from parsed records to a matplotlib Figure.

Each returns None when the records hold nothing to draw. Figures are made without pyplot, so
drawing leaves no global state behind and needs no display. They are 5 inches wide: on a phone,
which shows them some 360 points wide, their letters then come out at about their nominal size.
"""

import io
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
from PIL import Image

from spaars.report.records import (
    Record,
    Series,
    fell,
    handover_steps,
    offline_scores,
    select,
    series_by_seed,
)

# Okabe and Ito's palette, told apart with any colour vision. Vermilion is kept for losses.
SEED_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7F7F7F")
MEAN_COLOUR = "#000000"
DIP_COLOUR = "#D55E00"

BOOTSTRAP_SEEDS = 3
"""From this many seeds on the band is a bootstrap interval; below, it is their range."""
BOOTSTRAP_RESAMPLES = 2_000
EPISODES_AVERAGED = 20

_STYLE: dict[Any, Any] = {
    "font.size": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "legend.frameon": False,
    "legend.fontsize": 10.0,
}

# (phase, metric): what a person calls it. Two panels a row, in this order.
OFFLINE_PANELS = {
    ("prior", "reconstruction"): "Prior: reconstruction",
    ("prior", "kl"): "Prior: KL",
    ("prior", "prior_loss"): "Prior: loss",
    ("offline", "critic_loss"): "Critic loss",
    ("offline", "value_loss"): "Value loss",
    ("offline", "q_mean"): "Q, mean",
    ("offline", "q_std"): "Q, ensemble spread",
    ("offline", "advantage_mean"): "Advantage, mean",
    ("offline", "latent_regression"): "Latent regression",
    ("offline", "raw_regression"): "Raw regression",
}


class Band(NamedTuple):
    """Mean over seeds and a band around it, on the steps that all seeds cover."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


Draw = Callable[[list[Record]], Figure | None]
P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw in this module's style whatever the caller's rcParams, and leave those as they were."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


@styled
def learning_curve(records: list[Record]) -> Figure | None:
    """Score of the evaluations against online environment steps."""
    curves = series_by_seed(records, "evaluation", "score")
    if not curves:
        return None
    fig, ax = new_figure("score")
    handles = _draw_seeds(ax, curves, markers=True)
    colours = _colours(curves)
    newest = series_by_seed(records, "evaluation", "newest_score")
    for seed, one in newest.items():
        ax.plot(one.steps, one.values, ":", color=colours[seed], lw=1.2)
    if newest:
        handles.append(Line2D([], [], color="#444444", ls=":", lw=1.2, label="newest policy"))
    band = mean_band(curves)
    if band is not None:
        ax.fill_between(band.steps, band.low, band.high, color=MEAN_COLOUR, alpha=0.13, lw=0)
        handles.append(Patch(color=MEAN_COLOUR, alpha=0.13, lw=0, label=band_words(len(curves))))
    offline = offline_scores(records)
    if offline:
        line = ax.axhline(float(np.mean(list(offline.values()))), color="#444444", ls="--", lw=1.3)
        line.set_label("offline" if len(offline) == 1 else "offline, mean")
        handles.append(line)
    armed = [(seed, step) for seed, step in handover_steps(records).items() if seed in curves]
    for seed, step in armed:
        height = np.interp(step, *curves[seed])
        ax.plot([step], [height], "v", ms=10, mfc=colours[seed], mec="black", zorder=5)
    if armed:
        handles.append(
            Line2D([], [], marker="v", ms=9, mfc="white", mec="black", ls="", label="hand-over")
        )
    step_axis(ax, curves.values())
    _legend(fig, handles)
    return fig


@styled
def gate_share(records: list[Record]) -> Figure | None:
    """Share of the executed actions that came from the raw policy."""
    # What was executed, not "gate": what it asked for, before the cap and ramp on its share.
    training = series_by_seed(records, "train", "raw_share", phase="online")
    evaluation = series_by_seed(records, "evaluation", "raw_share")
    if not (training or evaluation):
        return None
    fig, ax = new_figure("raw actions")
    colours = _colours(training.keys() | evaluation.keys())
    for seed, curve in training.items():
        ax.plot(*curve, color=colours[seed], lw=0.9, alpha=0.8)
    for seed, curve in evaluation.items():
        ax.plot(*curve, "o", ls=":", lw=1.0, ms=5, color=colours[seed], mec="white", mew=0.6)
    handles = _seed_handles(colours)
    if training:
        handles.append(Line2D([], [], color="#444444", lw=1.2, label="in training"))
    if evaluation:
        handles.append(
            Line2D([], [], color="#444444", marker="o", ls=":", ms=5, label="in evaluation")
        )
    handles += _mark_handovers(ax, records, colours)
    high = ax.get_ylim()[1]
    # Not below 0 nor above 100%, but not always 0 to 100% either: shares are often some percent.
    ax.set_ylim(-0.02 * high, min(high, 1.02) if high > 0.0 else 1.0)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    step_axis(ax, [*training.values(), *evaluation.values()])
    _legend(fig, handles)
    return fig


@styled
def cloning_error(records: list[Record]) -> Figure | None:
    """Mean distance of the raw policy's action from the decoded one, ||mu_a - D(s, mu_z)||."""
    curves = series_by_seed(records, "train", "cloning_error", phase="online")
    if not curves:
        return None
    fig, ax = new_figure("action distance")
    handles = _draw_seeds(ax, curves)
    handles += _mark_handovers(ax, records, _colours(curves))
    ax.set_ylim(bottom=0.0)
    step_axis(ax, curves.values())
    _legend(fig, handles)
    return fig


@styled
def dip(records: list[Record]) -> Figure | None:
    """Score of every evaluation minus the same seed's offline score."""
    offline = offline_scores(records)
    scores = series_by_seed(records, "evaluation", "score")
    curves = {
        seed: Series(curve.steps, curve.values - offline[seed])
        for seed, curve in scores.items()
        if seed in offline and len(curve.steps) > 1  # the offline one alone says nothing
    }
    if not curves:
        return None
    fig, ax = new_figure("score minus offline score")
    for curve in curves.values():
        ax.fill_between(
            *curve,
            where=curve.values < 0.0,
            interpolate=True,
            color=DIP_COLOUR,
            alpha=0.35,
            lw=0,
        )
    handles = _draw_seeds(ax, curves, markers=True)
    ax.axhline(0.0, color="#444444", ls="--", lw=1.3)
    handles.append(Patch(color=DIP_COLOUR, alpha=0.35, lw=0, label="below offline"))
    handles += _mark_handovers(ax, records, _colours(curves))
    step_axis(ax, curves.values())
    _legend(fig, handles)
    return fig


@styled
def offline_losses(records: list[Record]) -> Figure | None:
    """What was minimised before the first online step, a small panel for each metric."""
    found = {
        title: series_by_seed(records, "train", key, phase=phase)
        for (phase, key), title in OFFLINE_PANELS.items()
    }
    panels = {title: curves for title, curves in found.items() if curves}
    if not panels:
        return None
    rows = -(-len(panels) // 2)
    fig = Figure(figsize=(5.0, 1.75 * rows + 0.6), layout="constrained")
    axes = fig.subplots(rows, 2, squeeze=False).ravel()
    colours = _colours({seed for curves in panels.values() for seed in curves})
    for place, (title, curves) in enumerate(panels.items()):
        ax = axes[place]
        for seed, curve in curves.items():
            ax.plot(*curve, color=colours[seed], lw=1.1, alpha=0.85, marker=_dot(curve))
        values = np.concatenate([curve.values for curve in curves.values()])
        if values.min() > 0.0 and values.max() > 100.0 * values.min():
            ax.set_yscale("log")
        else:
            ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.set_title(title, fontsize=10.5, loc="left")
        ax.tick_params(labelsize=9.5)
        lowest = place + 2 >= len(panels)  # of its column
        step_axis(ax, curves.values(), "updates" if lowest else "", ticks=3)
    for ax in axes[len(panels) :]:
        ax.remove()
    _legend(fig, _seed_handles(colours))
    return fig


@styled
def episode_returns(records: list[Record]) -> Figure | None:
    """Return of every training episode, and a running mean over the last episodes."""
    returns = series_by_seed(records, "episode", "return")
    if not returns:
        return None
    fig, ax = new_figure("episode return")
    colours = _colours(returns)
    # The others reached their time limit, or succeeded.
    fallen = {(one["seed"], one["step"]) for one in select(records, "episode") if fell(one)}
    for seed, (steps, values) in returns.items():
        falls = np.array([(seed, int(step)) in fallen for step in steps])
        ax.plot(steps[~falls], values[~falls], ".", ms=5, alpha=0.45, color=colours[seed], mew=0)
        ax.plot(steps[falls], values[falls], "x", ms=3.5, alpha=0.45, color=colours[seed])
    for seed, (steps, values) in returns.items():
        mean = _running_mean(values)
        ax.plot(steps, mean, color="white", lw=3.2, zorder=3)  # a halo, over every dot
        ax.plot(steps, mean, color=colours[seed], lw=1.7, zorder=4)
    handles = [
        *_seed_handles(colours),
        Line2D([], [], marker="x", ms=4, color="#444444", ls="", label="fell"),
        Line2D([], [], marker=".", ms=7, color="#444444", ls="", label="did not fall"),
        Line2D([], [], color="#444444", lw=1.7, label=f"mean of last {EPISODES_AVERAGED}"),
        *_mark_handovers(ax, records, colours),
    ]
    step_axis(ax, returns.values())
    _legend(fig, handles)
    return fig


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG of 1000 pixels width; the same records give the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def to_small_png(figure: Figure) -> bytes:
    """With a palette: a third of the bytes, for figures that are committed."""
    image = Image.open(io.BytesIO(to_png(figure))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(256, Image.Quantize.MAXCOVERAGE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def mean_band(curves: dict[int, Series]) -> Band | None:
    """Mean over seeds with a band: 95% bootstrap interval from three seeds on, else the range.

    Seeds may be evaluated at other steps (each at its own hand-over), so every seed is
    interpolated onto the union of the steps, within what all of them cover. None for one seed.
    """
    if len(curves) < 2:
        return None
    start = max(curve.steps[0] for curve in curves.values())
    end = min(curve.steps[-1] for curve in curves.values())
    steps = np.unique(np.concatenate([curve.steps for curve in curves.values()]))
    steps = steps[(steps >= start) & (steps <= end)]
    if not len(steps):
        return None
    values = np.stack([np.interp(steps, *curve) for curve in curves.values()])
    count = len(values)
    if count < BOOTSTRAP_SEEDS:
        low, high = values.min(axis=0), values.max(axis=0)
    else:
        # A resample is how often each seed was drawn. Seeded: a rebuilt report is the same.
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=BOOTSTRAP_RESAMPLES)
        low, high = np.percentile(drawn @ values / count, (2.5, 97.5), axis=0)
    return Band(steps, values.mean(axis=0), low, high)


def band_words(seed_count: int) -> str:
    """What the band of `mean_band` shows."""
    return "95% bootstrap interval" if seed_count >= BOOTSTRAP_SEEDS else "range of the seeds"


def new_figure(ylabel: str) -> tuple[Figure, Axes]:
    fig = Figure(figsize=(5.0, 3.6), layout="constrained")
    ax = fig.subplots()
    ax.set_ylabel(ylabel)
    return fig, ax


def _colours(seeds: Iterable[int]) -> dict[int, str]:
    return {seed: SEED_COLOURS[i % len(SEED_COLOURS)] for i, seed in enumerate(sorted(seeds))}


def _seed_handles(colours: dict[int, str]) -> list[Line2D | Patch]:
    if len(colours) > len(SEED_COLOURS):  # a longer list would fill the page and repeat colours
        return [Line2D([], [], color=SEED_COLOURS[0], lw=1.0, label=f"{len(colours)} seeds")]
    return [Line2D([], [], color=c, lw=1.6, label=f"seed {seed}") for seed, c in colours.items()]


def _draw_seeds(ax: Axes, curves: dict[int, Series], markers: bool = False) -> list[Line2D | Patch]:
    """A line per seed, thin ones with their mean where there are several. Returns handles."""
    alone = len(curves) == 1
    colours = _colours(curves)
    for seed, curve in curves.items():
        marker = "o" if markers else _dot(curve)
        ax.plot(*curve, color=colours[seed], lw=2.0 if alone else 1.0, marker=marker, ms=3.5)
    handles = _seed_handles(colours)
    band = mean_band(curves)
    if band is not None:
        ax.plot(band.steps, band.mean, color=MEAN_COLOUR, lw=2.2)
        handles.append(Line2D([], [], color=MEAN_COLOUR, lw=2.2, label="mean"))
    return handles


def _dot(curve: Series) -> str:
    """A line through one point is invisible; mark it."""
    return "o" if len(curve.steps) == 1 else ""


def _mark_handovers(
    ax: Axes, records: list[Record], colours: dict[int, str]
) -> list[Line2D | Patch]:
    armed = [(seed, step) for seed, step in handover_steps(records).items() if seed in colours]
    for seed, step in armed:
        ax.axvline(step, color=colours[seed], ls=(0, (2, 2)), lw=1.3, zorder=1)
    if not armed:
        return []
    return [Line2D([], [], color="#444444", ls=(0, (2, 2)), lw=1.3, label="hand-over")]


def step_axis(
    ax: Axes, curves: Iterable[Series], label: str = "online environment steps", ticks: int = 6
) -> None:
    last = max(1.0, *(float(curve.steps[-1]) for curve in curves))
    ax.set_xlim(-0.02 * last, 1.03 * last)
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlabel(label)


def _legend(fig: Figure, handles: list[Line2D | Patch]) -> None:
    if handles:
        fig.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of each value and up to EPISODES_AVERAGED - 1 before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - EPISODES_AVERAGED, 0)
    return (sums[end] - sums[start]) / (end - start)
