"""Measure the error of a planned sum for the charges at hand."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax.ewald.solver import Solver, make_solver
from lesjax.ewald.solvers import OpenSolver
from lesjax.ewald.sums import energy


# Relative error that the plan of the reference promises
_REFERENCE_ACCURACY = 1e-10

_gradient = jax.jit(jax.grad(energy, 1))


def force_error(
    solver: Solver,
    positions: Float[Array | np.ndarray, "n 3"],
    cell: Float[Array | np.ndarray, "3 3"],
    charges: Float[Array | np.ndarray, " n"] | Float[Array | np.ndarray, "n c"],
    *,
    dipoles: Float[Array | np.ndarray, "n 3"] | Float[Array | np.ndarray, "n c 3"] | None = None,
    quadrupoles: Float[Array | np.ndarray, "n 3 3"] | Float[Array | np.ndarray, "n c 3 3"] | None = None,
) -> float:
    r"""Return the error of the forces of a plan, relative to the forces themselves. Runs on the host.

    .. math:: \sqrt{\sum_i |F_i - F_i^{ref}|^2 \,/\, \sum_i |F_i^{ref}|^2},

    which `accuracy` of `make_solver` bounds. The reference is the direct sum with all k-vectors that matter, in the
    dtype of the positions: float32 cannot tell errors below 1e-5 from its rounding. The direct sum of open boundaries
    leaves nothing out: its error is zero.

    Args:
        solver: the plan to judge, from `make_solver`.
        positions: Cartesian coordinates, Å.
        cell: lattice vectors as rows, Å.
        charges: latent charges, e, one column per channel if two-dimensional.
        dipoles: e Å; none by default.
        quadrupoles: e Å²; none by default.

    Raises:
        ValueError: if there are no forces, as in a perfect crystal: displace its atoms.
    """
    if isinstance(solver, OpenSolver):
        return 0.0
    exact = make_solver(
        np.asarray(cell), solver.interaction.periodic, n_atoms=len(positions), sigma=float(solver.sigma),
        accuracy=_REFERENCE_ACCURACY, method="direct", interaction=solver.interaction,
    )  # fmt: skip
    arrays = [jnp.asarray(x) for x in (positions, cell, charges)]
    moments = {"dipoles": dipoles, "quadrupoles": quadrupoles}
    multipoles = {name: jnp.asarray(values) for name, values in moments.items() if values is not None}
    forces, reference = (np.asarray(_gradient(plan, *arrays, **multipoles), float) for plan in (solver, exact))
    size, rounding = np.linalg.norm(reference), float(jnp.finfo(arrays[0].dtype).eps)
    if not size > 100.0 * rounding * np.linalg.norm(np.asarray(charges, float)) ** 2 / float(solver.sigma) ** 2:
        raise ValueError("`positions` have no long-range forces to compare an error with: displace the atoms.")
    return float(np.linalg.norm(forces - reference) / size)
