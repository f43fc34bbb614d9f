"""`spaars strip RUN`."""

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from spaars import seeding
from spaars.algos.spaars import Spaars
from spaars.algos.spaars_supe import SpaarsSupe
from spaars.algos.supe import Supe
from spaars.data.files import atomic_write
from spaars.deploy.policy import Policy, load_policy
from spaars.errors import ConfigError, RunError
from spaars.report.figures import to_png
from spaars.report.strip import Frame, frame, strip
from spaars.tasks import Task, get_task
from spaars.training.evaluate import evaluation_seed
from spaars.training.stepping import subtasks_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Draw an evaluation episode of a run's deployed policy as a strip of stick figures.

    With --latents, draw what the behaviour prior's latents do instead. MuJoCo envs only.
    """

    path: tyro.conf.Positional[Path]
    """Run directory."""
    out: Path | None = None
    """PNG file; default: figures/strip.png or figures/latents.png of the run."""
    seed: int | None = None
    """Which seed of the run; default: the first."""
    newest: bool = False
    """The newest policy, deployed or not."""
    episode: int = 0
    """Index of the evaluation episode; all start where evaluation's do."""
    latents: int = 0
    """Draw so many latents, each held for --steps from the same state, one in a row. Those of
    skills come from the prior at that state, a CVAE's from N(0, I)."""
    steps: int | None = None
    """Environment steps; default: until the episode ends, or 40 with --latents."""
    frames: int = 8
    """Panels of a row."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars strip")
    if args.frames < 2 or args.latents < 0 or args.episode < 0 or (args.steps or 1) < 1:
        raise ConfigError(
            "--frames must be at least 2, --steps at least 1, --latents and --episode at least 0."
        )
    policy = load_policy(args.path, args.seed, newest=args.newest)
    if not isinstance(policy, Policy):
        raise ConfigError(f"{args.path} is an exported policy; `spaars strip` draws those of runs.")
    task = get_task(policy.config.task)
    env = task.make_env()
    if not (hasattr(env.unwrapped, "model") and hasattr(env.unwrapped, "data")):
        raise RunError(f"{task.name} is no MuJoCo env: it has no links to draw as stick figures.")
    name = "latents.png" if args.latents else "strip.png"
    out = args.out or args.path / "figures" / name
    if args.latents:
        rows = latent_rows(policy, env, args)
    else:
        rows = {"": episode_frames(policy, env, task, args)}
    env.close()
    with atomic_write(out) as file:
        file.write(to_png(strip(rows)))
    print(out)
    return 0


def episode_frames(policy: Policy, env: gymnasium.Env, task: Task, args: Args) -> list[Frame]:
    """Frames of one evaluation episode: evenly spaced, and where a subtask was completed."""
    observation = _reset(env, policy, args.episode)
    policy.reset()
    frames, events, total = [_frame(env, 0)], [], 0.0
    over, done = False, set[str]()
    while not over and len(frames) <= (args.steps or np.inf):
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        over, total = terminated or truncated, total + float(reward)
        now = {name for name, completed in (subtasks_of(info) or {}).items() if completed}
        caption = ", ".join(sorted(now - done))
        if caption:
            done |= now
            events.append(len(frames))
        frames.append(_frame(env, len(frames), caption))
    score = float(task.score(np.array(total)))
    print(f"{len(frames) - 1} steps, return {total:.4g}, score {score:.1f}")
    even = np.linspace(0, len(frames) - 1, args.frames).round().astype(int)
    return [frames[i] for i in sorted({*even.tolist(), *events})]


def latent_rows(policy: Policy, env: gymnasium.Env, args: Args) -> dict[str, list[Frame]]:
    """For each latent the frames of holding it, from the same state."""
    steps = args.steps or 40
    key = seeding.stream(policy.seed, seeding.EVALUATION)
    start = _reset(env, policy, args.episode)
    latents, act = _prior_of(policy, jnp.asarray(start), jax.random.split(key, args.latents))
    shown = set(np.linspace(0, steps, args.frames).round().astype(int).tolist())
    rows = {}
    for i, u in enumerate(latents):
        observation = _reset(env, policy, args.episode)
        frames = [_frame(env, 0)]
        for step in range(1, steps + 1):
            action = np.asarray(act(u[None], observation[None]))[0]
            observation, _, terminated, truncated, _ = env.step(action)
            if step in shown:
                frames.append(_frame(env, step))
            if terminated or truncated:
                break
        rows[f"latent {i + 1}"] = frames
    return rows


def _prior_of(policy: Policy, observation: jax.Array, keys: jax.Array) -> tuple[jax.Array, Any]:
    """Latents u of the prior, one for each key, and the decoder's actions (u, observations)."""
    agent, acting = policy.config.agent(), policy.acting
    if isinstance(agent, SpaarsSupe):
        agent, acting = agent.skills, acting.skill
    if isinstance(agent, Supe):
        untrained = acting._replace(untrained=jnp.array(True))
        skills = [agent.choose(untrained, observation[None], key)[0] for key in keys]
        act = jax.jit(lambda u, obs: agent.act_deterministic((acting, u), obs)[0])
        return jnp.stack(skills), act
    if isinstance(agent, Spaars):
        k = acting.prior.latent_dim
        z = jnp.stack([jax.random.normal(key, (k,)) for key in keys])
        u = jnp.clip(z / agent.prior.latent_bound, -1.0, 1.0)
        return u, jax.jit(lambda u, obs: agent.decode(acting.prior, acting.normaliser(obs), u))
    raise ConfigError(f"method {policy.config.method} has no behaviour prior; leave --latents out.")


def _reset(env: gymnasium.Env, policy: Policy, episode: int) -> np.ndarray:
    return np.array(env.reset(seed=evaluation_seed(policy.seed, episode))[0], np.float32)


def _frame(env: gymnasium.Env, step: int, caption: str = "") -> Frame:
    simulated: Any = env.unwrapped
    return frame(simulated.model, simulated.data, step, caption)
