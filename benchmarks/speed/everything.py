"""The benchmark itself: what `python -m benchmarks.speed` measures of our own code."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import measure, work
from benchmarks.speed.measure import Case, Record, fresh_process, ratios, spread
from spaars.data.sources.write import save_npz
from spaars.training.envs import EnvPopulation

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

    return Case(
        f"{batch}x{WIDTH}x{WIDTH}",
        2.0 * batch * WIDTH**2 * length,
        lambda: run(x, weight).block_until_ready(),
    )


def rates(quick: bool, repetitions: int, seconds: float) -> Record:
    """Of products, updates and whole loops, all in turn; `quick`: three kinds, less data."""
    data = work.Data.make(100_000 if quick else 1_000_000)
    spaars, iql, supe = (work.config_of(name) for name in ("spaars", "iql", "supe"))
    sac = work.config_of("sac", online={"random_steps": 0})
    # Four steps a chunk: 20 updates each are enough to time.
    rlpd = work.config_of("rlpd", online={"random_steps": 0, "chunk": 4})

    offline = {"IQL offline start": (spaars, "offline", 100)}
    online = {"gated phase": (spaars, True), "SAC": (sac, False)}
    if not quick:
        offline |= {
            "CVAE prior": (spaars, "prior", 100),
            "OPAL prior": (supe, "prior", 20),
            "IQL (peer)": (iql, "offline", 100),
        }
        online |= {"latent phase": (spaars, False), "RLPD": (rlpd, False)}

    gemms = [products(batch) for batch in GEMM_BATCHES]
    updates = [
        work.offline_updates(name, config, phase, data, block)
        for name, (config, phase, block) in offline.items()
    ]
    loops = []
    for name, (config, armed) in online.items():
        loop = work.online_loop(config, data, armed, env=work.hopper)
        loop.envs.env_steps = config.online.learning_starts
        updates.append(work.online_updates(name, config, loop))
        loops.append(Case(f"{name}, loop", config.online.chunk, loop.run_chunk))
    cases = [*gemms, *(update.case for update in updates), *loops, env_steps()]
    found = measure.rates(cases, repetitions, seconds)

    shapes = {case.name: spread([r / 1e9 for r in found[case.name]]) for case in gemms}
    ceiling = max(shapes, key=lambda name: shapes[name]["median"])
    record: Record = {
        "gemm_gflop_per_second": {"ceiling": ceiling, "shapes": shapes},
        "updates": {},
        "env_steps_per_second": spread(found["env"]),
        "loops": {},
    }
    for update in updates:
        name, per_second = update.case.name, found[update.case.name]
        record["updates"][name] = {
            "gflop_per_update": float(f"{update.flops / 1e9:.4g}"),
            "updates_per_second": spread(per_second),
            "share_of_ceiling": spread(
                [r * update.flops / c for r, c in zip(per_second, found[ceiling], strict=True)]
            ),
        }
    for name, (config, _) in online.items():
        whole = found[f"{name}, loop"]
        in_steps = [rate / config.online.utd for rate in found[name]]
        slower = [min(pair) for pair in zip(in_steps, found["env"], strict=True)]
        record["loops"][name] = {
            "steps_per_second": spread(whole),
            "updates_alone": spread(in_steps),
            "share_of_the_slower": spread(ratios(whole, slower)),
        }
    return record


def env_steps(steps: int = 200) -> Case:
    """Hopper-v4 alone, as the loop steps it, with random actions."""
    envs = EnvPopulation(work.hopper, (0,))
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (steps, 1, work.ACTIONS))

    def run() -> None:
        for action in actions.astype(np.float32):
            envs.step(action)

    return Case("env", steps, run)


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


def startup(repetitions: int, say: Callable[[str], None]) -> Iterator[Record]:
    say("time to the first update")
    yield {"first_update": time_to_first_update(repetitions)}


def peak_memory(offline_rows: int, online_rows: int) -> Record:
    """Most memory of a run, less that of the same run on hardly any data, over the arrays' size."""
    sizes = {"small": (10_000, 25_000), "large": (offline_rows, online_rows)}
    found: Record = {"offline_rows": offline_rows, "online_rows": online_rows}
    arrays = {}
    with tempfile.TemporaryDirectory() as made:
        for name, (logged, online) in sizes.items():
            file = Path(made) / f"{name}.npz"
            dataset = work.dataset(logged)
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


def run(
    quick: bool, repetitions: int, seconds: float, say: Callable[[str], None]
) -> Iterator[Record]:
    """All of it, part by part; `quick`: only the rates, and not all of these."""
    say("rates of updates and loops")
    yield rates(quick, repetitions, seconds)
    if not quick:
        yield from startup(repetitions, say)
        say("memory")
        yield {"memory": peak_memory(1_000_000, 300_000)}
