"""The figures of `spaars theory`: pure functions from arrays to a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from spaars.report.figures import SEED_COLOURS, new_figure, styled

MARKERS = ("o", "s", "^", "D")


class Estimate(NamedTuple):
    """Means and the ends of their 95% intervals."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@styled
def gap_against_bounds(gap: np.ndarray, bounds: Mapping[str, np.ndarray]) -> Figure:
    """The gap of each problem against each of its bounds, all as shares of |J(pi*)|."""
    fig, ax = new_figure("exploitation gap / |J(π*)|")
    values = [gap]
    for i, (name, bound) in enumerate(bounds.items()):
        shown = np.isfinite(bound)  # infinite bounds hold, and have no place on the page
        colour, marker = SEED_COLOURS[i], MARKERS[i]
        ax.plot(
            bound[shown], gap[shown], marker, ms=3.5, mew=0, alpha=0.45, color=colour, label=name
        )
        values.append(bound[shown])
    low, high = (f(np.concatenate(values)) for f in (np.min, np.max))
    ax.plot([low, high], [low, high], "--", color="#444444", lw=1.3, label="gap = bound")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("bound / |J(π*)|")
    fig.legend(loc="outside lower center", ncols=3)
    return fig


@styled
def variance_ratios(
    latents: np.ndarray, actions: np.ndarray, ratios: Mapping[str, Estimate]
) -> Figure:
    """Latent over raw variance against k/d for each estimator; cells of one k/d side by side."""
    fig, ax = new_figure("latent / raw variance")
    share = latents / actions
    order = np.sum((share == share[:, None]) & (actions < actions[:, None]), axis=1)
    for i, (name, ratio) in enumerate(ratios.items()):
        # Side by side, the smaller numbers of actions first, so that intervals can be told apart.
        place = share * 1.035 ** (3.0 * order + i - 4.0)
        ends = np.maximum([ratio.mean - ratio.low, ratio.high - ratio.mean], 0.0)
        colour = SEED_COLOURS[i]
        ax.errorbar(
            place, ratio.mean, ends, ls="", marker=MARKERS[i], ms=4.5, color=colour, label=name
        )
    edge = np.array([share.min() / 1.3, min(1.0, share.max() * 1.5)])
    ax.plot(edge, edge, "--", color="#444444", lw=1.3, label="k/d")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = np.unique(share)
    ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("k/d")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


@styled
def gated_improvement(
    eta: Sequence[float], panels: Mapping[str, Mapping[str, Estimate]], bounds: Mapping[str, str]
) -> Figure:
    """Improvement over the latent policy against the critics' error: a panel for each kind of
    error, a line for each gate, dotted where `bounds` calls it a bound on another."""
    fig = Figure(figsize=(5.0, 2.1 * len(panels) + 0.9), layout="constrained")
    axes = fig.subplots(len(panels), 1, sharex=True, squeeze=False).ravel()
    names = [name for name in next(iter(panels.values())) if name not in bounds]
    colours = dict(zip(names, SEED_COLOURS, strict=False))
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, line in lines.items():
            if name in bounds:
                ax.plot(eta, line.mean, ls=":", lw=1.5, color=colours[bounds[name]])
                continue
            i = names.index(name)
            place = np.asarray(eta) + 0.015 * max(eta) * (i - 1)  # gates often do the same
            ends = np.maximum([line.mean - line.low, line.high - line.mean], 0.0)
            ax.errorbar(
                place, line.mean, ends, marker=MARKERS[i], ms=4.5, lw=1.3, color=colours[name]
            )
        ax.axhline(0.0, color="#444444", lw=1.0)
        ax.set_yscale("symlog", linthresh=0.05)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set_yticks([-1.0, -0.1, 0.0, 0.1])
        ax.set_yticks([], minor=True)
        ax.set_title(title, fontsize=10.5, loc="left")
        ax.set_ylabel("improvement")
    axes[-1].set_xlabel("η / mean |advantage|")
    handles = [
        Line2D([], [], color=colours[name], marker=MARKERS[i], ms=4.5, lw=1.6, label=name)
        for i, name in enumerate(names)
    ]
    handles.append(Line2D([], [], color="#444444", ls=":", lw=1.5, label="its bound"))
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


@styled
def run_gap(eps: Mapping[str, np.ndarray], lines: Mapping[str, Sequence[float]]) -> Figure:
    """Of a trained run: how far actions lie from the decoder's image, and what that costs.

    Above, the share of states whose distance is at most the one on the axis; below, a row for
    each line and a dot for each seed, in discounted return.
    """
    fig = Figure(figsize=(5.0, 5.4), layout="constrained")
    above, below = fig.subplots(2, 1, height_ratios=(2, 3))
    for i, (name, values) in enumerate(eps.items()):
        share = np.arange(1, len(values) + 1) / len(values)
        above.plot(np.sort(values), share, color=SEED_COLOURS[i], lw=1.8, label=name)
    above.set_xlabel("distance to the decoder's image")
    above.set_ylabel("share of states")
    above.set_ylim(0.0, 1.02)
    above.legend(loc="lower right")
    names = list(lines)
    for place, name in enumerate(names):
        values = np.asarray(lines[name])
        below.plot(values, np.full(len(values), place), "o", ms=5.0, color=SEED_COLOURS[0])
    below.axvline(0.0, color="#444444", lw=1.0)
    below.set_xscale("symlog", linthresh=1.0)
    below.set_yticks(range(len(names)), names, fontsize=8.5)
    below.invert_yaxis()
    below.set_xlabel("discounted return")
    return fig


@styled
def run_variances(sigma: np.ndarray, share: float, ratios: Mapping[str, Estimate]) -> Figure:
    """Of a trained run: latent over raw variance against sigma for each estimator, and k/d."""
    fig, ax = new_figure("latent / raw variance")
    for i, (name, ratio) in enumerate(ratios.items()):
        ends = np.maximum([ratio.mean - ratio.low, ratio.high - ratio.mean], 0.0)
        place, colour = sigma * 1.03 ** (i - 1), SEED_COLOURS[i]
        ax.errorbar(
            place, ratio.mean, ends, ls="", marker=MARKERS[i], ms=4.5, color=colour, label=name
        )
    ax.axhline(share, ls="--", color="#444444", lw=1.3, label="k/d")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = np.unique(sigma)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("sigma before tanh")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


@styled
def handover_scatter(errors: np.ndarray, dips: np.ndarray, bounds: np.ndarray) -> Figure:
    """Dip against cloning error, a dot for each hand-over, its bound above it, and the line that
    the median slope of the bounds makes."""
    fig, ax = new_figure("share of score or value")
    ax.plot(errors, dips, "o", ms=6.0, color=SEED_COLOURS[0], label="measured dip")
    ax.plot(errors, bounds, "_", ms=10.0, mew=1.6, color=SEED_COLOURS[1], label="its bound")
    moved = errors > 0.0
    if moved.any():
        edge = np.array([0.0, 1.05 * errors.max()])
        slope = float(np.median(bounds[moved] / errors[moved]))
        ax.plot(edge, slope * edge, "--", color="#444444", lw=1.3, label="median bound")
    ax.set_xlim(left=0.0)
    ax.set_ylim(bottom=-0.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("cloning error at the hand-over")
    fig.legend(loc="outside lower center", ncols=3)
    return fig
