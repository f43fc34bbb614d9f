"""The safety of a run in a few numbers, from its metrics."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Record = Mapping[str, Any]


class Measure(NamedTuple):
    """A metric of the online training lines; of all of them, more is worse."""

    key: str
    title: str
    note: str
    form: str
    """How it is printed: a format specification."""


MEASURES = (
    Measure("clipped_steps", "Actions clipped", "share of the steps", ".1%"),
    Measure("clipped_dimensions", "Dimensions clipped", "share of all", ".1%"),
    Measure("action_rate", "Action rate", "mean change of an action per step", ".3f"),
    Measure("raw_share", "Raw policy acts", "share of the steps", ".1%"),
    Measure("raw_share_limit", "Limit on that share", "cap and ramp where the gate is open", ".0%"),
    Measure("gate", "Gate open", "share of the steps, obeyed or not", ".1%"),
    Measure("gate_flips_per_1k", "Gate flips", "per 1,000 steps", ".1f"),
    Measure("support_distance", "Reconstruction distance", "||a - D(s, enc(s, a))||", ".3f"),
    Measure("latent_norm", "Latent norm", "of the executed actions, encoded", ".2f"),
    Measure("knn_distance", "kNN distance", "of (s, a) to the data, standardised", ".2f"),
    Measure("knn_outside", "Further than the data", "than 99% of held-out data lie", ".1%"),
    Measure("q_ensemble_std", "Ensemble spread", "std of Q of executed actions", ".2f"),
    Measure("q_minus_return", "Q minus return", "above 0: over-estimated", ".2f"),
)


def summarise(records: Iterable[Record], seed: int) -> dict[str, Any]:
    """What was measured of one seed online: `{"mean", "max"}` over the lines of each metric.

    Beside them `rollbacks`, and `cost` (its sum over the finished episodes) where the env reports
    it. What was not measured is left out; empty for a run that has not gone online.
    """
    values: dict[str, list[float]] = {measure.key: [] for measure in MEASURES}
    rollbacks, costs, online = 0, [], False
    for record in records:
        if record["seed"] != seed:
            continue
        if record["kind"] == "train" and record.get("phase") == "online":
            online = True
            for key, found in values.items():
                if _is_number(record.get(key)):
                    found.append(float(record[key]))
        elif record["kind"] == "event" and record.get("event") == "rollback":
            rollbacks += 1
        elif record["kind"] == "episode" and _is_number(record.get("cost")):
            costs.append(float(record["cost"]))
    if not online:
        return {}
    summary: dict[str, Any] = {
        key: {"mean": sum(found) / len(found), "max": max(found)}
        for key, found in values.items()
        if found
    }
    summary["rollbacks"] = rollbacks
    if costs:
        summary["cost"] = sum(costs)
    return summary


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]
