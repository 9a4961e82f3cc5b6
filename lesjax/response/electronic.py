r"""Polarizability and electronic dielectric constant.

The polarizability :math:`\alpha_{ab} = \partial M_a / \partial E_b` is in e Å²/V; times `lesjax.units.COULOMB` it is
the volume :math:`\alpha / 4 \pi \varepsilon_0` in Å³ that tables list. In a periodic cell E is the macroscopic
(average) field: the sums leave out k = 0, which is a sample between short-circuited electrodes (tin foil). Hence

.. math:: \varepsilon_\infty = 1 + \frac{\alpha}{\varepsilon_0 V}

with the polarizability α of the whole cell, and no Clausius-Mossotti relation.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from lesjax.ewald import OpenSolver, Solver
from lesjax.numerics import check_volume, determinant, matmul, safe_reciprocal
from lesjax.response.induction import InducedMultipoles, one_shot_induction, self_consistent_induction
from lesjax.units import VACUUM_PERMITTIVITY


def polarizability(dipole: Callable[[Array], Array], electric_field: Float[Array, "3"]) -> Float[Array, "3 3"]:
    r"""Polarizability :math:`\partial M_a / \partial E_b` of a dipole moment that is a function of the field, e Å²/V.

    Args:
        dipole: electric field (V/Å) -> dipole moment (e Å); three forward derivatives go through it.
        electric_field: field at which to take the derivative, V/Å; zero for the linear response.
    """
    return jax.jacfwd(dipole)(electric_field)


def induced_polarizability(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    *,
    alpha: Float[Array, "n ..."],
    kappa: Float[Array, " n"] | None = None,
    atom_mask: Bool[Array, " n"] | None = None,
    self_consistent: bool = True,
) -> tuple[Float[Array, "3 3"], InducedMultipoles]:
    r"""Polarizability of atoms with induced dipoles and charges, of the molecule or of the whole cell, e Å²/V.

    The field acts on each atom with its polarizability and, in a molecule, as the potential :math:`-E \cdot r` on each
    atom with its kappa; the induced charges sum to zero. Permanent multipoles do not matter: the response is linear.

    Args:
        solver: from `make_solver`.
        positions: Cartesian coordinates, Å; unwrapped.
        cell: lattice vectors as rows, Å.
        alpha: atomic polarizabilities, e Å²/V, [n] or [n, 3, 3].
        kappa: charge per potential, e/V; for open boundaries only.
        atom_mask: True for real atoms. All real by default.
        self_consistent: whether induced multipoles act on each other; if not, the sum over the atoms.

    Returns:
        The polarizability, and the induction of a unit potential (0) and of unit fields (1 to 3) along a leading axis:
        pass it to `lesjax.response.check_induction`, or look at its flags, to know that it was solved.

    Raises:
        ValueError: for shapes that do not fit, or for `kappa` in a periodic cell.
    """
    if kappa is not None and not isinstance(solver, OpenSolver):
        raise ValueError(
            "`kappa` lets charges flow between the atoms, and the path of a charge through a periodic cell is not "
            "known: a periodic cell has a polarizability from `alpha` only. Leave `kappa` out."
        )
    induce = self_consistent_induction if self_consistent else one_shot_induction
    n, dtype = len(positions), positions.dtype
    # from the middle of the atoms, which keeps the digits of a molecule far from the origin
    real = jnp.ones(n, dtype) if atom_mask is None else atom_mask.astype(dtype)
    centered = positions - (matmul(real, positions) / jnp.sum(real))[None, :]

    def respond(source: Array) -> tuple[Array, InducedMultipoles]:
        """Net charge and dipole moment induced by the potential φ - E·r, source = (φ, E)."""
        potential = source[0] - matmul(centered, source[1:])
        induction = induce(
            solver,
            positions,
            cell,
            jnp.zeros(n, dtype),
            kappa=kappa,
            alpha=alpha,
            external_potential=None if kappa is None else potential,
            external_field=source[1:],
            atom_mask=atom_mask,
        )
        dipole = jnp.sum(induction.charges[:, None] * centered + induction.dipoles, axis=0)
        return jnp.concatenate([jnp.sum(induction.charges)[None], dipole]), induction

    # linear without permanent multipoles, so that unit sources give the derivative, and flags beside it
    response, induction = jax.vmap(respond)(jnp.eye(4, dtype=dtype))
    by_potential, by_field = response[0], response[1:]
    # the potential that keeps the molecule neutral in each field
    shift = -by_field[:, 0] * safe_reciprocal(by_potential[0], by_potential[0] != 0)
    return (by_field[:, 1:] + shift[:, None] * by_potential[None, 1:]).T, induction


def epsilon_infinity(polarizability: Float[Array, "3 3"], cell: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    r"""Electronic dielectric tensor :math:`1 + \alpha / (\varepsilon_0 V)` of a periodic cell.

    A third of its trace is the constant that `born_effective_charges` takes.

    Args:
        polarizability: response of the whole cell to the macroscopic field, from `induced_polarizability`, e Å²/V.
        cell: lattice vectors as rows, Å.

    Raises:
        ValueError: for a cell without volume, or a polarizability that is not finite (where they have values).
    """
    check_volume(cell)
    if not isinstance(polarizability, Tracer) and not np.all(np.isfinite(polarizability)):
        raise ValueError("`polarizability` is not finite: was the induction solved? See `check_induction`.")
    volume = jnp.abs(determinant(cell))
    return jnp.eye(3, dtype=polarizability.dtype) + polarizability / (VACUUM_PERMITTIVITY * volume)
