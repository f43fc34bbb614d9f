"""The hand-over of several runs: cloning error just before it against the dip just after.

Design section 2.7, item 3: |J(pi_a) - J(pi_z)| <= L_Q / (1 - gamma) E||mu_a - D(mu_z)||. Cloning
error, L_Q and the bound are the run's own, of its last training line up to the hand-over; the dip
is measured by evaluations of the newest policy. The bound is in discounted return and the dip in
score, so both are compared as shares: of the mean value, of the score at the hand-over.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from spaars.report.groups import run_names
from spaars.report.records import Record, Run, handover_steps, number, select

EVIDENCE = ("cloning_error", "handover_bound", "value")


class HandoverPoint(NamedTuple):
    """One seed's hand-over."""

    run: str
    seed: int
    method: str
    cloning_weight: float | None
    """Until the hand-over, by config.json."""
    step: int
    """Environment step at which the gate was armed."""
    cloning_error: float
    """Mean ||mu_a - D(mu_z)|| on replay states, in units of action."""
    bound: float
    """L_Q cloning error / (1 - gamma) over the mean value."""
    before: float
    """Score of the newest policy just before."""
    lowest: float
    """Its lowest score within the window after."""
    dip: float
    """(before - lowest) / before, at least 0."""
    evaluations: int
    """So many fell into the window."""
    raw_share: float | None
    """Mean share of the window's training steps at which the raw policy acted."""


def handover_points(runs: Sequence[Run], window: int) -> tuple[list[HandoverPoint], list[str]]:
    """A point for every seed that can give one, and for every other a sentence why not."""
    points, left_out = [], []
    for run, name in zip(runs, run_names([run.path for run in runs]), strict=True):
        config = run.config["config"]
        for seed in config.get("seeds", []):
            found = _point(run, name, seed, window)
            if isinstance(found, str):
                left_out.append(f"{name}, seed {seed}: {found}")
            else:
                points.append(found)
    return points, left_out


def _point(run: Run, name: str, seed: int, window: int) -> HandoverPoint | str:
    config, records = run.config["config"], run.records
    step = handover_steps(records).get(seed)
    if step is None:
        return "it never handed over."
    lines = [r for r in select(records, "train", seed=seed, phase="online") if r["step"] <= step]
    found = [[number(line.get(key)) for key in EVIDENCE] for line in lines]
    whole = [values for values in found if None not in values]
    if not whole:
        return "no training line up to the hand-over says its cloning error, bound and value."
    error, bound, value = (float(v) for v in whole[-1] if v is not None)
    if value == 0.0:
        return "its mean value is 0; the bound has no share of that."
    newest = [
        (line["step"], score)
        for line in select(records, "evaluation", seed=seed)
        if line["step"] >= step and (score := number(line.get("newest_score"))) is not None
    ]
    # At one step the first is from before the gate was armed, a periodic one from after it.
    before = [score for at, score in newest[:1] if at == step]
    after = [score for at, score in newest[1:] if at <= step + window]
    if not before:
        return (
            "the newest policy was not evaluated at the hand-over (an older version evaluated only "
            "the deployed one)."
        )
    if not after:
        return f"no evaluation within {window:,} steps after the hand-over at step {step:,}."
    if before[0] <= 0.0:
        return f"it scored {before[0]:.1f} at the hand-over; a dip has no share of that."
    return HandoverPoint(
        run=name,
        seed=seed,
        method=str(config.get("method")),
        cloning_weight=_cloning_weight(config),
        step=step,
        cloning_error=error,
        bound=bound / abs(value),
        before=float(before[0]),
        lowest=float(min(after)),
        dip=max(0.0, float((before[0] - min(after)) / before[0])),
        evaluations=len(after),
        raw_share=_mean_share(select(records, "train", seed=seed, phase="online"), step, window),
    )


def _cloning_weight(config: dict[str, Any]) -> float | None:
    section = "raw" if config.get("method") == "spaars-supe" else "learner"
    return number((config.get(section) or {}).get("cloning_weight"))


def _mean_share(lines: list[Record], step: int, window: int) -> float | None:
    shares = [
        share
        for line in lines
        if step < line["step"] <= step + window
        and (share := number(line.get("raw_share"))) is not None
    ]
    return sum(shares) / len(shares) if shares else None
