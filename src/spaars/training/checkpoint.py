"""Checkpoints: one safetensors file, replaced atomically, the previous one kept.

    state/<path>     leaves of the agent's population state       (S, ...)
    deployed/<path>, candidate/<path>   what the deployed policies and the candidates read;
                     only with the deployment rule 'proven'      (S, ...)
    ring/<field>     the filled part of the online replay         (S, filled, ...)
    actions/<i>      actions of env i since its last reset        (t, act)
    metadata         JSON: where the run stands

Nothing in a checkpoint is ever executed; it loads without pickle.
"""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spaars.data.files import atomic_write, read_safetensors, write_safetensors
from spaars.data.replay import Batch, Ring
from spaars.errors import RunError

ENV_FACTS = ("episode_index", "episode_ends", "episode_returns", "env_steps", "env_errors")
"""Of `EnvPopulation.state`, beside the actions: in the JSON."""


class Checkpoint(NamedTuple):
    """Host copy of everything a run needs to go on."""

    progress: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def tree(self, root: str, like: Any) -> Any:
        """A saved pytree, such as the population's "state"; structure, shapes, dtypes of `like`."""
        paths, treedef = jax.tree_util.tree_flatten_with_path(like)
        leaves = []
        for path, leaf in paths:
            name = f"{root}/" + jax.tree_util.keystr(path, simple=True, separator="/")
            found = self.arrays.get(name)
            if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
                got = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
                raise RunError(
                    f"checkpoint does not fit its config.json: {name} should be "
                    f"{leaf.dtype}{list(leaf.shape)}, the file has {got}. "
                    "Was config.json edited, or spaars upgraded, since the run began?"
                )
            leaves.append(jnp.asarray(found))
        return jax.tree_util.tree_unflatten(treedef, leaves)

    def ring(self, empty: Ring) -> Ring:
        """Fill an empty ring of the right capacity."""
        storage = {
            name: store.at[:, : self.arrays[f"ring/{name}"].shape[1]].set(
                self.arrays[f"ring/{name}"]
            )
            for name, store in empty.columns.items()
        }
        return Ring(Batch(**storage), jnp.int32(self.progress["inserted"]))

    def env_state(self) -> dict[str, Any]:
        actions = [self.arrays[f"actions/{i}"] for i in range(len(self.progress["episode_index"]))]
        return {name: self.progress[name] for name in ENV_FACTS} | {"actions": actions}


def collect(
    progress: dict[str, Any],
    trees: Mapping[str, Any],
    ring: Ring | None,
    env_state: dict[str, Any] | None,
) -> Checkpoint:
    """Bring a run's state to the host; `trees` are pytrees by the name they are saved under."""
    arrays = {
        f"{root}/" + jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for root, tree in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    progress = dict(progress)
    if ring is not None and env_state is not None:
        filled = int(ring.size)
        for name, store in ring.columns.items():
            arrays[f"ring/{name}"] = _filled(store, filled)
        for i, actions in enumerate(env_state["actions"]):
            arrays[f"actions/{i}"] = actions
        progress["inserted"] = int(ring.inserted)
        progress |= {name: env_state[name] for name in ENV_FACTS}
    return Checkpoint(progress, arrays)


def _filled(store: jax.Array, rows: int) -> np.ndarray:
    """The first `rows` rows of every seed: on a CPU a view, elsewhere a copy of no more than them.

    A view must be gone before the ring is written to, or that copies the whole ring.
    """
    if store.devices().pop().platform == "cpu":
        return np.asarray(store)[:, :rows]
    return np.asarray(store[:, :rows])


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoints/latest.safetensors`; what was there becomes `previous`."""
    latest = run_dir / "checkpoints" / "latest.safetensors"
    previous = latest.with_name("previous.safetensors")
    latest.parent.mkdir(exist_ok=True)
    for left in latest.parent.glob(".*.tmp"):  # by a kill while one was written
        left.unlink(missing_ok=True)
    with atomic_write(latest.with_name("next.safetensors")) as file:
        write_safetensors(file, checkpoint.arrays, {"progress": json.dumps(checkpoint.progress)})
    # Killed between the two renames, `previous` is there and whole; load_checkpoint knows.
    if latest.exists():
        os.replace(latest, previous)
    os.replace(latest.with_name("next.safetensors"), latest)


def load_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The newest readable checkpoint, None if the run has not written one.

    Raises RunError if there are only broken ones: a run is never silently begun anew.
    """
    broken = []
    for name in ("latest", "previous"):
        path = run_dir / "checkpoints" / f"{name}.safetensors"
        if not path.exists():
            continue
        try:
            metadata, arrays = read_safetensors(path)
            progress = json.loads(metadata["progress"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            broken.append(f"{path}: {error}")
            continue
        if broken:
            warnings.warn(f"{broken[0]}; going back to {path.name}", stacklevel=2)
        return Checkpoint(progress, arrays)
    if broken:
        raise RunError(
            f"no readable checkpoint ({'; '.join(broken)}). Start again with `spaars train`."
        )
    return None
