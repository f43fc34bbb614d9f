"""Exploring in numpy is exploring as the agent does it, noise for noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars import seeding
from spaars.deploy.graph import exploring_graphs_of
from spaars.own_loop.snapshot import Snapshot, _Graph
from toy_policies import ACTIONS, CHANGES, observations, random_policy

N = 300
GATED = [m for m in CHANGES if m.startswith("spaars")]


def noises_of(method, armed, key, widths, rule="advantage"):
    """What `Agent.act` draws from a key, by the names of the graph's inputs."""
    normal = {name: (N, width) for name, width in widths.items() if name != "share_noise"}
    if method not in GATED:
        (name,) = normal
        return {name: jax.random.normal(key, normal[name])}
    first, raw, share = jax.random.split(key, 3)
    keys = {"latent_noise": first, "skill_noise": first, "raw_noise": raw}
    found = {name: jax.random.normal(keys[name], shape) for name, shape in normal.items()}
    if "share_noise" in widths:
        found["share_noise"] = jax.random.uniform(share, (N,))[:, None]
    return found


@pytest.mark.parametrize(
    ("method", "armed"),
    [
        ("iql", False),
        ("sac", False),
        ("supe", False),
        ("spaars", False),
        ("spaars", True),
        ("spaars-supe", True),
    ],
)
def test_numpy_explores_as_the_agent_does(method, armed, point_task):
    # A seed whose critics disagree from state to state.
    agent, acting = random_policy(method, armed=armed, seed=2 * (method == "spaars"))
    if hasattr(acting, "raw_share") and armed:
        acting = acting._replace(raw_share=jnp.float32(0.6))
    if method in ("supe", "spaars-supe"):
        skills = np.random.default_rng(3).uniform(-0.9, 0.9, (N, agent.skill_dim))
        skills = skills.astype(np.float32)
        running = (acting, skills)
    else:
        skills, running = None, acting
    key, obs = jax.random.key(7), observations(N)
    expected, facts = jax.jit(agent.act)(running, obs, key)

    explored = exploring_graphs_of(agent, acting, ACTIONS)
    values = {"observations": obs} if skills is None else {"observations": obs, "skills": skills}
    values |= noises_of(method, armed, key, explored.noises["actions"])
    values = {name: np.asarray(value) for name, value in values.items()}
    found = _Graph(explored.graphs["actions"], explored.arrays)(values)

    same = np.ones(N, bool)
    if armed and method in GATED:
        used = found["use_raw"][:, 0]
        same = used == np.asarray(facts["raw_share"])
        assert same.mean() > 0.99  # where both are worth the same, rounding decides
        assert 0.05 < used.mean() < 0.95
        is_open = found["gate_advantage"][:, 0] > 0.0
        assert (is_open == np.asarray(facts["gate"])).mean() > 0.99
        assert is_open.mean() > used.mean()  # the share is not 1
    np.testing.assert_allclose(found["actions"][same], np.asarray(expected)[same], atol=2e-5)


def test_numpy_chooses_skills_as_the_agent_does(point_task):
    agent, acting = random_policy("supe")
    choose = jax.jit(agent.choose)
    key, obs = jax.random.key(5), observations(N)
    for untrained in (False, True):  # by the policy, and by the state prior
        acting = acting._replace(untrained=jnp.array(untrained))
        explored = exploring_graphs_of(agent, acting, ACTIONS)
        noise = np.asarray(jax.random.normal(key, (N, agent.skill_dim)))
        values = {"observations": obs, "choice_noise": noise}
        found = _Graph(explored.graphs["skills"], explored.arrays)(values)["skills"]
        np.testing.assert_allclose(found, np.asarray(choose(acting, obs, key)), atol=2e-5)


@pytest.mark.parametrize("rule", ["always", "never"])
def test_gates_that_do_not_compare(rule, point_task):
    agent, acting = random_policy("spaars", armed=rule == "always", gate={"rule": rule})
    rng = seeding.generator(0, seeding.OWN_LOOP_ACT, 0)
    decision = Snapshot(agent, acting, ACTIONS, 0, 0).act(observations(1)[0], None, rng)
    assert (decision.gate, decision.raw) == ((True, True) if rule == "always" else (False, False))


def test_a_snapshot_acts_as_deployed_policies_do(point_task):
    agent, acting = random_policy("spaars")
    snapshot, obs = Snapshot(agent, acting, ACTIONS, 0, 0), observations(20)
    expected, facts = jax.jit(agent.act_deterministic)(acting, obs)
    found = [snapshot.act(one, None, None) for one in obs]
    np.testing.assert_allclose([d.action for d in found], np.asarray(expected), atol=2e-5)
    assert [d.raw for d in found] == np.asarray(facts["raw_share"]).astype(bool).tolist()


def test_a_shadow_never_acts(point_task):
    agent, acting = random_policy("spaars", gate={"shadow": True})
    snapshot = Snapshot(agent, acting, ACTIONS, 0, 0)
    for step in range(20):
        rng = seeding.generator(0, seeding.OWN_LOOP_ACT, step)
        explored = snapshot.act(observations(20)[step], None, rng)
        assert explored.raw is False
        assert explored.gate is not None  # what would have been
        assert snapshot.act(observations(20)[step], None, None).raw is False


def test_noise_is_of_its_step_alone():
    def draw(*args):
        return seeding.generator(*args).standard_normal(4).tolist()

    first = draw(3, seeding.OWN_LOOP_ACT, 10)
    assert first == draw(3, seeding.OWN_LOOP_ACT, 10)
    assert first != draw(3, seeding.OWN_LOOP_ACT, 11)
    assert first != draw(4, seeding.OWN_LOOP_ACT, 10)
