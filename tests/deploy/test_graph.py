"""An exported policy does what the agent does: of every method, in numpy and in ONNX Runtime."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spaars.algos.agent import SkillAgent
from spaars.deploy.export import npz_bytes
from spaars.deploy.graph import graphs_of
from spaars.deploy.numpy_policy import NumpyPolicy, PolicyError
from toy_policies import ACTIONS, description, observations, random_policy

CASES = {
    "spaars, gated": ("spaars", {}, True),
    "spaars, before the hand-over": ("spaars", {}, False),
    "spaars, always raw": ("spaars", {"gate": {"rule": "always"}}, True),
    "spaars, shadow": ("spaars", {"gate": {"shadow": True}}, True),
    "latent-only": ("spaars", {"gate": {"rule": "never"}}, True),
    "iql": ("iql", {}, True),
    "sac": ("sac", {}, True),
    "bc": ("bc", {}, True),
    "supe": ("supe", {}, True),
    "spaars-supe, gated": ("spaars-supe", {}, True),
    "spaars-supe, shadow": ("spaars-supe", {"gate": {"shadow": True}}, True),
    "spaars-supe, before the hand-over": ("spaars-supe", {}, False),
}
pytestmark = pytest.mark.usefixtures("point_task")


def written(tmp_path, agent, acting):
    graphs, arrays = graphs_of(agent, acting, ACTIONS)
    path = tmp_path / "policy.npz"
    path.write_bytes(npz_bytes(description(agent) | {"graphs": graphs}, arrays))
    return path


def policy_of(case, tmp_path):
    """Agent and weights; a gate's margin is such that it is open at half of the states."""
    method, changes, armed = CASES[case]
    agent, acting = random_policy(method, armed=armed, **changes)
    computed = NumpyPolicy(written(tmp_path, agent, acting)).compute(observations(500))
    if "gate_advantage" in computed:
        margin = agent.gate.margin + float(np.median(computed["gate_advantage"]))
        agent, acting = random_policy(method, armed=armed, gate={"margin": margin})
    return agent, acting


def agents_own(agent, acting, batches):
    """Actions and gates of successive steps, as evaluation takes them."""
    act = jax.jit(agent.act_deterministic)
    steps, skills = [], None
    for i, batch in enumerate(batches):
        what = acting
        if isinstance(agent, SkillAgent):
            if i % agent.skill_length == 0:
                skills = agent.choose(acting, jnp.asarray(batch), None)
            what = (acting, skills)
        steps.append(jax.device_get(act(what, batch)))
    return steps


def assert_same(computed, expected, tolerance=1e-5):
    actions, facts = expected
    same = np.ones(len(actions), bool)
    if "gate_advantage" in computed:
        advantage = computed["gate_advantage"][:, 0]
        same = (advantage > 0.0) == (facts["gate"] > 0.0)
        assert (np.abs(advantage[~same]) < tolerance).all()  # only rounding may decide otherwise
        assert 0 < (advantage > 0.0).sum() < len(advantage)  # both sides are tested
    assert np.abs(computed["actions"] - actions)[same].max() < tolerance
    assert same.mean() > 0.99


@pytest.mark.parametrize("case", CASES)
def test_numpy_does_what_the_agent_does(case: str, tmp_path) -> None:
    agent, acting = policy_of(case, tmp_path)
    policy = NumpyPolicy(written(tmp_path, agent, acting))
    batches = [observations(500, seed) for seed in range(6)]
    expected = agents_own(agent, acting, batches)
    for _ in range(2):
        policy.reset()
        for batch, one in zip(batches, expected, strict=True):
            # A skill passes through arctanh, whose slope reaches 500 where it saturates: so much is
            # a last bit of tanh worth.
            assert_same(policy.compute(batch), one, 1e-4 if policy.skill_length else 1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if "supe" not in case])
def test_onnx_does_what_the_agent_does(case: str, tmp_path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from spaars.deploy.onnx_policy import OnnxPolicy, onnx_bytes

    agent, acting = policy_of(case, tmp_path)
    graphs, arrays = graphs_of(agent, acting, ACTIONS)
    path = tmp_path / "policy.onnx"
    path.write_bytes(onnx_bytes(graphs["actions"], arrays, description(agent)))
    policy = OnnxPolicy(path)
    for n in (1, 7, 500):  # the batch axis is dynamic
        batch = observations(n, seed=n)
        computed = policy.compute(batch)
        if n == 500:
            assert_same(computed, agents_own(agent, acting, [batch])[0])
        assert computed["actions"].shape == (n, ACTIONS)
    properties = policy.session.get_modelmeta().custom_metadata_map
    assert properties["task"] == "point"
    assert properties["action_low"] == "[-2.0, 0.0]"


def test_only_what_acts_is_stored() -> None:
    agent, acting = random_policy("spaars", armed=False)
    _, arrays = graphs_of(agent, acting, ACTIONS)
    assert {name.split("/")[0] for name in arrays} == {"observations", "latent", "decoder"}
    agent, acting = random_policy("spaars", gate={"rule": "always"})
    _, arrays = graphs_of(agent, acting, ACTIONS)
    assert {name.split("/")[0] for name in arrays} == {"observations", "raw"}


def test_other_envs_in_the_middle_of_a_skill_are_refused(tmp_path) -> None:
    agent, acting = random_policy("supe")
    policy = NumpyPolicy(written(tmp_path, agent, acting))
    policy(observations(3))
    with pytest.raises(PolicyError, match=r"skills of 3 envs, got observations of 2.*reset"):
        policy(observations(2))
