r"""Polarization, molecular moments and Born effective charges of latent charges and dipoles.

Along a periodic lattice direction a positions have a meaning modulo the cell alone, so the polarization is a phase, one
complex number per direction; with s the fractional coordinates:

.. math:: P_a = \sum_i \frac{q_i}{2 \pi i} e^{2 \pi i s_{ia}}, \qquad
          Z^*_{i, \alpha \beta} = \sqrt{\varepsilon_\infty} \Bigl( \sum_a h_{a \alpha}
          \operatorname{Re} \left[ e^{-2 \pi i s_{ia}} \frac{\partial P_a}{\partial r_{i \beta}} \right]
          + \frac{\partial}{\partial r_{i \beta}} \sum_j u_{j \alpha} \Bigr)

with the cell h (lattice vectors as rows) and latent dipoles u. Along other directions :math:`P_a = \sum_i q_i s_{ia}`,
and without periodic directions Z* is the derivative of the dipole moment. The factor
:math:`\sqrt{\varepsilon_\infty}` turns latent charges, which are screened by the electrons, into the charges that move
with the atoms.

Source: Zhong et al., arXiv:2504.05169 (2025); King, Kim, Zhong, Cheng, Nat. Commun. 16, 8763 (2025).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from lesjax.numerics import cospi, sinpi


# positions [n, 3] -> charges [n] or [n, c], or charges and dipoles [n, 3] or [n, c, 3]
MomentsFunction = Callable[[Array], Array | tuple[Array, Array]]
Pbc = tuple[bool, bool, bool]


def dipole_moment(
    positions: Float[Array, "n 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    dipoles: Float[Array, "n 3"] | Float[Array, "n c 3"] | None = None,
    origin: Float[Array, "3"] | None = None,
) -> Float[Array, "3"]:
    r"""Dipole moment :math:`\sum_i q_i (r_i - r_0) + u_i` of a molecule, channels summed, e Å.

    Args:
        positions: Cartesian coordinates, Å; unwrapped.
        charges: latent charges, e; zero for padded atoms.
        dipoles: latent dipoles, e Å.
        origin: the point r0, Å, zero by default. It matters for charged molecules alone.
    """
    q = _summed(charges, 1)
    moved = positions if origin is None else positions - origin[None, :]
    total = jnp.sum(q[:, None] * moved, axis=0)
    return total if dipoles is None else total + jnp.sum(_summed(dipoles, 2), axis=0)


def quadrupole_moment(
    positions: Float[Array, "n 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    dipoles: Float[Array, "n 3"] | Float[Array, "n c 3"] | None = None,
    origin: Float[Array, "3"] | None = None,
) -> Float[Array, "3 3"]:
    r"""Second moment :math:`\sum_i q_i x_i x_i^T + u_i x_i^T + x_i u_i^T` with x = r - r0, e Å², with its trace.

    The traceless (Buckingham) quadrupole is :math:`\tfrac12 (3 M - \operatorname{tr} M)`. Arguments as in
    `dipole_moment`; the origin matters unless charge and dipole are zero.
    """
    q = _summed(charges, 1)
    moved = positions if origin is None else positions - origin[None, :]
    moment = jnp.einsum("n,na,nb->ab", q, moved, moved, precision=jax.lax.Precision.HIGHEST)
    if dipoles is None:
        return moment
    mixed = jnp.einsum("na,nb->ab", _summed(dipoles, 2), moved, precision=jax.lax.Precision.HIGHEST)
    return moment + mixed + mixed.T


def traceless(moments: Float[Array | np.ndarray, "*b 3 3"]) -> Float[Array | np.ndarray, "*b 3 3"]:
    """Traceless part M - tr(M)/3 of second moments, in numpy or jax."""
    third = (moments[..., 0, 0] + moments[..., 1, 1] + moments[..., 2, 2])[..., None, None] / 3.0
    return moments - third * np.eye(3, dtype=moments.dtype).reshape((1,) * (moments.ndim - 2) + (3, 3))


def born_effective_charges(
    moments: MomentsFunction,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    pbc: Pbc,
    *,
    atom_mask: Bool[Array, " n"] | None = None,
    epsilon_infinity: float | Float[Array, ""] = 1.0,
    remove_mean: bool = True,
    acoustic_sum_rule: bool = False,
    direction: int | None = None,
) -> Float[Array, "n 3 3"] | Float[Array, "n 3"]:
    r"""Born effective charges, e, with the response of the charges to the displacement.

    Two reverse passes through `moments` for each periodic lattice direction and one for each other; three more for
    dipoles.

    Args:
        moments: positions -> latent charges [n] or [n, c] (e), or these and latent dipoles (e Å); channels are summed.
        positions: Cartesian coordinates, Å.
        cell: lattice vectors as rows, Å; ignored without a periodic direction.
        pbc: which directions are periodic; static.
        atom_mask: True for real atoms. All real by default.
        epsilon_infinity: electronic dielectric constant; positive.
        remove_mean: subtract the mean charge, so that a net charge does not depend on the origin.
        acoustic_sum_rule: subtract the mean of Z* over the atoms, so that a rigid shift changes no polarization.
        direction: lattice direction 0, 1 or 2 to stay with that one, at a third of the cost.

    Returns:
        [atom, polarization, displacement], Cartesian; with `direction` a, [atom, displacement]: the part along the
        lattice vector a times its length, which is the Cartesian component in a rectangular cell.

    Raises:
        ValueError: for a `direction` that is not 0, 1 or 2, or an `epsilon_infinity` that is not positive.
    """
    if not isinstance(epsilon_infinity, Tracer) and not float(epsilon_infinity) > 0.0:
        raise ValueError(f"`epsilon_infinity` is a dielectric constant and must be positive, got {epsilon_infinity}.")
    if direction not in (None, 0, 1, 2):
        raise ValueError(f"`direction` must be a lattice direction 0, 1 or 2, or None for all, got {direction}.")
    # without a periodic direction the cell may be zero: the Cartesian axes take its place
    lattice = cell if any(pbc) else jnp.eye(3, dtype=positions.dtype)
    real = jnp.ones(len(positions), bool) if atom_mask is None else atom_mask
    reciprocal = jnp.linalg.inv(lattice)
    axes = (0, 1, 2) if direction is None else (direction,)

    def polarization(positions: Array) -> tuple[list[Array], Array | None]:
        """Real and imaginary part of P_a of each axis, or P_a itself where it is not periodic; and the dipoles' sum."""
        q, u = _real_moments(moments(positions), real, remove_mean)
        fractional = _fractional(positions, reciprocal)
        parts = []
        for a in axes:
            turns = 2.0 * fractional[:, a]
            if pbc[a]:
                quarter = jnp.stack([sinpi(turns), -cospi(turns)])
                parts.append(jnp.sum(q[None, :] * quarter, axis=1) / (2.0 * math.pi))
            else:
                parts.append(jnp.sum(q * fractional[:, a])[None])
        total = None if u is None else _fractional(jnp.sum(u, axis=0), reciprocal[:, jnp.asarray(axes)])
        return parts, total

    gradients, dipole_gradients = jax.jacrev(polarization)(positions)
    fractional = _fractional(positions, reciprocal)
    rows = []
    for a, gradient in zip(axes, gradients, strict=True):
        turns = 2.0 * fractional[:, a, None]
        phase = jnp.stack([cospi(turns), sinpi(turns)]) if pbc[a] else jnp.ones_like(gradient)
        rows.append(jnp.sum(phase * gradient, axis=0))
    total = jnp.stack(rows) if dipole_gradients is None else jnp.stack(rows) + dipole_gradients
    along = jnp.where(real[None, :, None], total, 0.0)
    if acoustic_sum_rule:
        mean = jnp.sum(along, axis=1, keepdims=True) / jnp.sum(real).astype(positions.dtype)
        along = jnp.where(real[None, :, None], along - mean, 0.0)
    along *= jnp.sqrt(jnp.asarray(epsilon_infinity).astype(positions.dtype))
    if direction is not None:
        return along[0] * jnp.linalg.norm(lattice[direction])
    return jnp.einsum("ap,and->npd", lattice, along, precision=jax.lax.Precision.HIGHEST)


def field_forces(
    born_charges: Float[Array, "n 3 3"], electric_field: Float[Array, "3"]
) -> Float[Array, "n 3"]:
    r"""Forces of a homogeneous external field, :math:`F_{i \beta} = \sum_\alpha E_\alpha Z^*_{i, \alpha \beta}`, eV/Å.

    Args:
        born_charges: from `born_effective_charges`, e.
        electric_field: V/Å.
    """
    return jnp.einsum("a,nad->nd", electric_field, born_charges, precision=jax.lax.Precision.HIGHEST)


def _fractional(vectors: Float[Array, "*n 3"], reciprocal: Float[Array, "3 a"]) -> Float[Array, "*n a"]:
    # TF32, the default of some GPUs, would lose three digits of the phase
    return jnp.matmul(vectors, reciprocal, precision=jax.lax.Precision.HIGHEST)


def _real_moments(
    moments: Array | tuple[Array, Array], real: Bool[Array, " n"], remove_mean: bool
) -> tuple[Float[Array, " n"], Float[Array, "n 3"] | None]:
    charges, dipoles = moments if isinstance(moments, tuple) else (moments, None)
    q = jnp.where(real, _summed(charges, 1), 0.0)
    if remove_mean:
        q = jnp.where(real, q - jnp.sum(q) / jnp.sum(real).astype(q.dtype), 0.0)
    return q, None if dipoles is None else jnp.where(real[:, None], _summed(dipoles, 2), 0.0)


def _summed(values: Float[Array, "n ..."], ndim: int) -> Float[Array, "n ..."]:
    """Sum over the channels, if there are any."""
    return values if values.ndim == ndim else jnp.sum(values, axis=1)
