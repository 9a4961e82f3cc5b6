r"""The Coulomb interaction of Gaussian charges in reciprocal space, the same for every engine."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.ewald.slab import truncation_factor
from lesjax.units import COULOMB


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
    k_squared = jnp.where(finite, k_squared, 1.0)
    prefactor = 2.0 * math.pi * COULOMB / jnp.abs(jnp.linalg.det(cell))
    weights = prefactor * jnp.exp(-0.5 * sigma**2 * k_squared) / k_squared
    if slab_axis is None:
        return jnp.where(finite, weights, 0.0)
    weights = jnp.where(finite, weights * truncation_factor(kvectors, cell, slab_axis, finite), 0.0)
    # -2π R² over 4π, R half of the period
    at_zero = -prefactor * jnp.sum(cell[slab_axis] ** 2) / 8.0
    return jnp.where(kmask & ~finite, at_zero, weights)
