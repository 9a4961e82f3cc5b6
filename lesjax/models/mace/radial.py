"""Radial functions of MACE."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lesjax.io import covalent_radii
from lesjax.models import basis
from lesjax.models.mace.config import MACEConfig
from lesjax.neighbors import Dense
from lesjax.numerics import matmul


AGNESI = (0.9183, 4.5791, 1.0805)  # q, p and a of mace-torch


def radial_functions(
    distances: Float[Array, "*e"],
    frequencies: Float[Array, " b"] | None,
    c: MACEConfig,
    transformed: Float[Array, "*e"] | None = None,
) -> Float[Array, "*e b"]:
    """Bessel functions of these frequencies, or Gaussians without any, times the envelope.

    They are functions of the `transformed` distances where these are given; the envelope never is.
    """
    r = distances if transformed is None else transformed
    envelope = basis.polynomial_cutoff(distances, c.cutoff, float(c.num_polynomial_cutoff))[..., None]
    if frequencies is not None:
        return basis.bessel_functions(r, frequencies, c.cutoff) * envelope
    centers = jnp.asarray(np.linspace(0.0, c.cutoff, c.num_radial_basis), r.dtype)
    x = (r[..., None] - centers.reshape((1,) * r.ndim + (-1,))) * ((c.num_radial_basis - 1) / c.cutoff)
    return jnp.exp(-0.5 * x**2) * envelope


def agnesi(x: Float[Array, "*e"], constants: Float[Array, "3"]) -> Float[Array, "*e"]:
    r"""Agnesi transform, which falls from one to zero and is steep about bonds.

    .. math:: \left[ 1 + \frac{a x^q}{1 + x^{q - p}} \right]^{-1}

    Source: Witt et al., J. Chem. Phys. 159, 164101 (2023), doi:10.1063/5.0158783.

    Args:
        x: distances over the `bond_lengths`.
        constants: q, p and a.
    """
    q, p, a = constants
    return 1.0 / (1.0 + a * x**q / (1.0 + x ** (q - p)))


def bond_lengths(
    atomic_numbers: Int[Array | np.ndarray, " n"], neighbors: Dense, dtype: jnp.dtype
) -> Float[Array, " p"]:
    """Means of the two covalent radii of unique pairs, Å."""
    radius = jnp.asarray(covalent_radii, dtype)[jnp.asarray(atomic_numbers)]
    return neighbors.of_pairs(0.5 * (neighbors.gather(radius) + radius[:, None]))


def learned_density(radial: Float[Array, "p b"], weights: Float[Array, "b 1"], neighbors: Dense) -> Float[Array, "n 1"]:
    """Sum over neighbours of a number from zero to one that is learned from the radial functions."""
    density = jnp.tanh(matmul(radial, weights) ** 2)
    return neighbors.sum(neighbors.of_both(density))
