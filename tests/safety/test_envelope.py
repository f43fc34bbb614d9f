"""No executed action leaves the bounds or the rate limit, and every clip is counted."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spaars.errors import ConfigError, RunError
from spaars.safety import ActionEnvelope
from spaars.safety.envelope import clip_shares

BOX = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
NAN = np.full((1, 3), np.nan, np.float32)


@st.composite
def limits(draw):
    """Bounds within the box, and a rate limit or none."""
    low = draw(st.lists(st.floats(-1.0, 0.0, width=32), min_size=3, max_size=3))
    width = draw(st.lists(st.floats(0.0625, 1.0, width=32), min_size=3, max_size=3))
    rate = draw(st.none() | st.floats(0.0009765625, 2.0, width=32))
    high = [min(1.0, a + b) for a, b in zip(low, width, strict=True)]
    return low, high, None if rate is None else (rate,)


requests = arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.just(2), st.just(3)),
    elements=st.floats(-1e6, 1e6, width=32),
)


@settings(deadline=None)
@given(limits(), requests, st.lists(st.booleans(), min_size=20, max_size=20))
def test_nothing_executed_leaves_it(limits, requested, begins):
    """Over several steps of two envs; where an episode begins, only the bounds hold."""
    envelope = ActionEnvelope(BOX, *limits)
    executed = np.full((2, 3), np.nan, np.float32)
    for actions, begin in zip(requested, begins, strict=False):
        previous = np.full_like(executed, np.nan) if begin else executed
        executed = envelope(actions, previous)
        assert executed.dtype == np.float32
        assert (executed >= envelope.low).all()
        assert (executed <= envelope.high).all()
        if envelope.rate_limit is not None:
            change = np.abs(executed.astype(np.float64) - previous)
            assert not (change > envelope.rate_limit + 1e-6).any()
        # It is the nearest that may be: what may be executed is left as it is.
        np.testing.assert_array_equal(envelope(executed, previous), executed)


@given(arrays(np.float32, (4, 3), elements=st.floats(-1.0, 1.0, width=32)))
def test_the_envs_own_bounds_change_no_bit(actions):
    np.testing.assert_array_equal(ActionEnvelope(BOX)(actions), actions)


def test_golden():
    envelope = ActionEnvelope(BOX, (-0.5,), (0.5, 1.0, 0.25), (0.25,))
    first = envelope(np.array([[0.75, -0.75, 0.0]], np.float32), NAN)
    np.testing.assert_array_equal(first, [[0.5, -0.5, 0.0]])
    second = envelope(np.array([[-1.0, 1.0, 0.125]], np.float32), first)
    np.testing.assert_array_equal(second, [[0.25, -0.25, 0.125]])


def test_the_bounds_hold_after_an_action_far_outside():
    """A person who took over need not keep them; the rate limit yields then, on either side."""
    envelope = ActionEnvelope(BOX, (-0.5,), (0.5,), (0.2,))
    previous = np.array([[-0.9, 0.9, 0.6]], np.float32)
    for request, expected in ((-1.0, [-0.5, 0.5, 0.4]), (1.0, [-0.5, 0.5, 0.5])):
        executed = envelope(np.full((1, 3), request, np.float32), previous)
        np.testing.assert_allclose(executed, [expected], atol=1e-6)


def test_clips_are_counted_by_seed():
    requested = np.zeros((2, 4, 3), np.float32)
    executed = requested.copy()
    executed[0, 1, :2] = 0.5  # two dimensions of one of four steps
    shares = clip_shares(requested, executed)
    np.testing.assert_allclose(shares["clipped_steps"], [0.25, 0.0])
    np.testing.assert_allclose(shares["clipped_dimensions"], [2 / 12, 0.0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_not_executed(value):
    with pytest.raises(RunError, match="not executed"):
        ActionEnvelope(BOX)(np.array([[0.0, value, 0.0]], np.float32))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"low": (-2.0,)}, r"--safety.action-low .-2. lies outside the env's own bounds .-1, 1."),
        ({"high": (0.5, 1.5, 0.5)}, r"--safety.action-high .1.5. lies outside .* dimension 1"),
        ({"low": (0.5,), "high": (0.5,)}, r"--safety.action-low .0.5. must be below"),
        ({"low": (0.0, 0.0)}, r"--safety.action-low takes one finite number, or one for each of"),
        ({"high": (float("nan"),)}, "--safety.action-high takes one finite number"),
        ({"rate_limit": (0.0,)}, "--safety.rate-limit must be positive"),
        ({"rate_limit": ()}, "--safety.rate-limit takes one finite number"),
    ],
)
def test_limits_that_do_not_fit_are_refused(limits, words):
    with pytest.raises(ConfigError, match=words):
        ActionEnvelope(BOX, **limits)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32), "finite bounds"),
        (gymnasium.spaces.Discrete(3), "flat Box"),
        (gymnasium.spaces.Box(-1, 1, (2, 2), np.float32), "flat Box"),
    ],
)
def test_explicit_bounds_are_required(space, words):
    with pytest.raises(ConfigError, match=words):
        ActionEnvelope(space)
