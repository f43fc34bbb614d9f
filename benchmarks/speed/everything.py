"""The benchmark itself: what `python -m benchmarks.speed` measures of our own code."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import measure, work
from benchmarks.speed.measure import Case, Record, fresh_process, ratios, spread
from spaars.data import Dataset
from spaars.data.sources.write import save_npz
from spaars.training.envs import EnvPopulation
from spaars.training.online import OnlineLoop

GEMM_BATCHES = (128, 256, 512, 1024, 4096)
WIDTH = 256


def products(batch: int, length: int = 200) -> Case:
    """`length` products (batch, 256) x (256, 256) in a scan; a unit is one operation."""
    rng = np.random.default_rng(0)
    # Orthogonal: whatever is multiplied neither grows nor fades into slow denormal numbers.
    weight = jnp.asarray(np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0], jnp.float32)
    x = jnp.asarray(rng.standard_normal((batch, WIDTH)), jnp.float32)

    @jax.jit
    def run(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (x @ weight, None), x, None, length)[0]

    work = lambda: run(x, weight).block_until_ready()  # noqa: E731
    return Case(f"{batch}x{WIDTH}x{WIDTH}", 2.0 * batch * WIDTH**2 * length, work)


def updates(rows: int) -> list[work.Update]:
    """Every kind of update, at the methods' own settings."""
    data = work.Data.make(rows)
    spaars, iql, supe = (work.config_of(name) for name in ("spaars", "iql", "supe"))
    found = [
        work.offline_updates("CVAE prior", spaars, "prior", data),
        work.offline_updates("OPAL prior", supe, "prior", data, block=20),
        work.offline_updates("IQL offline start", spaars, "offline", data),
        work.offline_updates("IQL (peer)", iql, "offline", data),
    ]
    online = {
        "latent phase": (spaars, False),
        "gated phase": (spaars, True),
        "SAC": (work.config_of("sac"), False),
        # Four steps a chunk: 20 updates each are enough to time.
        "RLPD": (work.config_of("rlpd", online={"chunk": 4}), False),
    }
    for name, (config, armed) in online.items():
        loop = work.online_loop(config, data, armed)
        found.append(work.online_updates(name, config, loop))
    return found


def rates_of_updates(rows: int, repetitions: int, seconds: float) -> Record:
    """Updates per second, and which share of the products' rate their operations make."""
    gemms, kinds = [products(batch) for batch in GEMM_BATCHES], updates(rows)
    found = measure.rates([*gemms, *(u.case for u in kinds)], repetitions, seconds)
    shapes = {case.name: spread([r / 1e9 for r in found[case.name]]) for case in gemms}
    best = max(shapes, key=lambda name: shapes[name]["median"])
    table = {}
    for update in kinds:
        rate = found[update.case.name]
        table[update.case.name] = {
            "gflop_per_update": float(f"{update.flops / 1e9:.4g}"),
            "updates_per_second": spread(rate),
            "share_of_ceiling": spread(
                [r * update.flops / ceiling for r, ceiling in zip(rate, found[best], strict=True)]
            ),
        }
    return {"gemm_gflop_per_second": {"ceiling": best, "shapes": shapes}, "updates": table}


def loop_cases(name: str, config: Any, loop: OnlineLoop) -> list[Case]:
    """The whole loop, and what it is made of, each in environment steps."""
    envs = EnvPopulation(work.hopper, config.seeds)
    steps = config.online.chunk
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (steps, 1, work.ACTIONS))

    def step_envs() -> None:
        for action in actions.astype(np.float32):
            envs.step(action)

    return [
        Case(f"{name}: loop", steps, loop.run_chunk),
        Case(f"{name}: updates only", steps, loop.update),
        Case(f"{name}: env only", steps, step_envs),
    ]


def rates_of_loops(rows: int, repetitions: int, seconds: float) -> Record:
    """Environment steps per second of the whole online loop on Hopper-v4, and of its parts."""
    data = work.Data.make(rows)
    spaars, sac = work.config_of("spaars"), work.config_of("sac", online={"random_steps": 0})
    setups = {"latent phase": (spaars, False), "gated phase": (spaars, True), "SAC": (sac, False)}
    cases: list[Case] = []
    for name, (config, armed) in setups.items():
        loop = work.online_loop(config, data, armed, env=work.hopper)
        loop.envs.env_steps = config.online.learning_starts
        cases += loop_cases(name, config, loop)
    found = measure.rates(cases, repetitions, seconds)
    table = {}
    for name in setups:
        loops, only_updates, only_env = (
            found[f"{name}: {part}"] for part in ("loop", "updates only", "env only")
        )
        slower = [min(pair) for pair in zip(only_updates, only_env, strict=True)]
        table[name] = {
            "loop": spread(loops),
            "updates_only": spread(only_updates),
            "env_only": spread(only_env),
            "share_of_the_slower": spread(ratios(loops, slower)),
        }
    return table


def time_to_first_update(repetitions: int) -> Record:
    """Seconds from the start of a process, first without, then with what it left in the cache."""
    found: dict[str, list[Record]] = {"cold": [], "warm": []}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as cache:
            env = {  # as `spaars.cli.main` sets them
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            }
            for runs in found.values():
                runs.append(fresh_process("benchmarks.speed.fresh", "first-update", env=env))
    return {
        kind: {mark: spread([run[mark] for run in runs]) for mark in runs[0]}
        for kind, runs in found.items()
    }


def peak_memory(offline_rows: int, online_rows: int) -> Record:
    """Most memory of a run, less that of the same run on hardly any data, over the arrays' size."""
    sizes = {"small": (10_000, 25_000), "large": (offline_rows, online_rows)}
    found: Record = {"offline_rows": offline_rows, "online_rows": online_rows}
    arrays = {}
    with tempfile.TemporaryDirectory() as made:
        for name, (logged, online) in sizes.items():
            file = Path(made) / f"{name}.npz"
            dataset = _dataset(logged)
            per_row = sum(a.nbytes for a in dataset.arrays.values()) / logged
            save_npz(dataset, file)
            del dataset
            run = Path(made) / f"run-{name}"
            words = ("memory", str(file), str(online), str(run))
            found[name] = fresh_process("benchmarks.speed.fresh", *words)["run"]
            arrays[name] = per_row * (logged + online)
    found["arrays"] = round(arrays["large"])
    grown = arrays["large"] - arrays["small"]
    found["over_arrays"] = round((found["large"] - found["small"]) / grown, 3)
    return found


def _dataset(rows: int) -> Dataset:
    batch = work.transitions(rows)
    ends = np.arange(1, rows + 1) % work.EPISODE == 0
    return Dataset.build(
        label="made up",
        observations=np.asarray(batch.observations),
        actions=np.asarray(batch.actions),
        rewards=np.asarray(batch.rewards),
        next_observations=np.asarray(batch.next_observations),
        terminated=np.zeros(rows, bool),
        truncated=ends,
    )


def run(quick: bool, repetitions: int, say: Callable[[str], None]) -> Record:
    """All of it; `quick` measures shortly, on less data."""
    rows, seconds = (100_000, 0.3) if quick else (1_000_000, 2.0)
    say("updates")
    found = rates_of_updates(rows, repetitions, seconds)
    say("whole loops")
    found["loops"] = rates_of_loops(rows, repetitions, seconds)
    say("time to the first update")
    found["first_update"] = time_to_first_update(1 if quick else repetitions)
    say("memory")
    found["memory"] = peak_memory(rows, 300_000)
    return found
