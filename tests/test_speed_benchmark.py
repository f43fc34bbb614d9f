"""What `python -m benchmarks.speed` counts and how it summarises; the clock is not tested."""

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from spaars.algos.sac import SAC, SACConfig

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.speed import flops, measure, tables, work  # noqa: E402

RECORDS = sorted((ROOT / "results" / "speed").glob("*.json"))


def test_xlas_count_of_a_sac_update_is_its_products():
    batch, obs, act, h = 64, 11, 3, 128

    def layers(n_in, n_out):
        return [2 * batch * a * b for a, b in ((n_in, h), (h, h), (h, n_out))]

    actor, critic = layers(obs, 2 * act), layers(obs + act, 1)
    forward, to_inputs = 1, 1  # a layer's backward pass costs a product each for inputs, weights
    trained_actor = 3 * sum(actor) - actor[0]  # nobody needs the observations' gradient
    trained_critic = 3 * sum(critic) - critic[0]
    by_hand = sum(actor) + 2 * sum(critic)  # targets
    by_hand += 2 * trained_critic
    by_hand += trained_actor + 2 * (forward + to_inputs) * sum(critic)  # actor up the critics

    agent = SAC(SACConfig(hidden=(h, h), batch_size=batch))
    state = agent.init(jax.random.key(0), jnp.zeros(obs), jnp.ones(obs), act)
    counted = flops.of_update(agent, state, work.transitions(batch, obs, act))
    # Above it are the element-wise operations: activations, Adam, averages of the targets.
    assert by_hand < counted < 1.1 * by_hand


@pytest.mark.parametrize(("armed", "products"), [(True, 2), (False, 1)])
def test_only_the_branch_that_is_taken_counts(armed, products):
    def fn(state, x):
        y = x @ x
        return jax.lax.cond(state["armed"], lambda: y @ x, lambda: y)

    counted = flops.count(fn, {"armed": jnp.asarray(armed)}, jnp.ones((32, 32)))
    assert counted == products * 2 * 32**3


def test_cases_are_measured_in_turn():
    order = []
    cases = [measure.Case(name, 3.0, lambda name=name: order.append(name)) for name in "ab"]
    found = measure.rates(cases, repetitions=2, seconds=0.0)
    assert "".join(order) == "aabb" + "abab"  # warm-up and a first look, then the repetitions
    assert [len(values) for values in found.values()] == [2, 2]


def test_spread_golden():
    assert measure.spread([3.0, 1.0, 2.00001, 9.0]) == {
        "median": 2.5,
        "low": 1.0,
        "high": 9.0,
        "values": [3.0, 1.0, 2.0, 9.0],
    }
    assert tables.span(measure.spread([0.5, 0.25, 0.75]), percent=True) == "50% (25 to 75)"


def test_a_command_names_no_path_of_this_machine(tmp_path):
    words = ["peers", "--env-dir", str(tmp_path / "envs"), "--out", "results/speed/x.json"]
    assert measure.command(words) == (
        "python -m benchmarks.speed peers --env-dir envs --out results/speed/x.json"
    )


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_committed_measurements_say_how_they_came_about(path):
    text = path.read_text()
    record = json.loads(text)
    assert {"command", "git_revision", "machine", "versions", "clock"} <= record.keys()
    assert not re.search(r'"/|/tmp/|/root/|/home/', text)
