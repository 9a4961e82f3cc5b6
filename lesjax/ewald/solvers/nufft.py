r"""Structure factor by a non-uniform fast Fourier transform (type 1), from the package jax-finufft.

The same k-vectors and weights as the direct sum, for any spline order and mesh that the library chooses for a
tolerance: Barnett, Magland, af Klinteberg, SIAM J. Sci. Comput. 41, C479 (2019), doi:10.1137/18M120885X.

The derivatives are written out (`adjoint`): the package's own take complex transforms of all k-vectors, and do not
pass strict promotion. Only n3 >= 0 is transformed, by a phase on the charges that moves the middle of the k-vectors.
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from lesjax.ewald.multipoles import Multipoles, multipole_structure_factor
from lesjax.ewald.solvers.adjoint import Term, Terms, make_adjoint_pair
from lesjax.ewald.solvers.periodic import Grid, Periodic, fractional_coordinates, half_spectrum
from lesjax.numerics import cospi, sinpi


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class NufftSolver(Periodic):
    """The sum with the structure factor from a non-uniform transform; see `Periodic` for the other attributes.

    Attributes:
        tolerance: relative error of the structure factor.
    """

    tolerance: float = field(metadata={"static": True})

    def grid(self, cell: Float[Array, "3 3"]) -> Grid:
        """Return the arrays that depend on the cell; weights in the layout of `factor`."""
        inverse_cell, weights = self.half_grid(cell)
        k1, k2, k3 = self.k_shape
        both = half_spectrum(weights, (2 * k1 - 1, 2 * k2 - 1, 2 * k3 - 1))
        return Grid(inverse_cell, jnp.fft.fftshift(both, axes=(0, 1)))

    def factor(self, grid: Grid, positions: Float[Array, "n 3"], multipoles: Multipoles) -> Float[Array, "2 m1 m2 k3"]:
        """Return the real and imaginary part of S(k), -k1 < n1 < k1, -k2 < n2 < k2 and 0 <= n3 < k3, all ascending."""

        def of_charges(positions: Float[Array, "n 3"], charges: Float[Array, " n"]) -> Float[Array, "2 m1 m2 k3"]:
            angles = 2.0 * math.pi * fractional_coordinates(positions, grid.inverse_cell)
            plan = (self.k_shape, self.tolerance)
            return _spread(angles[None], charges[None, :, None], terms=((0, 0, 0),), plan=plan)[0]

        return multipole_structure_factor(of_charges, positions, multipoles)

    def square(self, grid: Grid, factor: Float[Array, "2 m1 m2 k3"]) -> Float[Array, ""]:
        r"""Return Σ_k w(k) \|S(k)\|², the energy, eV, with the self-interaction of each atom."""
        return jnp.sum(grid.weights * (factor[0] * factor[0] + factor[1] * factor[1]))

    def product(
        self, grid: Grid, left: Float[Array, "2 m1 m2 k3"], right: Float[Array, "2 m1 m2 k3"]
    ) -> Float[Array, ""]:
        """Return 2 Σ_k w(k) Re[S_left(k)* S_right(k)], the energy of the two with each other, eV."""
        return 2.0 * jnp.sum(grid.weights * (left[0] * right[0] + left[1] * right[1]))

    @classmethod
    def share_sizes(cls, solvers: Sequence[Any]) -> list[Any]:
        """Return the solvers with the largest k-grid and the smallest tolerance of all, so that they can be stacked."""
        tolerance = min(solver.tolerance for solver in solvers)
        return [replace(solver, tolerance=tolerance) for solver in super().share_sizes(solvers)]


def require_finufft() -> Any:
    """Import jax_finufft.

    Raises:
        ImportError: with the name of the extra where it is not installed.
    """
    try:
        return importlib.import_module("jax_finufft")
    except ImportError as error:
        message = "`method` = 'nufft' needs jax-finufft: pip install 'lesjax[nufft]', or take method='mesh'."
        raise ImportError(message) from error


# Sizes k1, k2, k3 of the k-grid and the tolerance.
Plan = tuple[tuple[int, int, int], float]


def _frequencies(shape: tuple[int, int, int]) -> list[np.ndarray]:
    """n1, n2, n3 in the order of the transform."""
    return [np.arange(1 - shape[0], shape[0]), np.arange(1 - shape[1], shape[1]), np.arange(shape[2])]


def _differentiated(modes: Complex[Array, "m1 m2 k3"], term: Term, shape: tuple[int, int, int]) -> Array:
    """Modes times (i n1)^a (i n2)^b (i n3)^c."""
    factor = np.ones((1, 1, 1))
    for axis, (n, power) in enumerate(zip(_frequencies(shape), term, strict=True)):
        factor = factor * np.expand_dims(n.astype(float) ** power, [i for i in range(3) if i != axis])
    re, im = jnp.real(modes), jnp.imag(modes)
    re, im = [(re, im), (-im, re), (-re, -im), (im, -re)][sum(term) % 4]
    scale = jnp.asarray(factor, re.dtype)
    return jax.lax.complex(re * scale, im * scale)


def _points(angles: Float[Array, "n 3"], shape: tuple[int, int, int]) -> tuple[list[Array], Complex[Array, " n"]]:
    turns = angles[:, 2] * (shape[2] // 2 / math.pi)
    return [angles[:, axis] for axis in range(3)], jax.lax.complex(cospi(turns), sinpi(turns))


def _spread_one(angles: Array, values: Array, *, terms: Terms, plan: Plan) -> Array:
    shape, tolerance = plan
    points, phase = _points(angles, shape)
    source = jax.lax.complex(values.T * jnp.real(phase)[None], values.T * jnp.imag(phase)[None])
    sizes = (2 * shape[0] - 1, 2 * shape[1] - 1, shape[2])
    modes = require_finufft().nufft1(sizes, source, *points, eps=tolerance, iflag=1)
    total = sum(
        (_differentiated(modes[t], term, shape) for t, term in enumerate(terms)), jnp.zeros(sizes, source.dtype)
    )
    return jnp.stack([jnp.real(total), jnp.imag(total)])


def _interpolate_one(angles: Array, grid: Array, *, terms: Terms, plan: Plan) -> Array:
    shape, tolerance = plan
    points, phase = _points(angles, shape)
    # Σ_k Re[M(k)* (i k)^t e^{ik·r}]
    conjugate = jax.lax.complex(grid[0], -grid[1])
    modes = jnp.stack([_differentiated(conjugate, term, shape) for term in terms])
    values = require_finufft().nufft2(modes, *points, eps=tolerance, iflag=1)
    return (jnp.real(values) * jnp.real(phase)[None] - jnp.imag(values) * jnp.imag(phase)[None]).T


def _all_systems(function: Any) -> Any:
    def of_all(angles: Array, carried: Array, *, terms: Terms, plan: Plan) -> Array:
        return jnp.stack([function(*pair, terms=terms, plan=plan) for pair in zip(angles, carried, strict=True)])

    return of_all


_spread, _interpolate = make_adjoint_pair(
    "nufft",
    lambda plan: (2, 2 * plan[0][0] - 1, 2 * plan[0][1] - 1, plan[0][2]),
    {None: _all_systems(_spread_one)},
    {None: _all_systems(_interpolate_one)},
)
