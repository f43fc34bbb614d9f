"""The agent as a whole, tiny: what each stage changes, and what it must not change."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars.algos.config import LearnerConfig, OfflineConfig
from spaars.algos.gate import NOT_ARMED, GateConfig
from spaars.algos.spaars import Spaars
from spaars.data.replay import Batch
from spaars.nn import polyak
from spaars.priors import PriorConfig

OBS, ACT, ROWS = 3, 2, 16
KEY = jax.random.key(0)
EVERYTHING = ("prior", "critics", "target_critics", "value", "latent", "raw", "log_temperature")

LEARNER = LearnerConfig(
    hidden=(8,),
    critics=2,
    batch_size=ROWS,
    warmup_steps=2,
    regression_steps=10,
    cloning_steps=10,
    initial_temperature=0.2,
)


def tiny(gate=None, **learner):
    return Spaars(
        PriorConfig(hidden=(8,), updates=3),
        OfflineConfig(updates=4),
        dataclasses.replace(LEARNER, **learner),
        gate or GateConfig(pessimism=0.5, raw_share_cap=0.8, ramp_steps=10),
    )


def init(agent, key=KEY):
    return agent.init(key, jnp.array([0.5, 0.0, -0.5]), jnp.array([2.0, 1.0, 0.5]), ACT)


def random_batch(seed=7, n=ROWS):
    keys = jax.random.split(jax.random.key(seed), 4)
    return Batch(
        observations=jax.random.normal(keys[0], (n, OBS)),
        actions=jax.random.uniform(keys[1], (n, ACT), minval=-1.0),
        rewards=jax.random.normal(keys[2], (n,)),
        next_observations=jax.random.normal(keys[3], (n, OBS)),
        terminated=jnp.zeros(n).at[::4].set(1.0),
    )


def changed(before, after):
    """Names of the parts whose parameters differ."""
    return {name for name in EVERYTHING if not same(getattr(before, name), getattr(after, name))}


def same(a, b):
    return bool(eqx.tree_equal(a, b))


def at(state, updates, armed_at=NOT_ARMED):
    return state._replace(updates=jnp.int32(updates), armed_at=jnp.int32(armed_at))


@pytest.fixture(scope="module")
def agent():
    return tiny()


@pytest.fixture(scope="module")
def update(agent):
    return jax.jit(agent.update)


@pytest.fixture(scope="module")
def state(agent):
    return init(agent)


# ------------------------------------------------------------------ offline


def test_a_fresh_state(agent, state):
    assert state.prior.params.latent_dim == ACT  # None takes the action dimension
    assert same(state.critics.params, state.target_critics)
    assert (int(state.updates), int(state.armed_at)) == (0, NOT_ARMED)
    assert float(state.log_temperature.params) == pytest.approx(np.log(0.2))
    narrow = dataclasses.replace(agent, prior=PriorConfig(latent_dim=1, hidden=(8,)))
    assert init(narrow).latent.params(jnp.zeros((5, OBS))).mean.shape == (5, 1)
    assert init(narrow).raw.params(jnp.zeros((5, OBS))).mean.shape == (5, ACT)


def test_phases_in_order(agent):
    assert [(p.name, p.updates) for p in agent.offline_phases()] == [("prior", 3), ("offline", 4)]


def test_each_phase_trains_its_parts_only(agent, state):
    prior, offline = (jax.jit(phase.update) for phase in agent.offline_phases())
    after_prior, metrics = prior(state, random_batch(), KEY)
    assert changed(state, after_prior) == {"prior"}
    assert set(metrics) == {"prior_loss", "reconstruction", "kl"}
    after_offline, metrics = offline(after_prior, random_batch(), KEY)
    assert changed(after_prior, after_offline) == {
        "critics", "target_critics", "value", "latent", "raw",
    }  # fmt: skip
    assert same(after_offline.latent_average, after_offline.latent.params)
    assert same(after_offline.raw_average, after_offline.raw.params)
    assert all(np.isfinite(value) for value in metrics.values())
    assert (int(after_offline.updates), int(after_offline.armed_at)) == (0, NOT_ARMED)
    tau = agent.offline.tau
    expected = polyak(after_offline.critics.params, after_prior.target_critics, tau)
    for a, b in zip(
        jax.tree.leaves(expected), jax.tree.leaves(after_offline.target_critics), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


def test_latent_labels_are_the_scaled_posterior_means(agent, state):
    batch = random_batch()
    z = state.prior.params.encode_mean(batch.observations, batch.actions)
    labels = agent.latent_labels(state.prior.params, batch)
    np.testing.assert_allclose(labels, np.clip(z / 2.0, -1.0, 1.0), rtol=1e-6)
    far = eqx.tree_at(
        lambda prior: prior.encoder.layers[-1].bias, state.prior.params, jnp.array([9.0, -9, 0, 0])
    )
    labels = agent.latent_labels(far, batch)
    np.testing.assert_array_equal(labels, np.tile([1.0, -1.0], (ROWS, 1)))


def test_decoding_stays_within_the_latent_bound(agent, state):
    obs = jnp.zeros((2, OBS))
    u = jnp.array([[1.0, -1.0], [0.25, 0.5]])
    np.testing.assert_allclose(
        agent.decode(state.prior.params, obs, u), state.prior.params.decode(obs, 2.0 * u)
    )


# ------------------------------------------------------------------ going online


def test_averages_follow_the_policies(agent, state, update):
    before = at(state, 9)
    after, _ = update(before, random_batch(), KEY)
    for name in ("latent", "raw"):
        average = getattr(after, f"{name}_average")
        tau = agent.learner.average_tau
        expected = polyak(getattr(after, name).params, getattr(before, f"{name}_average"), tau)
        assert not same(average, getattr(after, name).params)
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(average), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


def test_the_online_step_size_falls(agent, state):
    learner = dataclasses.replace(
        agent.learner, learning_rate=1e-2, learning_rate_end=1e-3, learning_rate_steps=10
    )
    fast = dataclasses.replace(agent, learner=learner)
    grads, opt_state = jnp.ones(3), agent.offline_optimizer.init(jnp.zeros(3))
    for updates, rate in ((0, 1e-2), (5, 5.5e-3), (10, 1e-3), (99, 1e-3)):
        step, _ = fast.optimizer(jnp.int32(updates)).update(grads, opt_state)
        np.testing.assert_allclose(step, -rate, rtol=1e-4)


def test_begin_online_changes_nothing_unless_raw_acts_alone(agent, state):
    assert same(agent.begin_online(state), state)
    always = tiny(GateConfig(rule="always"))
    begun = always.begin_online(init(always))
    assert int(begun.armed_at) == 0
    assert same(begun._replace(armed_at=jnp.int32(NOT_ARMED)), init(always))


def test_policies_rest_while_the_critics_warm_up(agent, state, update):
    for number in range(2):
        new, metrics = update(state, random_batch(number), KEY)
        assert changed(state, new) == {"critics", "target_critics"}
        assert int(new.updates) == number + 1
        assert all(np.isnan(metrics[name]) for name in agent.no_policy_metrics())
        assert np.isfinite(metrics["critic_loss"])
        state = new
    new, metrics = update(state, random_batch(2), KEY)
    assert changed(state, new) == set(EVERYTHING) - {"prior", "value"}
    assert all(np.isfinite(value) for value in metrics.values())
    assert set(agent.no_policy_metrics()) < set(metrics)


@pytest.mark.parametrize("armed_at", [NOT_ARMED, 3])
def test_the_prior_stays_frozen_and_the_optimiser_with_it(state, update, armed_at):
    before = at(state, 5, armed_at)
    after, _ = update(before, random_batch(), KEY)
    assert same(before.prior, after.prior)
    assert same(before.value, after.value)


def test_update_is_deterministic_and_depends_on_the_key(state, update):
    before = at(state, 5, 3)
    assert same(update(before, random_batch(), KEY), update(before, random_batch(), KEY))
    other, _ = update(before, random_batch(), jax.random.key(1))
    assert not same(other.latent, update(before, random_batch(), KEY)[0].latent)


def test_terminal_next_states_do_not_matter(state, update):
    batch = random_batch()
    elsewhere = jnp.where(batch.terminated[:, None] > 0, 9.0, batch.next_observations)
    for before in (at(state, 0), at(state, 5, 3)):
        same_target, _ = update(before, batch._replace(next_observations=elsewhere), KEY)
        expected, _ = update(before, batch, KEY)
        assert same(same_target.critics.params, expected.critics.params)
        moved, _ = update(before, batch._replace(next_observations=elsewhere + 1.0), KEY)
        assert not same(moved.critics.params, expected.critics.params)


def test_before_arming_the_raw_policy_only_clones(agent, state):
    """Other critics, same raw step; once armed it climbs them."""
    update_policies = jax.jit(agent.update_policies)
    batch = random_batch()
    inverted = jax.tree.map(lambda x: -3.0 * x, state.critics.params)
    for armed_at, indifferent in ((NOT_ARMED, True), (5, False)):
        before = at(state, 5, armed_at)
        others = before._replace(critics=before.critics._replace(params=inverted))
        plain, _ = update_policies(before, batch, KEY)
        other, _ = update_policies(others, batch, KEY)
        assert same(plain.raw, other.raw) == indifferent
        assert not same(plain.latent, other.latent)
        assert not same(plain.raw, before.raw)


def test_weights_are_annealed(update, state):
    def weights(updates, armed_at):
        metrics = update(at(state, updates, armed_at), random_batch(), KEY)[1]
        return float(metrics["regression_weight"]), float(metrics["cloning_weight"])

    # Regression: 1 at the end of the 2 warm-up updates, 0 after 10 more: 1 - (5 - 2)/10 = 0.7.
    assert weights(2, NOT_ARMED) == pytest.approx((1.0, 1.0))
    assert weights(5, NOT_ARMED) == pytest.approx((0.7, 1.0))
    # Cloning: 1 - 0.999 * (20 - 15)/10 = 0.5005 five updates after arming; then 0.001 for good.
    assert weights(20, 20) == pytest.approx((0.0, 1.0))
    assert weights(20, 15) == pytest.approx((0.0, 0.5005))
    assert weights(90, 15) == pytest.approx((0.0, 0.001), rel=1e-4)


def test_temperature_follows_the_entropy(state, update):
    """Target entropy -0.5 k = -1: a broad policy cools, a narrow one heats."""

    def step(log_std):
        policy = eqx.tree_at(
            lambda p: p.net.layers[-1].bias,
            state.latent.params,
            jnp.array([0.0, 0.0, log_std, log_std]),
        )
        before = at(state._replace(latent=state.latent._replace(params=policy)), 5)
        after, metrics = update(before, random_batch(), KEY)
        rise = after.log_temperature.params - before.log_temperature.params
        return float(metrics["entropy"]), float(rise)

    entropy, rise = step(-0.5)
    assert entropy > -1.0
    assert rise < 0.0
    entropy, rise = step(-3.0)
    assert entropy < -1.0
    assert rise > 0.0


# ------------------------------------------------------------------ hand-over and raw share


def test_hand_over_arms_once(agent, state):
    yes, no = jnp.array(True), jnp.array(False)
    assert int(agent.hand_over(at(state, 5), no).armed_at) == NOT_ARMED
    armed = agent.hand_over(at(state, 5), yes)
    assert int(armed.armed_at) == 5
    later = armed._replace(updates=jnp.int32(9))
    for again in (yes, no):
        assert int(agent.hand_over(later, again).armed_at) == 5
    assert same(armed._replace(armed_at=jnp.int32(NOT_ARMED)), at(state, 5))


def test_hand_over_maps_over_a_population(agent, state):
    population = jax.tree.map(lambda x: jnp.stack([x, x]), at(state, 5))
    armed = jax.vmap(agent.hand_over)(population, jnp.array([False, True]))
    np.testing.assert_array_equal(armed.armed_at, [NOT_ARMED, 5])


@pytest.mark.parametrize(("updates", "share"), [(5, 0.0), (10, 0.4), (15, 0.8), (999, 0.8)])
def test_raw_share_ramps_after_arming(agent, state, updates, share):
    # cap 0.8 over 10 updates: 0.8 * 5/10 = 0.4
    acting = agent.acting(at(state, updates, 5))
    assert float(acting.raw_share) == pytest.approx(share)
    assert bool(acting.armed)
    assert float(agent.acting(at(state, updates)).raw_share) == 0.0


@pytest.mark.parametrize("rule", ["always", "step"])
def test_fixed_rules_hand_over_at_once_and_whole(state, rule):
    agent = tiny(GateConfig(rule=rule, step=7 if rule == "step" else None, raw_share_cap=0.5))
    assert float(agent.acting(at(state, 5, 5)).raw_share) == 1.0


# ------------------------------------------------------------------ who acts


def sees_first_action(state):
    """Policies far apart, and critics without hidden layer: Q_1 = a_1, Q_2 = a_1 + 5."""
    critics = eqx.tree_at(
        lambda c: [leaf for m in c.members for leaf in (m.layers[0].weight, m.layers[0].bias)],
        state.critics.params,
        [
            leaf
            for bias in (0.0, 5.0)
            for leaf in (jnp.zeros((OBS + ACT, 1)).at[OBS].set(1.0), jnp.array([bias]))
        ],
    )
    raw = eqx.tree_at(
        lambda p: (p.net.layers[0].weight, p.net.layers[0].bias),
        state.raw.params,
        # mean of a_1 before tanh: the first observation; std at its least, e^-5
        (jnp.zeros((OBS, 2 * ACT)).at[0, 0].set(1.0), jnp.array([0.0, 0.3, -5.0, -5.0])),
    )
    latent = eqx.tree_at(
        lambda p: (p.net.layers[0].weight, p.net.layers[0].bias),
        state.latent.params,
        (jnp.zeros((OBS, 2 * ACT)), jnp.array([0.1, -0.1, -5.0, -5.0])),
    )
    return state._replace(
        critics=state.critics._replace(params=critics),
        target_critics=critics,
        raw=state.raw._replace(params=raw),
        latent=state.latent._replace(params=latent),
        raw_average=raw,
        latent_average=latent,
    )


def linear(rule="advantage", **gate):
    """An agent without hidden layers, its state, observations, and both policies' modes there."""
    step = 5 if rule == "step" else None
    agent = tiny(GateConfig(rule=rule, step=step, ramp_steps=0, **gate), hidden=())
    state = sees_first_action(init(agent))
    observations = 3.0 * jax.random.normal(KEY, (40, OBS))
    obs = state.normaliser(observations)
    raw = state.raw.params(obs).mode()
    decoded = agent.decode(state.prior.params, obs, state.latent.params(obs).mode())
    return agent, state, observations, np.asarray(raw), np.asarray(decoded)


def test_an_armed_gate_lets_raw_act_where_it_wins():
    agent, state, observations, raw, decoded = linear()
    wins = raw[:, 0] > decoded[:, 0]
    assert 5 < wins.sum() < 35  # the states differ
    actions, facts = agent.act_deterministic(agent.acting(at(state, 9, 5)), observations)
    np.testing.assert_allclose(actions, np.where(wins[:, None], raw, decoded), rtol=1e-5)
    np.testing.assert_array_equal(facts["raw_share"], wins)


def test_margin_is_in_units_of_return():
    agent, state, observations, raw, decoded = linear(margin=0.5)
    wins = raw[:, 0] - decoded[:, 0] > 0.5
    _, facts = agent.act_deterministic(agent.acting(at(state, 9, 5)), observations)
    np.testing.assert_array_equal(facts["raw_share"], wins)
    assert 0 < wins.sum() < (raw[:, 0] > decoded[:, 0]).sum()


@pytest.mark.parametrize(
    ("rule", "armed_at", "raw_acts"),
    [
        ("advantage", NOT_ARMED, False),
        ("step", NOT_ARMED, False),
        ("step", 5, True),
        ("always", 0, True),
        ("never", NOT_ARMED, False),
        ("never", 5, False),
    ],
)
def test_rules_that_decide_alone(rule, armed_at, raw_acts):
    agent, state, observations, raw, decoded = linear(rule)
    acting = agent.acting(at(state, 9, armed_at))
    actions, facts = agent.act_deterministic(acting, observations)
    np.testing.assert_allclose(actions, raw if raw_acts else decoded, rtol=1e-5)
    np.testing.assert_array_equal(facts["raw_share"], np.full(40, float(raw_acts)))
    sampled, facts = agent.act(acting, observations, KEY)
    np.testing.assert_allclose(sampled, raw if raw_acts else decoded, atol=0.1)
    np.testing.assert_array_equal(facts["raw_share"], np.full(40, float(raw_acts)))


def test_an_open_gate_is_obeyed_as_often_as_the_share_says():
    agent, state, _, *_ = linear(raw_share_cap=0.3)
    observations = jnp.tile(jnp.array([3.0, 0.0, 0.0]), (4_000, 1))  # raw wins: tanh(1.25)
    acting = agent.acting(at(state, 9, 5))
    actions, facts = agent.act(acting, observations, KEY)
    np.testing.assert_array_equal(facts["gate"], np.ones(4_000))
    # 0.3 +- 4 standard errors of 0.0072
    assert float(facts["raw_share"].mean()) == pytest.approx(0.3, abs=0.03)
    raw = state.raw.params(state.normaliser(observations)).mode()
    nearby = np.abs(actions - raw).max(-1) < 0.1
    np.testing.assert_array_equal(nearby, facts["raw_share"] > 0)


def test_bootstrap_comes_from_whoever_acts():
    obs = jnp.zeros((40, OBS)).at[:, 0].set(jnp.linspace(-2.0, 2.0, 40))
    for rule, armed_at in (("advantage", NOT_ARMED), ("never", 5), ("always", 0), ("advantage", 5)):
        agent, state, *_ = linear(rule)
        state = at(state, 9, armed_at)
        raw = np.asarray(state.raw.params(obs).mode())[:, 0]
        decoded = np.asarray(
            agent.decode(state.prior.params, obs, state.latent.params(obs).mode())
        )[:, 0]
        expected = {
            ("advantage", NOT_ARMED): decoded,
            ("never", 5): decoded,
            ("always", 0): raw,
            ("advantage", 5): np.maximum(raw, decoded),
        }[rule, armed_at]
        # min over the members Q_1 = a_1 and Q_2 = a_1 + 5; std e^-5 leaves 0.05
        np.testing.assert_allclose(agent.next_values(state, obs, KEY), expected, atol=0.06)


@pytest.mark.parametrize("rule", ["advantage", "always", "step"])
def test_a_shadow_gate_is_computed_and_the_latent_policy_acts(rule):
    agent, state, observations, raw, decoded = linear(rule, shadow=True)
    state = at(state, 9, 5)
    acting = agent.acting(state)
    assert bool(acting.armed)
    assert float(acting.raw_share) == 0.0
    wins = raw[:, 0] > decoded[:, 0] if rule == "advantage" else np.ones(40, bool)
    actions, facts = agent.act_deterministic(acting, observations)
    np.testing.assert_allclose(actions, decoded, rtol=1e-5)
    np.testing.assert_array_equal(facts["gate"], wins)
    np.testing.assert_array_equal(facts["raw_share"], np.zeros(40))
    sampled, facts = agent.act(acting, observations, KEY)
    np.testing.assert_allclose(sampled, decoded, atol=0.1)
    np.testing.assert_array_equal(facts["gate"], wins)
    np.testing.assert_array_equal(facts["raw_share"], np.zeros(40))
    # So do the critics' targets: min_e Q = a_1.
    values = agent.next_values(state, state.normaliser(observations), KEY)
    np.testing.assert_allclose(values, decoded[:, 0], atol=0.06)


def test_taking_back_shuts_the_gate_until_it_is_armed_anew(agent, state):
    taken = agent.take_back(at(state, 50, 5))
    assert same(taken, at(state, 50))
    assert float(agent.acting(taken).raw_share) == 0.0
    again = agent.hand_over(taken._replace(updates=jnp.int32(60)), jnp.array(True))
    assert int(again.armed_at) == 60


# ------------------------------------------------------------------ evidence


def test_evidence_golden():
    agent, state, observations, raw, decoded = linear()
    batch = random_batch(n=40)._replace(observations=observations)
    evidence = agent.evidence(at(state, 9), batch)
    error = np.linalg.norm(raw - decoded, axis=-1).mean()
    assert float(evidence["cloning_error"]) == pytest.approx(error, rel=1e-5)
    assert float(evidence["lipschitz"]) == pytest.approx(1.0)  # ||grad_a a_1||
    assert float(evidence["handover_bound"]) == pytest.approx(100.0 * error, rel=1e-4)
    assert float(evidence["value"]) == pytest.approx(decoded[:, 0].mean(), rel=1e-4)
    # The members agree on every difference: their std is zero.
    assert float(evidence["gate_advantage"]) == pytest.approx(
        (raw - decoded)[:, 0].mean(), rel=1e-4
    )
    assert float(evidence["gate_would_open"]) == pytest.approx((raw[:, 0] > decoded[:, 0]).mean())


def test_appraisal_is_what_it_says(agent, state):
    batch = random_batch(n=12)
    found = agent.appraise(state, batch)
    obs, prior = state.normaliser(batch.observations), state.prior.params
    for i in range(12):
        z = prior.encode_mean(obs[i], batch.actions[i])
        distance = np.linalg.norm(np.asarray(batch.actions[i] - prior.decode(obs[i], z)))
        q = [
            float(member(jnp.concatenate([obs[i], batch.actions[i]]))[0])
            for member in state.critics.params.members
        ]
        assert float(found["support_distance"][i]) == pytest.approx(distance, rel=1e-4)
        assert float(found["latent_norm"][i]) == pytest.approx(float(jnp.linalg.norm(z)), rel=1e-4)
        assert float(found["q"][i]) == pytest.approx(np.mean(q), rel=1e-3, abs=1e-5)
        assert float(found["q_ensemble_std"][i]) == pytest.approx(np.std(q), rel=1e-3, abs=1e-5)


def test_actions_are_bounded(agent, state):
    observations = 1e3 * jax.random.normal(KEY, (100, OBS))
    for armed_at in (NOT_ARMED, 0):
        acting = agent.acting(at(state, 1_000, armed_at))
        for actions, _ in (
            agent.act(acting, observations, KEY),
            agent.act_deterministic(acting, observations),
        ):
            assert np.abs(actions).max() <= 1.0
