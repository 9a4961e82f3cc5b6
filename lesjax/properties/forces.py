r"""The common signature of energies, and forces and stress as gradients of an energy.

With the strain ε acting as r' = r (1 + ε), cell' = cell (1 + ε), the chain rule gives

.. math:: \frac{\partial E}{\partial \varepsilon_{ab}} = \sum_i r_{ia} \frac{\partial E}{\partial r_{ib}}
          + \sum_k h_{ka} \frac{\partial E}{\partial h_{kb}}, \quad \text{stress} = \frac{1}{V}
          \operatorname{sym} \frac{\partial E}{\partial \varepsilon}

with ASE's sign: positive when the system pulls its cell together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lesjax.ewald import Plan
from lesjax.numerics import determinant, matmul


# (parameters, system, solver) -> interaction energy, eV: a pure function. The system is a `lesjax.System`, a `Frame`
# or another dataclass with `positions` and `cell`, which derivatives replace. The solver is the plan of a long-range
# sum or None. `lesjax.Potential.energy` has it, with a potential as its parameters.
Energy = Callable[[PyTree, Any, Plan | None], Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frame:
    """Positions and cell, for energies that need only these; stacked frames have a leading axis ``t``.

    Attributes:
        positions: Cartesian coordinates, Å; with molecules not broken by the cell for dipoles.
        cell: lattice vectors as rows, Å; zeros without one.
    """

    positions: Float[Array | np.ndarray, "*t n 3"]
    cell: Float[Array | np.ndarray, "*t 3 3"]


def energy_forces_stress(
    energy_fn: Energy | Callable[..., tuple[Array, PyTree]],
    params: PyTree,
    system: Any,
    *,
    solver: Plan | None = None,
    with_stress: bool,
    has_aux: bool = False,
) -> tuple[Any, Float[Array, "n 3"], Float[Array, "3 3"] | None]:
    """Energy (eV), forces (eV/Å) and stress (eV/Å³, None unless asked for).

    Args:
        energy_fn: see `Energy`.
        params: its parameters.
        system: one structure.
        solver: plan of the long-range sum, for energies that have one.
        with_stress: whether the stress is computed; static.
        has_aux: `energy_fn` returns a pair of the energy and other results, which this function then returns in place
            of the energy; static.
    """

    def energy_of(positions: Array, cell: Array) -> Any:
        return energy_fn(params, replace(system, positions=positions, cell=cell), solver)

    positions, cell = jnp.asarray(system.positions), jnp.asarray(system.cell)
    if not with_stress:
        value, gradient = jax.value_and_grad(energy_of, has_aux=has_aux)(positions, cell)
        return value, -gradient, None
    value, (gradient, cell_gradient) = jax.value_and_grad(energy_of, (0, 1), has_aux=has_aux)(positions, cell)
    strain_gradient = matmul(positions.T, gradient) + matmul(cell.T, cell_gradient)
    stress = 0.5 * (strain_gradient + strain_gradient.T) / jnp.abs(determinant(cell))
    return value, -gradient, stress
