"""The pages that are generated: docs/api.md from docstrings, docs/presets.md from the settings.

    python docs/make_pages.py

tests/test_docs.py holds both up to date.
"""

import ast
import dataclasses
import importlib
import inspect
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import spaars
from spaars.tasks import get_task
from spaars.training.config import METHODS, PRESETS, TrainConfig, preset_config

DOCS = Path(__file__).parent
Documented = ast.FunctionDef | ast.ClassDef

# ------------------------------------------------------------------ what the source says


def node_of(thing: Any) -> Documented:
    """Where a class or function is defined: its names and docstrings as they are written."""
    tree = ast.parse(Path(str(sys.modules[thing.__module__].__file__)).read_text())
    for node in tree.body:
        if isinstance(node, Documented) and node.name == thing.__name__:
            return node
    raise SystemExit(f"{thing.__module__} does not define {thing.__name__}")


def fields_of(node: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, str]]:
    """Annotated names of a class and the docstring below each."""
    for i, statement in enumerate(node.body):
        if isinstance(statement, ast.AnnAssign):
            below = node.body[i + 1] if i + 1 < len(node.body) else None
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            yield statement, " ".join(str(below.value.value).split()) if is_text else ""  # type: ignore[union-attr]


def signature(node: ast.FunctionDef) -> str:
    """Arguments and result as they are written, without `self`."""
    arguments = ast.unparse(node.args)
    arguments = re.sub(r"^(self|cls)(, |$)", "", arguments)
    result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    if len(arguments) > 70:
        # At the commas outside of any bracket.
        depths = itertools.accumulate((c in "[(") - (c in "])") for c in arguments)
        pairs = zip(arguments, depths, strict=True)
        broken = "".join("\0" if c == "," and not depth else c for c, depth in pairs)
        arguments = "".join(f"\n    {part.strip()}," for part in broken.split("\0")) + "\n"
    return f"({arguments}){result}"


def prose(node: Documented | ast.Module) -> str:
    """A docstring as Markdown: sections become lists, doctests and drawings code."""
    lines = (ast.get_docstring(node) or "").splitlines()
    blocks: list[list[str]] = [[]]
    for line in lines:
        if not line.strip():
            blocks.append([])
        else:
            blocks[-1].append(line)
    return "\n\n".join(_block(block) for block in blocks if block)


def _block(lines: list[str]) -> str:
    head = re.fullmatch(r"(Args|Raises|Returns):", lines[0])
    if head and len(lines) > 1:
        text = inspect.cleandoc("\n".join(["", *lines[1:]]))
        items = re.split(r"\n(?=\S)", text)
        shown = [re.sub(r"^(\w+): ", r"`\1`: ", " ".join(item.split())) for item in items]
        return f"**{head[1]}**\n\n" + "\n".join(f"- {item}" for item in shown)
    if lines[0].startswith(">>>"):
        return "```python\n" + "\n".join(lines) + "\n```"
    if all(line.startswith("    ") for line in lines):
        return "```\n" + "\n".join(line[4:] for line in lines) + "\n```"
    return "\n".join(lines)


# ------------------------------------------------------------------ docs/api.md

PARTS: dict[str, tuple[str, ...]] = {
    "Train": ("preset_config", "TrainConfig", "train", "resume", "Run", "Progress", "Stopped"),
    "Policies": ("load_policy", "Policy"),
    "A loop of your own": ("OnlineLearner", "Acted"),
    "Data": ("load_dataset", "Dataset"),
    "Tasks": ("Task", "env_task", "get_task", "register", "task_names"),
    "Errors": ("SpaarsError", "ConfigError", "DataError", "RunError"),
}
ON_A_ROBOT = ("NumpyPolicy", "PolicyError")


def api_page() -> str:
    listed = {name for names in PARTS.values() for name in names}
    if listed != set(spaars.__all__):
        raise SystemExit(f"PARTS and spaars.__all__ differ: {listed ^ set(spaars.__all__)}")
    blocks = [
        "# The Python interface",
        "What `import spaars` gives. Everything else may change without notice. Every error that a "
        "person can mend is a `SpaarsError`, whose message says what is wrong, where, and the "
        "remedy. Sections and fields of a configuration are listed in [presets.md](presets.md).",
        "<!-- generated from docstrings by `python docs/make_pages.py` -->",
    ]
    for part, names in PARTS.items():
        blocks.append(f"## {part}")
        for name in names:
            blocks += _entry(f"spaars.{name}", getattr(spaars, name))
    module = importlib.import_module("spaars.deploy.numpy_policy")
    blocks += [
        "## On a robot: `spaars.deploy.numpy_policy`",
        prose(ast.parse(Path(str(module.__file__)).read_text())),
    ]
    for name in ON_A_ROBOT:
        blocks += _entry(name, getattr(module, name))
    return "\n\n".join(blocks) + "\n"


def _entry(name: str, thing: Any) -> Iterable[str]:
    node = node_of(thing)
    if isinstance(node, ast.FunctionDef):
        yield f"### `{name}`"
        yield f"```python\n{name}{signature(node)}\n```"
        yield prose(node)
        return
    yield f"### class `{name}`"
    yield prose(node)
    named = isinstance(thing, type) and issubclass(thing, tuple)  # whose fields need no words
    fields = [
        f"| `{ast.unparse(field.target)}` | {_cell(ast.unparse(field.annotation))} | {_cell(text)}"
        " |"
        for field, text in fields_of(node)
        if text or named
    ]
    if fields:
        yield "\n".join(["| field | type | what it is |", "|---|---|---|", *fields])
    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or not ast.get_docstring(method):
            continue
        if method.name.startswith("_") and method.name not in ("__init__", "__call__"):
            continue
        yield f"#### `{name}.{method.name}`"
        if any(isinstance(d, ast.Name) and d.id == "property" for d in method.decorator_list):
            yield f"A property, `{ast.unparse(method.returns or ast.Constant(None))}`."
        else:
            short = {"__init__": name, "__call__": "policy"}.get(method.name, f".{method.name}")
            yield f"```python\n{short}{signature(method)}\n```"
        yield prose(method)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# ------------------------------------------------------------------ docs/presets.md

PILOTS = "our pilots"
NOT_TUNED = "not tuned"
IQL_PAPER, SAC_PAPER, RLPD_PAPER = "IQL, published", "SAC, published", "RLPD, published"
SUPE_PAPER = "SUPE, published"
COMPUTE = "time on two cores"
SMOKE = "a minute for all phases"
SMALLER = "as the default; smaller in `smoke`"
SUPE_SCALED = "SUPE, published (`full`); less on two cores"

ORIGIN: dict[str, str] = {
    # The defaults, by section and field; a section alone stands for all of its other fields.
    "transitions": "the size of D4RL's *medium* data",
    "seeds": "one",
    "standardise": "our pilots; clipped: notebook, 2026-11-27, why does SUPE fall?",
    "checkpoint_every": "what a crash may cost",
    "log_every": "resolution of the curves",
    "device_memory_gib": "what the device has",
    "prior": PILOTS,
    "prior.latent_dim": "our pilots: k = d; a smaller k is an ablation",
    "prior.updates": "our pilots took 15,000; not tuned",
    "offline": IQL_PAPER,
    "offline.updates": NOT_TUNED,
    "offline.temperature": "notebook, 2026-11-22: do sharper regression weights start better?",
    "offline.tau": "notebook, 2026-11-22: why is the IQL start worse than the data?",
    "learner.hidden": "as SAC, IQL and RLPD",
    "learner.critics": "our pilots: the minimum over five holds the gain that two lose",
    "learner.learning_rate": "notebook, 2026-11-22: what makes the latent phase climb?",
    "learner.learning_rate_end": "notebook, 2026-11-22: why does the last checkpoint swing?",
    "learner.learning_rate_steps": "notebook, 2026-11-22: why does the last checkpoint swing?",
    "learner.discount": "as SAC, IQL and RLPD",
    "learner.tau": "notebook, 2026-11-22: what makes the latent phase climb?",
    "learner.average_tau": "notebook, 2026-11-22: does a moving average steady it?",
    "learner.batch_size": "notebook, 2026-11-22: what makes the latent phase climb?",
    "learner.latent_entropy_scale": "as RLPD; -k was no better (notebook, 2026-11-22)",
    "learner.initial_temperature": "notebook, 2026-11-22: why does walker2d lose everything?",
    "learner": NOT_TUNED,
    "learner.cloning_weight": PILOTS,
    "learner.cloning_weight_end": "notebook, 2026-11-23: why does the gate give nothing?",
    "learner.cloning_steps": PILOTS,
    "gate": NOT_TUNED,
    "gate.rule": "the method",
    "gate.pessimism": PILOTS,
    "gate.margin": "none: pessimism does it",
    "gate.step": "for the ablation only",
    "gate.raw_share_cap": "no cap",
    "gate.shadow": "off",
    "online.steps": "the peers' 300,000",
    "online.chunk": PILOTS,
    "online.utd": PILOTS,
    "online.offline_fraction": "as RLPD and SUPE",
    "online.start_fraction": "notebook, 2026-11-22: is it the starts of episodes?",
    "online.start_steps": "notebook, 2026-11-22: is it the starts of episodes?",
    "online.recent_fraction": "notebook, 2026-11-22: does sampling the newest hold the gain?",
    "online.recent_episodes": "notebook, 2026-11-23: are short falls lost in a window?",
    "online.random_steps": "none: there is a policy to start from",
    "online.retrace_rate": "for kitchen alone: notebook, 2026-11-27: retraced, then cloned",
    "online.splice_rate": "for kitchen alone: notebook, 2026-11-27: retraced, then cloned",
    "online.best_fraction": "for kitchen alone: notebook, 2026-11-27: retraced, then cloned",
    "online.best_episodes": NOT_TUNED,
    "online.learning_starts": NOT_TUNED,
    "online.replay_capacity": "all",
    "online.env_errors": NOT_TUNED,
    "online.env_processes": "as many as the task needs",
    "evaluation": "ten episodes were +-15 points of noise on hopper",
    "evaluation.every": "time of evaluation against resolution",
    "deployment": "notebook, 2026-11-22: deployment by evidence",
    "deployment.trial_episodes": "notebook, 2026-11-27: what to make of ties?",
    "deployment.steadiness": "notebook, 2026-11-22: what made walker2d's deployment worse?",
    "deployment.caution": NOT_TUNED,
    "safety": "off: only measured",
    "safety.budget.window": NOT_TUNED,
    "iql": IQL_PAPER,
    "sac": SAC_PAPER,
    "bc": "sizes as IQL; not tuned",
    "opal": SUPE_PAPER,
    "opal.decoder_columns": "all, as SUPE, published",
    "supe": SUPE_PAPER,
    "raw": "as --learner.*; not tuned",
    "raw.tau": "notebook, 2026-11-27: does regression by advantage hold the kitchen?",
    "easing": "notebook, 2026-11-27: does regression by advantage hold the kitchen?",
    "easing.updates": "notebook, 2026-11-27: how long must the skill policy clone?",
    # What presets, methods and tasks change.
    "smoke:": SMOKE,
    "quick:transitions": COMPUTE,
    "quick:prior": COMPUTE,
    "quick:offline": COMPUTE,
    "quick:gate": "earlier, as the run is shorter; not tuned",
    "quick:online.steps": "notebook, 2026-11-22: does sampling the newest hold the gain?",
    "quick:online.utd": "notebook, 2026-11-22: UTD 4 for 10k steps or UTD 2 for 20k?",
    "full:gate": "our pilots armed it at 20,000",
    "full:online.utd": "notebook, 2026-11-22: UTD 4 for 10k steps or UTD 2 for 20k?",
    "latent-only:gate.rule": "SPAARS with the gate shut",
    "iql:": "IQL, published fine-tuning",
    "iql:iql.updates": "published: 1,000,000; `quick` has a tenth",
    "iql:iql": SMALLER,
    "iql:deployment": "as published: the newest policy",
    "rlpd:": RLPD_PAPER,
    "rlpd:online.utd": "RLPD, published; `quick` at the compute of the others",
    "rlpd:deployment": "as published: the newest policy",
    "sac:": SAC_PAPER,
    "sac:online.random_steps": "as RLPD",
    "sac:online.learning_starts": "as RLPD",
    "sac:sac.hidden": SMALLER,
    "sac:deployment": "as published: the newest policy",
    "supe:": SUPE_SCALED,
    "supe:online.chunk": "whole skills, whole chunks in the kitchen's 280 steps",
    "supe:standardise": "SUPE, published: observations as they are",
    "supe:log_every": SMALLER,
    "supe:checkpoint_every": SMALLER,
    "supe:evaluation": "time of evaluation against resolution",
    "supe:deployment": "as published: the newest policy",
    "spaars-supe:": SUPE_SCALED,
    "spaars-supe:online.chunk": "whole skills, whole chunks in the kitchen's 280 steps",
    "spaars-supe:log_every": SMALLER,
    "spaars-supe:checkpoint_every": SMALLER,
    "spaars-supe:evaluation": "time of evaluation against resolution",
    "spaars-supe:supe.bonus_from": "as it was measured; SUPE's own order has not been run",
    "spaars-supe:supe.novelty_from": "as it was measured; SUPE's own order has not been run",
    "spaars-supe:easing": SMALLER,
    "spaars-supe:deployment": "returns are counts there; two episodes told too little of them",
    "spaars-supe:raw": SMALLER,
    "spaars-supe:gate": NOT_TUNED,
    "bc:online": "it learns from the logs only",
    "bc:bc": SMALLER,
    "kitchen-mixed:evaluation": "an episode costs a second of simulation",
    "kitchen-mixed:opal": "the robot's joints: notebook, 2026-11-27",
    "kitchen-mixed:online": "notebook, 2026-11-27: retraced, then cloned",
    "kitchen-mixed:easing": "notebook, 2026-11-27: retraced, then cloned",
    "kitchen-mixed:raw": "notebook, 2026-11-27: why does the newest policy come down",
    "kitchen-mixed:gate": "notebook, 2026-11-27: why does the newest policy come down",
    "kitchen-mixed:iql": "IQL, published for kitchen and Adroit",
    "door-human:iql": "IQL, published for kitchen and Adroit",
}
SECTIONS = {
    "prior": "CVAE behaviour prior",
    "opal": "Skills (OPAL)",
    "offline": "Offline start",
    "learner": "Online learner",
    "gate": "Gate and hand-over",
    "online": "Online phase",
    "deployment": "Deployment",
    "evaluation": "Evaluation",
    "safety": "Safety",
    "safety.budget": "Safety: budget",
    "iql": "IQL, the peer",
    "sac": "SAC: `sac` and `rlpd`, and over skills `supe` and `spaars-supe`",
    "bc": "Behavioural cloning",
    "supe": "SUPE",
    "raw": "Raw policy beside skills",
    "easing": "Start of the skill policy",
}
NO_NUMBERS = ("task", "method", "preset", "dataset", "prior_from")
Row = tuple[str, ...]


def origin(name: str, where: str = "", used: set[str] | None = None) -> str:
    """Where a setting comes from: its own entry, else that of the sections above it."""
    parts = name.split(".")
    for n in range(len(parts), -1, -1):
        key = where + ".".join(parts[:n])
        if key in ORIGIN and (where or n):
            if used is not None:
                used.add(key)
            return ORIGIN[key]
    raise SystemExit(f"docs/make_pages.py: ORIGIN does not say where {where}{name} comes from")


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{path}{name}.") if nested else {path + name: value}
    return found


def value_of(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(shown, value)) or "-"
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def flag(name: str) -> str:
    return f"`--{name.replace('_', '-')}`"


def table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def across_presets(
    names: Iterable[str], task: str, method: str, where: str, used: set[str] | None
) -> str:
    """A row for each setting: its value in the three presets, and where it comes from."""
    configs = [preset_config(task, method, preset) for preset in PRESETS]
    rows = [
        (flag(name), *(shown(value_of(c, name)) for c in configs), origin(name, where, used))
        for name in names
    ]
    return table(("setting", *PRESETS, "from"), rows)


def defaults(path: str, config: Any, used: set[str] | None) -> str:
    """A row for each field of a section that is no section itself."""
    node = node_of(type(config))
    assert isinstance(node, ast.ClassDef)
    texts = {ast.unparse(field.target): text for field, text in fields_of(node)}
    rows = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) or (not path and field.name in NO_NUMBERS):
            continue
        name = f"{path}.{field.name}" if path else field.name
        rows.append((flag(name), shown(value), _cell(texts[field.name]), origin(name, "", used)))
    return table(("setting", "default", "what it is", "from"), rows)


def presets_page(used: set[str] | None = None) -> str:
    """`used` collects the keys of ORIGIN that were needed."""
    blocks = [
        "# Every preset, and where its numbers come from",
        "<!-- generated from src/spaars/training/config.py by `python docs/make_pages.py` -->",
        "A run's settings are put together in this order, the later one winning: the defaults, "
        "what the task asks of every method, the preset, the method, the method's own preset, what "
        "the task asks of this method, your flags. `spaars train TASK --method M --preset P "
        "--help` shows the outcome; config.json of a run keeps it.",
        "In the last column, *published* means that the number stands in that method's paper or "
        "public code; *notebook* that it was measured here, under that date and question in "
        "[lab-notebook.md](lab-notebook.md); *our pilots* that it was measured before this project "
        "began, one seed each; *not tuned* that somebody chose it and nobody has tried others. "
        "SPAARS's own numbers are not published.",
        "## Presets",
        "`smoke` goes through every phase in about a minute and teaches nothing; `quick` is the "
        "smallest that learns (hopper from 30 to 84 and more in 9 to 18 minutes); `full` is the "
        "defaults but for the following.",
    ]
    for preset, settings in PRESETS.items():
        changed = flat(settings)
        config = preset_config("hopper-medium", "spaars", preset)
        rows = [
            (flag(name), shown(value_of(config, name)), origin(name, f"{preset}:", used))
            for name in changed
        ]
        blocks += [f"### `{preset}`", table(("setting", "value", "from"), rows)]
    blocks += ["## Methods", "What makes a method, on top of the preset of that name."]
    for method, own in METHODS.items():
        reads = ", ".join(f"`--{name}.*`" for name in own.sections)
        blocks += [f"### `{method}`", f"Reads {reads}, beside what all methods read."]
        names = list(flat(own.settings))
        for settings in own.presets.values():
            names += [name for name in flat(settings) if name not in names]
        if names:
            blocks.append(across_presets(names, "hopper-medium", method, f"{method}:", used))
    blocks += [
        "## Tasks",
        "`hopper-medium`, `walker2d-medium` and any `--env` change nothing. The three kitchen "
        "tasks are alike.",
    ]
    for task in ("kitchen-mixed", "door-human"):
        for method, settings in get_task(task).settings.items():
            who = f"`--method {method}`" if method else "every method"
            names = list(flat(settings))
            text = across_presets(names, task, method or "spaars", f"{task}:", used)
            blocks += [f"### `{task}`, {who}", text]
    config = TrainConfig(task="")
    names = [field.name for field in dataclasses.fields(config)]
    sections = {name for name in names if dataclasses.is_dataclass(getattr(config, name))}
    if missing := sections - set(SECTIONS):
        raise SystemExit(f"docs/make_pages.py: SECTIONS lacks {', '.join(sorted(missing))}")
    blocks += [
        "## Defaults",
        "Every setting that the tables above do not name has this value.",
        defaults("", config, used),
    ]
    for path, title in SECTIONS.items():
        section = value_of(config, path)
        blocks += [f"### {title}", defaults(path, section, used)]
    return "\n\n".join(blocks) + "\n"


PAGES = {"api.md": api_page, "presets.md": presets_page}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make())
        print(f"docs/{page}")
