r"""Polarization, molecular moments and Born effective charges of latent charges and dipoles.

Along a periodic lattice direction a positions have a meaning only modulo the cell, so the polarization is a phase, one
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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from lesjax.numerics import check_volume, cospi, einsum, inverse, matmul, sinpi


# positions [n, 3] -> charges [n] or [n, c], or charges and dipoles [n, 3] or [n, c, 3]
MomentsFunction = Callable[[Array], Array | tuple[Array, Array]]
Pbc = tuple[bool, bool, bool]


def dipole_moment(
    positions: Float[Array | np.ndarray, "n 3"],
    charges: Float[Array | np.ndarray, " n"] | Float[Array | np.ndarray, "n c"],
    *,
    dipoles: Float[Array | np.ndarray, "n 3"] | Float[Array | np.ndarray, "n c 3"] | None = None,
    origin: Float[Array | np.ndarray, "3"] | None = None,
) -> Float[Array | np.ndarray, "3"]:
    r"""Dipole moment :math:`\sum_i q_i (r_i - r_0) + u_i` of a molecule, channels summed, e Å; in numpy or jax.

    Args:
        positions: Cartesian coordinates, Å; unwrapped.
        charges: latent charges, e; zero for padded atoms.
        dipoles: latent dipoles, e Å.
        origin: the point r0, Å, zero by default. It matters only for charged molecules.
    """
    q = _summed(charges, 1)
    moved = positions if origin is None else positions - origin[None, :]
    total = (q[:, None] * moved).sum(axis=0)
    return total if dipoles is None else total + _summed(dipoles, 2).sum(axis=0)


def quadrupole_moment(
    positions: Float[Array, "n 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    dipoles: Float[Array, "n 3"] | Float[Array, "n c 3"] | None = None,
    quadrupoles: Float[Array, "n 3 3"] | Float[Array, "n c 3 3"] | None = None,
    origin: Float[Array, "3"] | None = None,
) -> Float[Array, "3 3"]:
    r"""Second moment :math:`\sum_i q_i x_i x_i^T + u_i x_i^T + x_i u_i^T + Q_i` with x = r - r0, e Å², with its trace.

    The traceless (Buckingham) quadrupole is :math:`\tfrac12 (3 M - \operatorname{tr} M)`. Arguments as in
    `dipole_moment`, and latent quadrupoles (e Å²); the origin matters unless charge and dipole are zero.
    """
    q = _summed(charges, 1)
    moved = positions if origin is None else positions - origin[None, :]
    moment = einsum("n,na,nb->ab", q, moved, moved)
    if quadrupoles is not None:
        moment += jnp.sum(_summed(quadrupoles, 3), axis=0)
    if dipoles is None:
        return moment
    mixed = einsum("na,nb->ab", _summed(dipoles, 2), moved)
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

    Two reverse passes through `moments` for each periodic lattice direction and one for each other, so at most six;
    dipoles take one more for each periodic direction.

    Args:
        moments: positions -> latent charges [n] or [n, c] (e), or these and latent dipoles (e Å); channels are summed.
        positions: Cartesian coordinates, Å.
        cell: lattice vectors as rows, Å; ignored without a periodic direction.
        pbc: which directions are periodic; static.
        atom_mask: True for real atoms. All real by default.
        epsilon_infinity: electronic dielectric constant; positive.
        remove_mean: subtract the mean charge, so that nothing depends on the origin. Without it a periodic cell must
            be neutral; where the charges are traced (under jit) this is not checked.
        acoustic_sum_rule: subtract the mean of Z* over the atoms, so that a rigid shift changes no polarization.
        direction: lattice direction 0, 1 or 2 to compute only this one, at a third of the cost.

    Returns:
        [atom, polarization, displacement], Cartesian; with `direction` a, [atom, displacement]: the part along the
        lattice vector a times its length, which is the Cartesian component in a rectangular cell.

    Raises:
        ValueError: for a `direction` that is not 0, 1 or 2, an `epsilon_infinity` that is not positive, a periodic
            cell without volume, or one with a net charge if `remove_mean` is False.
    """
    if not isinstance(epsilon_infinity, Tracer) and not float(epsilon_infinity) > 0.0:
        raise ValueError(f"`epsilon_infinity` is a dielectric constant and must be positive, got {epsilon_infinity}.")
    if direction not in (None, 0, 1, 2):
        raise ValueError(f"`direction` must be a lattice direction 0, 1 or 2, or None for all, got {direction}.")
    if any(pbc):
        check_volume(cell)
    # without a periodic direction the cell may be zero: the Cartesian axes take its place
    lattice = cell if any(pbc) else jnp.eye(3, dtype=positions.dtype)
    real = jnp.ones(len(positions), bool) if atom_mask is None else atom_mask
    reciprocal = inverse(lattice)
    axes = (0, 1, 2) if direction is None else (direction,)
    if any(pbc) and not remove_mean:
        _check_neutral(_real_moments(moments(positions), real, remove_mean)[0])

    def polarization(positions: Array) -> list[Array]:
        """Return P_a for each axis; for a periodic one its real and imaginary part and the sum of the dipoles."""
        q, u = _real_moments(moments(positions), real, remove_mean)
        fractional = matmul(positions, reciprocal)
        total = None if u is None else matmul(jnp.sum(u, axis=0), reciprocal)
        parts = []
        for a in axes:
            dipole = [] if total is None else [total[a]]
            if pbc[a]:
                turns = 2.0 * fractional[:, a]
                waves = (sinpi(turns), -cospi(turns))
                parts.append(jnp.stack([jnp.sum(q * wave) / (2.0 * math.pi) for wave in waves] + dipole))
            else:
                parts.append(sum(dipole, jnp.sum(q * fractional[:, a]))[None])
        return parts

    gradients = jax.jacrev(polarization)(positions)
    fractional = matmul(positions, reciprocal)
    rows = []
    for a, gradient in zip(axes, gradients, strict=True):
        turns = 2.0 * fractional[:, a, None]
        phases = [cospi(turns), sinpi(turns)] if pbc[a] else []
        ones = [jnp.ones_like(turns)] * (len(gradient) - len(phases))
        rows.append(jnp.sum(jnp.stack(phases + ones) * gradient, axis=0))
    along = jnp.where(real[None, :, None], jnp.stack(rows), 0.0)
    if acoustic_sum_rule:
        mean = jnp.sum(along, axis=1, keepdims=True) / jnp.sum(real).astype(positions.dtype)
        along = jnp.where(real[None, :, None], along - mean, 0.0)
    along *= jnp.sqrt(jnp.asarray(epsilon_infinity).astype(positions.dtype))
    if direction is not None:
        return along[0] * jnp.linalg.norm(lattice[direction])
    return einsum("ap,and->npd", lattice, along)


def _check_neutral(charges: Float[Array, " n"]) -> None:
    """Refuse a net charge. A traced one is not checked."""
    if isinstance(charges, Tracer):
        return
    values = np.asarray(charges, float)
    net, size = float(values.sum()), float(np.abs(values).sum())
    if abs(net) > 1e-5 * size:
        raise ValueError(
            f"`moments` gives charges that sum to {net:.6g} e: the polarization of a charged periodic cell depends on "
            "the origin. Keep `remove_mean=True`, or make the charges neutral."
        )


def field_forces(born_charges: Float[Array, "n 3 3"], electric_field: Float[Array, "3"]) -> Float[Array, "n 3"]:
    r"""Forces of a homogeneous external field, :math:`F_{i \beta} = \sum_\alpha E_\alpha Z^*_{i, \alpha \beta}`, eV/Å.

    The sign is that of the force on a charge: positive charges are pulled along the field. Without periodic directions
    it is minus the gradient of :math:`-E \cdot M`, with M of `dipole_moment`. In a periodic cell that energy has no
    meaning, and the work of the field is :math:`\int E \cdot dM` with :math:`dM = \sum_i Z^*_i dr_i`, which
    `integrate_dipole` gives along a trajectory: kinetic and potential energy minus this work are conserved. Where the
    charges follow the neighbours, the phase of P_a measures the path of a charge as :math:`\sin(2 \pi \Delta s) / 2
    \pi` in place of :math:`\Delta s`, so that the work over a closed path vanishes up to :math:`(2 \pi \Delta s)^2 / 6`
    of the charges that flow: neighbours must be close compared with the cell.

    Args:
        born_charges: from `born_effective_charges`, e.
        electric_field: V/Å; in a periodic cell the macroscopic (average) field.
    """
    return einsum("a,nad->nd", electric_field, born_charges)


def _real_moments(
    moments: Array | tuple[Array, Array], real: Bool[Array, " n"], remove_mean: bool
) -> tuple[Float[Array, " n"], Float[Array, "n 3"] | None]:
    charges, dipoles = moments if isinstance(moments, tuple) else (moments, None)
    q = jnp.where(real, _summed(charges, 1), 0.0)
    if remove_mean:
        q = jnp.where(real, q - jnp.sum(q) / jnp.sum(real).astype(q.dtype), 0.0)
    return q, None if dipoles is None else jnp.where(real[:, None], _summed(dipoles, 2), 0.0)


def _summed(values: Any, ndim: int) -> Any:
    """Sum a numpy or jax array over the channels, if there are any."""
    return values if values.ndim == ndim else values.sum(axis=1)
