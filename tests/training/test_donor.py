import json
from pathlib import Path

import jax
import numpy as np
import pytest

import toy
from spaars.data.sources import load_dataset
from spaars.errors import ConfigError, RunError
from spaars.training.checkpoint import load_checkpoint
from spaars.training.config import preset_config
from spaars.training.donor import donated_prior
from spaars.training.run import train
from spaars.training.trainer import Stopped

SMALL = {
    "prior": {"updates": 20, "hidden": (8,)},
    "offline": {"updates": 10},
    "learner": {"hidden": (8,), "critics": 2},
    "online": {"steps": 0},
    "evaluation": {"episodes": 1},
}


def config(dataset, seeds=(0,), method="spaars", **changes):
    sizes = SMALL | changes
    return preset_config("point", method, "smoke", dataset=dataset, seeds=seeds, **sizes)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return toy.point_file(tmp_path_factory.mktemp("data") / "point.npz")


@pytest.fixture(scope="module")
def donor(dataset, tmp_path_factory, point_task) -> Path:
    """A run of two seeds."""
    path = tmp_path_factory.mktemp("donor") / "run"
    train(config(dataset, seeds=(4, 7)), path)
    return path


def prior(run) -> dict[str, np.ndarray]:
    arrays = load_checkpoint(run).arrays
    return {name: x for name, x in arrays.items() if name.startswith("state/prior/params")}


def test_a_prior_is_taken_and_not_trained(dataset, donor, tmp_path):
    run = tmp_path / "run"
    train(config(dataset, seeds=(7,), method="latent-only", prior_from=donor), run)
    theirs, ours = prior(donor), prior(run)
    assert theirs.keys() == ours.keys() != set()
    for name, values in ours.items():
        np.testing.assert_array_equal(values[0], theirs[name][1])  # seed 7 is their second
        assert values.shape[0] == 1
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {r["phase"] for r in records if r["kind"] == "train"} == {"offline"}
    described = json.loads((run / "config.json").read_text())
    assert described["config"]["prior_from"] == str(donor.resolve())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offline": {"updates": 10, "batch_size": 512}}, r"--offline.batch-size 256, this run"),
        ({"seeds": (4, 5)}, r"it has seeds \[4, 7\], not \[5\]"),
        ({"prior": {"updates": 20, "hidden": (9,)}}, r"--prior.hidden \(8,\), this run asks for"),
        ({"prior": {"updates": 21, "hidden": (8,)}}, r"--prior.updates 20, this run asks for 21"),
        (
            {"standardise": False},
            r"observations standardised, this run as they are \(--standardise",
        ),
    ],
)
def test_another_prior_is_refused_before_the_data_are_recorded(
    dataset, donor, tmp_path, changes, message, monkeypatch
):
    monkeypatch.setattr("spaars.training.run.load_dataset", None)
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match=message):
        train(config(dataset, **{"seeds": (4,)} | changes, prior_from=donor), run)
    assert not run.exists()


def test_another_kind_of_prior_is_refused(dataset, donor, tmp_path):
    sizes = {"method": "bc", "prior_from": donor}
    with pytest.raises(ConfigError, match="bc has no behaviour prior; leave --prior-from out"):
        train(preset_config("point", dataset=dataset, **sizes), tmp_path / "run")


def test_other_data_are_refused(donor, tmp_path):
    other = toy.point_file(tmp_path / "other.npz", seed=1)
    with pytest.raises(ConfigError, match="it learned from other data"):
        train(config(other, seeds=(4,), prior_from=donor), tmp_path / "run")


def test_an_unfinished_prior_is_refused(dataset, tmp_path, point_task):
    unfinished = tmp_path / "unfinished"

    def stop(progress):
        raise Stopped("enough")

    with pytest.raises(Stopped):
        train(config(dataset, checkpoint_every=50), unfinished, on_progress=stop)
    with pytest.raises(RunError, match="its prior is not trained yet; `spaars resume"):
        train(config(dataset, prior_from=unfinished), tmp_path / "run")
    with pytest.raises(RunError, match="it has no config"):
        train(config(dataset, prior_from=tmp_path / "nowhere"), tmp_path / "run")


@pytest.mark.slow
def test_a_skill_prior_goes_to_either_skill_method(dataset, tmp_path, point_task):
    """It lies in another place of the state."""
    skills = {"opal": {"updates": 10, "hidden": (8,), "recurrent": 4, "skill_length": 4}}
    sizes = skills | {"easing": {"updates": 5}, "online": {"steps": 0}}
    train(
        preset_config("point-on", "spaars-supe", "smoke", dataset=dataset, **sizes),
        tmp_path / "donor",
    )
    # SUPE's own prior reads observations as they are.
    given = skills | {"prior_from": tmp_path / "donor", "standardise": True}
    for method in ("supe", "spaars-supe"):
        taker = preset_config("point-on", method, "smoke", dataset=dataset, **given)
        loaded = load_dataset(toy.POINT_ON, dataset, 0)
        found = donated_prior(taker, loaded)
        arrays = load_checkpoint(tmp_path / "donor").arrays
        expected = {k: v for k, v in arrays.items() if k.startswith("state/skill/prior/params")}
        leaves = jax.tree.leaves(found.params)
        assert len(leaves) == len(expected) > 0
        total = sum(float(np.abs(x).sum()) for x in expected.values())
        assert sum(float(abs(x).sum()) for x in leaves) == pytest.approx(total, rel=1e-5)
