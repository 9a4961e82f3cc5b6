r"""What every engine takes: fractional coordinates, and the Coulomb interaction of Gaussians in reciprocal space."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.ewald.slab import truncation_factor
from lesjax.numerics import determinant, safe_reciprocal
from lesjax.units import COULOMB


def fractional_coordinates(positions: Float[Array, "n 3"], inverse_cell: Float[Array, "3 3"]) -> Float[Array, "n 3"]:
    """Fractional coordinates of the image nearest to the origin, between -1/2 and 1/2."""
    # TF32, the default of some GPUs, would lose three digits
    fractional = jnp.matmul(positions, inverse_cell, precision=jax.lax.Precision.HIGHEST)
    # float32 phases keep their digits however far the atoms have drifted
    return fractional - jax.lax.stop_gradient(jnp.round(fractional))


def reciprocal_kernel(
    kvectors: Float[Array, "*k 3"],
    kmask: Bool[Array, "*k"],
    cell: Float[Array, "3 3"],
    sigma: Float[Array, ""],
    slab_axis: int | None = None,
) -> Float[Array, "*k"]:
    r"""Weight of |S(k)|² in the energy, :math:`\frac{1}{2 \varepsilon_0 V} e^{-\sigma^2 k^2 / 2} / k^2`, eV/e².

    For a slab it is that of the interaction truncated along the surface normal, see `lesjax.ewald.slab`.

    Args:
        kvectors: Cartesian k-vectors of the strained cell, 1/Å.
        kmask: which of them take part; the others get the weight zero. k = 0 takes part in slabs only.
        cell: lattice vectors as rows, Å; its volume is |det cell|. For a slab the effective cell.
        sigma: smearing width σ, Å.
        slab_axis: row of `cell` along the normal of a slab; None for three periodic directions.
    """
    k_squared = jnp.sum(kvectors * kvectors, axis=-1)
    finite = kmask & (k_squared > 0.0)
    prefactor = 2.0 * math.pi * COULOMB / jnp.abs(determinant(cell))
    weights = prefactor * jnp.exp(-0.5 * sigma**2 * k_squared) * safe_reciprocal(k_squared, finite)
    if slab_axis is None:
        return weights
    weights *= truncation_factor(kvectors, cell, slab_axis, finite)
    # -2π R² over 4π, R half of the period
    at_zero = -prefactor * jnp.sum(cell[slab_axis] ** 2) / 8.0
    return jnp.where(kmask & ~finite, at_zero, weights)
