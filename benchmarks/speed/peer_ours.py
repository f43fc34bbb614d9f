"""The same work as the peers', by this package.

python -m benchmarks.speed.peer_ours sac STEPS plain|layer-norm
python -m benchmarks.speed.peer_ours iql UPDATES ROWS
"""

import sys

from benchmarks.speed import work, worker


def sac(steps: int, critics: str) -> None:
    """Environment steps of the whole loop, an update each."""
    config = work.config_of(
        "sac", sac={"layer_norm": critics == "layer-norm"}, online={"random_steps": 0}
    )
    loop = work.online_loop(config, work.Data.make(1_000), env=work.hopper)
    loop.envs.env_steps = config.online.learning_starts
    chunks = steps // config.online.chunk
    worker.serve(chunks * config.online.chunk, lambda: [loop.run_chunk() for _ in range(chunks)])


def iql(updates: int, rows: int) -> None:
    """Offline updates, sampling of the batch included."""
    config = work.config_of("iql")
    update = work.offline_updates("IQL", config, "offline", work.Data.make(rows), block=updates)
    worker.serve(updates, update.case.run)


if __name__ == "__main__":
    kind, number, setting = sys.argv[1:]
    if kind == "sac":
        sac(int(number), setting)
    else:
        iql(int(number), int(setting))
