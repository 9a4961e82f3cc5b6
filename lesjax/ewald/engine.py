"""What every periodic sum consists of: a structure factor linear in the multipoles, and a quadratic form of two."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from lesjax.ewald import direct, slab
from lesjax.ewald.multipoles import Multipoles
from lesjax.ewald.solver import Solver


@dataclass(frozen=True)
class Engine:
    """The sum of one cell and one σ, planned by a solver.

    Attributes:
        structure_factor: of positions [n, 3] and the multipoles of one channel. Each engine has its own representation.
        quadratic_form: of two structure factors; Σ_k w(k) Re[S_left* S_right], the energy for one and the same.
    """

    structure_factor: Callable[[Float[Array, "n 3"], Multipoles], Array]
    quadratic_form: Callable[[Array, Array], Float[Array, ""]]


def make_engine(solver: Solver, cell: Float[Array, "3 3"], sigma: Float[Array, ""]) -> Engine:
    """Weights of the k-vectors in this cell, and how `solver` reaches them."""
    assert solver.kmask is not None
    kmask = jnp.asarray(solver.kmask)
    if solver.slab_axis is not None:
        assert solver.period is not None
        cell = slab.effective_cell(cell, solver.slab_axis, jnp.asarray(solver.period, cell.dtype))
    weights = direct.kspace_weights(cell, kmask, sigma, solver.slab_axis)
    _, k1, k2, k3 = kmask.shape

    def factor(positions: Float[Array, "n 3"], multipoles: Multipoles) -> Array:
        charges, dipoles, quadrupoles = multipoles
        return direct.structure_factor(
            positions, charges, cell, (k1, k2, k3), dipoles=dipoles, quadrupoles=quadrupoles
        )

    return Engine(factor, lambda left, right: direct.quadratic_form(left, right, weights))
