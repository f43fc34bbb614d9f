"""The figures of a comparison: a line per group, the same one on every figure of the page."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from spaars.report.figures import (
    BOOTSTRAP_SEEDS,
    SEED_COLOURS,
    mean_band,
    new_figure,
    step_axis,
    styled,
)
from spaars.report.records import Series
from spaars.report.statistics import performance_profile, stratified_bootstrap_interval

LINE_STYLES = ("-", "--", ":", "-.")
LEGEND_LINE = 0.24
"""Height of a line of the legend in inches: names are long, each gets its own."""
LEGEND_WIDTH = 60
"""Characters."""

Looks = Mapping[str, tuple[str, str]]
"""Colour and line style of each group."""


def looks(names: Sequence[str]) -> Looks:
    """The first six groups differ in colour, further ones in the style of their line too."""
    count = len(SEED_COLOURS)
    return {
        name: (SEED_COLOURS[i % count], LINE_STYLES[i // count % len(LINE_STYLES)])
        for i, name in enumerate(names)
    }


@styled
def learning_curves(evaluations: Mapping[str, Sequence[Series]], look: Looks) -> Figure:
    """Mean score of each group's evaluations against online steps, with the band of `mean_band`."""
    fig, ax = _new("score", evaluations)
    for name, curves in evaluations.items():
        colour, style = look[name]
        band = mean_band(dict(enumerate(curves)))
        if band is None:  # one seed, or no step that all of them cover
            for curve in curves:
                ax.plot(*curve, color=colour, ls=style, lw=1.8, marker="o", ms=3.5)
        else:
            ax.plot(band.steps, band.mean, color=colour, ls=style, lw=2.0, marker="o", ms=3.5)
            ax.fill_between(band.steps, band.low, band.high, color=colour, alpha=0.18, lw=0)
    step_axis(ax, [curve for curves in evaluations.values() for curve in curves])
    _legend(fig, evaluations, look)
    return fig


@styled
def performance_profiles(
    scores: Mapping[str, np.ndarray], look: Looks, *, returns: bool = False
) -> Figure:
    """Share of runs above each score; scores: (runs, tasks) of each group.

    The axis holds 0..100, where normalised scores lie; of `returns`, which may all be far inside or
    outside of it, their own range.

    The band is the pointwise 95% stratified bootstrap interval, from three runs on.
    """
    fig, ax = _new("share of runs above", scores)
    everything = np.concatenate([array.ravel() for array in scores.values()])
    low, high = everything.min(), everything.max()
    if returns:
        margin = 0.05 * (high - low) or 1.0
        low, high = low - margin, high + margin
    else:
        low = min(0.0, 10.0 * np.floor(low / 10.0))
        high = max(100.0, 10.0 * np.ceil(high / 10.0))
    thresholds = np.linspace(low, high, 201)
    for name, array in scores.items():
        colour, style = look[name]
        profile = performance_profile(array, thresholds)
        ax.plot(thresholds, profile, color=colour, ls=style, lw=2.0)
        if len(array) >= BOOTSTRAP_SEEDS:
            ends = stratified_bootstrap_interval(
                lambda drawn: performance_profile(drawn, thresholds), array
            )
            ax.fill_between(thresholds, *ends, color=colour, alpha=0.18, lw=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("final score")
    ax.set_ylim(-0.02, 1.04)
    ax.set_xlim(low, high)
    _legend(fig, scores, look)
    return fig


def _new(ylabel: str, names: Iterable[str]) -> tuple[Figure, Axes]:
    fig, ax = new_figure(ylabel)
    lines = sum(_label(name).count("\n") + 1 for name in names)
    fig.set_figheight(3.2 + LEGEND_LINE * lines)
    return fig, ax


def _legend(fig: Figure, names: Iterable[str], look: Looks) -> None:
    handles = [
        Line2D([], [], color=look[name][0], ls=look[name][1], lw=2.0, label=_label(name))
        for name in names
    ]
    legend = fig.legend(handles=handles, loc="outside lower left", ncols=1)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar sign is one


def _label(name: str) -> str:
    """As wide as the figure; half a surrogate pair, which no font can draw, becomes '?'."""
    return textwrap.fill(name.encode("utf-8", "replace").decode(), LEGEND_WIDTH)
