"""What was measured, as Markdown tables."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.speed.measure import Record


def ours(record: Record) -> str:
    gemm = record["gemm_gflop_per_second"]
    shapes = [(name, span(value)) for name, value in gemm["shapes"].items()]
    kinds = [
        (
            name,
            f"{row['gflop_per_update']:.3f}",
            span(row["updates_per_second"]),
            span(row["share_of_ceiling"], percent=True),
        )
        for name, row in record["updates"].items()
    ]
    loops = [
        (
            name,
            span(row["steps_per_second"]),
            span(row["updates_alone"]),
            span(row["share_of_the_slower"], percent=True),
        )
        for name, row in record["loops"].items()
    ]
    parts = [
        table(("products, float32", "GFLOP/s"), shapes),
        f"Ceiling: {gemm['ceiling']}.",
        table(("update", "GFLOP", "updates/s", "of the ceiling"), kinds),
        f"Hopper-v4 alone: {span(record['env_steps_per_second'])} steps/s.",
        table(("loop, env steps/s", "whole", "updates alone", "of the slower part"), loops),
    ]
    if "first_update" in record:
        parts.append(startup(record))
    if "memory" in record:
        memory = record["memory"]
        mib = {name: f"{memory[name] / 2**20:,.0f} MiB" for name in ("large", "small", "arrays")}
        parts.append(
            f"Memory at {memory['offline_rows']:,} offline and {memory['online_rows']:,} online "
            f"transitions: {mib['large']}, {mib['small']} with hardly any; arrays: "
            f"{mib['arrays']}; ratio {memory['over_arrays']:.2f}."
        )
    return "\n\n".join(parts)


def startup(record: Record) -> str:
    cold, warm = record["first_update"]["cold"], record["first_update"]["warm"]
    rows = [(mark, span(cold[mark]), span(warm[mark])) for mark in cold]
    return table(("seconds to", "cold", "warm"), rows)


def peers(record: Record) -> str:
    measured = [(name, row["unit"], span(row["rate"])) for name, row in record["rates"].items()]
    compared = [(row["ours"], row["peer"], span(row["ratio"])) for row in record["ratios"]]
    versions = [(name, ", ".join(pins)) for name, pins in record["peer_versions"].items()]
    return "\n\n".join(
        (
            table(("worker", "unit", "per second"), measured),
            table(("ours", "peer", "ours over peer"), compared),
            table(("peer", "versions"), versions),
        )
    )


def scaling(record: Record) -> str:
    rows = [
        (
            row["axis"],
            f"{row['value']:,}",
            f"{1e3 / row['updates_per_second']['median']:.2f}",
            f"{row['flops'] / 1e9:.3f}",
            f"{row['peak_bytes'] / 2**20:,.0f}",
            f"{row['stored_bytes'] / 2**20:,.0f}",
        )
        for row in record["points"]
    ]
    return table(("axis", "value", "ms/update", "GFLOP", "peak MiB", "data MiB"), rows)


def acting(record: Record) -> str:
    found = record["acting"]
    rows = [
        (f"act in {by}, {when}", *(row[by][name] for name in ("p50", "p99", "max", "calls")))
        for when, row in found["act"].items()
        for by in ("numpy", "jax")
    ]
    ends = found["observe_at_an_episodes_end"]
    rows.append(
        ("observe at an episode's end", *(ends[name] for name in ("p50", "p99", "max", "calls")))
    )
    rate = found["act"]["learning"]["updates_per_second"]
    return "\n\n".join(
        (
            table(("milliseconds", "p50", "p99", "max", "calls"), rows),
            f"Meanwhile {rate} updates/s; gate armed: {found['gate_armed']}.",
        )
    )


def span(value: Record, percent: bool = False) -> str:
    """Median (lowest to highest)."""
    scale = 100 if percent else 1
    low, middle, high = (_short(value[key] * scale) for key in ("low", "median", "high"))
    return f"{middle}{'%' if percent else ''} ({low} to {high})"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
