r"""Particle-mesh form of the reciprocal sum: B-splines, real FFT, least-squares deconvolution.

The charges are spread onto a mesh of n1 n2 n3 points per cell with cardinal B-splines of order p. Its discrete Fourier
transform F holds, at each k, the structure factor of that k and of its aliases k + m (m any vector of the mesh's
reciprocal lattice), each times the transform of the spline, W = Π_a sinc(k·a_a / (2 n_a))^p. The sum

.. math:: E \approx \sum_{0 < |k| \le k_c} w(k) \Bigl(\prod_a \frac{W(k)}{\sum_m W(k + m)^2}\Bigr)^2 |F(k)|^2

has the factor that minimises the error of the pair interaction, averaged over both positions (Hockney and Eastwood,
Computer Simulation Using Particles, 1988, for forces as derivatives of this energy; Ballenegger et al., J. Chem.
Theory Comput. 8, 936 (2012), doi:10.1021/ct2001792). Weighting the error by k² instead, which minimises that of the
forces, makes the factor depend on the cell and changed the error by less than 1 % for all orders and spacings tried.

There is no part in real space: w is smooth on the scale of σ. The mesh sits on fractional coordinates, so energy and
stress stay smooth while the cell strains. The derivative by the mesh is written out: with autodiff, the transpose of
a real FFT is a complex one.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from lesjax.ewald import spline
from lesjax.ewald.kernel import fractional_coordinates
from lesjax.numerics import inverse


def structure_factor(
    positions: Float[Array, "n 3"],
    charges: Float[Array, " n"],
    cell: Float[Array, "3 3"],
    shape: tuple[int, int, int],
    order: int,
) -> Float[Array, "n1 n2 n3"]:
    """Charges on the mesh: the structure factor before its Fourier transform, which `quadratic_form` does.

    Linear in the charges; differentiable `order` - 2 times in positions and cell.

    Args:
        positions: Cartesian coordinates, Å.
        charges: charges, e; zero for padded atoms.
        cell: lattice vectors as rows, Å.
        shape: mesh points along each lattice vector.
        order: order of the B-splines.
    """
    fractional = fractional_coordinates(positions, inverse(cell))
    scaled = fractional * jnp.asarray(shape, positions.dtype)[None]
    return spline.spread(scaled[None], charges[None, :, None], terms=((0, 0, 0),), shape=shape, order=order)[0]


def quadratic_form(
    left: Float[Array, "n1 n2 n3"], right: Float[Array, "n1 n2 n3"], weights: Float[Array, "n1 n2 h"]
) -> Float[Array, ""]:
    """Return Σ_k w(k) Re[S_left(k)* S_right(k)] over the whole k-grid; the energy for ``left is right``.

    `weights` are those of `mesh_weights`, in the half spectrum of a real FFT.
    """
    return _square(left, weights) if left is right else _product(left, right, weights)


def mesh_weights(
    weights: Float[Array, "4 k1 k2 k3"], shape: tuple[int, int, int], order: int
) -> Float[Array, "n1 n2 h"]:
    """Weights of the k-vectors (n1, ±n2, ±n3), n >= 0, in the layout of a real FFT and with the deconvolution."""
    w1, w2, w3 = (jnp.asarray(_deconvolution(n, order), weights.dtype) for n in shape)
    half = w3[: shape[2] // 2 + 1]
    return half_spectrum(weights, shape) * w1[:, None, None] * w2[None, :, None] * half[None, None, :]


def half_spectrum(weights: Float[Array, "4 k1 k2 k3"], shape: tuple[int, int, int]) -> Float[Array, "n1 n2 h"]:
    """Bring the weights of the k-vectors (n1, ±n2, ±n3), n >= 0, into the layout of a real FFT of a mesh.

    What lies on k and -k is added up: both have the same |S|².
    """
    _, *sizes = weights.shape
    assert all(2 * (size - 1) < n for size, n in zip(sizes, shape, strict=True)), (sizes, shape)
    # (n1, ±n2, -n3) is minus (-n1, ∓n2, n3)
    positive = _two_sided(weights[0], weights[2], 1, shape[1])
    negative = _two_sided(weights[3], weights[1], 1, shape[1])
    both = _two_sided(positive, negative, 0, shape[0])
    return jnp.pad(both, ((0, 0), (0, 0), (0, shape[2] // 2 + 1 - sizes[2])))


def _two_sided(positive: Array, negative: Array, axis: int, n: int) -> Array:
    """Frequencies 0, 1, …, k - 1, zeros, -(k - 1), …, -1 of `n` in all; both arguments hold zero."""
    k = positive.shape[axis]
    gap = list(positive.shape)
    gap[axis] = n - 2 * k + 1
    zero, above = jnp.split(positive, [1], axis)
    other_zero, below = jnp.split(negative, [1], axis)
    return jnp.concatenate([zero + other_zero, above, jnp.zeros(gap, positive.dtype), jnp.flip(below, axis)], axis)


def _deconvolution(n: int, order: int) -> Float[np.ndarray, " n"]:
    """Square of W / Σ_m W_m² along one axis."""
    frequency = np.fft.fftfreq(n)
    # aliases of order 4 and higher fall off as 1/m^{2p}
    images = np.sinc(frequency[:, None] + np.arange(-4, 5)) ** order
    return (images[:, 4] / np.sum(images**2, 1)) ** 2


def _convolve(
    transform: Complex[Array, "n1 n2 h"], weights: Float[Array, "n1 n2 h"], shape: tuple[int, ...]
) -> Float[Array, "n1 n2 n3"]:
    """Derivative of ½ Σ_k w |F|² by the mesh."""
    # the half spectrum holds k and -k as one, but for n3 = 0, where both are there; the inverse transform counts
    # them by itself. w is zero at half the sampling frequency.
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
