"""Energy and forces of a potential for moving atoms, from which every engine is built."""

import dataclasses
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lesjax import ewald
from lesjax.models.checks import check_system
from lesjax.models.potential import Potential
from lesjax.neighbors.plan import NeighborPlan
from lesjax.neighbors.verlet import NeighborList, allocate
from lesjax.numerics import determinant
from lesjax.properties.forces import Energy, energy_forces_stress
from lesjax.system import System


def make_template(potential: Potential, atoms: ase.Atoms, pbc: bool | tuple[bool, bool, bool] | None) -> System:
    """Return the system of `atoms` whose positions, cell and neighbours change; host only."""
    system = System.from_ase(atoms, cutoff=potential.cutoff, pbc=pbc)
    check_system(potential.config, system)
    return system


def allocate_pairs(
    potential: Potential, template: System, positions: Array, cell: Array, skin: float, at_least: NeighborPlan | None
) -> NeighborList:
    """Allocate a neighbour list for the potential; host only."""
    return allocate(positions, cell, template.pbc, cutoff=potential.cutoff, skin=skin, at_least=at_least)


def plan_solver(potential: Potential, template: System, positions: Array, cell: Array) -> ewald.Plan | None:
    """Plan the long-range sum, with its arrays on the device; host only."""
    system = dataclasses.replace(template, positions=np.asarray(positions), cell=np.asarray(cell))
    return jax.device_put(potential.make_solver(system))


def forces_and_virial(
    energy_fn: Energy, params: PyTree, system: Any, *, solver: ewald.Plan | None = None, with_virial: bool
) -> tuple[Float[Array, "n 3"], Float[Array, "3 3"]]:
    """Forces, eV/Å, and the virial -dU/dε, eV, zero unless asked for."""
    _, forces, stress = energy_forces_stress(energy_fn, params, system, solver=solver, with_stress=with_virial)
    if stress is None:
        return forces, jnp.zeros((3, 3), forces.dtype)
    return forces, -stress * jnp.abs(determinant(jnp.asarray(system.cell)))
