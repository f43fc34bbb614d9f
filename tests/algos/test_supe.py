import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toy
from skill_windows import ACT, KEY, LOGGED, OBS, B, H, K, same, windows
from spaars.algos.rnd import RND
from spaars.algos.sac import SACConfig
from spaars.algos.supe import (
    Supe,
    SupeConfig,
    macro_transitions,
    reward_model_loss,
    termination_model_loss,
    to_latent,
)
from spaars.data.sources import load_dataset
from spaars.nn import MLP
from spaars.priors.opal import OpalConfig
from spaars.training.config import preset_config
from spaars.training.logged import standardisation

AGENT = Supe(
    prior=OpalConfig(skill_length=H, latent_dim=K, hidden=(16,), recurrent=8),
    supe=SupeConfig(
        hidden=(16,), novelty_features=8, bonus_from=10, bonus=5.0, novelty_from=4, models_every=2
    ),
    sac=SACConfig(hidden=(16,), critics=3, actor_every=2, batch_size=B, entropy_backup=False),
    utd=2,
    learning_starts=2,
    logged_rows=LOGGED,
)


@pytest.fixture(scope="module")
def state():
    return AGENT.init(KEY, jnp.zeros(OBS), jnp.ones(OBS), ACT)


@pytest.fixture(scope="module")
def update():
    return jax.jit(AGENT.update)


def test_macro_transitions_golden():
    batch = windows(1)._replace(
        rewards=jnp.array([[1.0, 2.0, 0.0, 4.0]]), terminated=jnp.array([[0.0, 0.0, 0.0, 1.0]])
    )
    macro = macro_transitions(batch, 0.5)
    np.testing.assert_allclose(macro.rewards, [1.0 + 1.0 + 0.0 + 0.5])
    np.testing.assert_array_equal(macro.observations, batch.observations[:, 0])
    np.testing.assert_array_equal(macro.next_observations, batch.next_observations[:, 3])
    np.testing.assert_array_equal(macro.actions, batch.latents[:, 0])
    np.testing.assert_array_equal(macro.terminated, [1.0])


def test_a_decoder_of_some_columns_is_blind_to_the_others():
    columns = (0, 2)
    agent = dataclasses.replace(
        AGENT, prior=dataclasses.replace(AGENT.prior, decoder_columns=columns)
    )
    update = jax.jit(agent.update_prior)
    state = agent.init(KEY, jnp.full(OBS, 0.3), jnp.full(OBS, 2.0), ACT)
    before = state.prior.params
    for i in range(3):
        state, _ = update(state, windows(key=jax.random.fold_in(KEY, i)), KEY)
    opal = state.prior.params
    obs, z = jax.random.normal(KEY, (OBS,)), jnp.ones(K)
    for column in range(OBS):
        other = opal.acting.decode(obs.at[column].add(1.0), z)
        assert np.array_equal(other, opal.acting.decode(obs, z)) is (column not in columns)
    # What says which skill it is, sees all of them.
    assert not same(before.observation_net, opal.observation_net)
    moved = jnp.abs(opal.observation_net.layers[0].weight - before.observation_net.layers[0].weight)
    assert (moved.max(1) > 0.0).all()


def test_model_losses_golden():
    model = MLP(2, 1, (), key=KEY)
    model = jax.tree.map(jnp.ones_like, model)  # s + u + 1
    s, u = jnp.array([[1.0], [0.0]]), jnp.array([[2.0], [-1.0]])  # 4, 0
    loss, _ = reward_model_loss(model, s, u, jnp.array([1.0, 2.0]))
    assert float(loss) == pytest.approx((9.0 + 4.0) / 2)
    loss, _ = termination_model_loss(model, s, u, jnp.array([0.0, 1.0]))
    assert float(loss) == pytest.approx((np.log1p(np.exp(4.0)) + np.log(2.0)) / 2, rel=1e-5)


def test_novelty_fades_where_the_agent_has_been():
    tx = optax.adam(1e-3)
    rnd = RND.create(OBS + K, (32,), 16, tx, *jax.random.split(KEY))
    seen = jax.random.normal(KEY, (1, OBS)), jnp.zeros((1, K))
    elsewhere = seen[0] + 3.0, seen[1] + 0.5
    learn = jax.jit(lambda rnd: rnd.learn(*seen, tx)[0])
    before, far = float(rnd.novelty(*seen)[0]), float(rnd.novelty(*elsewhere)[0])
    for _ in range(200):
        rnd = learn(rnd)
    assert float(rnd.novelty(*seen)[0]) < 0.01 * before
    assert float(rnd.novelty(*elsewhere)[0]) > 0.2 * far


def test_rewards_of_the_dataset_are_not_read(state, update):
    batch = windows()
    other = batch._replace(rewards=batch.rewards.at[:LOGGED].add(100.0))
    own = batch._replace(rewards=batch.rewards.at[LOGGED:].add(100.0))
    plain, unread, read = (update(state, x, KEY)[0] for x in (batch, other, own))
    assert same(plain, unread)
    assert not same(plain.sac.critics, read.sac.critics)


def test_features_start_as_published():
    """Glorot's rule keeps their variance from layer to layer; novelty hangs on it."""
    keys = jax.random.split(KEY)
    rnd = RND.create(OBS + K, (256, 256, 256), 256, optax.adam(1e-3), *keys)
    for net in (rnd.target, rnd.predictor.params):
        for layer in net.layers:
            bound = (6.0 / sum(layer.weight.shape)) ** 0.5
            assert 0.98 * bound < float(jnp.abs(layer.weight).max()) <= bound
            assert not layer.bias.any()


def test_novelty_is_worth_something_from_its_step_on(state, update):
    """Step 10 is update 16: 2 steps before the first, then 2 updates each."""

    def critics_after(updates, rnd):
        sac = state.sac._replace(updates=jnp.int32(updates))
        return update(state._replace(sac=sac, rnd=rnd), windows(), KEY)[0].sac.critics

    other = state.rnd._replace(target=jax.tree.map(lambda x: 2.0 * x, state.rnd.target))
    assert same(critics_after(15, state.rnd), critics_after(15, other))
    assert not same(critics_after(16, state.rnd), critics_after(16, other))


def test_novelty_learns_once_from_every_skill(state):
    batch, observe = windows(5), jax.jit(AGENT.observe)
    assert same(observe(state, batch, {})[0].rnd, state.rnd)  # not before step 4
    state = state._replace(sac=state.sac._replace(updates=jnp.int32(4)))
    after, stored = observe(state, batch, {})
    assert same(stored, batch)
    rnd = state.rnd
    for i in range(5):
        one = batch.observations[i : i + 1, 0], batch.latents[i : i + 1, 0]
        rnd, _ = rnd.learn(*one, AGENT.novelty_optimizer)
    for ours, theirs in zip(jax.tree.leaves(after.rnd), jax.tree.leaves(rnd), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_published_order_is_supes_alone():
    """Bonus from the first update on, its predictor learning from twice the first step on."""
    published, ours = (preset_config("kitchen-mixed", m).supe for m in ("supe", "spaars-supe"))
    assert (published.bonus_from, published.novelty_from) == (0, 10_000)
    assert (ours.bonus_from, ours.novelty_from) == (10_000, 0)


def test_supe_reads_observations_as_they_are(point_task, tmp_path):
    data = load_dataset(toy.POINT_ON, toy.point_file(tmp_path / "point.npz"), 0)
    mean, std = standardisation(preset_config("point-on", "supe", "smoke"), data)
    np.testing.assert_array_equal([mean, std], [np.zeros(4), np.ones(4)])
    ours = standardisation(preset_config("point-on", "spaars-supe", "smoke"), data)
    np.testing.assert_array_equal(ours, data.observation_statistics())
    for preset in ("smoke", "quick", "full"):
        config = preset_config("kitchen-mixed", "supe", preset)
        assert config.online.utd == config.sac.actor_every  # one actor update per step


def test_models_have_a_rhythm_of_their_own(state):
    agent = dataclasses.replace(AGENT, supe=dataclasses.replace(AGENT.supe, models_every=1))
    moved = jax.jit(agent.update)(state, windows(), KEY)[0]
    moved = jax.jit(agent.update)(moved, windows(), KEY)[0], moved
    assert not same(moved[0].reward_model, moved[1].reward_model)


def test_actor_and_models_move_at_every_second_update(state, update):
    first, _ = update(state, windows(), KEY)
    second, _ = update(first, windows(), KEY)
    assert same(first.sac.actor, state.sac.actor)
    assert not same(second.sac.actor, first.sac.actor)
    assert not same(first.reward_model, state.reward_model)
    assert same(second.reward_model, first.reward_model)
    assert same(second.prior, state.prior)  # frozen


def test_skills_are_the_priors_until_the_first_update(state):
    observations = jax.random.normal(KEY, (400, OBS))
    acting = AGENT.acting(state)
    prior = jnp.tanh(state.prior.params.acting.state_prior(observations).mode())
    np.testing.assert_allclose(AGENT.choose(acting, observations, None), prior, atol=1e-6)
    drawn = to_latent(AGENT.choose(acting, observations, KEY))
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.15)
    trained = acting._replace(untrained=jnp.array(False))
    mode = state.sac.actor.params(observations).mode()
    np.testing.assert_allclose(AGENT.choose(trained, observations, None), mode, atol=1e-6)


def test_actions_follow_the_chosen_skill(state):
    observations = jax.random.normal(KEY, (5, OBS))
    acting = AGENT.acting(state)
    u = AGENT.choose(acting, observations, KEY)
    actions, _ = AGENT.act_deterministic((acting, u), observations)
    expected = state.prior.params.acting.decode(observations, to_latent(u))
    np.testing.assert_allclose(actions, expected, atol=1e-6)


def test_labels_are_what_the_encoder_finds(state):
    batch = windows(7)
    z = state.prior.params.encode_mean(batch.observations, batch.actions)
    np.testing.assert_allclose(AGENT.label(state, batch), jnp.tanh(z), atol=1e-6)
    np.testing.assert_allclose(to_latent(jnp.tanh(z)), z, atol=1e-3)
    assert np.isfinite(to_latent(jnp.ones((1, 2)))).all()


def test_roll_back_takes_the_skill_policy_only(state, update):
    acting = AGENT.acting(state)
    later, _ = update(update(state, windows(), KEY)[0], windows(), KEY)
    back = AGENT.roll_back(later, acting)
    assert same(back.sac.actor.params, state.sac.actor.params)
    assert same(back.sac.critics, later.sac.critics)
    # The offline policy draws skills from the prior, whatever the critics have learned since.
    observations = jax.random.normal(KEY, (5, OBS))
    skills = AGENT.choose(AGENT.acting(back), observations, KEY)
    np.testing.assert_array_equal(skills, AGENT.choose(acting, observations, KEY))
    again, _ = update(back, windows(), KEY)
    assert not bool(again.untrained)
