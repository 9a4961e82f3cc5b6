r"""The Coulomb interaction of Gaussian charges in reciprocal space, the same for every engine."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.units import COULOMB


def reciprocal_kernel(
    kvectors: Float[Array, "*k 3"], kmask: Bool[Array, "*k"], cell: Float[Array, "3 3"], sigma: Float[Array, ""]
) -> Float[Array, "*k"]:
    r"""Weight of |S(k)|² in the energy, :math:`\frac{1}{2 \varepsilon_0 V} e^{-\sigma^2 k^2 / 2} / k^2`, eV/e².

    Args:
        kvectors: Cartesian k-vectors of the strained cell, 1/Å.
        kmask: which of them take part; the others, and k = 0, get the weight zero.
        cell: lattice vectors as rows, Å; its volume is |det cell|.
        sigma: smearing width σ, Å.
    """
    k_squared = jnp.where(kmask, jnp.sum(kvectors * kvectors, axis=-1), 1.0)
    prefactor = 2.0 * math.pi * COULOMB / jnp.abs(jnp.linalg.det(cell))
    return jnp.where(kmask, prefactor * jnp.exp(-0.5 * sigma**2 * k_squared) / k_squared, 0.0)
