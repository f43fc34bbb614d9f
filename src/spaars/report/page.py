"""report.html: one self-contained page that says what a run did, for a phone, a desk or paper."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spaars.report import figures
from spaars.report.markup import (
    document,
    escape,
    figure_element,
    settings_table,
    show_number,
    write_file,
)
from spaars.report.records import (
    Record,
    Run,
    flatten,
    handover_steps,
    load_run,
    mean_of,
    number,
    offline_scores,
    scores_are_returns,
    seeds,
    select,
    series_by_seed,
    worst_of,
)
from spaars.safety.summary import MEASURES, summarise


class Plate(NamedTuple):
    """A figure of the page."""

    name: str
    """Its file is figures/{name}.png."""
    title: str
    draw: figures.Draw
    caption: str
    """One sentence: what to look for."""
    needs: str
    """What must be in metrics.jsonl, for the note that stands in for a missing figure."""


PLATES = (
    Plate(
        "learning_curve",
        "Learning curve",
        figures.learning_curve,
        "Look for a curve that starts at the dashed offline score, rises, and does not break at "
        "the hand-over (triangle). Dotted: the newest policy, where it is not the deployed one.",
        "evaluations",
    ),
    Plate(
        "dip",
        "Dip below the offline policy",
        figures.dip,
        "Look for shading: each shaded stretch is a time at which the policy was worse than the "
        "one you started from.",
        "an offline evaluation and a later one",
    ),
    Plate(
        "gate_share",
        "Who acts",
        figures.gate_share,
        "The share of actions taken by the raw policy: look for a gate that opens after the "
        "hand-over and settles, neither stuck at 0% nor jumping to 100% at once.",
        "'raw_share' of the online phase or of evaluations",
    ),
    Plate(
        "cloning_error",
        "Cloning error",
        figures.cloning_error,
        "The distance between the raw policy's action and the decoded one: look for a small value "
        "when the hand-over comes, because it bounds the dip.",
        "'cloning_error' of the online phase",
    ),
    Plate(
        "episode_returns",
        "Training episodes",
        figures.episode_returns,
        "What the robot really did while it learned: look for clusters of crosses, which are "
        "episodes that ended early.",
        "finished training episodes",
    ),
    Plate(
        "offline_losses",
        "Offline phases",
        figures.offline_losses,
        "Look for curves that have flattened by the end and for a Q that does not run away.",
        "training records of the prior and offline phases",
    ),
)


class Column(NamedTuple):
    """A quantity of summary.json's seeds, a row of the page's table."""

    key: str
    title: str
    note: str
    form: str
    """How it is printed: a format specification, or 'duration'."""


COLUMNS: tuple[Column, ...] = (
    Column("offline_score", "Offline score", "before the first online step", ".1f"),
    Column("handover_score", "Score at the hand-over", "newest policy", ".1f"),
    Column("final_score", "Final score", "deployed policy, last checkpoint", ".1f"),
    Column("newest_score", "Newest policy", "last checkpoint, deployed or not", ".1f"),
    Column("dip_worst", "Worst dip", "newest policy, points lost after the hand-over", ".1f"),
    Column("drop_below_offline", "Worst drop", "points below the offline score", ".1f"),
    Column("falls_per_1k", "Falls", "per 1,000 online steps", ".2f"),
    Column("handover_step", "Hand-over", "online step", ",.0f"),
    Column("env_steps", "Online steps", "", ",.0f"),
    Column("wall_seconds", "Wall time", "of the whole run, all seeds together", "duration"),
)

# For a run without a summary: the same table, from what metrics.jsonl holds so far.
PROGRESS_COLUMNS: tuple[Column, ...] = (
    Column("offline_score", "Offline score", "before the first online step", ".1f"),
    Column("score", "Latest score", "", ".1f"),
    Column("score_step", "evaluated at", "online step", ",.0f"),
    Column("handover_step", "Hand-over", "online step", ",.0f"),
    Column("env_steps", "Online steps", "recorded so far", ",.0f"),
)


def write_report(run_dir: Path) -> Path:
    """Write figures/*.png and report.html into a run directory; returns the page's path.

    An interrupted run gets a page that says so, and a metric that was not recorded a note in
    place of its figure. Raises RunError when the directory is not a readable run.
    """
    run = load_run(run_dir)
    images: dict[str, bytes] = {}
    for plate in PLATES:
        figure = plate.draw(run.records)
        if figure is not None:
            images[plate.name] = figures.to_png(figure)
    for plate in PLATES:
        path = run.path / "figures" / f"{plate.name}.png"
        if plate.name in images:
            write_file(path, images[plate.name])
        else:
            path.unlink(missing_ok=True)  # of an earlier report on other records
    # JSON can hold half a surrogate pair, UTF-8 cannot: 'replace' prints it as '?'.
    page = render(run, images).encode("utf-8", "replace")
    return write_file(run.path / "report.html", page)


def render(run: Run, images: Mapping[str, bytes]) -> str:
    """The page as HTML. Everything that comes from the run is escaped on its way in."""
    config = run.config["config"]
    title = " · ".join(str(config[k]) for k in ("task", "method", "preset") if config.get(k))
    title = title or run.path.name
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            _headline(run),
            _dataset(run),
            _table(run),
            _subtasks(run),
            _safety(run),
            _events(run),
            "<h2>Figures</h2>",
            *(_figure(plate, images.get(plate.name), run) for plate in PLATES),
            _commands(run),
            _configuration(run),
            _provenance(run),
        ]
    )
    return document(title, body)


def headline(run: Run) -> str:
    """The run in a sentence or two of plain words."""
    return _unfinished(run) if run.summary is None else _finished(run.summary)


def _finished(summary: dict[str, Any]) -> str:
    rows = summary["seeds"]
    final = mean_of(rows, "final_score")
    if final is None:
        return "The run ended without a final evaluation."
    offline = mean_of(rows, "offline_score")
    start = "Final score" if offline is None else f"Offline policy {offline:.1f} \u2192"
    steps = [step for row in rows if (step := number(row.get("env_steps"))) is not None]
    after = f" after {max(steps):,.0f} online steps" if steps else ""
    several = len(rows) > 1
    what = [f"mean of {len(rows)} seeds" if several else "1 seed", "last checkpoint"]
    if (episodes := number(summary.get("evaluation_episodes"))) is not None:
        what.append(f"{episodes:.0f} evaluation episodes" + (" each" if several else ""))
    words = f"{start} {final:.1f}{after} ({', '.join(what)}); {_dip_words(rows)}."
    drop = worst_of(rows, "drop_below_offline")
    if drop is None:
        return words
    if drop <= 0.0:
        return f"{words} Never evaluated below the offline score."
    of_seeds = " in the worst seed" if several else ""
    return f"{words} At its lowest {drop:.1f} points below the offline score{of_seeds}."


def _dip_words(rows: list[dict[str, Any]]) -> str:
    several = len(rows) > 1
    handed = sum(number(row.get("handover_step")) is not None for row in rows)
    dip = worst_of(rows, "dip_worst")
    if not handed:
        return "no hand-over to the raw policy took place"
    if dip is None:
        words = "the dip after the hand-over was not measured"
    elif dip <= 0.0:
        words = "no dip after the hand-over"
    else:
        of_seeds = " in the worst seed" if several else ""
        words = f"worst dip after the hand-over {dip:.1f} points{of_seeds}"
    if handed < len(rows):
        words += f" ({handed} of {len(rows)} seeds handed over)"
    return words


def _unfinished(run: Run) -> str:
    if not run.records:
        return "Unfinished run: nothing has been recorded yet."
    rows = _progress(run.records)
    score, offline = mean_of(rows, "score"), mean_of(rows, "offline_score")
    if score is None:
        last = run.records[-1]
        phase = f" of the {last['phase']} phase" if "phase" in last else ""
        return f"Unfinished run: no evaluation yet; last record at step {last['step']:,}{phase}."
    of_seeds = f"mean of {len(rows)} seeds" if len(rows) > 1 else "1 seed"
    step = max(row["score_step"] for row in rows)
    if not step:
        return f"Unfinished run: offline policy {score:.1f} ({of_seeds}), no online result yet."
    start = "score" if offline is None else f"offline policy {offline:.1f} \u2192"
    return (
        f"Unfinished run: {start} {score:.1f} after {step:,.0f} online steps so far ({of_seeds})."
    )


def _progress(records: list[Record]) -> list[dict[str, Any]]:
    """What summary.json would list per seed, as far as it is known."""
    scores = series_by_seed(records, "evaluation", "score")
    offline, armed = offline_scores(records), handover_steps(records)
    online = [r for r in records if r["kind"] != "train" or r.get("phase") == "online"]
    return [
        {
            "seed": seed,
            "offline_score": offline.get(seed),
            "score": float(scores[seed].values[-1]) if seed in scores else None,
            "score_step": float(scores[seed].steps[-1]) if seed in scores else None,
            "handover_step": armed.get(seed),
            "env_steps": max((r["step"] for r in online if r["seed"] == seed), default=None),
        }
        for seed in seeds(records)
    ]


def _headline(run: Run) -> str:
    words = f'<p class="headline">{escape(headline(run))}</p>'
    if run.summary is None:
        words += (
            '\n<p class="note">There is no summary.json: the run was interrupted or still goes '
            "on. Below is what it has recorded so far.</p>"
        )
    return words


def _dataset(run: Run) -> str:
    dataset = run.config.get("dataset")
    if not isinstance(dataset, dict):
        return '<p class="soft">Dataset: not recorded.</p>'
    size = number(dataset.get("transitions"))
    parts = [escape(dataset.get("label", "no label"))]
    if size is not None:
        parts.append(f"{size:,.0f} transitions")
    parts.append(f"sha256 <code>{escape(dataset.get('sha256', 'not recorded'))}</code>")
    return f'<p class="soft">Dataset: {", ".join(parts)}</p>'


def _table(run: Run) -> str:
    if run.summary is None:
        rows, columns = _progress(run.records), PROGRESS_COLUMNS
    else:
        rows, columns = run.summary["seeds"], COLUMNS
    if not rows:
        return ""
    several = len(rows) > 1
    # The mean comes first: on a phone the last seeds are a swipe away.
    head = '<th scope="col">mean</th>' if several else ""
    head += "".join(f'<th scope="col">seed {row["seed"]}</th>' for row in rows)
    lines = []
    for column in columns:
        values = [number(row.get(column.key)) for row in rows]
        if several:
            values.insert(0, mean_of(rows, column.key))
        note = f"<small>{column.note}</small>" if column.note else ""
        cells = "".join(f"<td>{show_number(value, column.form)}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{column.title}{note}</th>{cells}</tr>')
    words = "Scores are normalised: 0 is a random policy, 100 the task's reference expert."
    if scores_are_returns(str(run.config["config"].get("task", ""))):
        words = "Scores are returns: no reference of this env is known."
    words += " A dash: not measured"
    words += (", or for a mean, not measured in every seed" if several else "") + "."
    return _seed_table("Result", head, lines, words)


def _seed_table(title: str, head: str, lines: list[str], words: str) -> str:
    """A column for each seed, and what the numbers mean."""
    return (
        f'<h2>{title}</h2>\n<div class="wide"><table class="seeds">\n'
        f"<thead><tr><th></th>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n"
        f'</tbody></table></div>\n<p class="soft">{words}</p>'
    )


def _subtasks(run: Run) -> str:
    """How often each was completed, first and last; nothing where the env names none."""
    prefix = "completed/"
    lines = select(run.records, "evaluation")
    names = sorted({key for line in lines for key in line if key.startswith(prefix)})
    if not names:
        return ""
    # An env may tell of a success only where there is one: what is not told did not come about.
    lines = [dict.fromkeys(names, 0.0) | line for line in lines]
    body = []
    for name in names:
        cells = "".join(
            f"<td>{show_number(one.values[-1], '.0%')}"
            f"<small>first {show_number(one.values[0], '.0%')}</small></td>"
            for one in series_by_seed(lines, "evaluation", name).values()
        )
        body.append(f'<tr><th scope="row">{escape(name.removeprefix(prefix))}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">seed {seed}</th>' for seed in seeds(lines))
    words = (
        "The share of evaluation episodes that completed each: the deployed policy at the last "
        "evaluation, and below it at the first."
    )
    return _seed_table("Subtasks", head, body, words)


def _safety(run: Run) -> str:
    """What was measured of the online phase; nothing where nothing was."""
    rows = {
        row["seed"]: row["safety"] if "safety" in row else summarise(run.records, row["seed"])
        for row in (run.summary["seeds"] if run.summary else _progress(run.records))
    }
    known = {seed: row for seed, row in rows.items() if isinstance(row, dict) and row}
    if not known:
        return ""
    lines = []
    for measure in MEASURES:
        found = [known[seed].get(measure.key) for seed in known]
        cells = [_mean_and_max(value, measure.form) for value in found]
        if any(cells):
            lines.append(_safety_row(measure.title, measure.note, cells))
    for key, title, note, form in (
        ("cost", "Cost", "info[&quot;cost&quot;], sum over the finished episodes", ",.4g"),
        ("rollbacks", "Rollbacks", "to the deployed policies", ".0f"),
    ):
        values = [number(known[seed].get(key)) for seed in known]
        if any(value is not None for value in values):
            lines.append(_safety_row(title, note, [show_number(v, form) for v in values]))
    head = "".join(f'<th scope="col">seed {seed}</th>' for seed in known)
    stops = run.summary.get("stops") if run.summary else None
    told = [f"{step:,.0f}" for s in stops or () if (step := number(s)) is not None]
    words = (
        "Of the online phase: mean over the lines of metrics.jsonl, and the highest line. "
        "Measured, not guaranteed: docs/safety.md."
        + (f" Stopped by signal, saved and resumed at step {', '.join(told)}." if told else "")
    )
    return _seed_table("Safety", head, lines, words)


def _mean_and_max(value: object, form: str) -> str:
    """Both numbers of a measure, nothing if there are none."""
    if not isinstance(value, dict):
        return ""
    mean, highest = number(value.get("mean")), number(value.get("max"))
    return f"{show_number(mean, form)}<small>max {show_number(highest, form)}</small>"


def _safety_row(title: str, note: str, cells: list[str]) -> str:
    values = "".join(f"<td>{cell or '-'}</td>" for cell in cells)
    return f'<tr><th scope="row">{title}<small>{note}</small></th>{values}</tr>'


def _events(run: Run) -> str:
    # A resumed run may write an event twice.
    events = {
        (r["step"], r["seed"], str(r.get("event", "")), str(r.get("reason", "")))
        for r in select(run.records, "event")
    }
    if not events:
        return '<h2>Events</h2>\n<p class="soft">None.</p>'
    rows = "\n".join(
        f"<tr><td>{step:,}</td><td>{seed}</td><td>{escape(_event_words(event))}</td>"
        f"<td>{escape(reason)}</td></tr>"
        for step, seed, event, reason in sorted(events)
    )
    return (
        '<h2>Events</h2>\n<table class="events"><thead><tr><th>Step</th><th>Seed</th>'
        f"<th>Event</th><th>Reason</th></tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
    )


def _event_words(event: str) -> str:
    words = {
        "handover": "hand-over armed",
        "measured": "offline policy measured",
        "deployed": "candidate deployed",
        "kept": "candidate rejected",
        "rollback": "learner rolled back to the deployed policies",
    }
    return words.get(event, event)


def _figure(plate: Plate, image: bytes | None, run: Run) -> str:
    if image is None:
        return (
            f'<p class="soft"><b>{plate.title}</b>: left out, metrics.jsonl holds no '
            f"{plate.needs}.</p>"
        )
    caption = plate.caption
    seed_count = len(series_by_seed(run.records, "evaluation", "score"))
    if plate.draw is figures.learning_curve and seed_count > 1:
        caption += f" The band around the mean is the {figures.band_words(seed_count)}."
    return figure_element(plate.name, plate.title, image, caption)


def _commands(run: Run) -> str:
    path = shlex.quote(str(run.path))
    lines = [
        "# go on, if it was interrupted",
        f"spaars resume {path}",
        "# evaluate the last checkpoint on fresh episodes",
        f"spaars eval {path} --offset 1000",
        "# rebuild this page",
        f"spaars report {path}",
    ]
    return "<h2>Go on from here</h2>\n<pre>" + escape("\n".join(lines)) + "</pre>"


def _configuration(run: Run) -> str:
    return "<h2>Configuration</h2>\n" + settings_table(flatten(run.config["config"]))


def _provenance(run: Run) -> str:
    config = run.config
    facts = {
        name: config.get(key, "not recorded")
        for name, key in (
            ("command", "command"),
            ("git revision", "git_revision"),
            ("backend", "backend"),
        )
    }
    versions = config.get("versions")
    return "<h2>Made with</h2>\n" + settings_table(
        [*facts.items(), *(versions.items() if isinstance(versions, dict) else ())]
    )
