"""Shapes and dtypes are checked at run time in tests, and only there.

This file is imported before anything of `spaars`, so that the hook sees every module.
"""

import atexit
import os
import shutil
import tempfile
from typing import get_args, get_origin

# Toy networks take longer to compile than to run. Processes that tests start inherit this, so that
# they compute the same bits and compile nothing twice. Each worker has a cache of its own: JAX
# does not write an entry in one step, and another worker would read half of it.
# (`--xla_cpu_use_fusion_emitters=false` saves another fifth, but then a seed that is trained alone
# gets other bits than one among others.)
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="spaars-xla-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import optax
import pytest
from beartype import beartype
from jaxtyping import install_import_hook


def typechecked(function):
    """beartype, which refuses generic NamedTuples: `Learner[P]` is only checked to be a tuple."""
    hints = function.__annotations__
    hints.update({name: _loosened(hint) for name, hint in hints.items()})
    return beartype(function)


def _loosened(hint):
    origin = get_origin(hint)
    if origin is tuple:
        return tuple[tuple(_loosened(part) for part in get_args(hint))]
    return tuple if hasattr(origin, "_fields") else hint


install_import_hook("spaars", "conftest.typechecked")
atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Rank promotion stays allowed: layers that act on whole batches add a bias (n,) to (*batch, n).


def _promoting(make):
    """Optax itself promotes: Adam computes `decay**count`, a float and an int32."""

    def make_promoting(*args, **kwargs):
        tx = make(*args, **kwargs)

        def update(*args, **kwargs):
            with jax.numpy_dtype_promotion("standard"):
                return tx.update(*args, **kwargs)

        return optax.GradientTransformation(tx.init, update)

    return make_promoting


optax.adam = _promoting(optax.adam)


LONGEST = (
    "test_run.py",
    "test_methods.py",
    "test_learner.py",
    "test_safe_runs.py",
    "test_docs.py",
    "test_fuzz_sources.py",
    "test_speed.py",
    "test_adroit.py",
    "test_donor.py",
    "test_example.py",
)
"""Files, by `pytest --durations`."""


def pytest_collection_modifyitems(items):
    """Of files that last, none may be the last; the others keep their order."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def point_task():
    """The toy task, registered: `preset_config(point_task.name, ...)` can be trained."""
    import toy
    from spaars.tasks import register

    register(toy.POINT)
    register(toy.POINT_ON)
    register(toy.POINT_COST)
    return toy.POINT
