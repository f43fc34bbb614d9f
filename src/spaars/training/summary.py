"""summary.json: what a run achieved, by its last checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from spaars.safety.summary import summarise
from spaars.training.config import TrainConfig


def summarise_run(
    config: TrainConfig,
    dataset: Mapping[str, Any],
    progress: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    *,
    offline: bool,
    wall_seconds: float,
) -> dict[str, Any]:
    """Of `Trainer.progress` and the lines of metrics.jsonl. `offline`: whether the agent learned
    anything before its first online step, without which it has no offline score."""
    return {
        "task": config.task,
        "dataset": dataset,
        "method": config.method,
        "preset": config.preset,
        "evaluation_episodes": config.evaluation.episodes,
        "stops": progress["stops"],
        "seeds": [
            {
                "seed": seed,
                **_achieved(progress, i, config.online.steps, offline),
                "wall_seconds": round(wall_seconds, 1),
                "safety": summarise(records, seed),
            }
            for i, seed in enumerate(config.seeds)
        ],
    }


def _achieved(progress: Mapping[str, Any], i: int, steps: int, offline: bool) -> dict[str, Any]:
    """Of the i-th seed."""
    scores, newest = progress["scores"][i], progress["newest"][i]
    handover = progress["handover"][i]
    falls = sum(fell for _, _, fell, _ in progress["episodes"][i])
    offline_score = scores[0][1] if offline else None
    dip = None
    if handover is not None:
        after = [score for _, score in newest[handover["evaluations"] :]]
        dip = max([0.0, *(handover["score"] - score for score in after)]) if after else None
    return {
        "offline_score": offline_score,
        "handover_score": handover["score"] if handover else None,
        "handover_step": handover["step"] if handover else None,
        "final_score": scores[-1][1],
        "newest_score": newest[-1][1],
        "dip_worst": dip,
        "drop_below_offline": (
            None if offline_score is None else max(offline_score - score for _, score in scores)
        ),
        "falls_per_1k": 1000.0 * falls / steps if steps else None,
        "env_steps": steps,
    }
