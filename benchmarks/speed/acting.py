"""How long a robot waits for an action: `OnlineLearner.act`, while it learns and while not.

Wall time, one call every 5 ms, as a control loop of 200 Hz makes them. Beside it, from the same
parameters, `Agent.act` compiled by JAX: what acting would wait for an update there.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import work
from benchmarks.speed.measure import Record
from spaars import OnlineLearner

PERIOD = 0.005
"""Seconds from one call to the next."""
EPISODE = 250
"""Steps, at whose end `observe` writes the episode to the disk."""


def learner_of(directory: Path, rows: int) -> OnlineLearner:
    """SPAARS as `full` sets it, hopper's shape, on made-up data, its gate armed."""
    dataset = work.dataset(rows, EPISODE)
    # What acting costs does not depend on what the networks have learned.
    config = work.config_of(
        "spaars",
        seeds=(0,),
        prior={"updates": 0},
        offline={"updates": 0},
        online={"learning_starts": 0},
        gate={"earliest_step": 0, "latest_step": 0, "ramp_steps": 1},
        deployment={"rule": "latest"},
    )
    return OnlineLearner.from_dataset(config, directory, dataset, capacity=20_000)


class Robot:
    """Acts and observes; what it does is made up."""

    def __init__(self, learner: OnlineLearner):
        self.learner, self.rng = learner, np.random.default_rng(0)
        self.observation = self.read()
        self.acting: list[float] = []
        self.episode_ends: list[float] = []

    def read(self) -> np.ndarray:
        return self.rng.standard_normal(work.OBSERVATIONS).astype(np.float32)

    def step(self) -> None:
        began = time.perf_counter()
        action, acted = self.learner.act(self.observation)
        self.acting.append(time.perf_counter() - began)
        self.observation = self.read()
        ends = acted.step % EPISODE == EPISODE - 1
        began = time.perf_counter()
        self.learner.observe(acted, action, 0.0, self.observation, False, ends)
        if ends:
            self.episode_ends.append(time.perf_counter() - began)


def paced(step: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        step()
        time.sleep(max(PERIOD - (time.perf_counter() - began), 0.0))


def milliseconds(seconds: list[float]) -> Record:
    times = 1e3 * np.array(seconds)
    p50, p99 = np.percentile(times, [50, 99])
    values = {"p50": p50, "p99": p99, "max": times.max()}
    return {name: round(float(x), 3) for name, x in values.items()} | {"calls": len(times)}


def run(quick: bool, seconds: float, say: Callable[[str], None]) -> Iterator[Record]:
    """Not learning, then learning, of our acting and of JAX's; `quick`: less data."""
    with tempfile.TemporaryDirectory() as directory:
        say("compiling")
        learner = learner_of(Path(directory) / "learner", 20_000 if quick else 200_000)
        learner.prepare()
        robot = Robot(learner)
        while learner.env_steps < learner.config.log_every:
            robot.step()
        learner.update(1)  # arms the gate
        record: Record = {
            "period_ms": 1e3 * PERIOD,
            "gate_armed": any(event["event"] == "handover" for event in learner.events),
            "act": {},
        }
        tree = learner._learner.newest.tree
        compiled = jax.jit(lambda obs, key, i: _act(learner, tree, obs, key, i))
        key, counter = jax.random.key(0), iter(range(10**9))

        def by_jax() -> None:
            began = time.perf_counter()
            np.asarray(compiled(robot.read(), key, np.int32(next(counter))))
            jax_times.append(time.perf_counter() - began)

        jax_times: list[float] = []
        by_jax()
        for learns in (False, True):
            when = "learning" if learns else "not learning"
            say(f"acting, {when}")
            stop, thread = threading.Event(), None
            if learns:
                thread = threading.Thread(target=_learn, args=(learner, stop))
                thread.start()
            before, began = learner.updates, time.monotonic()
            robot.acting, jax_times = [], []
            paced(robot.step, seconds)
            paced(by_jax, seconds)
            record["act"][when] = {"numpy": milliseconds(robot.acting)}
            record["act"][when]["jax"] = milliseconds(jax_times)
            record["act"][when]["updates_per_second"] = round(
                (learner.updates - before) / (time.monotonic() - began), 2
            )
            if thread is not None:
                stop.set()
                thread.join()
        record["observe_at_an_episodes_end"] = milliseconds(robot.episode_ends)
        yield {"acting": record}


def _act(learner: OnlineLearner, tree: Any, obs: jax.Array, key: Any, i: jax.Array) -> jax.Array:
    return learner._learner.agent.act(tree, jnp.asarray(obs)[None], jax.random.fold_in(key, i))[0]


def _learn(learner: OnlineLearner, stop: threading.Event) -> None:
    while not stop.is_set():
        learner.update(50)
