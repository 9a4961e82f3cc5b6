r"""Particle-mesh form of the reciprocal sum: B-splines, real FFT, least-squares deconvolution.

The charges are spread onto a mesh of n1 n2 n3 points per cell with cardinal B-splines of order p. Its discrete Fourier
transform F holds, at each k, the structure factor of that k and of its aliases k + m (m any vector of the mesh's
reciprocal lattice), each times the transform of the spline, W = Π_a sinc(k·a_a / (2 n_a))^p. The sum

.. math:: E \approx \sum_{|k| \le k_c} w(k) \Bigl(\prod_a \frac{W(k)}{\sum_m W(k + m)^2}\Bigr)^2 |F(k)|^2

has the factor that minimises the error of the pair interaction, averaged over both positions (Hockney and Eastwood,
Computer Simulation Using Particles, 1988, for forces as derivatives of this energy; Ballenegger et al., J. Chem.
Theory Comput. 8, 936 (2012), doi:10.1021/ct2001792). Weighting the error by k² instead, which minimises that of the
forces, makes the factor depend on the cell and changed the error by less than 1 % for all orders and spacings tried.

There is no part in real space: w is smooth on the scale of σ. The mesh sits on fractional coordinates, so energy and
stress stay smooth while the cell strains. The derivative with respect to the mesh is written out: with autodiff, the
transpose of a real FFT is a complex one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from lesjax.ewald.multipoles import Multipoles, multipole_structure_factor
from lesjax.ewald.solvers import spline
from lesjax.ewald.solvers.periodic import Grid, Periodic, fractional_coordinates, half_spectrum


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class MeshSolver(Periodic):
    """The sum on a mesh; see `Periodic` for the other attributes.

    Attributes:
        mesh: mesh points along each lattice vector, fixed like `kmask`.
        order: order of the B-splines; energies have `order` - 2 continuous derivatives with respect to the positions.
    """

    mesh: tuple[int, int, int] = field(metadata={"static": True})
    order: int = field(metadata={"static": True})

    def grid(self, cell: Float[Array, "3 3"]) -> Grid:
        """Return the arrays that depend on the cell; weights in the layout of a real FFT, with the deconvolution."""
        inverse_cell, weights = self.half_grid(cell)
        w1, w2, w3 = (jnp.asarray(_deconvolution(n, self.order), weights.dtype) for n in self.mesh)
        half = w3[: self.mesh[2] // 2 + 1]
        both = half_spectrum(weights, self.mesh) * w1[:, None, None] * w2[None, :, None] * half[None, None, :]
        return Grid(inverse_cell, both)

    def factor(self, grid: Grid, positions: Float[Array, "n 3"], multipoles: Multipoles) -> Float[Array, "n1 n2 n3"]:
        """Return one channel of multipoles on the mesh: the structure factor before its Fourier transform.

        Differentiable `order` - 2 times in positions and cell.
        """

        def of_charges(positions: Float[Array, "n 3"], charges: Float[Array, " n"]) -> Float[Array, "n1 n2 n3"]:
            fractional = fractional_coordinates(positions, grid.inverse_cell)
            scaled = (fractional * jnp.asarray(self.mesh, positions.dtype)[None])[None]
            sizes = {"shape": self.mesh, "order": self.order}
            return spline.spread(scaled, charges[None, :, None], terms=((0, 0, 0),), **sizes)[0]

        return multipole_structure_factor(of_charges, positions, multipoles)

    def square(self, grid: Grid, factor: Float[Array, "n1 n2 n3"]) -> Float[Array, ""]:
        r"""Return Σ_k w(k) \|S(k)\|², the energy, eV, with the self-interaction of each atom."""
        return _square(factor, grid.weights)

    def product(self, grid: Grid, left: Float[Array, "n1 n2 n3"], right: Float[Array, "n1 n2 n3"]) -> Float[Array, ""]:
        """Return 2 Σ_k w(k) Re[S_left(k)* S_right(k)], the energy of the two with each other, eV."""
        return 2.0 * _product(left, right, grid.weights)

    @classmethod
    def share_sizes(cls, solvers: Sequence[Any]) -> list[Any]:
        """Return the solvers with the largest k-grid, mesh and order of all, so that they can be stacked."""
        n1, n2, n3 = (max(solver.mesh[axis] for solver in solvers) for axis in range(3))
        order = max(solver.order for solver in solvers)
        return [replace(solver, mesh=(n1, n2, n3), order=order) for solver in super().share_sizes(solvers)]


def _deconvolution(n: int, order: int) -> Float[np.ndarray, " n"]:
    """Square of W / Σ_m W_m² along one axis."""
    frequency = np.fft.fftfreq(n)
    # aliases of order 4 and higher fall off as 1/m^{2p}
    images = np.sinc(frequency[:, None] + np.arange(-4, 5)) ** order
    return (images[:, 4] / np.sum(images**2, 1)) ** 2


def _convolve(
    transform: Complex[Array, "n1 n2 h"], weights: Float[Array, "n1 n2 h"], shape: tuple[int, ...]
) -> Float[Array, "n1 n2 n3"]:
    """Derivative of ½ Σ_k w |F|² with respect to the mesh."""
    # the half spectrum holds k and -k as one, except for n3 = 0, which has both; the inverse transform counts
    # both. w is zero at half the sampling frequency.
    multiplicity = np.full(weights.shape[2], 0.5)
    multiplicity[0] = 1.0
    factors = jnp.asarray(math.prod(shape) * multiplicity, weights.dtype)[None, None, :] * weights
    scaled = jax.lax.complex(jnp.real(transform) * factors, jnp.imag(transform) * factors)
    return jnp.fft.irfftn(scaled, shape)


@jax.custom_jvp
def _square(mesh: Float[Array, "n1 n2 n3"], weights: Float[Array, "n1 n2 h"]) -> Float[Array, ""]:
    return jnp.sum(weights * _power(jnp.fft.rfftn(mesh)))


def _power(transform: Complex[Array, "n1 n2 h"]) -> Float[Array, "n1 n2 h"]:
    return jnp.real(transform) ** 2 + jnp.imag(transform) ** 2


@_square.defjvp
def _square_jvp(primals, tangents):
    (mesh, weights), (mesh_dot, weights_dot) = primals, tangents
    transform = jnp.fft.rfftn(mesh)
    power = _power(transform)
    slope = 2.0 * _convolve(transform, weights, mesh.shape)
    return jnp.sum(weights * power), jnp.sum(slope * mesh_dot) + jnp.sum(power * weights_dot)


@jax.custom_jvp
def _product(
    left: Float[Array, "n1 n2 n3"], right: Float[Array, "n1 n2 n3"], weights: Float[Array, "n1 n2 h"]
) -> Float[Array, ""]:
    return jnp.sum(weights * _cross(jnp.fft.rfftn(left), jnp.fft.rfftn(right)))


def _cross(a: Complex[Array, "n1 n2 h"], b: Complex[Array, "n1 n2 h"]) -> Float[Array, "n1 n2 h"]:
    return jnp.real(a) * jnp.real(b) + jnp.imag(a) * jnp.imag(b)


@_product.defjvp
def _product_jvp(primals, tangents):
    (left, right, weights), (left_dot, right_dot, weights_dot) = primals, tangents
    a, b = jnp.fft.rfftn(left), jnp.fft.rfftn(right)
    cross = _cross(a, b)
    by_left, by_right = (_convolve(x, weights, left.shape) for x in (b, a))
    dot = jnp.sum(by_left * left_dot) + jnp.sum(by_right * right_dot) + jnp.sum(cross * weights_dot)
    return jnp.sum(weights * cross), dot
