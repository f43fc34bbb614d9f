"""Device-resident replay: one offline dataset shared by all seeds, one online ring per seed.

offline  Batch, leaves (N, ...)       uploaded once, read by every seed
ring     Batch, leaves (S, C, ...)    seed s writes and reads row s only
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Batch(NamedTuple):
    """Transitions (s_t, a_t, r_t, s_{t+1}, terminated_{t+1}), all float32, leading axes alike.

    `terminated` is 1 where the episode ended in a terminal state (no bootstrap); a time limit
    (`truncated`) ends the episode but not the value and is 0 here.
    """

    observations: Float[Array, "*batch obs"]
    actions: Float[Array, "*batch act"]
    rewards: Float[Array, "*batch"]
    next_observations: Float[Array, "*batch obs"]
    terminated: Float[Array, "*batch"]


class Normaliser(NamedTuple):
    """Standardises observations by dataset statistics; saved with the policy."""

    mean: Float[Array, " obs"]
    std: Float[Array, " obs"]

    def __call__(self, observations: Float[Array, "*batch obs"]) -> Float[Array, "*batch obs"]:
        return (observations - self.mean) / self.std

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


def empty_ring(seeds: int, capacity: int, observation_dim: int, action_dim: int) -> Ring:
    """A ring of zeros; `capacity` transitions for each of `seeds` seeds."""
    obs = (seeds, capacity, observation_dim)
    storage = Batch(
        observations=jnp.zeros(obs, jnp.float32),
        actions=jnp.zeros((seeds, capacity, action_dim), jnp.float32),
        rewards=jnp.zeros((seeds, capacity), jnp.float32),
        next_observations=jnp.zeros(obs, jnp.float32),
        terminated=jnp.zeros((seeds, capacity), jnp.float32),
    )
    return Ring(storage, jnp.zeros((), jnp.int32))


def insert(ring: Ring, chunk: Batch) -> Ring:
    """Write a chunk with leaves (S, K, ...) behind the newest transition, over the oldest."""
    rows = (ring.inserted + jnp.arange(chunk.rewards.shape[1])) % ring.capacity
    storage = jax.tree.map(lambda store, new: store.at[:, rows].set(new), ring.storage, chunk)
    return Ring(storage, ring.inserted + chunk.rewards.shape[1])


def sample_offline(offline: Batch, key: PRNGKeyArray, shape: tuple[int, ...]) -> Batch:
    """Uniform with replacement from the offline dataset; leaves get leading axes `shape`."""
    rows = jax.random.randint(key, shape, 0, offline.rewards.shape[0])
    return jax.tree.map(lambda x: x[rows], offline)


def start_rows(starts: np.ndarray, stops: np.ndarray, steps: int) -> np.ndarray:
    """Rows of the first `steps` transitions of every episode; episode i is [starts_i, stops_i)."""
    lengths = np.minimum(stops - starts, steps)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + within


def sample_online(
    ring: Ring, seed_index: Int[Array, ""], key: PRNGKeyArray, shape: tuple[int, ...]
) -> Batch:
    """Uniform with replacement from what seed `seed_index` has stored so far."""
    rows = jax.random.randint(key, shape, 0, ring.size)
    return jax.tree.map(lambda x: x[seed_index, rows], ring.storage)


def sample_recent(
    ring: Ring, seed_index: Int[Array, ""], key: PRNGKeyArray, shape: tuple[int, ...], steps: int
) -> Batch:
    """Uniform with replacement from the newest `steps` transitions of seed `seed_index`."""
    age = jax.random.randint(key, shape, 0, jnp.minimum(ring.size, steps))
    rows = (ring.inserted - 1 - age) % ring.capacity
    return jax.tree.map(lambda x: x[seed_index, rows], ring.storage)


class Mixture(NamedTuple):
    """Where the rows of an online batch come from."""

    offline: float | None
    """Share from the dataset; None: every row from anywhere in dataset and ring alike."""
    starts: float = 0.0
    """Of these, the share from the starts of the dataset's episodes."""
    recent: float = 0.0
    """Of the others, the share from the newest `recent_steps` transitions."""
    recent_steps: int = 1

    def counts(self, batch_size: int, logged: bool, starts: bool) -> tuple[int, int, int, int]:
        """Rows (starts, rest of the dataset, recent, rest of the ring); they sum to the batch."""
        n_offline = round(batch_size * (self.offline or 0.0)) if logged else 0
        n_starts = round(n_offline * self.starts) if starts else 0
        n_recent = round((batch_size - n_offline) * self.recent)
        return n_starts, n_offline - n_starts, n_recent, batch_size - n_offline - n_recent


def sample_mixed(
    offline: Batch | None,
    starts: Batch | None,
    ring: Ring,
    seed_index: Int[Array, ""],
    key: PRNGKeyArray,
    updates: int,
    batch_size: int,
    mixture: Mixture,
) -> Batch:
    """Leaves (updates, batch, ...), in the order: episodes' starts, dataset, recent, ring.

    The shares are exact, up to rounding, in every batch.
    """
    if mixture.offline is None:
        return _sample_union(offline, ring, seed_index, key, (updates, batch_size))
    counts = mixture.counts(batch_size, offline is not None, starts is not None)
    keys = jax.random.split(key, 4)
    parts = []
    if starts is not None and counts[0]:
        parts.append(sample_offline(starts, keys[0], (updates, counts[0])))
    if offline is not None and counts[1]:
        parts.append(sample_offline(offline, keys[1], (updates, counts[1])))
    if counts[2]:
        shape = (updates, counts[2])
        parts.append(sample_recent(ring, seed_index, keys[2], shape, mixture.recent_steps))
    if counts[3]:
        parts.append(sample_online(ring, seed_index, keys[3], (updates, counts[3])))
    return jax.tree.map(lambda *x: jnp.concatenate(x, 1), *parts)


def _sample_union(
    offline: Batch | None,
    ring: Ring,
    seed_index: Int[Array, ""],
    key: PRNGKeyArray,
    shape: tuple[int, ...],
) -> Batch:
    if offline is None:
        return sample_online(ring, seed_index, key, shape)
    logged = offline.rewards.shape[0]
    rows = jax.random.randint(key, shape, 0, logged + ring.size)

    def pick(offline: Array, online: Array) -> Array:
        from_offline = offline[jnp.minimum(rows, logged - 1)]
        from_online = online[seed_index, jnp.maximum(rows - logged, 0)]
        is_logged = (rows < logged).reshape(rows.shape + (1,) * (from_offline.ndim - rows.ndim))
        return jnp.where(is_logged, from_offline, from_online)

    return jax.tree.map(pick, offline, ring.storage)


def as_batch(
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    next_observations: np.ndarray,
    terminated: np.ndarray,
) -> Batch:
    """Upload host arrays as float32."""
    return Batch(
        *(
            jnp.asarray(x, jnp.float32)
            for x in (observations, actions, rewards, next_observations, terminated)
        )
    )
