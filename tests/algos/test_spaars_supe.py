import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skill_windows import ACT, KEY, LOGGED, OBS, B, H, K, same, windows
from spaars.algos.gate import GateConfig, raw_wins
from spaars.algos.latent import cloning_loss
from spaars.algos.sac import SACConfig
from spaars.algos.spaars_supe import (
    EasingConfig,
    RawConfig,
    SpaarsSupe,
    primitive_transitions,
)
from spaars.algos.supe import Supe, SupeConfig, to_latent
from spaars.nn import Critics
from spaars.priors.opal import OpalConfig

SKILLS = Supe(
    prior=OpalConfig(skill_length=H, latent_dim=K, hidden=(16,), recurrent=8),
    supe=SupeConfig(hidden=(16,), novelty_features=8),
    sac=SACConfig(hidden=(16,), critics=3, batch_size=B, entropy_backup=False),
    utd=2,
    logged_rows=LOGGED,
)


AS_SUPE = EasingConfig(updates=0)


def agent(easing=AS_SUPE, **gate) -> SpaarsSupe:
    raw = RawConfig(hidden=(16,), critics=3, cloning_steps=10, learning_rate=1e-2)
    return SpaarsSupe(SKILLS, raw, GateConfig(**{"ramp_steps": 10} | gate), easing)


AGENT = agent()


@pytest.fixture(scope="module")
def state():
    """Fresh, but with a low-level policy that tells states and skills apart."""
    state = AGENT.init(KEY, jnp.zeros(OBS), jnp.ones(OBS), ACT)
    last = state.skill.prior.params.acting.decoder.layers[-1]
    mean = jnp.arange(2 * ACT) < ACT
    prior = eqx.tree_at(
        lambda o: (o.acting.decoder.layers[-1].weight, o.acting.decoder.layers[-1].bias),
        state.skill.prior.params,
        (jnp.where(mean, 50.0 * last.weight, 0.0), jnp.where(mean, 0.0, -3.0)),
    )
    prior_learner = state.skill.prior._replace(params=prior)
    return state._replace(skill=state.skill._replace(prior=prior_learner))


@pytest.fixture(scope="module")
def update():
    return jax.jit(AGENT.update)


def armed(state, since_updates: int):
    """Armed so many updates ago."""
    sac = state.skill.sac._replace(updates=jnp.int32(since_updates))
    return state._replace(skill=state.skill._replace(sac=sac), armed_at=jnp.int32(0))


def test_primitive_transitions_golden():
    batch = windows(2)
    flat, ends = primitive_transitions(batch)
    assert ends.tolist() == [False, False, False, True] * 2
    np.testing.assert_array_equal(flat.rewards, batch.rewards.ravel())
    np.testing.assert_array_equal(flat.observations[5], batch.observations[1, 1])
    np.testing.assert_array_equal(flat.latents[4:], np.repeat(batch.latents[1:, 0], 4, 0))


def test_the_skill_side_is_supes(state, update):
    """Gate and raw policy take nothing from it; without a start at the prior nothing is eased."""
    skill_key = jax.random.split(KEY, 3)[0]
    alone, metrics = jax.jit(SKILLS.update)(state.skill, windows(), skill_key)
    both, all_metrics = update(state, windows(), KEY)
    for ours, theirs in zip(jax.tree.leaves(both.skill), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert float(all_metrics["skill_q_mean"]) == pytest.approx(float(metrics["q_mean"]), rel=1e-4)


def cloning(actor, batch, rows):
    """Of the skills that the batch's rows say."""
    u = batch.latents[rows, 0]
    return float(cloning_loss(actor(batch.observations[rows, 0]), u))


def test_the_skill_policy_starts_at_the_datas_skills(state):
    easing = agent(EasingConfig(updates=100))
    assert [phase.name for phase in easing.offline_phases()] == ["prior", "skills"]
    phase = easing.offline_phases()[1]
    assert (phase.updates, phase.window) == (100, H)
    batch, start = windows(), jax.jit(phase.update)
    found = batch._replace(latents=jnp.tile(easing.label(state, batch)[:, None], (1, H, 1)))
    every = slice(None)
    before = cloning(state.skill.sac.actor.params, found, every)
    new = state
    for _ in range(100):
        new, metrics = start(new, batch, KEY)
    after = cloning(new.skill.sac.actor.params, found, every)
    assert float(metrics["skill_cloning"]) == pytest.approx(after, abs=0.1)
    assert after < before - 0.3
    assert not bool(new.skill.untrained)
    # The prior is frozen, nothing else has learned.
    assert same(new.skill.prior, state.skill.prior)
    assert same(new.critics, state.critics)


def test_the_skill_policy_is_let_go_of_the_logged_skills(state):
    batch, logged = windows(), slice(0, LOGGED)
    held = agent(EasingConfig(updates=1, weight=100.0, weight_end=0.0, steps=10))
    free = SKILLS.utd * 10

    def train(updates_before):
        sac = state.skill.sac._replace(updates=jnp.int32(updates_before))
        new, update = state._replace(skill=state.skill._replace(sac=sac)), jax.jit(held.update)
        for i in range(30):
            # Only the actor's cloning is looked at: no update count, so no annealing meanwhile.
            new, _ = update(new, batch, jax.random.fold_in(KEY, i))
            sac = new.skill.sac._replace(updates=jnp.int32(updates_before))
            new = new._replace(skill=new.skill._replace(sac=sac))
        return new.skill.sac.actor.params

    tied, released = train(0), train(free)
    start = state.skill.sac.actor.params
    assert cloning(tied, batch, logged) < cloning(start, batch, logged) - 0.1
    assert cloning(tied, batch, logged) < cloning(released, batch, logged) - 0.1
    assert agent().easing_of(state, batch) is None


def test_own_skills_and_the_critics_come_to_count(state):
    """At first the logged skills all alike; later any, those of more advantage more."""
    batch, own = windows(), slice(LOGGED, None)
    held = agent(EasingConfig(updates=1, weight_end=1.0, temperature=3.0, steps=10))
    start = state.skill.sac.actor.params

    def loss(batch, progress):
        sac = state.skill.sac._replace(updates=jnp.int32(SKILLS.utd * 10 * progress))
        held_by = held.easing_of(state._replace(skill=state.skill._replace(sac=sac)), batch)
        return float(held_by.loss(start))

    other = batch._replace(latents=batch.latents.at[own].multiply(-1.0))
    assert loss(batch, 0) == loss(other, 0)
    assert loss(batch, 1) != pytest.approx(loss(other, 1), rel=1e-3)

    sac = state.skill.sac
    obs, u = sac.normaliser(batch.observations[:, 0]), batch.latents[:, 0]
    q = sac.critics.params(obs, sac.actor.params(obs).mode())
    advantages = np.asarray((sac.critics.params(obs, u) - q).mean(0))
    weights = np.exp(3.0 * advantages / np.abs(advantages).mean())
    scale = float(jnp.abs(q).mean() + jnp.exp(sac.log_temperature.params))
    log_probs = np.asarray(start(obs).log_prob(u))
    expected = -scale * (weights / weights.mean() * log_probs).mean()
    assert loss(batch, 1) == pytest.approx(expected, rel=1e-4)


def test_the_best_episodes_take_the_place_of_the_logged_skills(state):
    batch = windows()
    best = slice(LOGGED, LOGGED + 1)
    held = agent(EasingConfig(updates=1, weight_end=1.0, steps=10))
    held = dataclasses.replace(held, best_rows=1)
    start = state.skill.sac.actor.params

    def loss(progress):
        sac = state.skill.sac._replace(updates=jnp.int32(SKILLS.utd * 10 * progress))
        eased = held.easing_of(state._replace(skill=state.skill._replace(sac=sac)), batch)
        obs = sac.normaliser(batch.observations[:, 0])
        q = sac.critics.params(obs, sac.actor.params(obs).mode())
        scale = float(jnp.abs(q).mean() + jnp.exp(sac.log_temperature.params))
        return float(eased.loss(start)) / scale

    assert loss(0) == pytest.approx(cloning(start, batch, slice(0, LOGGED)), rel=1e-4)
    assert loss(1) == pytest.approx(cloning(start, batch, best), rel=1e-4)


def test_the_target_entropy_is_not_above_the_starts(state):
    """The temperature falls as long as the entropy is above its target, and rises below it."""
    sac = dataclasses.replace(SKILLS.sac, target_entropy_scale=-20.0)  # a target of 40 nats
    held = agent(EasingConfig(updates=1))
    held = dataclasses.replace(held, skills=dataclasses.replace(SKILLS, sac=sac))
    update, batch, before = jax.jit(held.update), windows(), state.skill.sac.log_temperature.params
    for start, rises in ((-20.0, False), (90.0, True)):
        new, _ = update(state._replace(start_entropy=jnp.float32(start)), batch, KEY)
        assert bool(new.skill.sac.log_temperature.params > before) == rises


def test_primitive_critics_learn_from_the_agents_own_steps_alone(state, update):
    batch = windows()
    logged = batch._replace(rewards=batch.rewards.at[:LOGGED].add(9.0))
    own = batch._replace(rewards=batch.rewards.at[LOGGED:, 2].add(9.0))
    plain, unread, read = (update(state, x, KEY)[0] for x in (batch, logged, own))
    assert same(plain.critics, unread.critics)
    assert not same(plain.critics, read.critics)


def test_the_running_skill_goes_on_within_a_window_and_ends_with_it(state):
    """Values at s' depend on the window's skill but at its last step, where a new one is drawn."""
    flat, ends = primitive_transitions(windows(2))
    other = flat._replace(latents=-flat.latents)
    next_values = jax.jit(AGENT.next_values)
    a, b = (next_values(state, x, ends, KEY) for x in (flat, other))
    np.testing.assert_array_equal((a == b), ends)


def test_next_values_are_the_ensembles_mean(state):
    flat, ends = primitive_transitions(windows(2))
    critics = jax.tree.map(jnp.zeros_like, Critics(OBS, ACT, (), 3, key=KEY))
    *others, bias = jax.tree.leaves(critics)  # of the last member
    critics = jax.tree.unflatten(jax.tree.structure(critics), [*others, bias + 3.0])
    values = AGENT.next_values(state._replace(target_critics=critics), flat, ends, KEY)
    np.testing.assert_allclose(values, 1.0, rtol=1e-6)


def test_an_open_gate_acts_and_a_shut_one_does_not(state):
    plain = agent(margin=0.3)
    observations = jax.random.normal(KEY, (50, OBS))
    # Q(s, a) = -a_1: raw actions, near zero, win where the decoded one is above 0.3.
    linear = jax.tree.map(jnp.zeros_like, Critics(OBS, ACT, (), 3, key=KEY))
    linear = jax.tree.map(lambda x: x.at[OBS].set(-1.0) if x.ndim > 1 else x, linear)
    state = state._replace(critics=state.critics._replace(params=linear))
    acting = plain.acting(state)
    u = plain.choose(acting, observations, KEY)
    shut, facts = plain.act_deterministic((acting, u), observations)
    decoded = state.skill.prior.params.acting.decode(observations, to_latent(u))
    np.testing.assert_allclose(shut, decoded, atol=1e-6)
    assert float(facts["raw_share"].max()) == 0.0
    armed_acting = acting._replace(armed=jnp.array(True))
    opened, facts = plain.act_deterministic((armed_acting, u), observations)
    raw = state.raw.params(observations).mode()
    wins = raw_wins(plain.gate, state.critics.params, observations, raw, decoded)
    assert 0 < int(wins.sum()) < 50
    np.testing.assert_allclose(opened, jnp.where(wins[:, None], raw, decoded), atol=1e-6)
    np.testing.assert_array_equal(facts["raw_share"], wins)


def test_exploration_obeys_the_ramp(state):
    observations = jax.random.normal(KEY, (400, OBS))
    ever_open = agent(pessimism=0.0, margin=-1e6)
    for updates, share in ((0, 0.0), (10, 0.5), (20, 1.0), (90, 1.0)):
        acting = ever_open.acting(armed(state, updates))
        running = acting, ever_open.choose(acting, observations, KEY)
        facts = ever_open.act(running, observations, KEY)[1]
        assert float(facts["raw_share"].mean()) == pytest.approx(share, abs=0.08)


def test_skills_the_raw_policy_took_part_in_are_relabelled(state):
    batch = windows(3)
    touched = jnp.zeros((3, H)).at[1, 2].set(1.0)
    _, stored = jax.jit(AGENT.observe)(state, batch, {"raw_share": touched, "gate": touched})
    np.testing.assert_array_equal(stored.latents[0], batch.latents[0])
    np.testing.assert_array_equal(stored.latents[2], batch.latents[2])
    found = AGENT.label(state, batch)[1]
    np.testing.assert_allclose(stored.latents[1], jnp.tile(found, (H, 1)), atol=1e-6)


def test_the_raw_policy_clones_before_and_climbs_after(state):
    flat, _ = primitive_transitions(windows(32))
    update_raw = jax.jit(AGENT.update_raw)
    decoded = state.skill.prior.params.acting.decode(flat.observations, to_latent(flat.latents))

    def error(raw):
        return float(jnp.square(raw.params(flat.observations).mode() - decoded).mean())

    def value(raw):
        actions = raw.params(flat.observations).mode()
        return float(state.critics.params(flat.observations, actions).min(0).mean())

    def train(state):
        weights = []
        for i in range(150):
            state, metrics = update_raw(state, flat, jax.random.key(i))
            weights.append(float(metrics["cloning_weight"]))
        return state.raw, weights[-1]

    cloned, weight = train(state)
    climbed, end = train(armed(state, 1_000)._replace(raw=cloned))
    assert (weight, end) == (1.0, pytest.approx(0.001, rel=1e-3))
    assert error(cloned) < 0.5 * error(state.raw)
    assert value(climbed) > value(cloned) + 0.05


def test_hand_over_and_roll_back(state, update):
    trained, _ = update(state, windows(), KEY)
    once = AGENT.hand_over(trained, jnp.array(True))
    again = AGENT.hand_over(update(once, windows(), KEY)[0], jnp.array(True))
    assert (int(once.armed_at), int(again.armed_at)) == (1, 1)
    back = AGENT.roll_back(again, AGENT.acting(once))
    assert same(back.raw.params, once.raw.params)
    assert same(back.skill.sac.actor.params, once.skill.sac.actor.params)
    assert same(back.critics, again.critics)
    # Before the hand-over nothing but the skill side acted: there is no raw policy to go back to.
    early = AGENT.roll_back(again, AGENT.acting(trained))
    assert same(early.raw.params, again.raw.params)


def test_evidence(state):
    evidence = AGENT.evidence(state, windows())
    assert all(np.isfinite(value) for value in evidence.values())
    assert float(evidence["cloning_error"]) > 0.0
    assert float(evidence["handover_bound"]) == pytest.approx(
        100.0 * float(evidence["lipschitz"] * evidence["cloning_error"]), rel=1e-4
    )
