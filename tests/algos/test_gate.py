import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spaars.algos.gate import GateConfig, gate_open, paired_advantage, raw_share

values = arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32))


def test_paired_advantage_golden():
    # state 1: deltas 1, 3: mean 2, std 1: 2 - 0.5 = 1.5; state 2: deltas 2, 0: 1 - 0.5 = 0.5
    q_raw, q_decoded = jnp.array([[2.0, 5.0], [3.0, 1.0]]), jnp.array([[1.0, 3.0], [0.0, 1.0]])
    np.testing.assert_allclose(paired_advantage(q_raw, q_decoded, 0.5), [1.5, 0.5])
    np.testing.assert_array_equal(gate_open(q_raw, q_decoded, 0.5, 1.0), [True, False])
    np.testing.assert_array_equal(gate_open(q_raw, q_decoded, 0.0, 0.9), [True, True])


def test_pairing_cancels_what_members_disagree_on_at_the_state():
    """Members differ by hundreds on the state, and agree that raw is better by a quarter."""
    offsets = jnp.array([-300.0, 0.0, 500.0])[:, None]
    q_decoded = offsets + jnp.array([1.0, 2.0])
    q_raw = q_decoded + 0.25
    np.testing.assert_allclose(paired_advantage(q_raw, q_decoded, 10.0), [0.25, 0.25], atol=1e-6)
    # Not paired, the spread of 330 would have closed it for good.
    assert q_raw.mean(0)[0] - 10.0 * q_raw.std(0)[0] < q_decoded.mean(0)[0]


def test_margin_is_not_enough_when_just_reached():
    q_raw, q_decoded = jnp.ones((2, 1)), jnp.zeros((2, 1))
    assert not bool(gate_open(q_raw, q_decoded, 0.5, 1.0)[0])


@settings(deadline=None, max_examples=50)
@given(values, values, st.floats(0, 5), st.floats(0, 5))
def test_more_pessimism_never_opens_the_gate(q_raw, q_decoded, a, b):
    low, high = sorted((a, b))
    q_raw, q_decoded = jnp.asarray(q_raw), jnp.asarray(q_decoded)
    careful, bold = (paired_advantage(q_raw, q_decoded, kappa) for kappa in (high, low))
    assert np.all(np.asarray(careful) <= np.asarray(bold) + 1e-3)
    opened = gate_open(q_raw, q_decoded, high, 0.0) & ~gate_open(q_raw, q_decoded, low, 0.0)
    assert not np.any(opened & (np.abs(bold) > 1e-3))


def ramped(steps):
    return GateConfig(raw_share_cap=0.8, ramp_steps=steps)


@pytest.mark.parametrize(
    ("updates", "share"), [(0.0, 0.0), (25.0, 0.2), (50.0, 0.4), (100.0, 0.8), (1e6, 0.8)]
)
def test_raw_share_ramps_to_its_cap(updates, share):
    # 0.8 * 25/100 = 0.2
    assert float(raw_share(ramped(100), jnp.float32(updates))) == pytest.approx(share)


def test_raw_share_without_a_ramp_is_full_after_one_update():
    assert float(raw_share(ramped(0), jnp.float32(1.0))) == pytest.approx(0.8)
