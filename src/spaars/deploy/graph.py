"""What an agent computes when it acts, as a list of plain steps.

The steps of acting deterministically are those that `spaars.deploy.numpy_policy` runs and
`spaars.deploy.onnx_policy` writes; those of exploring run in `spaars.own_loop.snapshot` only.
What is known when the steps are made is resolved here: a gate that is not armed is no step.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from spaars.algos import spaars, spaars_supe, supe
from spaars.algos.agent import Agent, SingleActor
from spaars.algos.gate import GateConfig
from spaars.algos.spaars import Spaars
from spaars.algos.spaars_supe import SpaarsSupe
from spaars.algos.supe import Supe
from spaars.data.replay import OBSERVATION_LIMIT, Normaliser
from spaars.errors import ConfigError
from spaars.nn import MLP, Critics, GaussianPolicy, TanhGaussianPolicy
from spaars.nn.distributions import MAX_SQUASHED
from spaars.priors.opal import SkillDecoder
from spaars.safety import ActionEnvelope

Step = dict[str, Any]


class Exploring(NamedTuple):
    """How an agent explores: `graphs_of` with noise."""

    graphs: dict[str, list[Step]]
    arrays: dict[str, np.ndarray]
    noises: dict[str, dict[str, int]]
    """Of each graph: further inputs and their widths, in the order in which they are drawn.
    Standard normal, but for SHARE, which is uniform in [0, 1)."""


SHARE = "share_noise"
"""An open gate is obeyed where this is below the raw share."""


class Steps:
    """Steps in order, and the arrays they read. Every method adds some; it returns their output."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays, self.steps = arrays, list[Step]()
        self.noises: dict[str, int] = {}

    def add(
        self,
        op: str,
        inputs: list[str],
        output: str | None = None,
        arrays: dict[str, Any] | None = None,
        **settings: float | int,
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
        out = self.add("standardise", ["observations"], arrays=arrays)
        return self.add("clip", [out], low=-OBSERVATION_LIMIT, high=OBSERVATION_LIMIT)

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

    def moments(self, name: str, net: MLP, inputs: list[str], n: int) -> tuple[str, str]:
        """Both halves of a network's 2n outputs: means, and log stds or log variances."""
        both = self.mlp(name, net, inputs, 2 * n)
        mean = self.add("columns", [both], start=0, stop=n)
        return mean, self.add("columns", [both], start=n, stop=2 * n)

    def sampled(
        self,
        moments: tuple[str, str],
        noise: str,
        n: int,
        log_std_range: tuple[float, float],
        by: float = 1.0,
    ) -> str:
        """mean + exp(clip(by * log std)) * noise."""
        self.noises[noise] = n
        low, high = log_std_range
        return self.add("gaussian", [*moments, noise], by=by, low=low, high=high)

    def advantage(
        self, config: GateConfig, critics: Critics, obs: str, raw: str, decoded: str
    ) -> str:
        """By how much the raw action wins in the pessimistic judgement of the critics."""
        q = [
            self.mlp(f"critic{e}", net, [obs, action], 1)
            for action in (raw, decoded)
            for e, net in enumerate(critics.members)
        ]
        return self.add(
            "paired_advantage",
            q,
            "gate_advantage",
            pessimism=config.pessimism,
            margin=config.margin,
        )

    def gated(self, config: GateConfig, critics: Critics, obs: str, raw: str, decoded: str) -> str:
        """The raw action where the critics agree that it is better, else the decoded one."""
        advantage = self.advantage(config, critics, obs, raw, decoded)
        return self.add("where_positive", [advantage, raw, decoded])

    def obeyed(self, share: float, open_where: list[str], raw: str, decoded: str) -> str:
        """The raw action where the gate is open, with probability `share`.

        `open_where` names the advantage, or nothing: the gate is always open.
        """
        self.noises[SHARE] = 1
        use = self.add("obeyed", [SHARE, *open_where], "use_raw", share=share)
        return self.add("where_positive", [use, raw, decoded])


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


# ------------------------------------------------------------------ exploring


def exploring_graphs_of(agent: Agent, acting: Any, action_dim: int) -> Exploring:
    """The steps of `Agent.act`, and with skills of `SkillAgent.choose`, with noise as inputs.

    Where a gate compares, `gate_advantage` (n, 1) is above 0 where it is open; where the raw
    policy may act, `use_raw` (n, 1) is above 0 where it does.

    Raises ConfigError for an agent that is not known here.
    """
    acting = jax.tree.map(np.asarray, acting)
    arrays: dict[str, np.ndarray] = {}
    act = Steps(arrays)
    graphs, noises = {"actions": act.steps}, {"actions": act.noises}
    if isinstance(agent, Spaars):
        out = _explore_spaars(act, agent, acting, action_dim)
    elif isinstance(agent, SingleActor):
        normaliser, actor = acting
        obs = act.standardise(normaliser)
        if isinstance(actor, GaussianPolicy):
            mean = act.squashed("actor", actor.net, [obs], action_dim)
            std = np.exp(np.clip(actor.log_std, *actor.log_std_range))
            act.noises["action_noise"] = action_dim
            sample = act.add("add_noise", [mean, "action_noise"], arrays={"actor/std": std})
        else:
            moments = act.moments("actor", actor.net, [obs], action_dim)
            sample = act.sampled(moments, "action_noise", action_dim, actor.log_std_range)
            sample = act.add("tanh", [sample])
        out = act.add("clip", [sample], low=-1.0, high=1.0)
    elif isinstance(agent, (Supe, SpaarsSupe)):
        skill = acting if isinstance(agent, Supe) else acting.skill
        choose = Steps(arrays)
        graphs["skills"], noises["skills"] = choose.steps, choose.noises
        _rename_last(choose, _explore_skills(choose, agent, skill), "skills")
        out = _explore_in_skill(act, agent, acting, skill, action_dim)
    else:
        raise ConfigError(f"{type(agent).__name__} is no agent that explores in numpy.")
    _rename_last(act, out, "actions")
    return Exploring(graphs, arrays, noises)


def _explore_spaars(steps: Steps, agent: Spaars, acting: spaars.Acting, action_dim: int) -> str:
    gate, k, prior = agent.gate, acting.prior.latent_dim, acting.prior
    obs = steps.standardise(acting.normaliser)

    def decoded_of(x: str) -> str:
        z = steps.add("scale", [steps.add("tanh", [x])], by=agent.prior.latent_bound)
        return steps.squashed("decoder", prior.decoder, [obs, z], action_dim)  # type: ignore[attr-defined]

    moments = steps.moments("latent", acting.latent.net, [obs], k)
    decoded = decoded_of(
        steps.sampled(moments, "latent_noise", k, acting.latent.log_std_range),
    )
    if not bool(acting.armed) or gate.rule == "never":
        return decoded
    raw, raw_mode = _explore_raw(steps, acting.raw, obs, action_dim)
    share, compared = float(acting.raw_share), list[str]()
    if gate.rule == "advantage":
        mode = decoded_of(moments[0])
        compared.append(steps.advantage(gate, acting.critics, obs, raw_mode, mode))
    return steps.obeyed(share, compared, raw, decoded)


def _explore_raw(
    steps: Steps, policy: TanhGaussianPolicy, obs: str, action_dim: int
) -> tuple[str, str]:
    """A sample of the raw policy, and its mode."""
    moments = steps.moments("raw", policy.net, [obs], action_dim)
    sample = steps.sampled(moments, "raw_noise", action_dim, policy.log_std_range)
    return steps.add("tanh", [sample]), steps.add("tanh", [moments[0]])


def _explore_skills(steps: Steps, agent: Supe | SpaarsSupe, acting: supe.Acting) -> str:
    obs, k = steps.standardise(acting.normaliser), agent.skill_dim
    if acting.untrained:
        prior: SkillDecoder = acting.prior
        moments = steps.moments("state_prior", prior.state_prior_net, [obs], k)
        # Its second half are log variances.
        z = steps.sampled(moments, "choice_noise", k, (-10.0, 4.0), by=0.5)
    else:
        moments = steps.moments("skill", acting.actor.net, [obs], k)
        z = steps.sampled(moments, "choice_noise", k, acting.actor.log_std_range)
    return steps.add("tanh", [z])


def _explore_in_skill(
    steps: Steps, agent: Supe | SpaarsSupe, acting: Any, skill: supe.Acting, action_dim: int
) -> str:
    obs = steps.standardise(skill.normaliser)
    u = steps.add("clip", ["skills"], low=-MAX_SQUASHED, high=MAX_SQUASHED)
    z = steps.add("arctanh", [u])
    moments = steps.moments("decoder", skill.prior.decoder, [obs, z], action_dim)
    sample = steps.sampled(moments, "skill_noise", action_dim, (-20.0, 2.0))
    decoded = steps.add("clip", [sample], low=-1.0, high=1.0)
    if not isinstance(agent, SpaarsSupe) or not bool(acting.armed):
        return decoded
    raw, raw_mode = _explore_raw(steps, acting.raw, obs, action_dim)
    compared = list[str]()
    if agent.gate.rule not in ("always", "step"):
        mode = steps.add("clip", [moments[0]], low=-1.0, high=1.0)
        compared.append(steps.advantage(agent.gate, acting.critics, obs, raw_mode, mode))
    return steps.obeyed(float(acting.raw_share), compared, raw, decoded)
