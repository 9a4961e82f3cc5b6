"""Latent Ewald Summation in JAX: long-range electrostatics learned from energies and forces.

`import lesjax` is light: Flax is imported when `Potential` or `load` is first used, jax-md with `lesjax.dynamics`, and
so on.
"""

import importlib
from typing import TYPE_CHECKING

from lesjax import ewald as ewald, response as response, units as units
from lesjax.neighbors.batching import stack_systems as stack_systems
from lesjax.system import System as System


if TYPE_CHECKING:
    from lesjax import (
        datasets as datasets,
        dynamics as dynamics,
        fitting as fitting,
        models as models,
        properties as properties,
        training as training,
    )
    from lesjax.models import Potential as Potential, load as load


__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in ("Potential", "load"):
        from lesjax import models

        return getattr(models, name)
    if name in ("datasets", "dynamics", "fitting", "models", "properties", "training"):
        return importlib.import_module(f"lesjax.{name}")
    raise AttributeError(f"module 'lesjax' has no attribute {name!r}")
