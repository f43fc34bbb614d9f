"""Fine-tune where the loop is yours: two threads, and nothing lost to `kill -9`.

    spaars train hopper-medium --preset quick --online.steps 0 --out runs/offline
    python examples/own_loop.py runs/offline runs/own --steps 20000
    # kill -9 it whenever you like, and run the same line again: it goes on

The env stands for the robot. It is asked for readings and given commands, nothing else; the
learner never sees it. The main thread is the robot's and never waits for the learner's.
"""

import argparse
import threading
import time
from pathlib import Path

import numpy as np

import spaars


def learn(learner: spaars.OnlineLearner, save_every: float, stop: threading.Event) -> None:
    """The learner's thread: what is due, and a save now and then."""
    saved = time.monotonic()
    while not stop.is_set():
        if learner.due:
            learner.update(min(learner.due, 50))
        else:
            time.sleep(0.005)
        if time.monotonic() - saved > save_every:
            learner.save()
            saved = time.monotonic()
            print(f"saved after {learner.updates} updates", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run directory to begin with; not read when going on")
    parser.add_argument("directory", type=Path, help="the learner's own")
    parser.add_argument("--steps", type=int, default=20_000, help="steps in all (default: 20000)")
    parser.add_argument("--hertz", type=float, default=0.0, help="of the robot; 0: no pause")
    parser.add_argument("--save-every", type=float, default=30.0, help="seconds (default: 30)")
    args = parser.parse_args()

    if (args.directory / "config.json").exists():
        learner = spaars.OnlineLearner.load(args.directory)
        learner.end_episode("the process was killed")  # the robot has been put back meanwhile
        print(f"going on at step {learner.env_steps}, episode {learner.episodes}", flush=True)
    else:
        learner = spaars.OnlineLearner.from_run(args.run, args.directory)
    learner.prepare()  # compiles, while nothing moves

    robot = spaars.get_task(learner.config.task).make_env(training=True)
    stop, failures, waits = threading.Event(), list[BaseException](), list[float]()

    def learning() -> None:
        try:
            learn(learner, args.save_every, stop)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=learning)
    thread.start()
    try:
        while learner.env_steps < args.steps and not failures:
            observation, _ = robot.reset(seed=learner.episodes)
            total, ended = 0.0, False
            while not ended:
                began = time.perf_counter()
                action, acted = learner.act(observation)
                waits.append(time.perf_counter() - began)
                observation, reward, terminated, truncated, _ = robot.step(action)
                # As a robot's safety stop would: the last step of all ends its episode, too.
                truncated = bool(truncated) or acted.step + 1 == args.steps
                learner.observe(acted, action, reward, observation, bool(terminated), truncated)
                total, ended = total + float(reward), bool(terminated) or truncated
                if args.hertz:
                    time.sleep(max(1.0 / args.hertz - (time.perf_counter() - began), 0.0))
            # Told only now: when `observe` has returned, the episode is on the disk.
            print(
                f"episode {learner.episodes - 1} returned {total:.4f} ({acted.actor})", flush=True
            )
    finally:
        stop.set()
        thread.join()
        robot.close()
    if failures:
        raise failures[0]
    learner.save()
    p50, p99 = 1e3 * np.percentile(waits or [0.0], [50, 99])
    print(
        f"act took {p50:.2f} ms (p50), {p99:.2f} ms (p99), {1e3 * max(waits or [0]):.2f} ms at most"
    )
    for event in learner.events:
        print(f"step {event['step']}: {event['event']}: {event['reason']}")


if __name__ == "__main__":
    main()
