r"""Structure factor by a non-uniform fast Fourier transform (type 1), from the package jax-finufft.

The same k-vectors and weights as the direct sum, for any spline order and mesh that the library chooses for a
tolerance: Barnett, Magland, af Klinteberg, SIAM J. Sci. Comput. 41, C479 (2019), doi:10.1137/18M120885X.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from lesjax.ewald.mesh import half_spectrum


def require_finufft() -> Any:
    """Import jax_finufft.

    Raises:
        ImportError: with the name of the extra where it is not installed.
    """
    try:
        import jax_finufft
    except ImportError as error:
        message = "`method` = 'nufft' needs jax-finufft: pip install 'lesjax[nufft]', or take method='mesh'."
        raise ImportError(message) from error
    return jax_finufft


def structure_factor(
    positions: Float[Array, "n 3"],
    charges: Float[Array, " n"],
    cell: Float[Array, "3 3"],
    shape: tuple[int, int, int],
    tolerance: float,
) -> Complex[Array, "m1 m2 k3"]:
    """S(k) for |n1| < k1, |n2| < k2 and 0 <= n3 < k3, each axis in ascending order.

    Args:
        positions: Cartesian coordinates, Å.
        charges: charges, e; zero for padded atoms.
        cell: lattice vectors as rows, Å.
        shape: k1, k2, k3, the sizes of the direct sum's k-grid, zero included.
        tolerance: relative error of S(k).
    """
    fractional = positions @ jnp.linalg.inv(cell)
    fractional = fractional - jax.lax.stop_gradient(jnp.round(fractional))
    angles = 2.0 * math.pi * fractional
    # the library mixes dtypes in its derivatives, and leaves the third axis whole: there is no real transform
    with jax.numpy_dtype_promotion("standard"):
        full = require_finufft().nufft1(
            tuple(2 * k - 1 for k in shape),
            jax.lax.complex(charges, jnp.zeros_like(charges)),
            *(angles[:, axis] for axis in range(3)),
            eps=tolerance,
            iflag=1,
        )
    return full[:, :, shape[2] - 1 :]


def nufft_weights(weights: Float[Array, "4 k1 k2 k3"]) -> Float[Array, "m1 m2 k3"]:
    """Weights of the k-vectors (n1, ±n2, ±n3), n >= 0, in the layout of `structure_factor`."""
    shape = tuple(2 * k - 1 for k in weights.shape[1:])
    return jnp.fft.fftshift(half_spectrum(weights, shape), axes=(0, 1))


def quadratic_form(
    left: Complex[Array, "m1 m2 k3"], right: Complex[Array, "m1 m2 k3"], weights: Float[Array, "m1 m2 k3"]
) -> Float[Array, ""]:
    """Return Σ_k w(k) Re[S_left(k)* S_right(k)] over the whole k-grid; the energy for ``left is right``."""
    return jnp.sum(weights * (jnp.real(left) * jnp.real(right) + jnp.imag(left) * jnp.imag(right)))
