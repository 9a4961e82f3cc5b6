r"""Second derivatives of an energy: Hessian, its products with vectors, and elastic constants.

The energy is a function of parameters, system and solver (`Energy`): results can be differentiated with respect to the
parameters. All functions are pure; compile them, since they take many derivatives, and give the solver where the energy
has a long-range sum.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from lesjax.ewald import Plan
from lesjax.numerics import determinant, matmul
from lesjax.properties.forces import Energy


# smallest eigenvalue of a Hessian that counts as stable, relative to the largest one, in units of the root of the
# rounding of the dtype
SOFT = 1.0


def energy_gradient(
    energy_fn: Energy, params: PyTree, system: Any, solver: Plan | None
) -> Callable[[Float[Array, "n 3"]], Float[Array, "n 3"]]:
    """Return the gradient of an energy, eV/Å, as a function of the positions."""
    return jax.grad(lambda positions: energy_fn(params, replace(system, positions=positions), solver))


def hessian_vector_product(
    energy_fn: Energy, params: PyTree, system: Any, vector: Float[Array, "n 3"], *, solver: Plan | None = None
) -> Float[Array, "n 3"]:
    r"""Product :math:`\sum_{j \beta} \partial^2 E / \partial r_{i \alpha} \partial r_{j \beta}\, v_{j \beta}`, eV/Å.

    No matrix is made: it costs about as much as two evaluations of the forces.

    Args:
        energy_fn: see `Energy`.
        params: its parameters.
        system: one structure.
        vector: displacement, Å.
        solver: plan of the long-range sum.
    """
    gradient = energy_gradient(energy_fn, params, system, solver)
    return jax.jvp(gradient, (jnp.asarray(system.positions),), (vector,))[1]


def hessian(
    energy_fn: Energy, params: PyTree, system: Any, *, solver: Plan | None = None, batch_size: int | None = None
) -> Float[Array, "n 3 n 3"]:
    r"""Hessian :math:`\partial^2 E / \partial r_{i \alpha} \partial r_{j \beta}` (force constants), eV/Å², symmetrized.

    In a periodic cell j stands for the atom with all its images, as phonons at Γ need it.

    Args:
        energy_fn: see `Energy`.
        params: its parameters.
        system: one structure.
        solver: plan of the long-range sum.
        batch_size: number of the 3 n products that are computed at once; all by default, which needs the memory of 3 n
            evaluations of the forces. Derivatives of the Hessian then compute each product once more and need no more
            memory than one batch.

    Raises:
        ValueError: for a `batch_size` that is not positive.
    """
    n = len(system.positions)
    units = jnp.eye(3 * n, dtype=system.positions.dtype).reshape(3 * n, n, 3)

    def column(unit: Array) -> Array:
        return hessian_vector_product(energy_fn, params, system, unit, solver=solver)

    matrix = in_batches(column, units, batch_size).reshape(3 * n, 3 * n)
    return (0.5 * (matrix + matrix.T)).reshape(n, 3, n, 3)


def in_batches(function: Callable[[Array], Array], rows: Array, batch_size: int | None) -> Array:
    """Map a function over the first axis, `batch_size` rows at once, or all of them; also its derivatives.

    Raises:
        ValueError: for a `batch_size` that is not positive.
    """
    if batch_size is None:
        return jax.vmap(function)(rows)
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}. Leave it out for all at once.")
    # without the checkpoint a derivative would keep what it needs of all batches
    return jax.lax.map(jax.checkpoint(function), rows, batch_size=batch_size)


def elastic_constants(
    energy_fn: Energy, params: PyTree, system: Any, *, solver: Plan | None = None, batch_size: int | None = None
) -> Float[Array, "6 6"]:
    r"""Elastic constants with the atoms relaxed in the strained cell, eV/Å³, in Voigt order xx, yy, zz, yz, xz, xy.

    .. math:: C = \frac{1}{V} \left( E_{\eta \eta} - E_{\eta u} E_{uu}^{-1} E_{u \eta} \right)

    with the displacements u, and the Lagrangian strain η acting as :math:`r' = (r + u) F`, :math:`h' = h F`,
    :math:`F = \sqrt{1 + 2 \eta}`; the shear components of Voigt's notation are :math:`2 \eta`. At zero stress all
    definitions of elastic constants agree; otherwise these are the thermodynamic (Brugger) constants. Divide by
    `lesjax.units.GIGAPASCAL` for GPa. Uniform displacements are left out of the inverse. The Hessian is dense.

    Args:
        energy_fn: see `Energy`; periodic in three directions.
        params: its parameters.
        system: a structure in which the forces vanish, see `lesjax.fitting.relax`.
        solver: plan of the long-range sum.
        batch_size: number of the 3 n + 6 rows of second derivatives that are computed at once, see `hessian`.

    Raises:
        ValueError: for a cell that is not stable against displacements of its atoms (where it has values), or a
            `batch_size` that is not positive.

    References:
        Born, Huang, Dynamical Theory of Crystal Lattices (1954), § 11; Wallace, Thermodynamics of Crystals (1972).
    """
    positions, cell = jnp.asarray(system.positions), jnp.asarray(system.cell)
    n, dtype = len(positions), positions.dtype
    identity = jnp.eye(3, dtype=dtype)

    def strained(x: Array) -> Array:
        xx, yy, zz, yz, xz, xy = x[3 * n :]
        rows = [[xx, 0.5 * xy, 0.5 * xz], [0.5 * xy, yy, 0.5 * yz], [0.5 * xz, 0.5 * yz, zz]]
        eta = jnp.stack([jnp.stack(row) for row in rows])
        # the root to second order, which suffices
        deform = identity + eta - 0.5 * matmul(eta, eta)
        moved = matmul(positions + x[: 3 * n].reshape(n, 3), deform)
        return energy_fn(params, replace(system, positions=moved, cell=matmul(cell, deform)), solver)

    x = jnp.zeros(3 * n + 6, dtype)
    units = jnp.eye(3 * n + 6, dtype=dtype)
    full = in_batches(lambda unit: jax.jvp(jax.grad(strained), (x,), (unit,))[1], units, batch_size)
    full = 0.5 * (full + full.T)
    internal, mixed = full[: 3 * n, : 3 * n], full[: 3 * n, 3 * n :]
    # uniform displacements get the mean curvature, so that the inverse exists
    uniform = jnp.tile(identity, (n, 1)) / jnp.sqrt(jnp.asarray(n, dtype))
    filled = internal + jnp.trace(internal) / (3.0 * n) * matmul(uniform, uniform.T)
    if n > 1:
        check_stable(jax.lax.stop_gradient(filled))
        relaxed = full[3 * n :, 3 * n :] - matmul(mixed.T, jnp.linalg.solve(filled, mixed))
    else:
        relaxed = full[3 * n :, 3 * n :]
    return 0.5 * (relaxed + relaxed.T) / jnp.abs(determinant(cell))


def check_stable(matrix: Float[Array, "m m"]) -> None:
    """Refuse a Hessian, with rigid motions filled, that is not positive definite. A traced one is not checked.

    Raises:
        ValueError: with the lowest eigenvalue.
    """
    if isinstance(matrix, Tracer):
        return
    values = np.linalg.eigvalsh(np.asarray(matrix))
    if not values[0] > SOFT * np.sqrt(np.finfo(values.dtype).eps) * values[-1]:
        raise ValueError(
            f"The Hessian is singular or not positive definite: its eigenvalues reach from {values[0]:.3g} to "
            f"{values[-1]:.3g} eV/Å² without rigid motions. The structure is not a minimum or has a soft mode: relax "
            "it from displaced positions (`lesjax.fitting.relax`)."
        )
