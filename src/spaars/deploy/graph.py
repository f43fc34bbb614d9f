"""What an agent computes when it acts deterministically, as a list of plain steps.

The steps are those that `spaars.deploy.numpy_policy` runs and `spaars.deploy.onnx_policy` writes.
What is known when a policy is exported is resolved here: a gate that is not armed is no step.
"""

from typing import Any

import jax
import numpy as np

from spaars.algos import spaars, spaars_supe, supe
from spaars.algos.agent import Agent, SingleActor
from spaars.algos.gate import GateConfig
from spaars.algos.spaars import Spaars
from spaars.algos.spaars_supe import SpaarsSupe
from spaars.algos.supe import Supe
from spaars.data.replay import Normaliser
from spaars.errors import ConfigError
from spaars.nn import MLP, Critics
from spaars.nn.distributions import MAX_SQUASHED
from spaars.priors.opal import SkillDecoder
from spaars.safety import ActionEnvelope

Step = dict[str, Any]


class Steps:
    """Steps in order, and the arrays they read. Every method adds some; it returns their output."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays, self.steps = arrays, list[Step]()

    def add(
        self,
        op: str,
        inputs: list[str],
        output: str | None = None,
        arrays: dict[str, Any] | None = None,
        **settings: float,
    ) -> str:
        output = output or f"{op}.{len(self.steps)}"
        # Read by several steps, an array is stored once: its name says where it comes from.
        for name, array in (arrays or {}).items():
            self.arrays[name] = np.ascontiguousarray(array, np.float32)
        step = {"op": op, "inputs": inputs, "arrays": list(arrays or {}), "output": output}
        self.steps.append(step | settings)
        return output

    def standardise(self, normaliser: Normaliser) -> str:
        arrays = {"observations/mean": normaliser.mean, "observations/std": normaliser.std}
        return self.add("standardise", ["observations"], arrays=arrays)

    def mlp(self, name: str, net: MLP, inputs: list[str], outputs: int) -> str:
        """The first `outputs` of the network's: means; behind them stand log stds."""
        x = inputs[0] if len(inputs) == 1 else self.add("concatenate", inputs)
        last = len(net.layers) - 1
        for i, layer in enumerate(net.layers):
            n = outputs if i == last else None
            weights = {
                f"{name}/{i}/weight": layer.weight[:, :n],
                f"{name}/{i}/bias": layer.bias[:n],
            }
            x = self.add("linear", [x], arrays=weights)
            if i < last:
                if net.norms:
                    norm = net.norms[i]
                    gains = {f"{name}/{i}/gain": norm.gain, f"{name}/{i}/shift": norm.shift}
                    x = self.add("layer_norm", [x], arrays=gains)
                x = self.add("relu", [x])
        return x

    def squashed(self, name: str, net: MLP, inputs: list[str], outputs: int) -> str:
        return self.add("tanh", [self.mlp(name, net, inputs, outputs)])

    def gated(self, config: GateConfig, critics: Critics, obs: str, raw: str, decoded: str) -> str:
        """The raw action where the critics agree that it is better, else the decoded one."""
        q = [
            self.mlp(f"critic{e}", net, [obs, action], 1)
            for action in (raw, decoded)
            for e, net in enumerate(critics.members)
        ]
        advantage = self.add(
            "paired_advantage",
            q,
            "gate_advantage",
            pessimism=config.pessimism,
            margin=config.margin,
        )
        return self.add("where_positive", [advantage, raw, decoded])


def graphs_of(
    agent: Agent, acting: Any, action_dim: int, envelope: ActionEnvelope | None = None
) -> tuple[dict[str, list[Step]], dict[str, np.ndarray]]:
    """The steps from observations to actions, by graph, and the arrays they read.

    With skills there are two graphs: `skills`, from observations, and `actions`, from observations
    and skills. `acting` is `Agent.acting` of one seed. Actions are brought within the `envelope`
    last; a rate limit makes them depend on `previous` ones.

    Raises ConfigError for an agent that is not known here.
    """
    acting = jax.tree.map(np.asarray, acting)
    arrays: dict[str, np.ndarray] = {}
    act = Steps(arrays)
    graphs = {"actions": act.steps}
    if isinstance(agent, Spaars):
        out = _spaars(act, agent, acting, action_dim)
    elif isinstance(agent, SingleActor):
        normaliser, actor = acting
        out = act.squashed("actor", actor.net, [act.standardise(normaliser)], action_dim)
    elif isinstance(agent, (Supe, SpaarsSupe)):
        skill = acting if isinstance(agent, Supe) else acting.skill
        choose = Steps(arrays)
        graphs["skills"] = choose.steps
        _rename_last(choose, _choose(choose, agent, skill), "skills")
        out = _follow(act, agent, acting, skill, action_dim)
    else:
        raise ConfigError(f"{type(agent).__name__} is no agent that can be exported.")
    _rename_last(act, _limited(act, out, envelope), "actions")
    return graphs, arrays


def _limited(steps: Steps, out: str, envelope: ActionEnvelope | None) -> str:
    """As `ActionEnvelope` does: what was executed before lay within the bounds, so that the order
    of the two limits is no matter."""
    if envelope is None:
        return out
    bounds = {"envelope/low": envelope.low, "envelope/high": envelope.high}
    out = steps.add("bound", [out], arrays=bounds)
    if envelope.rate_limit is None:
        return out
    return steps.add("limit_rate", [out, "previous"], arrays={"envelope/rate": envelope.rate_limit})


def _rename_last(steps: Steps, last: str, name: str) -> None:
    assert steps.steps[-1]["output"] == last
    steps.steps[-1]["output"] = name


def _spaars(steps: Steps, agent: Spaars, acting: spaars.Acting, action_dim: int) -> str:
    obs, gate = steps.standardise(acting.normaliser), agent.gate
    armed = bool(acting.armed) and not gate.shadow
    always = armed and gate.rule in ("always", "step")
    if not always:
        latent_dim = acting.prior.latent_dim
        u = steps.squashed("latent", acting.latent_average.net, [obs], latent_dim)
        z = steps.add("scale", [u], by=agent.prior.latent_bound)
        decoded = steps.squashed("decoder", acting.prior.decoder, [obs, z], action_dim)  # type: ignore[attr-defined]
        if not armed or gate.rule == "never":
            return decoded
    raw = steps.squashed("raw", acting.raw_average.net, [obs], action_dim)
    return raw if always else steps.gated(gate, acting.critics, obs, raw, decoded)


def _choose(steps: Steps, agent: Supe | SpaarsSupe, acting: supe.Acting) -> str:
    obs = steps.standardise(acting.normaliser)
    prior: SkillDecoder = acting.prior
    net = prior.state_prior_net if acting.untrained else acting.actor.net
    name = "state_prior" if acting.untrained else "skill"
    return steps.squashed(name, net, [obs], agent.skill_dim)


def _follow(
    steps: Steps, agent: Supe | SpaarsSupe, acting: Any, skill: supe.Acting, action_dim: int
) -> str:
    obs = steps.standardise(skill.normaliser)
    gated = (
        isinstance(agent, SpaarsSupe)
        and bool(acting.armed)
        and agent.gate.rule != "never"
        and not agent.gate.shadow
    )
    always = gated and agent.gate.rule in ("always", "step")  # type: ignore[union-attr]
    if not always:
        u = steps.add("clip", ["skills"], low=-MAX_SQUASHED, high=MAX_SQUASHED)
        z = steps.add("arctanh", [u])
        mean = steps.mlp("decoder", skill.prior.decoder, [obs, z], action_dim)
        decoded = steps.add("clip", [mean], low=-1.0, high=1.0)
        if not gated:
            return decoded
    assert isinstance(acting, spaars_supe.Acting)
    raw = steps.squashed("raw", acting.raw.net, [obs], action_dim)
    if always:
        return raw
    return steps.gated(agent.gate, acting.critics, obs, raw, decoded)  # type: ignore[union-attr]
