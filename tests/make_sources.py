"""Small datasets in every format, as other people's tools lay them out."""

import json
from pathlib import Path

import h5py
import numpy as np

LENGTHS = (4, 3, 5)


def steps(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """An episode of n steps and n + 1 observations: 2 numbers, then 3."""
    rng = np.random.default_rng(seed)
    return {
        "position": rng.normal(size=(n + 1, 2)).astype(np.float32),
        "velocity": rng.normal(size=(n + 1, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n),
    }


def write_episodes(root: Path, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """A directory of npz without next observations and flags."""
    root.mkdir(parents=True)
    for i, n in enumerate(lengths):
        s = steps(n, i)
        observations = np.concatenate([s["position"], s["velocity"]], 1)[:n]
        np.savez(
            root / f"episode_{i:03d}.npz",
            observations=observations,
            actions=s["actions"],
            rewards=s["rewards"],
        )
    return root


def write_minari(root: Path, lengths: tuple[int, ...] = LENGTHS, nested: bool = True) -> Path:
    """Minari's HDF5 layout; the first episode terminates, the others are cut."""
    data = root / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for i, n in enumerate(lengths):
            s = steps(n, i)
            group = file.create_group(f"episode_{i}")
            group.attrs["id"] = i
            observations = {"velocity": s["velocity"], "position": s["position"]}
            if nested:
                for name, array in observations.items():
                    group[f"observations/{name}"] = array
            else:
                group["observations"] = np.concatenate(list(observations.values()), 1)
            group["actions"], group["rewards"] = s["actions"], s["rewards"]
            group["terminations"] = (np.arange(n) == n - 1) & (i == 0)
            group["truncations"] = (np.arange(n) == n - 1) & (i > 0)
            group["infos/x"] = np.zeros(n + 1)
    facts = {
        "dataset_id": "toy/point-v0",
        "total_episodes": len(lengths),
        "total_steps": sum(lengths),
        "data_format": "hdf5",
        "env_spec": '{"entry_point": "os:abort"}',
        "observation_space": "never evaluated",
        "action_space": "never evaluated",
    }
    (data / "metadata.json").write_text(json.dumps(facts))
    return root


def write_lerobot(root: Path, lengths: tuple[int, ...] = LENGTHS, **extra: np.ndarray) -> Path:
    """LeRobotDataset v3 with a camera; the first two episodes in one file, the others in a second.

    `extra` are further columns, one row for each frame of all episodes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, list] = {}
    for i, n in enumerate(lengths):
        s = steps(n, i)
        episode = {
            "observation.velocity": [row.tolist() for row in s["velocity"][:n]],
            "observation.state": [row.tolist() for row in s["position"][:n]],
            "action": [row.tolist() for row in s["actions"]],
            "next.reward": s["rewards"].tolist(),
            "episode_index": [i] * n,
            "frame_index": list(range(n)),
            "timestamp": (np.arange(n) / 10).tolist(),
        }
        for name, values in episode.items():
            rows.setdefault(name, []).extend(values)
    rows |= {name: list(values) for name, values in extra.items()}
    split = sum(lengths[:2])
    vector = pa.list_(pa.float32())
    types = {"observation.velocity": pa.list_(pa.float32(), 3), "observation.state": vector}
    table = pa.table(
        {
            name: pa.array(values, types.get(name, vector if name == "action" else None))
            for name, values in rows.items()
        }
    )
    (root / "data" / "chunk-000").mkdir(parents=True)
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    pq.write_table(table[:split], root / "data" / "chunk-000" / "file-000.parquet")
    pq.write_table(table[split:], root / "data" / "chunk-000" / "file-001.parquet")
    stops = np.cumsum(lengths)
    episodes = {
        "episode_index": list(range(len(lengths))),
        "length": list(lengths),
        "dataset_from_index": (stops - lengths).tolist(),
        "dataset_to_index": stops.tolist(),
    }
    pq.write_table(
        pa.table(episodes), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    )
    shapes = {"observation.velocity": [3], "observation.state": [2], "action": [2]}
    features = {
        name: {"dtype": "float32", "shape": shapes.get(name, [1]), "names": None} for name in rows
    } | {"observation.images.top": {"dtype": "video", "shape": [480, 640, 3], "names": None}}
    info = {
        "codebase_version": "v3.0",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "fps": 10,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "features": features,
    }
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root
