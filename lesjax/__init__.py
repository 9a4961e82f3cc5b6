"""Latent Ewald Summation in JAX: long-range electrostatics learned from energies and forces.

`import lesjax` is light: its parts are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from lesjax import (
        datasets as datasets,
        dynamics as dynamics,
        ewald as ewald,
        fitting as fitting,
        io as io,
        models as models,
        properties as properties,
        published as published,
        response as response,
        training as training,
        units as units,
    )
    from lesjax.models import Potential as Potential, load as load
    from lesjax.neighbors.batching import stack_systems as stack_systems
    from lesjax.published import convert as convert
    from lesjax.system import System as System


__version__ = "0.1.0"

_MODULES = (
    "datasets", "dynamics", "ewald", "fitting", "io", "models", "neighbors", "numerics", "properties", "published",
    "response", "system", "training", "units",
)  # fmt: skip
_NAMES = {
    "Potential": "lesjax.models", "convert": "lesjax.published", "load": "lesjax.models",
    "stack_systems": "lesjax.neighbors.batching", "System": "lesjax.system",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"lesjax.{name}")
    raise AttributeError(f"module 'lesjax' has no attribute {name!r}")
