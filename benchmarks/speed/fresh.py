"""What only a fresh process can tell: the time to its first updates, the most memory it took.

    python -m benchmarks.speed.fresh first-update
    python -m benchmarks.speed.fresh memory DATASET.npz ONLINE_ROWS DIRECTORY
    python -m benchmarks.speed.fresh point CHANGES_AS_JSON ROWS OBSERVATIONS RING

prints a JSON object. `benchmarks.speed.measure.fresh_process` runs it.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

from benchmarks.speed.measure import Record, one_core, peak_memory


def since_start() -> float:
    """Seconds since the process began, by the clock of `measure.Seconds`."""
    if one_core():
        return time.process_time()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def first_update() -> Record:
    """The main job up to its first updates: of the prior, of the offline start, online."""
    from benchmarks.speed import work
    from spaars import seeding
    from spaars.training.offline import OfflineLoop

    marks = {"imports": since_start()}
    config = work.config_of("spaars", online={"chunk": 1, "utd": 1})
    data = work.Data.make(10_000)
    loop = work.online_loop(config, data, ring=1_000, env=work.hopper)
    keys = seeding.streams(config.seeds, seeding.OFFLINE)
    offline = OfflineLoop(loop.agent, data.offline, keys)
    state = work.own_buffers(loop.state)
    for phase in loop.agent.offline_phases():
        state, _ = offline.run(phase, state, 0, 1)
        marks[f"first update, {phase.name}"] = since_start()
    loop.envs.env_steps = config.online.learning_starts
    loop.run_chunk()
    return marks | {"first update, online": since_start()}


def memory(dataset: Path, online_rows: int, directory: Path) -> Record:
    """A run through all phases, a few updates each: reads a file, learns, acts, saves."""
    from benchmarks.speed import work
    from spaars.training.run import train
    from spaars.training.trainer import Progress, Stopped

    imports = peak_memory()
    config = work.config_of(
        "spaars",
        dataset=dataset,
        prior={"updates": 250},
        offline={"updates": 250},
        online={"steps": online_rows, "learning_starts": 100},
        evaluation={"episodes": 1},
        log_every=250,
    )

    def stop_online(progress: Progress) -> None:
        if progress.stage == "online":
            raise KeyboardInterrupt

    with contextlib.suppress(Stopped):
        train(config, directory, on_progress=stop_online)
    return {"imports": imports, "run": peak_memory()}


def point(changes: Record, rows: int, observations: int, ring: int) -> Record:
    """Rate and memory of the gated phase's updates at one point of `benchmarks.speed.scaling`."""
    from benchmarks.speed import measure, work

    config = work.config_of("spaars", **changes)
    data = work.Data.make(rows, observations)
    loop = work.online_loop(config, data, armed=True, ring=ring)
    update = work.online_updates("gated", config, loop)
    (found,) = measure.rates([update.case], repetitions=5, seconds=1.0).values()
    stored = sum(x.nbytes for x in (*data.offline[:5], *loop.replay.ring.storage[:5]))
    return {
        "updates_per_second": measure.spread(found),
        "flops": update.flops,
        "peak_bytes": peak_memory(),
        "stored_bytes": stored,
    }


def main(kind: str, *words: str) -> None:
    if kind == "first-update":
        found = first_update()
    elif kind == "memory":
        found = memory(Path(words[0]), int(words[1]), Path(words[2]))
    else:
        found = point(json.loads(words[0]), *map(int, words[1:]))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
