"""Envs that are stepped together: in this process, or shared out among processes of their own.

Both give the same bits, since an episode follows from its reset seed and its actions wherever it
runs.

    EnvPopulation, Evaluator
        | reset {env: seed}, step {env: action}        any of the envs, the others rest
    LocalEnvs        or        EnvProcesses -> worker: LocalEnvs, worker: LocalEnvs, ...

Why not gymnasium's AsyncVectorEnv: it starts a process for every env (an evaluation has 20), steps
all of them or none (episodes end one by one), and an env that raises ends its process.
"""

import contextlib
import math
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple, NoReturn, Protocol, runtime_checkable

import gymnasium
import numpy as np

from spaars.errors import ConfigError, RunError
from spaars.tasks.any_env import time_limit

MakeEnv = Callable[[], gymnasium.Env]


class Outcome(NamedTuple):
    """What an env gave, copied: some envs return live buffers."""

    observation: np.ndarray
    """(obs,) float32, finite."""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    cost: float | str | None = None
    """`info["cost"]`; None if the env reports none, words if it is no finite number."""
    score_return: float | None = None
    """`info["score_return"]`, if there is one."""
    subtasks: Mapping[str, bool] | None = None
    """Whether each is done now: `info["subtasks"]`, or success, if the env reports either."""

    @property
    def fell(self) -> bool:
        """Whether the episode ends here, and not because all was done."""
        done = list((self.subtasks or {}).values())
        return self.terminated and not (done and all(done))


class Failure(NamedTuple):
    """The env raised, or gave NaN."""

    reason: str
    error: Exception


@runtime_checkable
class Envs(Protocol):
    """Envs with the numbers 0 to n - 1; calls name those that are meant."""

    action_space: gymnasium.spaces.Box
    observation_space: gymnasium.spaces.Box
    time_limit: int | None
    """Steps after which an episode is truncated, if the env says so."""

    def reset(
        self, seeds: Mapping[int, int], anew: bool = False
    ) -> Mapping[int, Outcome | Failure]:
        """Begin episodes; `anew` in fresh envs, because the old ones broke."""

    def step(self, actions: Mapping[int, np.ndarray]) -> Mapping[int, Outcome | Failure]:
        """A step of each."""

    def close(self) -> None: ...


def open_envs(make_env: MakeEnv, n: int, processes: int = 1) -> Envs:
    """`n` envs in at most so many processes; 1 is this one.

    Raises ConfigError if `make_env` cannot be sent to another process.
    """
    processes = min(n, processes)
    return EnvProcesses(make_env, n, processes) if processes > 1 else LocalEnvs(make_env, n)


def successes(found: Mapping[int, Outcome | Failure], what: str) -> dict[int, Outcome]:
    """`found`, if nothing failed. Raises RunError that begins with `what`."""
    outcomes = {}
    for i, one in found.items():
        if isinstance(one, Failure):
            raise RunError(f"{what} ({one.reason}). Mend the env.") from one.error
        outcomes[i] = one
    return outcomes


class LocalEnvs:
    """Envs of this process, one after another."""

    def __init__(self, make_env: MakeEnv, n: int):
        self.make_env = make_env
        self.envs = [make_env() for _ in range(n)]
        first: Any = self.envs[0]
        self.action_space = first.action_space
        self.observation_space = first.observation_space
        self.time_limit = time_limit(first)

    def reset(self, seeds: Mapping[int, int], anew: bool = False) -> dict[int, Outcome | Failure]:
        return {i: self._reset(i, seed, anew) for i, seed in seeds.items()}

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Outcome | Failure]:
        return {i: self._step(i, action) for i, action in actions.items()}

    def close(self) -> None:
        for env in self.envs:
            with contextlib.suppress(Exception):  # what was computed does not hang on it
                env.close()

    def _reset(self, i: int, seed: int, anew: bool) -> Outcome | Failure:
        try:
            if anew:
                with contextlib.suppress(Exception):  # it is broken
                    self.envs[i].close()
                self.envs[i] = self.make_env()
            observation, _ = self.envs[i].reset(seed=seed)
            return Outcome(self._observed(observation))
        except Exception as error:
            return _failure(error)

    def _step(self, i: int, action: np.ndarray) -> Outcome | Failure:
        try:
            given = action.copy()  # some envs change it
            observation, reward, terminated, truncated, info = self.envs[i].step(given)
            _finite(reward)
            score = info.get("score_return")
            return Outcome(
                self._observed(observation),
                float(reward),
                bool(terminated),
                bool(truncated),
                _cost(info),
                None if score is None else float(score),
                subtasks_of(info),
            )
        except Exception as error:
            return _failure(error)

    def _observed(self, observation: Any) -> np.ndarray:
        array = _finite(observation)
        if array.shape != self.observation_space.shape:
            raise ValueError(
                f"an observation of shape {array.shape}, where its space says "
                f"{self.observation_space.shape}"
            )
        return array


def _finite(values: Any) -> np.ndarray:
    """A float32 copy. Raises ValueError for NaN and infinity."""
    array = np.array(values, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{array[~np.isfinite(array)][0]} in its observation or reward")
    return array


def _cost(info: dict[str, Any]) -> float | str | None:
    if "cost" not in info:
        return None
    with contextlib.suppress(TypeError, ValueError):
        cost = float(info["cost"])
        if math.isfinite(cost):
            return cost
    return repr(info["cost"])


def subtasks_of(info: dict[str, Any]) -> dict[str, bool] | None:
    """What the env says of subtasks, or of success. It may mean something else by these words,
    which then is none of our business."""
    found = info.get("subtasks")
    if not isinstance(found, Mapping):
        words = [key for key in ("success", "is_success") if key in info]
        found = {"success": info[words[0]]} if words else {}
    if not found or any(np.ndim(done) > 0 or done not in (0, 1) for done in found.values()):
        return None
    return {str(name): bool(done) for name, done in found.items()}


def _failure(error: Exception) -> Failure:
    return Failure(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", error)


# ------------------------------------------------------------------ processes

# What a worker runs. Standard input and output carry questions and answers, pickled: both ends are
# this program. What envs print goes to standard error instead, also while they are imported.
WORKER = """
import os, pickle, sys
questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
sys.path[:] = pickle.load(questions)
from spaars.training.stepping import serve
serve(questions, answers)
"""


ONE_PROCESS = "--online.env-processes 1 (`spaars eval`: --env-processes 1)"


class EnvProcesses:
    """Envs shared out among worker processes, which are asked all at once.

    Fresh interpreters rather than `multiprocessing`: forked ones would inherit JAX's threads, and
    spawned ones would run the user's script again.

    A worker ends when its input does, so none is left when this process is killed. They have a
    session of their own and ignore TERM: whoever stops the run stops it here.
    """

    def __init__(self, make_env: MakeEnv, n: int, processes: int):
        shares = [len(range(w, n, processes)) for w in range(processes)]
        payload = _sendable(make_env)
        self.workers: list[subprocess.Popen[bytes]] = []
        try:
            for share in shares:  # all are started before the first is waited for
                self.workers.append(
                    subprocess.Popen(
                        # -P, as the `spaars` script: no modules from the current directory.
                        [sys.executable, "-P", "-c", WORKER],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        start_new_session=True,
                    )
                )
                self._tell(len(self.workers) - 1, sys.path)
                self._tell(len(self.workers) - 1, (payload, share))
            facts = [self._hear(worker) for worker in range(processes)]
        except BaseException:
            self.close()
            raise
        self.action_space, self.observation_space, self.time_limit = facts[0]

    def reset(self, seeds: Mapping[int, int], anew: bool = False) -> dict[int, Outcome | Failure]:
        return self._ask("reset", seeds, anew)

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Outcome | Failure]:
        return self._ask("step", actions)

    def close(self) -> None:
        for worker in self.workers:
            for pipe in (worker.stdin, worker.stdout):
                with contextlib.suppress(OSError):  # it died with our words unread
                    if pipe is not None:
                        pipe.close()
        for worker in self.workers:
            try:
                worker.wait(timeout=10)
            except subprocess.TimeoutExpired:  # an env that does not return
                worker.kill()
                worker.wait()
        self.workers = []

    def _ask(
        self, method: str, values: Mapping[int, Any], *args: Any
    ) -> dict[int, Outcome | Failure]:
        """Env i is env i // W of worker i % W."""
        count = len(self.workers)
        shares: dict[int, dict[int, Any]] = {}
        for i, value in values.items():
            shares.setdefault(i % count, {})[i // count] = value
        for w, share in shares.items():
            self._tell(w, (method, share, *args))
        heard = {w: self._hear(w) for w in shares}
        return {i: heard[i % count][i // count] for i in values}

    def _tell(self, worker: int, words: Any) -> None:
        pipe = self.workers[worker].stdin
        assert pipe is not None
        try:
            pickle.dump(words, pipe, pickle.HIGHEST_PROTOCOL)
            pipe.flush()
        except OSError:
            self._refuse_death(worker)

    def _hear(self, worker: int) -> Any:
        pipe = self.workers[worker].stdout
        assert pipe is not None
        try:
            answer = pickle.load(pipe)
        except (OSError, EOFError, pickle.UnpicklingError):
            self._refuse_death(worker)
        if isinstance(answer, Failure):
            raise ConfigError(
                f"a process of its own cannot make the env ({answer.reason}). Envs registered by "
                "hand are known in this process only: name the module that registers them, as in "
                f"my_pkg:MyEnv-v0, or use {ONE_PROCESS}."
            ) from answer.error
        return answer

    def _refuse_death(self, worker: int) -> NoReturn:
        try:
            code = self.workers[worker].wait(timeout=5)
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            how = "it no longer answers"
        raise RunError(
            f"a process that steps envs ended ({how}); what it printed stands above. If memory ran "
            "out, take fewer --online.env-processes; `spaars resume RUN` goes on from the last "
            "checkpoint."
        )


def _sendable(make_env: MakeEnv) -> bytes:
    """Pickled, to be made in another process. Raises ConfigError if it is known only in this."""
    try:
        payload = pickle.dumps(make_env)
        reason = "it is defined in the script itself" if b"__main__" in payload else ""
    except Exception as error:  # what pickling raises depends on what it met
        reason = str(error)
    if reason:
        raise ConfigError(
            f"the function that makes the env cannot be sent to another process ({reason}). Define "
            f"it at the top level of a module that can be imported, or use {ONE_PROCESS}."
        )
    return payload


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """A worker's life: make the envs, then answer until nobody asks any more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def answer(words: Any) -> None:
        pickle.dump(words, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()

    # Who asked may be gone, or have heard enough from another worker.
    with contextlib.suppress(EOFError, BrokenPipeError):
        payload, n = pickle.load(questions)
        try:
            envs = LocalEnvs(pickle.loads(payload), n)
        except Exception as error:
            answer(_told(_failure(error)))
            os._exit(1)
        try:
            answer((envs.action_space, envs.observation_space, envs.time_limit))
            while True:
                method, values, *args = pickle.load(questions)
                found = getattr(envs, method)(values, *args)
                answer({i: _told(one) for i, one in found.items()})
        finally:
            with contextlib.suppress(Exception):
                envs.close()
    os._exit(0)  # whatever threads an env has left


def _told(found: Outcome | Failure) -> Outcome | Failure:
    """A failure's error as text: not every exception can be sent."""
    if isinstance(found, Outcome):
        return found
    lines = "".join(traceback.format_exception(found.error))
    return found._replace(error=RuntimeError(f"in a process of its own:\n{lines}"))
