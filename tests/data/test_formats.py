"""Directories of episodes, Minari and LeRobot: what is read from sound ones, and the usual errors.

Malformed ones are in test_fuzz_sources.py, D4RL's files and npz in test_sources.py.
"""

import gc
import json
import sys
import types
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from make_sources import LENGTHS, steps, write_episodes, write_lerobot, write_minari
from spaars.data import Dataset, load_file, save_npz
from spaars.data.sources import Reading, absolute, exists, lerobot, safety
from spaars.errors import DataError
from spaars.training.run import check_parts


def message_of(path: Path | str, reading: Reading | None = None) -> str:
    with pytest.raises(DataError) as error:
        load_file(path, reading)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def both(i: int) -> np.ndarray:
    """(n + 1, 5) observations of episode i, position before velocity."""
    s = steps(LENGTHS[i], i)
    return np.concatenate([s["position"], s["velocity"]], 1)


# --- a directory of episodes --------------------------------------------------------------------


def test_episodes_take_next_observations_from_the_following_row(tmp_path: Path) -> None:
    done = []
    dataset = load_file(write_episodes(tmp_path / "log"), None, lambda *args: done.append(args))
    assert dataset.label == "log (3 npz episodes)"
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert dataset.episode_lengths().tolist() == [n - 1 for n in LENGTHS]  # the last has no next
    assert not dataset.terminated.any()
    for i, rows in enumerate(dataset.episodes()):
        np.testing.assert_array_equal(dataset.observations[rows], both(i)[:-2])
        np.testing.assert_array_equal(dataset.next_observations[rows], both(i)[1:-1])
        np.testing.assert_array_equal(dataset.actions[rows], steps(LENGTHS[i], i)["actions"][:-1])


def test_episodes_with_a_final_observation_keep_every_row(tmp_path: Path) -> None:
    for i, n in enumerate(LENGTHS):
        s = steps(n, i)
        np.savez(
            tmp_path / f"{i}.npz",
            observations=both(i),
            actions=s["actions"],
            rewards=s["rewards"],
            terminated=(np.arange(n) == n - 1) & (i == 1),
        )
    dataset = load_file(tmp_path)
    assert dataset.episode_lengths().tolist() == list(LENGTHS)
    assert np.flatnonzero(dataset.terminated).tolist() == [6]
    assert np.flatnonzero(dataset.truncated).tolist() == [3, 11]
    np.testing.assert_array_equal(dataset.next_observations[4:7], both(1)[1:])


def test_episodes_with_a_final_observation_hold_one_episode(tmp_path: Path) -> None:
    n = LENGTHS[0]
    arrays = {"observations": both(0), "actions": np.zeros((n, 2)), "rewards": np.ones(n)}
    np.savez(tmp_path / "a.npz", **arrays, truncated=np.arange(n) == 1)
    with pytest.raises(DataError, match=r"a\.npz: row 1 ends an episode before the last"):
        load_file(tmp_path)


def test_episodes_terminal_row_is_kept(tmp_path: Path) -> None:
    n = 3
    arrays = {"observations": both(1)[:n], "actions": np.zeros((n, 2)), "rewards": np.ones(n)}
    np.savez(tmp_path / "a.npz", **arrays, terminated=[0, 0, 1])
    np.savez(tmp_path / "b.npz", **arrays, truncated=[0, 0, 1])
    dataset = load_file(tmp_path)
    assert dataset.episode_lengths().tolist() == [3, 2]
    assert dataset.terminated.tolist() == [False, False, True, False, False]


def test_converted_episodes_keep_what_they_say_of_themselves(tmp_path: Path) -> None:
    arrays = {"observations": np.zeros((4, 1)), "rewards": np.ones(4)}
    actions = np.array([[-90.0], [0.0], [45.0], [90.0]])
    degrees = Reading(action_low=(-90.0,), action_high=(90.0,))
    for day in (0, 1):
        flags = {"terminated": np.zeros(4, bool), "truncated": np.arange(4) == 3}
        whole = arrays | flags | {"actions": actions, "next_observations": np.zeros((4, 1))}
        np.savez(tmp_path / f"day{day}.npz", **whole)
        (tmp_path / "joined").mkdir(exist_ok=True)
        save_npz(load_file(tmp_path / f"day{day}.npz", degrees), tmp_path / "joined" / f"{day}.npz")
    joined = load_file(tmp_path / "joined")
    assert (joined.description.action_low, joined.description.action_high) == ((-90,), (90,))
    assert "says itself how to read" in message_of(tmp_path / "joined", degrees)
    np.savez(tmp_path / "joined" / "raw.npz", **arrays, actions=np.zeros((4, 1)))
    with pytest.raises(DataError, match=r"raw\.npz: was converted otherwise than .*0\.npz, or one"):
        load_file(tmp_path / "joined")


def test_a_loggers_metadata_does_not_make_a_minari_dataset(tmp_path: Path) -> None:
    root = write_episodes(tmp_path / "log")
    (root / "metadata.json").write_text('{"robot": "arm"}')
    assert len(load_file(root).episode_lengths()) == len(LENGTHS)


def test_episodes_must_be_alike(tmp_path: Path) -> None:
    root = write_episodes(tmp_path / "log")
    np.savez(
        root / "odd.npz", observations=np.zeros((4, 7)), actions=np.zeros((4, 2)), rewards=[0] * 4
    )
    with pytest.raises(
        DataError, match=r"odd\.npz: observations consist of observations \(7\), in"
    ):
        load_file(root)


def test_a_directory_of_nothing_names_what_is_supported(tmp_path: Path) -> None:
    for word in ("LeRobotDataset", "Minari", ".hdf5", "directory of .npz"):
        assert word in message_of(tmp_path)
    assert "no such file or directory" in message_of(tmp_path / "absent")


# --- Minari -------------------------------------------------------------------------------------


def test_minari_dict_is_the_envs(tmp_path: Path) -> None:
    parts = {"observations": [["position", 2], ["velocity", 3]]}
    check_parts(load_file(write_minari(tmp_path / "set")), parts, "the env")


@pytest.mark.parametrize("part", ["", "data", "data/main_data.hdf5"])
def test_minari_dict_is_joined_by_name(tmp_path: Path, part: str) -> None:
    dataset = load_file(write_minari(tmp_path / "set") / part)
    assert dataset.label == "toy/point-v0 (Minari dataset)"
    assert dataset.description.observations == (
        ("position", 2),
        ("velocity", 3),
    )
    assert dataset.episode_lengths().tolist() == list(LENGTHS)
    assert np.flatnonzero(dataset.terminated).tolist() == [3]
    for i, rows in enumerate(dataset.episodes()):
        np.testing.assert_array_equal(dataset.observations[rows], both(i)[:-1])
        np.testing.assert_array_equal(dataset.next_observations[rows], both(i)[1:])


def test_minari_order_and_choice_by_flag(tmp_path: Path) -> None:
    root = write_minari(tmp_path / "set")
    chosen = ("observations/velocity", "observations/position")
    dataset = load_file(root, Reading(columns={"observations": chosen}))
    np.testing.assert_array_equal(dataset.observations[0, 3:], both(0)[0, :2])
    dataset = load_file(root, Reading(columns={"observations": ("observations/position",)}))
    assert dataset.observation_dim == 2
    with pytest.raises(DataError, match="does not apply to this format"):
        load_file(root, Reading(columns={"next_observations": ("infos/x",)}))


def test_minari_images_are_left_out_with_a_warning(tmp_path: Path) -> None:
    root = write_minari(tmp_path / "set")
    with h5py.File(root / "data" / "main_data.hdf5", "a") as file:
        for i, n in enumerate(LENGTHS):
            file[f"episode_{i}/observations/camera"] = np.zeros((n + 1, 4, 4, 3), np.uint8)
            file[f"episode_{i}/observations/text"] = ["x"] * (n + 1)
    with pytest.warns(UserWarning, match="left out, no vectors: .*camera.*text"):
        assert load_file(root).observation_dim == 5


def test_minari_missing_episodes(tmp_path: Path) -> None:
    root = write_minari(tmp_path / "set")
    with h5py.File(root / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1"]
    with pytest.raises(DataError, match=r"holds 2 episodes .* says 3\. Download or copy"):
        load_file(root)


def test_minari_id_of_an_installed_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "minari", None)  # not needed for what is there
    root = write_minari(tmp_path / "toy" / "point-v0")
    assert load_file("minari:toy/point-v0").sha256 == load_file(root).sha256
    assert exists(Path("minari:toy/other-v0"))  # only reading tells
    assert str(absolute(Path("minari:toy/point-v0"))) == "minari:toy/point-v0"
    message = message_of("minari:toy/other-v0")
    assert 'pip install "spaars[minari]"' in message


def test_minari_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    fake = types.ModuleType("minari")
    monkeypatch.setitem(sys.modules, "minari", fake)

    def fails(dataset_id: str) -> None:
        raise ConnectionError("no route\nto host")

    fake.download_dataset = fails  # type: ignore[attr-defined]
    message = message_of("minari:toy/point-v0")
    assert "could not be downloaded (no route to host)" in message
    assert str(tmp_path / "toy" / "point-v0") in message
    fake.download_dataset = lambda dataset_id: write_minari(tmp_path / dataset_id)  # type: ignore[attr-defined]
    assert len(load_file("minari:toy/point-v0")) == sum(LENGTHS)


def test_minari_agrees_with_its_own_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari = pytest.importorskip("minari")
        import gymnasium as gym

        space = gym.spaces.Dict(
            {
                "z": gym.spaces.Box(-9, 9, (2,)),
                "a": gym.spaces.Dict({"q": gym.spaces.Box(-9, 9, (3,))}),
            }
        )

        class Env(gym.Env):
            observation_space = space
            action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                self.t = 0
                return space.sample(), {"t": 0}

            def step(self, action):
                self.t += 1
                return space.sample(), self.t / 10, self.t == 5, False, {"t": self.t}

        collector = minari.DataCollector(Env(), record_infos=True)
        for seed, length in enumerate((5, 3)):
            collector.reset(seed=seed)
            for _ in range(length):
                collector.step(collector.action_space.sample())
        theirs = list(collector.create_dataset("toy/env-v0").iterate_episodes())
        del collector  # while the warning of its temporary directory is ignored
        gc.collect()
        ours = load_file("minari:toy/env-v0")
        assert ours.terminated.sum() == 1
        for episode, rows in zip(theirs, ours.episodes(), strict=True):
            every = [
                gym.spaces.flatten(space, {"z": z, "a": {"q": q}})
                for z, q in zip(
                    episode.observations["z"], episode.observations["a"]["q"], strict=True
                )
            ]
            np.testing.assert_array_equal(ours.observations[rows], every[:-1])
            np.testing.assert_array_equal(ours.next_observations[rows], every[1:])
            np.testing.assert_array_equal(ours.actions[rows], episode.actions)
            np.testing.assert_allclose(ours.rewards[rows], episode.rewards)


# --- LeRobot ------------------------------------------------------------------------------------


def quiet(path: Path, reading: Reading | None = None) -> Dataset:
    with pytest.warns(UserWarning, match=r"left out, no vectors: 'observation\.images\.top'"):
        return load_file(path, reading)


FRAMES = sum(LENGTHS)
LAST = np.isin(np.arange(FRAMES), np.cumsum(LENGTHS) - 1)


def test_lerobot(tmp_path: Path) -> None:
    dataset = quiet(write_lerobot(tmp_path / "set"))
    assert dataset.label == "set (LeRobotDataset v3)"
    assert dataset.description.observations == (
        ("observation.state", 2),
        ("observation.velocity", 3),
    )
    assert dataset.episode_lengths().tolist() == [n - 1 for n in LENGTHS]
    assert not dataset.terminated.any()
    for i, rows in enumerate(dataset.episodes()):
        np.testing.assert_array_equal(dataset.observations[rows], both(i)[:-2])
        np.testing.assert_array_equal(dataset.next_observations[rows], both(i)[1:-1])
        np.testing.assert_allclose(dataset.rewards[rows], steps(LENGTHS[i], i)["rewards"][:-1])


def test_lerobot_done_and_truncated(tmp_path: Path) -> None:
    first = np.arange(FRAMES) == LENGTHS[0] - 1
    extra = {"next.done": LAST, "next.truncated": LAST & ~first}
    dataset = quiet(write_lerobot(tmp_path / "set", **extra))
    assert np.flatnonzero(dataset.terminated).tolist() == [LENGTHS[0] - 1]
    assert dataset.episode_lengths().tolist() == [4, 2, 4]


def test_lerobot_done_alone_is_doubtful(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "set", **{"next.done": LAST})
    with pytest.warns(UserWarning, match="--columns truncated=next.done"):
        dataset = quiet(root)
    assert dataset.terminated.sum() == len(LENGTHS)
    dataset = quiet(root, Reading(columns={"truncated": ("next.done",)}))
    assert not dataset.terminated.any()
    assert dataset.truncated.sum() == len(LENGTHS)


def test_lerobot_numbers_of_shape_one(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "set", **{"observation.grip": np.arange(FRAMES) / 10})
    dataset = quiet(root)
    assert dataset.description.observations[0] == ("observation.grip", 1)
    np.testing.assert_allclose(dataset.observations[:3, 0], [0.0, 0.1, 0.2], rtol=1e-6)
    assert quiet_one(root, "observation.grip").observation_dim == 1


def quiet_one(root: Path, column: str) -> Dataset:
    """No warning: what is left out was not asked for."""
    return load_file(root, Reading(columns={"observations": (column,)}))


def test_lerobot_of_an_older_version(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "set")
    info = root / "meta" / "info.json"
    info.write_text(info.read_text().replace("v3.0", "v2.1"))
    assert "convert_dataset_v21_to_v30" in message_of(root)


def test_lerobot_with_a_file_missing(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "set")
    (root / "data" / "chunk-000" / "file-001.parquet").unlink()
    with pytest.warns(UserWarning, match="left out"):
        assert "holds 7 frames, meta/info.json says 12" in message_of(root)


def test_lerobot_bomb_is_refused_before_it_unfolds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of many equal numbers takes a few bytes in the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = write_lerobot(tmp_path / "set")
    file = root / "data" / "chunk-000" / "file-001.parquet"
    table = pq.read_table(file)
    row = np.zeros(2_000_000, np.float32)
    column = pa.array([row, *[[0.0, 0.0]] * (len(table) - 1)], pa.list_(pa.float32()))
    table = table.set_column(table.column_names.index("action"), "action", column)
    pq.write_table(table, file)
    assert file.stat().st_size < 20_000
    monkeypatch.setattr(safety, "memory", lambda: 2 * 10_000_000)
    read = []
    monkeypatch.setattr(lerobot, "_array", lambda *args: read.append(args))
    monkeypatch.setattr(lerobot, "FILES", "chunk-*/file-001.parquet")
    with pytest.warns(UserWarning, match="left out"):
        message = message_of(root)
    assert "file-001.parquet: declares" in message
    assert "'action' alone" in message
    assert not read


def test_lerobot_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_lerobot(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert 'pip install "spaars[lerobot]"' in message_of(root)


# --- names, rewards, bounds ---------------------------------------------------------------------


def test_columns_of_an_npz(tmp_path: Path) -> None:
    s = steps(4)
    path = tmp_path / "log.npz"
    np.savez(
        path,
        qpos=s["position"][:4],
        qvel=s["velocity"][:4],
        next_qpos=s["position"][1:],
        next_qvel=s["velocity"][1:],
        height=np.arange(4),
        act=s["actions"],
        rew=s["rewards"],
        terminals=np.zeros(4, bool),
        done=[0, 0, 0, 1],
        timeouts=np.zeros(4, bool),
    )
    columns = {
        "observations": ("qvel", "height", "qpos"),
        "next_observations": ("next_qvel", "height", "next_qpos"),
        "actions": ("act",),
        "rewards": ("rew",),
        "terminated": ("done",),
    }
    dataset = load_file(path, Reading(columns=columns))
    assert dataset.description.observations == (("qvel", 3), ("height", 1), ("qpos", 2))
    np.testing.assert_array_equal(dataset.observations[:, 3], np.arange(4))
    np.testing.assert_array_equal(dataset.next_observations[:, 4:], s["position"][1:])
    assert dataset.terminated.tolist() == [False, False, False, True]
    message = message_of(path, Reading(columns=columns | {"actions": ("acts",)}))
    assert "no array 'acts'. Did you mean 'act'?" in message
    assert "--columns observations=NAME" in message_of(path)
    joined = Reading(columns=columns | {"observations": ("qvel", "rew", "absent")})
    assert "'absent'" in message_of(path, joined)


def test_columns_in_groups_of_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "log.hdf5"
    with h5py.File(path, "w") as file:
        file["obs/qpos"], file["obs/qvel"] = np.ones((4, 2)), np.zeros((4, 1))
        file["actions"], file["rewards"] = np.zeros((4, 1)), np.zeros(4)
        file["terminals"] = np.arange(4) == 3
        file["elsewhere"] = h5py.SoftLink("/obs")
    columns = {"observations": ("obs/qvel", "obs/qpos")}
    dataset = load_file(path, Reading(columns=columns))
    np.testing.assert_array_equal(dataset.observations, np.tile([0.0, 1.0, 1.0], (4, 1)))
    columns = {"observations": ("elsewhere/qpos",)}
    assert "no array 'elsewhere/qpos'" in message_of(path, Reading(columns=columns))
    columns = {"observations": ("elsewhere",)}
    assert "links are not followed" in message_of(path, Reading(columns=columns))


def test_absent_rewards_are_never_invented(tmp_path: Path) -> None:
    root = write_episodes(tmp_path / "log")
    for file in root.iterdir():
        with np.load(file) as arrays:
            kept = {name: arrays[name] for name in ("observations", "actions")}
        np.savez(file, **kept)
    with pytest.raises(DataError, match="--rewards zero") as error:
        load_file(root)
    assert "no array 'rewards'" in str(error.value)
    dataset = load_file(root, Reading(rewards="zero"))
    assert not dataset.rewards.any()
    assert dataset.description.rewards == "zero"


def test_recorded_rewards_are_not_thrown_away(tmp_path: Path) -> None:
    for root in (write_episodes(tmp_path / "log"), write_minari(tmp_path / "set")):
        with pytest.raises(DataError, match=r"has rewards .*Leave it out"):
            load_file(root, Reading(rewards="zero"))


def test_actions_are_rescaled_by_explicit_bounds(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    n = 3
    arrays = {
        "observations": np.zeros((n, 1)),
        "next_observations": np.zeros((n, 1)),
        "actions": np.array([[0.0, -90.0], [5.0, 0.0], [10.0, 90.0]]),
        "rewards": np.ones(n),
        "terminated": np.zeros(n, bool),
        "truncated": np.zeros(n, bool),
    }
    np.savez(path, **arrays)
    assert "--action-low and --action-high" in message_of(path)
    dataset = load_file(path, Reading(action_low=(0.0, -180.0), action_high=(10.0, 180.0)))
    np.testing.assert_allclose(dataset.actions, [[-1, -0.5], [0, 0], [1, 0.5]])
    assert dataset.description.action_low == (0, -180)
    dataset = load_file(path, Reading(action_low=(-90.0,), action_high=(90.0,)))
    np.testing.assert_allclose(dataset.actions[:, 1], [-1, 0, 1])
    assert dataset.description.action_high == (90, 90)
    message = message_of(path, Reading(action_low=(0.0, -45.0), action_high=(10.0, 45.0)))
    assert "dimension 1 ranges over [-90, 90], beyond --action-low -45" in message
    message = message_of(path, Reading(action_low=(0.0, 0.0, 0.0), action_high=(1.0,)))
    assert "has 2 dimensions, --action-low 3 numbers" in message


def test_many_episodes_beyond_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fits, all of them do not."""
    sources = {
        "log": write_episodes(tmp_path / "log"),
        "minari": write_minari(tmp_path / "minari"),
        "lerobot": write_lerobot(tmp_path / "lerobot"),
    }
    monkeypatch.setattr(safety, "memory", lambda: 2 * 450)
    for root in sources.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert "this machine can load" in message_of(root)


def test_other_peoples_names_are_fit_for_terminals_and_pages(tmp_path: Path) -> None:
    root = write_minari(tmp_path / "set")
    path = root / "data" / "metadata.json"
    facts = json.loads(path.read_text()) | {"dataset_id": "a[red]<b>\x1b[1m" + "x" * 999}
    path.write_text(json.dumps(facts))
    assert load_file(root).label == f"a_red__b___1m{'x' * 187} (Minari dataset)"
