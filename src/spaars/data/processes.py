"""Simulator work in parallel processes, in order."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from spaars.errors import DataError

R = TypeVar("R")


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # what a container or batch queue grants
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_processes(
    fn: Callable[..., R], jobs: Iterable[tuple[Any, ...]], workers: int
) -> Generator[R, None, None]:
    """`fn(*job)` of every job, in the jobs' order; they may be without end.

    Close the iterator when you have enough. With one worker nothing is spawned.
    """
    jobs = iter(jobs)
    if workers <= 1:
        for job in jobs:
            yield fn(*job)
        return
    # Spawned, not forked: JAX's threads do not survive a fork.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_begin_worker,
    )
    try:
        submitted = [pool.submit(fn, *job) for job in itertools.islice(jobs, workers + 1)]
        while submitted:
            result = submitted.pop(0).result()
            submitted += [pool.submit(fn, *job) for job in itertools.islice(jobs, 1)]
            yield result
    except BrokenProcessPool as error:
        raise DataError(
            "the recording processes died. In a script, call spaars under "
            '`if __name__ == "__main__":`; on the command line, free some memory.'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Ctrl-C reaches the workers too, and the parent alone decides; but none outlives it.

    A worker holds the writing end of its own queue, and so would wait there for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "run by a pool"

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
