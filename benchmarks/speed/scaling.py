"""What an update of the gated phase costs as one thing at a time grows."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed.measure import Record, fresh_process

ROWS, OBSERVATIONS, RING = 100_000, 11, 20_000
"""Where an axis is not varied. Rings this small let memory show what else grows."""

AXES: dict[str, tuple[int, ...]] = {
    "dataset rows": (10_000, 100_000, 1_000_000, 5_000_000),
    "critics": (2, 5, 10, 20),
    "updates per step": (1, 2, 5, 20),
    "observation dimensions": (11, 17, 60, 111, 376),
    "seeds": (1, 2, 4, 8, 16, 32, 64),
}


def words(axis: str, value: int) -> tuple[str, ...]:
    """Of `benchmarks.speed.fresh point`."""
    rows, observations = ROWS, OBSERVATIONS
    # Ten steps a chunk: twenty updates of many seeds are long enough to time.
    changes: dict[str, Any] = {"online": {"chunk": 10}}
    if axis == "dataset rows":
        rows = value
    elif axis == "critics":
        changes["learner"] = {"critics": value}
    elif axis == "updates per step":
        changes["online"]["utd"] = value
    elif axis == "observation dimensions":
        observations = value
    else:
        changes["seeds"] = list(range(value))
    return (json.dumps(changes), str(rows), str(observations), str(RING))


def run(quick: bool, say: Callable[[str], None]) -> Iterator[Record]:
    """The points so far, again and again; `quick`: only an axis' ends.

    Each is measured in a process of its own, so that memory is its own.
    """
    points: list[Record] = []
    for axis, values in AXES.items():
        for value in (values[0], values[-1]) if quick else values:
            say(f"{axis}: {value:,}")
            measured = fresh_process("benchmarks.speed.fresh", "point", *words(axis, value))
            points.append({"axis": axis, "value": value, **measured})
            yield {"points": points}


def plot(record: Record, path: Path) -> None:
    """Time and memory of an update along every axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullLocator

    figure = Figure(figsize=(3.0 * len(AXES), 5.0), layout="constrained")
    rows = figure.subplots(2, len(AXES), sharex="col", sharey="row")
    for column, axis in enumerate(AXES):
        points = [point for point in record["points"] if point["axis"] == axis]
        values = [point["value"] for point in points]
        time, memory = rows[0][column], rows[1][column]
        rates = [point["updates_per_second"] for point in points]
        time.plot(values, [1e3 / rate["median"] for rate in rates], "o-", label="measured")
        time.fill_between(
            values, [1e3 / r["high"] for r in rates], [1e3 / r["low"] for r in rates], alpha=0.3
        )
        first = points[0]
        at_its_flops = [
            1e3 / rates[0]["median"] * point["flops"] / first["flops"] for point in points
        ]
        time.plot(values, at_its_flops, "k:", label="as its FLOPs grow")
        memory.plot(values, [p["peak_bytes"] / 2**20 for p in points], "o-", label="peak")
        memory.plot(values, [p["stored_bytes"] / 2**20 for p in points], "k:", label="data alone")
        time.set(xscale="log", yscale="log", title=axis)
        memory.set(xscale="log", yscale="log", xlabel=axis)
        memory.set_xticks(values)
        memory.xaxis.set_major_formatter(EngFormatter(sep=""))
        memory.xaxis.set_minor_locator(NullLocator())
    rows[0][0].set_ylabel("ms per update and seed")
    rows[1][0].set_ylabel("memory (MiB)")
    for row in rows:
        row[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
