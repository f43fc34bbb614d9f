"""The model card: what a policy is, what was measured of it, and how to use it."""

import hashlib
from typing import Any

import numpy as np

SAFETY = {
    "dip_worst": "worst dip after the hand-over (score of the newest policy just before it, less "
    "its worst evaluation after it)",
    "drop_below_offline": "worst drop of the deployed policy below the offline policy (score)",
    "falls_per_1k": "falls during online training, per 1,000 steps",
}


def model_card(
    name: str, contents: bytes, description: dict[str, Any], arrays: dict[str, np.ndarray]
) -> str:
    """Markdown. `name` and `contents` are the exported file's."""
    about = description["about"]
    blocks = [
        f"# {name}",
        f"The {about['policy']} policy of method `{about['method']}` on `{about['task']}`, after "
        f"{about['env_steps']:,} online steps. It is deterministic and holds its own "
        "normalisation of observations.",
        _table(
            ("what", "value"),
            [
                ("task", f"{about['task']} ({about['env']})"),
                ("data", about["data"]),
                ("data, sha256", f"`{about['data_sha256']}`"),
                ("method", about["method"]),
                ("seed", about["seed"]),
                ("this file, sha256", f"`{hashlib.sha256(contents).hexdigest()}`"),
            ],
        ),
        "## Scores",
        _scores(about),
        "## Safety",
        _safety(about),
        "## Inputs and outputs",
        _spaces(description, arrays),
        "## Made by",
        _table(
            ("", "git revision", "versions", "command"),
            [
                (
                    what,
                    f"`{made.get('git_revision', 'not recorded')}`",
                    ", ".join(f"{k} {v}" for k, v in made.get("versions", {}).items()),
                    f"`{made.get('command', 'not recorded')}`",
                )
                for what, made in (("run", about["trained"]), ("file", about["exported"]))
            ],
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _scores(about: dict[str, Any]) -> str:
    scores = about.get("scores")
    if scores is None:
        return "The run had not evaluated any policy when this one was exported."
    rows = [(f"{about['policy']} policy, at step {scores['step']:,}", _with_std(scores))]
    if "offline" in scores:
        rows.insert(0, ("offline policy", f"{scores['offline']:.1f}"))
    text = _table((f"score, {scores['episodes']} episodes", "mean"), rows)
    if scores["step"] != about["env_steps"]:
        text += (
            f"\n\nThe run evaluated last at step {scores['step']:,}; this policy is that of step "
            f"{about['env_steps']:,} and may be another one."
        )
    return text


def _with_std(scores: dict[str, Any]) -> str:
    if "score_std" not in scores:
        return f"{scores['score']:.1f}"
    return (
        f"{scores['score']:.1f} +- {scores['score_std']:.1f} (mean return "
        f"{scores['return_mean']:.4g}, falls {scores['falls']})"
    )


def _safety(about: dict[str, Any]) -> str:
    if "safety" not in about:
        return "No figures: the run was not finished when this policy was exported."
    rows = [(SAFETY[name], f"{value:.2f}") for name, value in about["safety"].items()]
    text = (
        _table(("measured during training, of this seed", "value"), rows) + "\n\n" if rows else ""
    )
    return text + "These are measurements in the task's env, no guarantee for any other system."


def _spaces(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    about = description["about"]
    names = [
        f"{part}[{i}]" if width > 1 else part
        for part, width in description.get("observations", [])
        for i in range(width)
    ]
    mean, std = arrays["observations/mean"], arrays["observations/std"]
    observations = _table(
        ("dimension", "name", "mean in the data", "std in the data"),
        [
            (i, names[i] if names else "-", f"{mean[i]:.4g}", f"{std[i]:.4g}")
            for i in range(description["observation_dim"])
        ],
    )
    limits = about.get("envelope", {})
    actions = _table(
        ("dimension", "-1 means", "1 means", *limits),
        [
            (
                i,
                f"{about['action_low'][i]:g}",
                f"{about['action_high'][i]:g}",
                *(f"{limit[i]:g}" for limit in limits.values()),
            )
            for i in range(description["action_dim"])
        ],
    )
    if limits:
        actions += (
            "\n\nActions are brought within these limits, to which the run was held (--safety.*); "
            "they are in the units of [-1, 1]."
        )
    if "largest change" in limits:
        actions += (
            " The largest change is from one call to the next: call the policy once per step, and "
            "`reset()` it when an episode begins."
        )
    skills = ""
    if "skill_length" in description:
        skills = (
            f" It follows skills of {description['skill_length']} steps: call it once per step, "
            "and `reset()` it when an episode begins."
        )
    return (
        f"Raw observations, {description['observation_dim']} numbers; nothing is known of the "
        "policy far from the data, whose mean and spread they show:"
        f"\n\n{observations}\n\nActions, {description['action_dim']} numbers that always lie in "
        f"[-1, 1].{skills}\n\n{actions}"
    )


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
