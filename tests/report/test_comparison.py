"""Which runs are pooled, what the page and its JSON say of them, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from test_report import HOSTILE, Page, assert_self_contained

from spaars.cli import report as cli
from spaars.errors import ConfigError, RunError
from spaars.report import comparison_figures, load_run, write_comparison
from spaars.report.groups import READ_BY, Comparison, group_names, group_runs
from spaars.report.safety_table import COLUMNS
from spaars.training.config import METHODS

RESULTS = Path(__file__).parents[2] / "results" / "before-deployment"


def make_run(
    path: Path,
    seeds: Sequence[int] = (0,),
    *,
    score: float = 80.0,
    offline: float | None = 40.0,
    task: str = "hopper-medium",
    method: str = "spaars",
    sha256: str | None = "ab" * 32,
    revision: str = "0123abc",
    steps: int = 10_000,
    finished: bool = True,
    label: str = "recorded",
    **settings: Any,
) -> Path:
    """A run as results/ holds it: seed s ends at score + s; gate_rule sets gate.rule."""
    path.mkdir(parents=True)
    nested: dict[str, Any] = {"gate": {"rule": "advantage"}, "online": {"steps": steps}}
    plain: dict[str, Any] = {"preset": "quick", "checkpoint_every": 5_000}
    for flag, value in settings.items():
        section, _, name = flag.partition("_")
        if section in ("gate", "prior", "online"):
            nested.setdefault(section, {})[name] = value
        else:
            plain[flag] = value
    names = {"task": task, "method": method, "seeds": list(seeds), "dataset": None}
    dataset = {"label": label, "sha256": sha256, "transitions": 1_000}
    config = {"config": {**names, **plain, **nested}, "dataset": dataset, "git_revision": revision}
    (path / "config.json").write_text(json.dumps(config))
    records, rows = [], []
    for seed in seeds:
        evaluated = {0: offline or 1.0, steps // 2: 60.0, steps: score + seed}
        lasting = {"episode": {1_000: 50.0, 4_000: 20.0, 6_000: 30.0}, "evaluation": evaluated}
        records += [
            {"kind": kind, "seed": seed, "step": step, "score": value, "label": "x"}
            for kind, values in lasting.items()
            for step, value in values.items()
        ]
        row = {"seed": seed, "final_score": score + seed, "offline_score": offline}
        row |= {"dip_worst": 1.0 + seed, "drop_below_offline": 2.0 + seed, "env_steps": steps}
        rows.append({**row, "falls_per_1k": 0.5 + seed})
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if finished:
        (path / "summary.json").write_text(json.dumps({"seeds": rows}))
    return path


def grouped(*paths: Path) -> Comparison:
    return group_runs([load_run(path) for path in paths])


def written(out: Path, *paths: Path, **options: Any) -> tuple[Page, dict[str, Any]]:
    page = write_comparison(paths, out / "page.html", **options)
    return Page(page), json.loads((out / "page.json").read_text())


# ---------------------------------------------------------------------- who is pooled with whom


def test_seeds_of_one_setting_are_pooled_over_run_directories(tmp_path: Path) -> None:
    found = grouped(
        make_run(tmp_path / "b", (3,)),
        # Neither of these changes a result, nor does where the data lie.
        make_run(tmp_path / "a", (0, 1), checkpoint_every=500, transitions=7, dataset="/data/x"),
    )
    (problem,) = found.problems
    (group,) = problem.groups
    assert (group.name, group.settings) == ("spaars", {})
    assert [(s.run, s.seed) for s in group.seeds] == [("a", 0), ("a", 1), ("b", 3)]


def test_a_whole_number_is_one_setting_however_it_was_given(tmp_path: Path) -> None:
    """From Python a float may be an int, as it is never from the command line."""
    found = grouped(
        make_run(tmp_path / "a", (1,), online_retrace_rate=0, safety={"rate_limit": [1]}),
        make_run(tmp_path / "b", (2,), online_retrace_rate=0.0, safety={"rate_limit": [1.0]}),
        make_run(tmp_path / "c", (3,), safety={"rate_limit": [1.0]}),  # did not know it
        make_run(tmp_path / "d", (4,), online_retrace_rate=0.5, safety={"rate_limit": [1]}),
    )
    assert [len(group.seeds) for group in found.problems[0].groups] == [3, 1]


def test_settings_that_differ_make_groups_and_name_them(tmp_path: Path) -> None:
    found = grouped(
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", gate_rule="step", gate_step=4_000),
        make_run(tmp_path / "c", method="sac", gate_rule="never"),
    )
    (problem,) = found.problems
    assert [group.name for group in problem.groups] == [
        "spaars (gate.rule=advantage, gate.step=absent)",
        "spaars (gate.rule=step, gate.step=4000)",
        "sac",  # a method's settings are its own: what differs from another method's is no matter
    ]


def test_of_many_differences_the_fewest_that_tell_apart_are_named(tmp_path: Path) -> None:
    more = {"preset": "full", "prior_hidden": [8], "prior_updates": 3, "gate_margin": 0.5}
    found = grouped(
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", **more, steps=20_000),
        make_run(tmp_path / "c", **(more | {"gate_margin": 0.25}), steps=20_000),
    )
    assert group_names(found) == [
        "spaars (preset=quick, online.steps=10000, gate.margin=absent, +2)",
        "spaars (preset=full, online.steps=20000, gate.margin=0.5, +2)",
        "spaars (preset=full, online.steps=20000, gate.margin=0.25, +2)",
    ]
    assert found.problems[0].groups[1].settings["prior.hidden"] == "[8]"


def test_what_an_older_version_did_not_know_does_not_tell_it_apart(tmp_path: Path):
    """Unless it is switched on, or the method reads it."""
    old = make_run(tmp_path / "old", (1,))
    new = make_run(
        tmp_path / "new",
        (2,),
        gate_shadow=False,
        online_env_errors=10,
        online_retrace_rate=0.0,
        easing={"steps": 3},
    )
    assert len(group_runs([load_run(old), load_run(new)]).problems[0].groups) == 1
    on = make_run(tmp_path / "on", (3,), gate_shadow=True)
    assert len(group_runs([load_run(old), load_run(on)]).problems[0].groups) == 2
    skills = [
        make_run(
            tmp_path / f"skills{steps}", (steps,), method="spaars-supe", easing={"steps": steps}
        )
        for steps in (3, 4)
    ]
    assert len(group_runs([load_run(run) for run in skills]).problems[0].groups) == 2


def test_steps_taken_count_not_those_asked_for(tmp_path: Path) -> None:
    short = make_run(tmp_path / "short", (1,))
    summary = json.loads((short / "summary.json").read_text())
    summary["seeds"][0]["env_steps"] = 8_000
    (short / "summary.json").write_text(json.dumps(summary))
    found = grouped(make_run(tmp_path / "a"), short)
    assert group_names(found) == ["spaars (online.steps=10000)", "spaars (online.steps=8000)"]


@pytest.mark.parametrize(
    "other", [{"sha256": "cd" * 32}, {"task": "walker2d-medium"}, {"sha256": None}]
)
def test_other_data_are_another_problem(tmp_path: Path, other: dict[str, Any]) -> None:
    paths = [make_run(tmp_path / "a"), make_run(tmp_path / "b", (1,), **other)]
    assert [len(p.groups[0].seeds) for p in grouped(*paths).problems] == [1, 1]


def test_data_are_the_same_by_their_bytes_whatever_their_file_was_called(tmp_path: Path) -> None:
    names = ("log", "log (converted)", "log")
    runs = [make_run(tmp_path / str(i), (i,), label=name) for i, name in enumerate(names)]
    (problem,) = grouped(*runs).problems
    assert (problem.label, len(problem.groups[0].seeds)) == ("log", 3)
    assert grouped(*runs[1:]).problems[0].label == "log (converted)"  # the first given
    other = make_run(tmp_path / "other", task="walker2d-medium", label="other")
    assert [p.label for p in grouped(*runs, other).problems] == ["log", "other"]


def test_kitchen_replays_keep_company_with_runs_that_an_older_version_labelled(
    tmp_path: Path,
) -> None:
    new = {"task": "kitchen-mixed", "label": "kitchen-mixed (44 demos)"}
    old = new | {"label": "kitchen_replays (352 replays)"}
    found = grouped(
        make_run(tmp_path / "a", (0,), **old),
        make_run(tmp_path / "b", (1,), **new, online_env_processes=2),
        make_run(tmp_path / "c", (2,), **old, sha256="cd" * 32),
    )
    assert [(p.label, len(p.groups[0].seeds)) for p in found.problems] == [
        ("kitchen-mixed (44 demos)", 2),
        ("kitchen_replays (352 replays)", 1),
    ]


def test_what_one_name_leaves_out_is_told_for_every_task_and_dataset(tmp_path: Path) -> None:
    many = {"preset": "full", "prior_hidden": [8], "prior_updates": 3, "gate_margin": 0.5}
    page, _ = written(
        tmp_path,
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", **many),
        make_run(tmp_path / "c", **many | {"prior_updates": 4}, sha256="cd" * 32, label="again"),
        make_run(tmp_path / "d", **many | {"prior_updates": 5}, sha256="ef" * 32, label="again"),
        make_run(tmp_path / "e", **many | {"prior_updates": 6}, task="walker2d-medium"),
        make_run(tmp_path / "f", **many, task="kitchen-mixed"),
    )
    table = " ".join(page.text.partition("What sets the groups apart")[2].split())
    full = "spaars (preset= full, +3)"
    assert table.startswith(
        "spaars (preset= quick, +3) "
        f"{full} hopper-medium, recorded; kitchen-mixed "
        f"{full} hopper-medium, again, sha256 {'cd' * 32} "
        f"{full} hopper-medium, again, sha256 {'ef' * 32} "
        f"{full} walker2d-medium "
    )
    assert "prior. updates absent 3 4 5 6 " in table


def test_data_of_unknown_checksum_are_never_pooled(tmp_path: Path) -> None:
    found = grouped(*(make_run(tmp_path / n, (i,), sha256=None) for i, n in enumerate("ab")))
    assert [p.sha256 for p in found.problems] == ["not recorded in a", "not recorded in b"]


def test_a_setting_that_follows_from_the_task_does_not_split_a_method(tmp_path: Path) -> None:
    walker = {"task": "walker2d-medium", "sha256": "cd" * 32, "prior_latent_dim": 6}
    paths = [
        make_run(tmp_path / "h", prior_latent_dim=3),
        make_run(tmp_path / "w", score=20.0, **walker),
        make_run(tmp_path / "w2", gate_rule="never", **walker),
    ]
    assert group_names(grouped(*paths[:2])) == ["spaars"]
    _, numbers = written(tmp_path, *paths)
    (over,) = numbers["over_tasks"]["groups"]
    assert over["name"] == "spaars (gate.rule=advantage)"  # the same name on the task without never
    assert over["mean"] == 50.0
    assert over["differs_between_tasks"] == {"prior.latent_dim": ["3", "6"]}
    assert numbers["not_over_tasks"] == ["spaars (gate.rule=never) was not run on every task."]


# ---------------------------------------------------------------------- what is refused


def test_a_seed_that_comes_twice_is_an_error_naming_both_runs(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / "a", (0, 1)), make_run(tmp_path / "b", (1, 2))]
    with pytest.raises(RunError, match="seed 1 of spaars comes twice") as caught:
        grouped(*paths)
    assert all(str(path) in str(caught.value) for path in paths)


def test_refusals(tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "a"), tmp_path / "out.html"
    with pytest.raises(RunError, match=r"must end in \.html"):
        write_comparison([run], tmp_path / "out.json")
    for thresholds in ((), (float("nan"),)):
        with pytest.raises(RunError, match="thresholds must be finite"):
            write_comparison([run], out, thresholds=thresholds)
    with pytest.raises(ConfigError, match=r"unknown baseline 'spars'\. Did you mean 'spaars'"):
        write_comparison([run], out, baseline="spars")
    unfinished = make_run(tmp_path / "b", finished=False)
    with pytest.raises(RunError, match="nothing to compare: b is unfinished"):
        write_comparison([unfinished], out)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl holds no evaluation"):
        write_comparison([run], out)
    assert not list(tmp_path.glob("out*"))


def test_what_is_no_comparison_is_not_written_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    for name, content in (
        ("table", '[{"task": "hopper-medium"}]'),
        ("a/config", (run / "config.json").read_text()),
        ("some", '{"thresholds": [90.0], "tasks": []}'),
        ("broken", '{"thresholds":'),
    ):
        numbers = tmp_path / f"{name}.json"
        numbers.write_text(content)
        # Before anything is read: the second run is none.
        with pytest.raises(RunError, match="holds something else") as caught:
            write_comparison([run, tmp_path / "none"], numbers.with_suffix(".html"))
        assert str(numbers) in str(caught.value)
        assert numbers.read_text() == content
    assert not list(tmp_path.rglob("*.html"))


# ---------------------------------------------------------------------- what is said


def test_golden_numbers(tmp_path: Path) -> None:
    page, numbers = written(
        tmp_path,
        make_run(tmp_path / "a", (0, 1, 2)),
        make_run(tmp_path / "scratch", (5, 7), method="sac", offline=None, score=76.0),
        thresholds=(60.0, 81.0, 99.0),
    )
    (task,) = numbers["tasks"]
    spaars, sac = task["groups"]
    assert task["baseline"] == "spaars"
    assert task["dataset"] == {"label": "recorded", "sha256": "ab" * 32}
    assert [seed["final_score"] for seed in spaars["seeds"]] == [80.0, 81.0, 82.0]
    assert (spaars["mean"], spaars["iqm"], spaars["env_steps"]) == (81.0, 81.0, 10_000.0)
    # Of three seeds a resample is all-lowest with chance 1/27 > 2.5%, so the ends are reached.
    assert spaars["mean_interval"] == spaars["iqm_interval"] == [80.0, 82.0]
    assert spaars["steps_to_threshold"] == [
        {"threshold": 60.0, "median": 5_000.0, "reached": 3},
        {"threshold": 81.0, "median": 10_000.0, "reached": 2},
        {"threshold": 99.0, "median": None, "reached": 0},
    ]
    assert spaars["safety"] == {
        "handed_over": 3,
        "dip_worst": 3.0,
        "drop_below_offline_worst": 4.0,
        "falls_per_1k": 1.5,
    }
    # sac ends at 81 and 83: of six pairs four and, by a tie, a half are above.
    assert sac["probability_of_improvement"] == 4.5 / 6
    assert sac["probability_interval"] is sac["mean_interval"] is None  # two seeds
    assert sac["offline_score"] is None
    assert sac["safety"]["drop_below_offline_worst"] is None
    assert sac["safety"]["falls_per_1k"] == 6.5
    assert "not reached" in page.text
    assert "2 of 3 seeds" in page.text
    assert "80.0 to 82.0" in page.text
    assert "1 of 2 results with fewer than 3 seeds" in page.text


def test_numbers_of_the_page_are_those_of_the_json(tmp_path: Path) -> None:
    page, numbers = written(tmp_path, make_run(tmp_path / "a", (0, 1, 2)))
    (group,) = numbers["tasks"][0]["groups"]
    (safety,) = numbers["tasks"][0]["safety"]["rows"]
    assert page.numbers == [
        *(group[key] for key in ("mean", "iqm")),
        *(3, group["offline_score"], group["env_steps"]),
        # of the steps to 90: "not reached", no number
        *(safety[c.key] for c in COLUMNS if safety[c.key] is not None),
        3,
        *(seed["final_score"] for seed in group["seeds"]),
    ]


def test_page_is_self_contained_escaped_and_the_same_twice(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    paths = [
        make_run(tmp_path / "a", (0, 1, 2), label=HOSTILE),
        make_run(tmp_path / "b", (0, 1, 2), label=HOSTILE, gate_rule=HOSTILE),
        make_run(tmp_path / "c", (0,), method="half \ud83d $of$ $\\x", label=HOSTILE),
    ]
    page, _ = written(tmp_path / "one", *paths)
    assert_self_contained(tmp_path / "one" / "page.html")
    assert HOSTILE in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    written(tmp_path / "two", *paths)
    for name in ("page.html", "page.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert dict(matplotlib.rcParams) == before
    assert len(list((tmp_path / "one").iterdir())) == 2


def test_what_is_left_out_or_unequal_is_said(tmp_path: Path) -> None:
    ended = make_run(tmp_path / "no-final", (4,))
    text = (ended / "summary.json").read_text().replace("84.0", "null")
    (ended / "summary.json").write_text(text)
    page, numbers = written(
        tmp_path,
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", (1,), revision="4567def"),
        make_run(tmp_path / "sac", method="sac", steps=20_000),
        make_run(tmp_path / "stopped", (2,), finished=False),
        ended,
    )
    assert numbers["left_out"] == [
        "stopped is unfinished: it has no summary.json.",
        "no-final, seed 4, ended without a final evaluation.",
    ]
    assert "Left out: stopped is unfinished" in page.text
    assert "trained at different git revisions: 0123abc, 4567def" in page.text
    assert "different numbers of online steps" in page.text


def test_baseline_and_the_task_that_lacks_it(tmp_path: Path) -> None:
    walker = {"task": "walker2d-medium", "sha256": "cd" * 32}
    page, numbers = written(
        tmp_path,
        make_run(tmp_path / "a"),
        make_run(tmp_path / "s", method="sac", score=10.0),
        make_run(tmp_path / "w", **walker),
        make_run(tmp_path / "wl", method="latent-only", **walker),
        baseline="sac",
    )
    hopper, other = numbers["tasks"]
    assert [g["probability_of_improvement"] for g in hopper["groups"]] == [1.0, None]
    assert other["baseline"] is None
    assert "the baseline was not run here" in page.text


def test_over_tasks_needs_one_dataset_a_task_and_as_many_seeds(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", (0, 1))
    again = make_run(tmp_path / "b", sha256="cd" * 32)
    walker = make_run(tmp_path / "w", task="walker2d-medium")
    _, numbers = written(tmp_path, first, again)
    assert numbers["over_tasks"] is None
    assert numbers["not_over_tasks"] == ["hopper-medium comes with 2 datasets."]
    _, numbers = written(tmp_path, first, walker)
    assert numbers["over_tasks"] is None
    assert numbers["not_over_tasks"] == [
        "spaars has 2 and 1 seeds: the tasks would weigh differently."
    ]


def test_scores_of_own_envs_are_returns_and_not_averaged_over_tasks(tmp_path: Path) -> None:
    own = make_run(tmp_path / "own", task="my_arm:Reach-v0", score=0.8)
    page, numbers = written(tmp_path, own)
    assert "Return of the last checkpoint" in page.text
    assert "points of the return" in page.text
    assert "ormalised" not in page.text
    assert numbers["not_over_tasks"] == []
    page, numbers = written(tmp_path, own, make_run(tmp_path / "hopper"))
    assert "Normalised score of the last checkpoint" in page.text
    assert numbers["over_tasks"] is None
    assert numbers["not_over_tasks"] == [
        "Scores of my_arm:Reach-v0 are returns: no two envs share a scale."
    ]
    assert "Not averaged: Scores of my_arm:Reach-v0 are returns" in page.text


def test_profile_figure_draws_the_share_above(tmp_path: Path) -> None:
    names = [f"group {i}" for i in range(8)]
    look = comparison_figures.looks(names)
    assert len(set(look.values())) == len(names)  # more than there are colours
    scores = {"group 0": np.array([[-15.0], [50.0], [120.0]]), "group 7": np.array([[60.0]])}
    figure = comparison_figures.performance_profiles(scores, look)
    ax = figure.axes[0]
    assert ax.get_xlim() == (-20.0, 120.0)
    taus, shares = np.array(ax.lines[0].get_data())
    assert shares[np.searchsorted(taus, 0.0)] == pytest.approx(2 / 3)
    assert len(ax.collections) == 1  # a band of the three runs, none of the single one


def test_profile_of_returns_spans_their_own_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def keep(*args: Any, **kwargs: Any) -> Any:
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    draw = comparison_figures.performance_profiles
    monkeypatch.setattr(comparison_figures, "performance_profiles", keep)
    own = {"task": "my_arm:Reach-v0"}
    low, high = (make_run(tmp_path / f"s{i}", (i,), score=0.4 * i, **own) for i in (0, 1))
    written(tmp_path, low, high)  # returns 0 and 1.4
    written(tmp_path, low)
    several, equal = (figure.axes[0] for figure in drawn)
    assert several.get_xlim() == pytest.approx((-0.07, 1.47))
    taus, shares = np.array(several.lines[0].get_data())
    assert sum((taus > 0.0) & (taus < 1.4)) >= 50
    assert set(shares) == {0.0, 0.5, 1.0}
    assert equal.get_xlim() == (-1.0, 1.0)


def test_committed_runs_suffice(tmp_path: Path) -> None:
    names = ("quick-20k-s1", "quick-20k-s2", "quick-s1", "quick-s2")
    quick = [RESULTS / f"hopper-medium-{name}" for name in names]
    runs = [*quick, RESULTS / "hopper-medium-full-s1"]
    page, numbers = written(tmp_path, *runs, thresholds=(60.0, 90.0))
    (task,) = numbers["tasks"]
    seeds = [seed["run"] for group in task["groups"] for seed in group["seeds"]]
    assert sorted(seeds) == [run.name for run in quick]
    assert numbers["left_out"] == ["hopper-medium-full-s1 is unfinished: it has no summary.json."]
    # The same flags at two versions of the project: never pooled.
    assert [len(group["seeds"]) for group in task["groups"]] == [2, 2]
    for group in task["groups"]:
        finals = []
        for seed in group["seeds"]:
            (row,) = json.loads((RESULTS / seed["run"] / "summary.json").read_text())["seeds"]
            finals.append(row["final_score"])
        assert group["mean"] == pytest.approx(np.mean(finals), rel=1e-12)
        assert group["mean_interval"] is None
    assert task["dataset"]["label"] in page.text


# ---------------------------------------------------------------------- the command


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(tmp_path / "a")), str(make_run(tmp_path / "b", (1,)))]
    out = tmp_path / "new" / "page.html"
    for given in (runs, runs[:1]):
        assert cli.run([*given, "--out", str(out), "--thresholds", "60", "70"]) == 0
        assert capsys.readouterr().out == f"wrote {out}\n"
        numbers = json.loads(out.with_suffix(".json").read_text())
        assert numbers["thresholds"] == [60.0, 70.0]
        assert len(numbers["tasks"][0]["groups"][0]["seeds"]) == len(given)
    assert not list(tmp_path.rglob("report.html"))
    with pytest.raises(RunError, match=r"add --out PAGE\.html"):
        cli.run(runs)
    with pytest.raises(RunError, match="belong to a comparison"):
        cli.run([runs[0], "--baseline", "spaars"])
    with pytest.raises(RunError, match="no run given"):
        cli.run([])


def test_a_directory_stands_for_the_runs_below(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "suite"
    make_run(suite / "hopper-medium" / "spaars" / "s0")
    make_run(suite / "hopper-medium" / "spaars" / "s1", (1,))
    assert cli.run([str(suite)]) == 0
    assert capsys.readouterr().out == f"wrote {suite / 'report.html'}\n"
    numbers = json.loads((suite / "report.json").read_text())
    assert [seed["seed"] for seed in numbers["tasks"][0]["groups"][0]["seeds"]] == [0, 1]
    other = str(make_run(tmp_path / "other", (2,)))
    assert cli.run([str(suite), other, "--out", str(tmp_path / "all.html")]) == 0
    numbers = json.loads((tmp_path / "all.json").read_text())
    assert len(numbers["tasks"][0]["groups"][0]["seeds"]) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="neither a run nor a directory of runs"):
        cli.run([str(tmp_path / "empty")])


def test_the_sections_that_a_method_reads_are_those_of_training() -> None:
    sections = sorted({section for method in METHODS.values() for section in method.sections})
    assert sections == sorted(READ_BY)
    for section in sections:
        readers = {name for name, method in METHODS.items() if section in method.sections}
        assert readers == set(READ_BY[section]), section
