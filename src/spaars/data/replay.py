"""Device-resident replay: one offline dataset shared by all seeds, one online ring per seed.

offline  Batch, leaves (N, ...)       uploaded once, read by every seed
ring     Batch, leaves (S, C, ...)    seed s writes and reads row s only

A dataset that the device has no room for stays on the host (numpy arrays). Which rows a batch
takes is then drawn apart (`mixed_rows`, `windowed_rows`), and only these are uploaded (`drawn`).

Agents that act by skills of H steps learn from *windows* of H rows that follow each other in one
episode. In the dataset a window may begin at any row (H = 4):

    row        0   1   2   3   4   5   6   7   8
    episode    '-------0-------''-------1------'
    begins     x   x               x   x             (`data.rows.window_rows`)

In the ring the windows lie end to end, a skill each: row i H begins one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Batch(NamedTuple):
    """Transitions (s_t, a_t, r_t, s_{t+1}, terminated_{t+1}), all float32, leading axes alike.

    `terminated` is 1 where the episode ended in a terminal state (no bootstrap); a time limit
    (`truncated`) ends the episode but not the value and is 0 here.

    A sampled transition may span m steps: `rewards` is then sum_{i<m} discount^i r_{t+i},
    `next_observations` s_{t+m}, `terminated` that of s_{t+m}, and `steps` m.
    """

    observations: Float[Array, "*batch obs"]
    actions: Float[Array, "*batch act"]
    rewards: Float[Array, "*batch"]
    next_observations: Float[Array, "*batch obs"]
    terminated: Float[Array, "*batch"]
    latents: Float[Array, "*batch k"] | None = None
    """Skill u in (-1, 1)^k that the action belongs to; None for agents without skills."""


OBSERVATION_LIMIT = 10.0
"""Standardised observations are clipped here. What hardly moves in the data may move hundreds of
their deviations online, and no network knows what to make of that (docs/lab-notebook.md)."""


class Normaliser(NamedTuple):
    """Standardises observations by dataset statistics; saved with the policy."""

    mean: Float[Array, " obs"]
    std: Float[Array, " obs"]

    def __call__(self, observations: Float[Array, "*batch obs"]) -> Float[Array, "*batch obs"]:
        standardised = (observations - self.mean) / self.std
        return jnp.clip(standardised, -OBSERVATION_LIMIT, OBSERVATION_LIMIT)

    def batch(self, batch: Batch) -> Batch:
        return batch._replace(
            observations=self(batch.observations), next_observations=self(batch.next_observations)
        )


class Ring(NamedTuple):
    """A FIFO buffer per seed. `inserted` counts all transitions ever written (same for all)."""

    storage: Batch
    inserted: Int[Array, ""]

    @property
    def capacity(self) -> int:
        return self.storage.rewards.shape[1]

    @property
    def size(self) -> Int[Array, ""]:
        return jnp.minimum(self.inserted, self.capacity)

    @property
    def columns(self) -> dict[str, Array]:
        """What is stored, by name."""
        return {name: x for name, x in self.storage._asdict().items() if x is not None}


def empty_ring(
    seeds: int, capacity: int, observation_dim: int, action_dim: int, latent_dim: int = 0
) -> Ring:
    """A ring of zeros; `capacity` transitions for each of `seeds` seeds."""
    obs = (seeds, capacity, observation_dim)
    storage = Batch(
        observations=jnp.zeros(obs, jnp.float32),
        actions=jnp.zeros((seeds, capacity, action_dim), jnp.float32),
        rewards=jnp.zeros((seeds, capacity), jnp.float32),
        next_observations=jnp.zeros(obs, jnp.float32),
        terminated=jnp.zeros((seeds, capacity), jnp.float32),
        latents=jnp.zeros((seeds, capacity, latent_dim), jnp.float32) if latent_dim else None,
    )
    return Ring(storage, jnp.zeros((), jnp.int32))


def insert(ring: Ring, chunk: Batch) -> Ring:
    """Write a chunk with leaves (S, K, ...) behind the newest transition, over the oldest."""
    rows = (ring.inserted + jnp.arange(chunk.rewards.shape[1])) % ring.capacity
    storage = jax.tree.map(lambda store, new: store.at[:, rows].set(new), ring.storage, chunk)
    return Ring(storage, ring.inserted + chunk.rewards.shape[1])


def take(batch: Batch, rows: Any) -> Batch:
    """Rows of a dataset, leaves (*rows, ...); both on the device, or both on the host."""
    return jax.tree.map(lambda x: x[rows], batch)


def on_host(batch: Batch | None) -> bool:
    """Whether the dataset stays there."""
    return batch is not None and isinstance(batch.rewards, np.ndarray)


def window(offline: Batch, rows: Int[Array, "*shape"], length: int) -> Batch:
    """The `length` rows from each of `rows` on; leaves (*shape, length, ...)."""
    return take(offline, rows[..., None] + jnp.arange(length))


def sample_online(
    ring: Ring, seed_index: Int[Array, ""], key: PRNGKeyArray, shape: tuple[int, ...]
) -> Batch:
    """Uniform with replacement from what seed `seed_index` has stored so far."""
    rows = jax.random.randint(key, shape, 0, ring.size)
    return jax.tree.map(lambda x: x[seed_index, rows], ring.storage)


def sample_recent(
    ring: Ring,
    episodes: Int[Array, "n two"],
    seed_index: Int[Array, ""],
    key: PRNGKeyArray,
    shape: tuple[int, ...],
) -> Batch:
    """An episode of `episodes` (first and one-past-last row), then one of its transitions.

    Uniform both times, with replacement: a fall of twenty steps is as likely as a whole episode.
    """
    episode_key, row_key = jax.random.split(key)
    chosen = episodes[jax.random.randint(episode_key, shape, 0, episodes.shape[0])]
    # What the ring has overwritten is gone; the oldest row stands in for an episode gone whole.
    first = jnp.maximum(chosen[..., 0], ring.inserted - ring.size)
    stop = jnp.maximum(chosen[..., 1], first + 1)
    length = (stop - first).astype(jnp.float32)
    row = first + (jax.random.uniform(row_key, shape) * length).astype(jnp.int32)
    age = jnp.clip(ring.inserted - 1 - row, 0, ring.size - 1)
    rows = (ring.inserted - 1 - age) % ring.capacity
    return jax.tree.map(lambda x: x[seed_index, rows], ring.storage)


class Mixture(NamedTuple):
    """Where the rows of an online batch come from."""

    offline: float | None
    """Share from the dataset; None: every row from anywhere in dataset and ring alike."""
    starts: float = 0.0
    """Of these, the share from the starts of the dataset's episodes."""
    recent: float = 0.0
    """Of the others, the share from the newest episodes (`Replay.episodes`)."""

    def counts(self, batch_size: int, logged: bool, starts: bool) -> tuple[int, int, int, int]:
        """Rows (starts, rest of the dataset, recent, rest of the ring); they sum to the batch."""
        n_offline = round(batch_size * (self.offline or 0.0)) if logged else 0
        n_starts = round(n_offline * self.starts) if starts else 0
        n_recent = round((batch_size - n_offline) * self.recent)
        return n_starts, n_offline - n_starts, n_recent, batch_size - n_offline - n_recent


class Replay(NamedTuple):
    """All that online batches are drawn from."""

    ring: Ring
    offline: Batch | None = None
    """The dataset."""
    starts: Int[Array, " m"] | None = None
    """Its rows at the starts of episodes (`start_rows`)."""
    windows: Int[Array, " w"] | None = None
    """Its rows at which windows begin (`window_rows`), for agents with skills."""
    episodes: Int[Array, "seeds n 2"] | None = None
    """First and one-past-last rows of each seed's newest episodes (`recent_episodes`)."""
    best: Int[Array, "seeds n 2"] | None = None
    """The same of each seed's best episodes (`best_episodes`), for agents with skills."""
    labels: Float[Array, "seeds w k"] | None = None
    """Skills that each seed's prior takes those windows for."""
    rows: Int[Array, ""] | None = None
    """How many rows the dataset has, where it stays on the host and `offline` is None."""
    drawn: Batch | None = None
    """Then these of its rows are in the batches to come; leaves (seeds, updates, n, ...)."""

    @property
    def logged(self) -> Any:
        """How many rows the dataset has; None: there is none."""
        return self.rows if self.offline is None else self.offline.rewards.shape[0]

    def logged_part(self, seed_index: Int[Array, ""], rows: Int[Array, "updates *n"]) -> Batch:
        """Those `rows` of the dataset, from wherever they are."""
        if self.offline is not None:
            return take(self.offline, rows)
        assert self.drawn is not None
        return jax.tree.map(lambda x: x[seed_index], self.drawn)


def logged_rows(batch_size: int, offline_fraction: float) -> int:
    """How many of a batch's windows are the dataset's."""
    return round(batch_size * offline_fraction)


def best_rows(batch_size: int, offline_fraction: float, best_fraction: float) -> int:
    """How many of a batch's windows, behind the dataset's, are from the best episodes."""
    return round((batch_size - logged_rows(batch_size, offline_fraction)) * best_fraction)


def windowed_rows(
    replay: Replay,
    key: PRNGKeyArray,
    updates: int,
    batch_size: int,
    offline_fraction: float,
    length: int,
) -> Int[Array, "updates n length"]:
    """Rows of the dataset in what `sample_windows` draws with the same key."""
    assert replay.windows is not None
    numbers = _window_numbers(replay, key, updates, logged_rows(batch_size, offline_fraction))
    return replay.windows[numbers][..., None] + jnp.arange(length)


def _window_numbers(
    replay: Replay, key: PRNGKeyArray, updates: int, count: int
) -> Int[Array, "updates n"]:
    assert replay.windows is not None
    offline_key = jax.random.split(key)[0]
    return jax.random.randint(offline_key, (updates, count), 0, replay.windows.shape[0])


def sample_windows(
    replay: Replay,
    seed_index: Int[Array, ""],
    key: PRNGKeyArray,
    updates: int,
    batch_size: int,
    offline_fraction: float,
    length: int,
    best_fraction: float = 0.0,
) -> Batch:
    """Windows of `length` rows, leaves (updates, batch, length, ...).

    In the order: dataset, best episodes, ring. What is stored in the ring must be a whole number
    of windows, and every episode in it.
    """
    ring = replay.ring
    logged = logged_rows(batch_size, offline_fraction)
    best = best_rows(batch_size, offline_fraction, best_fraction)
    online_key = jax.random.split(key)[1]
    parts = []

    def stored(first: Int[Array, "updates n"]) -> Batch:
        rows = (first[..., None] + jnp.arange(length)) % ring.capacity
        return jax.tree.map(lambda x: x[seed_index, rows], ring.storage)

    if logged:
        assert replay.labels is not None
        rows = windowed_rows(replay, key, updates, batch_size, offline_fraction, length)
        u = replay.labels[seed_index, _window_numbers(replay, key, updates, logged)]
        u = jnp.broadcast_to(u[..., None, :], (*u.shape[:2], length, u.shape[-1]))
        parts.append(replay.logged_part(seed_index, rows)._replace(latents=u))
    if best:
        assert replay.best is not None
        episode_key, window_key = jax.random.split(jax.random.fold_in(online_key, 1))
        episodes = replay.best[seed_index]
        chosen = episodes[jax.random.randint(episode_key, (updates, best), 0, episodes.shape[0])]
        windows = ((chosen[..., 1] - chosen[..., 0]) // length).astype(jnp.float32)
        number = jax.random.uniform(window_key, windows.shape) * windows
        parts.append(stored(chosen[..., 0] + length * number.astype(jnp.int32)))
    if logged + best < batch_size:
        shape = (updates, batch_size - logged - best)
        parts.append(stored(length * jax.random.randint(online_key, shape, 0, ring.size // length)))
    return jax.tree.map(lambda *x: jnp.concatenate(x, 1), *parts)


def mixed_rows(
    replay: Replay, key: PRNGKeyArray, updates: int, batch_size: int, mixture: Mixture
) -> Int[Array, "updates n"]:
    """Rows of the dataset in what `sample_mixed` draws with the same key, which may be none.

    Where a batch's rows come from anywhere, n is the batch; row 0 or any other stands for the ring.
    """
    logged, starts = replay.logged, replay.starts
    if mixture.offline is None:
        return jnp.minimum(_union_rows(replay, key, (updates, batch_size)), logged - 1)
    counts = mixture.counts(batch_size, logged is not None, starts is not None)
    keys = jax.random.split(key, 4)
    parts = [jnp.zeros((updates, 0), jnp.int32)]
    if starts is not None and counts[0]:
        parts.append(starts[jax.random.randint(keys[0], (updates, counts[0]), 0, starts.shape[0])])
    if counts[1]:
        parts.append(jax.random.randint(keys[1], (updates, counts[1]), 0, logged))
    return jnp.concatenate(parts, 1)


def sample_mixed(
    replay: Replay,
    seed_index: Int[Array, ""],
    key: PRNGKeyArray,
    updates: int,
    batch_size: int,
    mixture: Mixture,
) -> Batch:
    """Leaves (updates, batch, ...), in the order: episodes' starts, dataset, recent, ring.

    The shares are exact, up to rounding, in every batch.
    """
    ring = replay.ring
    if mixture.offline is None:
        return _sample_union(replay, seed_index, key, (updates, batch_size))
    counts = mixture.counts(batch_size, replay.logged is not None, replay.starts is not None)
    shapes = [(updates, count) for count in counts]
    keys = jax.random.split(key, 4)
    parts = []
    if counts[0] + counts[1]:
        rows = mixed_rows(replay, key, updates, batch_size, mixture)
        parts.append(replay.logged_part(seed_index, rows))
    if counts[2]:
        assert replay.episodes is not None
        episodes = replay.episodes[seed_index]
        parts.append(sample_recent(ring, episodes, seed_index, keys[2], shapes[2]))
    if counts[3]:
        parts.append(sample_online(ring, seed_index, keys[3], shapes[3]))
    return jax.tree.map(lambda *x: jnp.concatenate(x, 1), *parts)


def _union_rows(replay: Replay, key: PRNGKeyArray, shape: tuple[int, ...]) -> Int[Array, "*shape"]:
    """Of dataset and ring, the ring's rows behind the dataset's."""
    return jax.random.randint(key, shape, 0, replay.logged + replay.ring.size)


def _sample_union(
    replay: Replay, seed_index: Int[Array, ""], key: PRNGKeyArray, shape: tuple[int, ...]
) -> Batch:
    ring, logged = replay.ring, replay.logged
    if logged is None:
        return sample_online(ring, seed_index, key, shape)
    rows = _union_rows(replay, key, shape)

    def pick(from_offline: Array, online: Array) -> Array:
        from_online = online[seed_index, jnp.maximum(rows - logged, 0)]
        is_logged = (rows < logged).reshape(rows.shape + (1,) * (from_offline.ndim - rows.ndim))
        return jnp.where(is_logged, from_offline, from_online)

    part = replay.logged_part(seed_index, jnp.minimum(rows, logged - 1))
    return jax.tree.map(pick, part, ring.storage)


def as_batch(
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    next_observations: np.ndarray,
    terminated: np.ndarray,
    *,
    host: bool = False,
) -> Batch:
    """Upload host arrays as float32, or leave them there."""
    arrays = (observations, actions, rewards, next_observations, terminated)
    if host:
        return Batch(*(np.asarray(x, np.float32) for x in arrays))  # type: ignore[arg-type]
    return Batch(*(jnp.asarray(x, jnp.float32) for x in arrays))
