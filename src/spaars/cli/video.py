"""`spaars video RUN|POLICY`."""

import dataclasses
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from PIL import Image

from spaars.cli.eval import check_fit, task_of
from spaars.data.files import atomic_write
from spaars.data.sources.safety import one_line
from spaars.deploy.policy import is_exported, load_policy
from spaars.errors import ConfigError, SpaarsError
from spaars.tasks import Task, get_task
from spaars.training.evaluate import evaluation_seed
from spaars.training.run_directory import read_config

# Rendering in software takes a tenth of a second a frame: no more of them than the eye asks for.
FRAME_RATE = 25
BACKENDS = ("egl", "osmesa")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Render an evaluation episode of a run's deployed policy, or of an exported one."""

    path: tyro.conf.Positional[Path]
    """Run directory, or an exported .npz or .onnx."""
    out: Path | None = None
    """File to write, .gif or .mp4 (which needs the program ffmpeg); default: episode-sSEED.gif in
    the run directory or beside the policy."""
    task: str | None = None
    """Of an exported policy: render it on this task, or Gymnasium env, instead of its own."""
    seed: int | None = None
    """Which of the run's seeds; default: the first."""
    newest: bool = False
    """The newest policy, deployed or not."""
    episode: int = 0
    """Which of the fixed evaluation episodes."""
    seconds: float | None = None
    """Stop after so much of the env's time; None: at the episode's end."""


def run(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="spaars video")
    if args.episode < 0 or (args.seconds is not None and not args.seconds > 0.0):
        raise ConfigError("--episode must not be negative, and --seconds must be positive.")
    if args.out is not None and args.out.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"--out {args.out} must end in .gif or .mp4.")
    if args.out is not None and args.out.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise ConfigError(
            f"--out {args.out} needs the program ffmpeg, which is not on the PATH. Install it "
            "(apt install ffmpeg), or write a .gif."
        )
    policy: Any = None
    if is_exported(args.path):
        policy = load_policy(args.path, args.seed, newest=args.newest)
        task = task_of(policy, args.task)
    elif args.task is not None:
        raise ConfigError("--task is for exported policies; a run is rendered on its own task.")
    else:
        task = get_task(read_config(args.path)[0].task)
    choose_backend()
    env = make_rendering_env(task)
    try:
        if policy is None:
            policy = load_policy(args.path, args.seed, newest=args.newest)
            seed, folder = policy.seed, args.path
        else:
            check_fit(policy, env, task, args.path)
            seed, folder = int(policy.about["seed"]), args.path.parent
        rate = float(env.metadata.get("render_fps") or FRAME_RATE)
        every = max(1, round(rate / FRAME_RATE))
        limit = None if args.seconds is None else round(args.seconds * rate)
        frames, total, steps = episode(
            env, policy, evaluation_seed(seed, args.episode), every, limit
        )
    finally:
        env.close()
    out = args.out if args.out is not None else folder / f"episode-s{seed}.gif"
    with atomic_write(out) as file:
        file.write((mp4 if out.suffix == ".mp4" else gif)(frames, rate / every))
    score = float(task.score(np.array(total)))
    print(f"wrote {out}: {steps} steps, return {total:.4g}, score {score:.1f}")
    return 0


def choose_backend() -> None:
    """Set MUJOCO_GL to what works on a machine without a display, unless it is set.

    Each is tried in a process of its own: one that fails may take its process along.
    """
    if "MUJOCO_GL" in os.environ or sys.platform != "linux" or os.environ.get("DISPLAY"):
        return
    for name in BACKENDS:
        if backend_works(name):
            os.environ["MUJOCO_GL"] = name
            return


def backend_works(name: str) -> bool:
    code = "import mujoco; mujoco.GLContext(8, 8).make_current(); print('works')"
    environment = os.environ | {"MUJOCO_GL": name}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    return "works" in result.stdout


def make_rendering_env(task: Task) -> gymnasium.Env:
    """The task's env with `rgb_array` rendering, tried once. Raises ConfigError if it cannot."""
    try:
        env = task.make_env(render_mode="rgb_array")
        follow(env)
        env.reset(seed=0)
        frame: Any = env.render()
    except SpaarsError:
        raise
    except Exception as error:  # every library of graphics raises errors of its own
        raise ConfigError(
            f"{task.env_id} cannot be rendered here ({one_line(error)}; MUJOCO_GL is "
            f"{os.environ.get('MUJOCO_GL', 'not set')}). Without a display MuJoCo needs "
            "EGL (apt install libegl1 libegl-mesa0, or a GPU's driver) or OSMesa (apt "
            "install libosmesa6); with MUJOCO_GL=egl or MUJOCO_GL=osmesa you choose."
        ) from error
    if not (isinstance(frame, np.ndarray) and frame.ndim == 3):
        raise ConfigError(f"{task.env_id} renders no image (render_mode 'rgb_array').")
    return env


def follow(env: gymnasium.Env) -> None:
    """Look through the model's tracking camera: Gymnasium's default one lets a runner run away."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        import mujoco  # not above: MUJOCO_GL is read when it is imported

        camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        if camera >= 0:
            renderer.camera_id = camera


def episode(
    env: gymnasium.Env, policy: Any, reset_seed: int, every: int, limit: int | None
) -> tuple[list[np.ndarray], float, int]:
    """Frames (height, width, 3) uint8, one at every `every`th step; the return; the steps."""
    observation, _ = env.reset(seed=reset_seed)
    policy.reset()
    frames, total, steps, done = [np.asarray(env.render())], 0.0, 0, False
    while not done and steps != limit:
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        total, steps, done = total + float(reward), steps + 1, terminated or truncated
        if steps % every == 0 or done:
            frames.append(np.asarray(env.render()))
    return frames, total, steps


def gif(frames: list[np.ndarray], rate: float) -> bytes:
    """`rate` frames per second, for ever."""
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    duration = round(1000.0 / rate)
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0
    )
    return buffer.getvalue()


def mp4(frames: list[np.ndarray], rate: float) -> bytes:
    """H.264 by ffmpeg, from raw frames on its standard input."""
    height, width, _ = frames[0].shape
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "episode.mp4"
        command = [
            *("ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{width}x{height}", "-r", f"{rate:g}", "-i", "-"),
            # Players want even sizes and this pixel format.
            *("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", str(path)),
        ]
        raw = b"".join(np.ascontiguousarray(frame).tobytes() for frame in frames)
        result = subprocess.run(command, input=raw, capture_output=True, check=False)
        if result.returncode:
            words = " ".join(result.stderr.decode(errors="replace").split())[:200]
            raise ConfigError(f"ffmpeg failed ({words}). Write a .gif instead.")
        return path.read_bytes()
