"""What every periodic sum consists of: a structure factor linear in the multipoles, and a quadratic form of two."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from lesjax.ewald import direct, mesh, nufft, slab
from lesjax.ewald.multipoles import Multipoles, multipole_structure_factor
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
    kmask, cell = jnp.asarray(solver.kmask), jnp.asarray(cell)
    if solver.slab_axis is not None:
        assert solver.period is not None
        cell = slab.effective_cell(cell, solver.slab_axis, jnp.asarray(solver.period, cell.dtype))
    weights = direct.kspace_weights(cell, kmask, sigma, solver.slab_axis)
    _, k1, k2, k3 = kmask.shape
    if solver.method == "direct":

        def product_form(positions: Float[Array, "n 3"], multipoles: Multipoles) -> Array:
            charges, dipoles, quadrupoles = multipoles
            shape = (k1, k2, k3)
            return direct.structure_factor(positions, charges, cell, shape, dipoles=dipoles, quadrupoles=quadrupoles)

        return Engine(product_form, lambda left, right: direct.quadratic_form(left, right, weights))
    if solver.method == "mesh":
        assert solver.mesh is not None
        weights = mesh.mesh_weights(weights, solver.mesh, solver.order)
        factor = functools.partial(mesh.structure_factor, cell=cell, shape=solver.mesh, order=solver.order)
        return Engine(
            functools.partial(multipole_structure_factor, factor),
            lambda left, right: mesh.quadratic_form(left, right, weights),
        )
    weights = nufft.nufft_weights(weights)
    factor = functools.partial(nufft.structure_factor, cell=cell, shape=(k1, k2, k3), tolerance=solver.tolerance)
    return Engine(
        functools.partial(multipole_structure_factor, factor),
        lambda left, right: nufft.quadratic_form(left, right, weights),
    )
