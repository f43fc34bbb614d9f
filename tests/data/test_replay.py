from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaars.data.replay import (
    Batch,
    Mixture,
    Normaliser,
    Replay,
    as_batch,
    empty_ring,
    insert,
    sample_mixed,
    sample_online,
    sample_recent,
    sample_windows,
)
from spaars.data.rows import (
    recent_episodes,
    window_rows,
)

KEY = jax.random.key(0)
OFFLINE, ONLINE = 1e6, 1.0


def numbered(numbers, seeds=None):
    """Transitions that carry their number in every field; seed s adds 1000 s."""
    rewards = np.asarray(numbers, np.float32)
    if seeds is not None:
        rewards = rewards + 1_000.0 * np.arange(seeds, dtype=np.float32)[:, None]
    wide = rewards[..., None]
    pair = np.concatenate([wide, wide], -1)
    return as_batch(pair, wide, rewards, pair, rewards)


def rows_agree(batch: Batch):
    """Every field of a row comes from the same transition."""
    for field in (batch.actions, batch.observations, batch.next_observations):
        np.testing.assert_array_equal(field, np.broadcast_to(batch.rewards[..., None], field.shape))
    np.testing.assert_array_equal(batch.terminated, batch.rewards)


@settings(deadline=None, max_examples=20)
@given(st.integers(3, 5), st.lists(st.integers(1, 3), min_size=1, max_size=8))
def test_ring_is_a_fifo_per_seed(capacity, chunks):
    seeds, ring = 2, empty_ring(2, capacity, 2, 1)
    model = [deque(maxlen=capacity) for _ in range(seeds)]
    count = 0
    for chunk in chunks:
        numbers = np.arange(count + 1, count + 1 + chunk)
        ring = insert(ring, numbered(numbers, seeds))
        for s in range(seeds):
            model[s].extend(numbers + 1_000.0 * s)
        count += chunk
    assert int(ring.inserted) == count
    assert int(ring.size) == len(model[0]) == min(count, capacity)
    for s in range(seeds):
        stored = jax.tree.map(lambda x, s=s: x[s, : int(ring.size)], ring.storage)
        rows_agree(stored)
        assert sorted(stored.rewards.tolist()) == sorted(model[s])
        # In order of age: the oldest stands where the next one will be written.
        oldest = count % capacity if count > capacity else 0
        assert np.roll(stored.rewards, -oldest).tolist() == list(model[s])


def test_chunk_as_long_as_the_ring_replaces_it():
    ring = insert(empty_ring(1, 3, 2, 1), numbered([1, 2], 1))
    ring = insert(ring, numbered([3, 4, 5], 1))
    assert sorted(ring.storage.rewards[0].tolist()) == [3, 4, 5]


def test_sampling_never_returns_unwritten_or_foreign_rows():
    ring = insert(empty_ring(3, 50, 2, 1), numbered([1, 2, 3, 4], 3))
    for s in range(3):
        batch = sample_online(ring, jnp.int32(s), KEY, (200,))
        rows_agree(batch)
        # Each written row is drawn (200 draws of 4), no zeros, no other seed's.
        assert set(batch.rewards.tolist()) == {1_000.0 * s + n for n in (1, 2, 3, 4)}


def test_sampling_a_wrapped_ring_returns_the_newest():
    ring = empty_ring(1, 4, 2, 1)
    for n in range(1, 8):
        ring = insert(ring, numbered([n], 1))
    assert set(sample_online(ring, jnp.int32(0), KEY, (200,)).rewards.tolist()) == {4, 5, 6, 7}


def test_offline_sampling_covers_the_dataset_with_its_shape():
    replay = Replay(empty_ring(1, 4, 2, 1), numbered(np.arange(5)))
    batch = sample_mixed(replay, jnp.int32(0), KEY, 7, 30, Mixture(1.0))
    assert batch.observations.shape == (7, 30, 2)
    rows_agree(batch)
    assert set(batch.rewards.ravel().tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("batch_size", "fraction", "n"),
    [(8, 0.5, 4), (7, 0.5, 4), (5, 0.5, 2), (8, 0.0, 0), (8, 1.0, 8), (10, 0.25, 2), (3, 0.1, 0)],
)
def test_mixed_batches_have_the_exact_share_first(batch_size, fraction, n):
    updates = 2
    ring = insert(empty_ring(2, 8, 2, 1), numbered([ONLINE] * 4, 2))
    offline = numbered([OFFLINE] * 5)
    batch = sample_mixed(
        Replay(ring, offline), jnp.int32(1), KEY, updates, batch_size, Mixture(fraction, 0.4)
    )
    assert batch.actions.shape == (updates, batch_size, 1)
    np.testing.assert_array_equal(batch.rewards[:, :n], np.full((updates, n), OFFLINE))
    np.testing.assert_array_equal(
        batch.rewards[:, n:], np.full((updates, batch_size - n), 1_000.0 + ONLINE)
    )


def test_without_offline_data_all_rows_are_online():
    ring = insert(empty_ring(1, 8, 2, 1), numbered([5, 6], 1))
    batch = sample_mixed(Replay(ring), jnp.int32(0), KEY, 2, 30, Mixture(0.5))
    assert batch.rewards.shape == (2, 30)
    assert set(batch.rewards.ravel().tolist()) == {5, 6}


def test_updates_see_different_batches_and_keys_decide():
    ring = insert(empty_ring(1, 64, 2, 1), numbered(np.arange(64), 1))
    offline = numbered(100 + np.arange(64))
    first, again, other = (
        sample_mixed(
            Replay(ring, offline), jnp.int32(0), jax.random.key(k), 2, 16, Mixture(0.5)
        ).rewards
        for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("n", [1, 3])
def test_normaliser_standardises_both_observations(n):
    normaliser = Normaliser(jnp.array([1.0, -2.0]), jnp.array([2.0, 0.5]))
    batch = normaliser.batch(numbered(np.full(n, 3.0)))
    # (3 - 1)/2, (3 + 2)/0.5
    np.testing.assert_allclose(batch.observations, np.tile([1.0, 10.0], (n, 1)))
    np.testing.assert_allclose(batch.next_observations, np.tile([1.0, 10.0], (n, 1)))
    np.testing.assert_array_equal(batch.actions, np.full((n, 1), 3.0))


def test_what_the_data_left_at_rest_stays_within_bounds():
    """370 deviations, as of a cabinet that the demonstrations never open."""
    normaliser = Normaliser(jnp.array([0.0, 0.0]), jnp.array([1e-3, 1.0]))
    seen = normaliser(jnp.array([[0.37, 3.0], [-0.37, -3.0]]))
    np.testing.assert_allclose(seen, [[10.0, 3.0], [-10.0, -3.0]])


def test_union_is_uniform_over_dataset_and_ring():
    """30 logged and 10 online transitions: a quarter of the rows is online, each row whole."""
    ring = insert(empty_ring(1, 50, 2, 1), numbered(np.arange(10), seeds=1))
    logged = numbered(OFFLINE + np.arange(30))
    batch = sample_mixed(Replay(ring, logged), jnp.int32(0), KEY, 40, 100, Mixture(None))
    rows_agree(batch)
    assert batch.rewards.shape == (40, 100)
    numbers, counts = np.unique(batch.rewards, return_counts=True)
    assert set(numbers) == set(range(10)) | set(OFFLINE + np.arange(30))
    assert counts.sum() == 4_000
    assert np.all(np.abs(counts - 100) < 50)  # 5 standard deviations


def test_union_without_a_dataset_is_the_ring():
    ring = insert(empty_ring(1, 50, 2, 1), numbered(np.arange(10), seeds=1))
    batch = sample_mixed(Replay(ring), jnp.int32(0), KEY, 2, 100, Mixture(None))
    assert set(np.unique(batch.rewards)) == set(range(10))


@pytest.mark.parametrize(
    ("fraction", "share", "starts", "offline"),
    [(0.5, 0.4, 2, 2), (0.5, 1.0, 4, 0), (0.5, 0.0, 0, 4), (0.0, 0.4, 0, 0), (1.0, 0.25, 2, 6)],
)
def test_starts_are_an_exact_share_of_the_offline_rows(fraction, share, starts, offline):
    ring = insert(empty_ring(1, 8, 2, 1), numbered([ONLINE] * 4, 1))
    logged, first = numbered([OFFLINE] * 10_000 + [7]), jnp.array([10_000])
    batch = sample_mixed(
        Replay(ring, logged, first), jnp.int32(0), KEY, 3, 8, Mixture(fraction, share)
    )
    np.testing.assert_array_equal(batch.rewards[:, :starts], np.full((3, starts), 7.0))
    others = batch.rewards[:, starts : starts + offline]
    np.testing.assert_array_equal(others, np.full((3, offline), OFFLINE))
    rest = batch.rewards[:, starts + offline :]
    np.testing.assert_array_equal(rest, np.full((3, 8 - starts - offline), ONLINE))


def ring_of(lengths, capacity):
    """Seed s's rows carry 1000 s + the number of their episode; the newest two are recent."""
    ring = empty_ring(2, capacity, 2, 1)
    for episode, length in enumerate(lengths):
        for _ in range(length):
            ring = insert(ring, numbered([episode], 2))
    return ring, jnp.asarray(recent_episodes([np.cumsum(lengths).tolist()] * 2, sum(lengths), 2))


def test_a_short_episode_is_as_recent_as_a_long_one():
    ring, episodes = ring_of([4, 30, 2], 40)
    batch = sample_recent(ring, episodes[1], jnp.int32(1), KEY, (400,))
    rows_agree(batch)
    numbers, counts = np.unique(batch.rewards, return_counts=True)
    assert numbers.tolist() == [1_001.0, 1_002.0]
    assert 150 < counts[1] < 250


def test_of_a_wrapped_ring_only_what_is_left_of_an_episode_is_recent():
    ring, episodes = ring_of([5, 9, 3], 8)  # five rows of the nine are left
    rows = sample_recent(ring, episodes[0], jnp.int32(0), KEY, (300,)).rewards
    assert set(rows.tolist()) == {1.0, 2.0}
    later = insert(ring, numbered([7], 2))
    rows = sample_recent(later, episodes[0], jnp.int32(0), KEY, (300,)).rewards
    assert set(rows.tolist()) == {1.0, 2.0}


def test_recent_rows_are_an_exact_share_of_the_online_rows():
    ring = insert(empty_ring(1, 8, 2, 1), numbered([5, 5, 5, 9], 1))
    replay = Replay(ring, numbered([OFFLINE]), episodes=jnp.array([[[3, 4]]]))
    batch = sample_mixed(replay, jnp.int32(0), KEY, 3, 8, Mixture(0.5, recent=0.5))
    np.testing.assert_array_equal(batch.rewards[:, :6], [[OFFLINE] * 4 + [9.0] * 2] * 3)


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_counts_sum_to_the_batch(batch_size, offline, starts, recent, logged):
    counts = Mixture(offline, starts, recent).counts(batch_size, logged, logged)
    assert sum(counts) == batch_size
    assert min(counts) >= 0


# ------------------------------------------------------------------ windows


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_windows_never_cross_an_episodes_end_and_none_is_left_out(lengths, length):
    stops = np.cumsum(lengths)
    starts = stops - lengths
    episode = np.repeat(np.arange(len(lengths)), lengths)
    rows = window_rows(starts, stops, length)
    whole = [
        row
        for row in range(len(episode) - length + 1)
        if len(set(episode[row : row + length].tolist())) == 1
    ]
    assert rows.tolist() == whole


def test_sampled_windows_are_whole_and_carry_their_skills():
    ring = empty_ring(2, 12, 2, 1, latent_dim=1)
    skills = np.repeat(np.arange(3.0), 4)[None, :, None]  # three skills of four rows
    chunk = numbered(np.arange(12), 2)._replace(
        latents=jnp.asarray(np.concatenate([skills, skills + 10]), jnp.float32)
    )
    ring = insert(ring, jax.tree.map(lambda x: x[:, :8], chunk))  # the third is not acted yet
    logged = numbered(np.arange(100, 110))
    windows = jnp.array([0, 1, 6])
    labels = jnp.asarray(windows + jnp.array([[0], [50]]), jnp.float32)[..., None]
    replay = Replay(ring, logged, windows=windows, labels=labels)
    batch = sample_windows(replay, jnp.int32(1), KEY, 30, 6, 0.5, 4)
    assert batch.rewards.shape == (30, 6, 4)
    rows_agree(batch)
    np.testing.assert_array_equal(np.diff(batch.rewards, axis=-1), 1.0)
    first = batch.rewards[..., 0]
    assert set(first[:, :3].ravel().tolist()) == {100.0, 101.0, 106.0}
    assert set(first[:, 3:].ravel().tolist()) == {1_000.0, 1_004.0}
    # Every row has the skill of its window, as this seed's prior or its own acting says.
    wanted = np.where(first >= 1_000, 10 + (first - 1_000) // 4, first - 100 + 50)
    np.testing.assert_array_equal(batch.latents[..., 0], np.repeat(wanted[..., None], 4, -1))


def test_windows_of_the_best_episodes_come_behind_the_datasets():
    ring = empty_ring(2, 16, 2, 1, latent_dim=1)
    chunk = numbered(np.arange(24), 2)._replace(latents=jnp.zeros((2, 24, 1), jnp.float32))
    for part in range(6):
        ring = insert(ring, jax.tree.map(lambda x, p=part: x[:, 4 * p : 4 * p + 4], chunk))
    # Rows 8 to 23 are there; seed 1's best are 8 to 11 and 16 to 23, across the ring's seam.
    best = jnp.array([[[8, 24]] * 2, [[8, 12], [16, 24]]])
    labels = jnp.zeros((2, 1, 1), jnp.float32)
    logged = numbered(np.arange(100, 110))
    replay = Replay(ring, logged, windows=jnp.array([0]), labels=labels, best=best)
    batch = sample_windows(replay, jnp.int32(1), KEY, 60, 8, 0.25, 4, best_fraction=0.5)
    rows_agree(batch)
    np.testing.assert_array_equal(np.diff(batch.rewards, axis=-1), 1.0)
    first = np.asarray(batch.rewards[..., 0])
    assert set(first[:, :2].ravel()) == {100.0}
    numbers, counts = np.unique(first[:, 2:5], return_counts=True)
    assert numbers.tolist() == [1_008.0, 1_016.0, 1_020.0]
    assert counts[0] == pytest.approx(90, abs=25)  # an episode is as likely as a longer one
    assert set(first[:, 5:].ravel()) == {1_008.0, 1_012.0, 1_016.0, 1_020.0}
    # The rows from everywhere are those drawn without the others.
    plain = sample_windows(replay, jnp.int32(1), KEY, 60, 5, 0.4, 4)
    np.testing.assert_array_equal(first[:, 5:], plain.rewards[:, 2:, 0])
