r"""Slabs: two periodic directions, by truncating the interaction along the surface normal.

In the plane the sum stays in reciprocal space. Along the normal n̂ the Coulomb interaction is cut off at
\|z\| = R, and the system is repeated with the period L = 2R, chosen so that atoms whose distance along n̂ is at
most the height h of the cell interact as in two dimensions and no atom meets an image:
R = h + m, L = 2R, with the margin m = 6σ for the smearing (the Gaussian leaves φ(6) ≈ 6e-9 beyond it).

With k = k_p + k_z n̂, k_z = 2πn/L and R = L/2, the Fourier transform of θ(R - \|z\|)/r is

.. math:: \frac{4 \pi}{k^2} \bigl(1 - (-1)^n e^{-k_p R}\bigr), \qquad k = 0: \; -2 \pi R^2.

It holds for k_p = 0 as well, where the interaction in the plane is -2π\|z\| (a divergent constant times the
squared net charge is left out, as in every two-dimensional sum). So the third lattice vector never enters the
energy, only its component along the normal, when the host plans L: the vacuum carries no physics, and its size
changes nothing but the time.

**A slab with a net charge** Q has no background. Its energy is that of the isolated charged slab, with the zero of the
potential such that a charged plane has -Q\|z\|/(2 ε0 A); the term k = 0 above belongs to it. All of it, with its
forces, is independent of R.

Source: Rozzi et al., Phys. Rev. B 73, 205119 (2006), doi:10.1103/PhysRevB.73.205119, and Sohier, Calandra and Mauri,
Phys. Rev. B 96, 075448 (2017), doi:10.1103/PhysRevB.96.075448; the term k = 0 here is the integral itself.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lesjax.numerics import safe_norm


_MARGIN = 6.0  # in units of sigma


def plan_slab(
    cell: Float[np.ndarray, "3 3"], axis: int, sigma: float
) -> tuple[Float[np.ndarray, ""], Float[np.ndarray, "3 3"]]:
    """Period L along the surface normal, Å, and the cell that has it in the place of lattice vector `axis`; host only.

    Raises:
        ValueError: for a cell that is singular in the plane or has no height.
    """
    first, second = (cell[i] for i in range(3) if i != axis)
    area = np.linalg.norm(np.cross(first, second))
    if not (np.all(np.isfinite(cell)) and area > 1e-9 * np.linalg.norm(first) * np.linalg.norm(second)):
        raise ValueError(f"`cell` is singular in its periodic plane, without lattice vector {axis}: {cell.tolist()}.")
    normal = _normal(np, cell, axis)
    height = abs(float(cell[axis] @ normal))
    if height <= 1e-9 * math.sqrt(area):
        raise ValueError(
            f"`cell` has no height along the normal of the slab: {cell.tolist()}. Give a lattice vector {axis} that "
            "reaches over all atoms; the size of the vacuum does not matter."
        )
    period = 2.0 * (height + _MARGIN * sigma)
    effective = np.array(cell)
    effective[axis] = period * normal
    return np.asarray(period, jax.dtypes.canonicalize_dtype(float)), effective


def effective_cell(cell: Float[Array, "3 3"], axis: int, period: Float[Array, ""]) -> Float[Array, "3 3"]:
    """The cell with the surface normal times `period` in the place of lattice vector `axis`.

    `period` stays while the cell strains, so what strains along the normal are the atoms alone.
    """
    return cell.at[axis].set(period * _normal(jnp, cell, axis))


def truncation_factor(
    kvectors: Float[Array, "*k 3"], cell: Float[Array, "3 3"], axis: int, where: Bool[Array, "*k"]
) -> Float[Array, "*k"]:
    r"""Factor :math:`1 - (-1)^n e^{-k_p R}` on the interaction; `cell` is the effective one.

    Args:
        kvectors: Cartesian, 1/Å.
        cell: the effective cell, Å.
        axis: its row along the surface normal.
        where: k-vectors that count.
    """
    period = jnp.linalg.norm(cell[axis])
    normal = cell[axis] / period
    k_z = jnp.einsum("...x,x->...", kvectors, normal, precision=jax.lax.Precision.HIGHEST)
    n = jnp.round(jax.lax.stop_gradient(k_z * period / (2.0 * math.pi)))
    sign = 1.0 - 2.0 * jnp.mod(n, 2.0)
    in_plane = kvectors - k_z[..., None] * jnp.reshape(normal, (1,) * k_z.ndim + (3,))
    # what rounding leaves of k_p on the line k_p = 0 has no direction; the true ones are 2π over a length of the cell
    squared, k_squared = (jnp.sum(jax.lax.stop_gradient(x) ** 2, axis=-1) for x in (in_plane, kvectors))
    off_line = where & (squared > 1e-9 * k_squared)
    k_p = jnp.where(off_line, safe_norm(in_plane, off_line), 0.0)
    return 1.0 - sign * jnp.exp(-0.5 * period * k_p)


def check_extent(
    positions: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"], axis: int, period: float, sigma: float
) -> None:
    """Refuse a slab whose atoms are further apart along the normal than it was planned for; host only.

    Raises:
        ValueError: then; the forces between those atoms would be those of a truncated interaction.
    """
    extent, height = extent_and_height(np, positions, cell, axis, period, sigma)
    if extent > height:
        raise ValueError(
            f"`positions` extend over {extent:.4g} Å along the normal of the slab, more than the height {height:.4g} Å "
            f"of the cell. Unwrap atoms that were wrapped along lattice vector {axis}, or make it longer."
        )


def extent_and_height(xp: Any, positions: Any, cell: Any, axis: int, period: Any, sigma: Any) -> tuple[Any, Any]:
    """How far atoms are apart along the normal, and how far they may be by the plan, rounding included; Å."""
    return xp.ptp(positions @ _normal(xp, cell, axis)), (0.5 * period - _MARGIN * sigma) * (1.0 + 1e-5)


def _normal(xp, cell: Float[Array | np.ndarray, "3 3"], axis: int):
    """Unit normal of the two periodic lattice vectors, along the third one or against it."""
    first, second = (cell[i] for i in range(3) if i != axis)
    normal = xp.cross(first, second)
    return normal / xp.linalg.norm(normal)
