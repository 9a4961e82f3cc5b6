r"""Charges, dipoles and quadrupoles of Gaussian shape, independent of the solver that sums them.

An atom's multipoles act on the phase of its position as a differential operator,

.. math:: S(k) = \sum_i (q_i + u_i \cdot \nabla + \tfrac12 Q_i : \nabla \nabla) e^{i k \cdot r_i}
               = \sum_i (q_i + i k \cdot u_i - \tfrac12 k \cdot Q_i k) e^{i k \cdot r_i},

so a solver that only knows charges has dipoles and quadrupoles by forward differentiation.

Quadrupoles are meant to be traceless. A trace acts at contact only; its energy with its own atom stays in the
periodic sum even without self-interaction, as in the published code.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.ewald.interaction import Interaction


class Multipoles(NamedTuple):
    """Multipoles of n atoms in c channels (or of one channel, without that axis); zero for padded atoms.

    Attributes:
        charges: e.
        dipoles: e Å.
        quadrupoles: e Å², symmetric.
    """

    charges: Float[Array, "n ..."]
    dipoles: Float[Array, "n ... 3"] | None = None
    quadrupoles: Float[Array, "n ... 3 3"] | None = None


def make_multipoles(
    charges: Float[Array, "n ..."],
    dipoles: Float[Array, "..."] | None,
    quadrupoles: Float[Array, "..."] | None,
    atom_mask: Bool[Array, " n"] | None,
) -> Multipoles:
    """Check the shapes, add the axis of channels, set padded atoms to zero and symmetrize the quadrupoles.

    Raises:
        ValueError: for dipoles or quadrupoles whose shape does not follow that of the charges.
    """
    for name, value, axes in (("dipoles", dipoles, (3,)), ("quadrupoles", quadrupoles, (3, 3))):
        if value is not None and value.shape != (*charges.shape, *axes):
            raise ValueError(
                f"`{name}` must have the shape {(*charges.shape, *axes)} for `charges` of shape {charges.shape}, "
                f"got {value.shape}."
            )

    def columns(value: Float[Array, "..."]) -> Float[Array, "n c ..."]:
        return mask_atoms(value[:, None] if charges.ndim == 1 else value, atom_mask)

    if quadrupoles is not None:
        quadrupoles = 0.5 * (quadrupoles + jnp.swapaxes(quadrupoles, -1, -2))
    values = (charges, dipoles, quadrupoles)
    return Multipoles(*(None if value is None else columns(value) for value in values))  # pyright: ignore[reportArgumentType]


def mask_atoms(values: Float[Array, "n ..."], atom_mask: Bool[Array, " n"] | None) -> Float[Array, "n ..."]:
    """Set the rows of padded atoms to zero."""
    return values if atom_mask is None else jnp.where(atom_mask.reshape(-1, *(1,) * (values.ndim - 1)), values, 0.0)


def multipole_structure_factor(
    structure_factor: Callable[[Float[Array, "n 3"], Float[Array, " n"]], Float[Array, "*k"]],
    positions: Float[Array, "n 3"],
    multipoles: Multipoles,
) -> Float[Array, "*k"]:
    """Structure factor of one channel of multipoles, from a solver's function of positions and charges.

    Charges and dipoles together are one forward derivative of unit charges, at about twice the cost of the
    charges. Quadrupoles are a sum of three second derivatives, which cost several times more: a solver that
    can do better has its own (`DirectSolver.factor`).

    Args:
        structure_factor: linear in the charges, differentiable forwards in the positions.
        positions: Cartesian coordinates, Å.
        multipoles: multipoles of one channel.
    """
    charges, dipoles, quadrupoles = multipoles
    ones = jnp.ones_like(charges)

    def derivative(positions: Float[Array, "n 3"], direction: Float[Array, "n 3"]) -> Float[Array, "*k"]:
        return jax.jvp(lambda at: structure_factor(at, ones), (positions,), (direction,))[1]

    if dipoles is None:
        total = structure_factor(positions, charges)
    else:
        total = jax.jvp(structure_factor, (positions, ones), (dipoles, charges))[1]
    if quadrupoles is not None:
        for axis in range(3):
            row, unit = quadrupoles[:, axis], jnp.zeros_like(positions).at[:, axis].set(1.0)
            second = jax.jvp(lambda at, row=row: derivative(at, row), (positions,), (unit,))[1]
            total = total + 0.5 * second
    return total


def check_order(interaction: Interaction, multipoles: Multipoles) -> None:
    """Refuse multipoles that the interaction does not have.

    Raises:
        ValueError: if there are any.
    """
    for order, name, values in ((1, "dipoles", multipoles.dipoles), (2, "quadrupoles", multipoles.quadrupoles)):
        if values is not None and order > interaction.max_order:
            raise ValueError(f"`{name}` are not part of the interaction {interaction}: leave them out.")


def multipole_self_energy(
    interaction: Interaction, multipoles: Multipoles, sigma: Float[Array, ""]
) -> Float[Array, ""]:
    r"""Energy of each atom's multipoles with themselves, eV.

    .. math:: \frac{C}{2} \sum_i \left( q_i^2 B_0(0) + u_i^2 B_1(0) + \tfrac12 Q_i : Q_i\, B_2(0) \right)

    with B_l as in `Interaction.pair`; for `Coulomb` :math:`B_l(0) = \sqrt{2 / \pi}\, \sigma^{-2l-1} / (2l + 1)`. It is
    the integral of the energy's summand over all k, for quadrupoles without trace.
    """
    charges, dipoles, quadrupoles = multipoles
    values = interaction.at_origin(sigma, _order(multipoles))
    total = values[0] * jnp.sum(charges * charges)
    if dipoles is not None:
        total = total + values[1] * jnp.sum(dipoles * dipoles)
    if quadrupoles is not None:
        total = total + 0.5 * values[2] * jnp.sum(quadrupoles * quadrupoles)
    return 0.5 * interaction.constant * total


def self_potential(interaction: Interaction, multipoles: Multipoles, sigma: Float[Array, ""]) -> Multipoles:
    """Derivatives of `multipole_self_energy` with respect to charges, V, and dipoles, V/Å."""
    charges, dipoles, _ = multipoles
    values = interaction.at_origin(sigma, _order(multipoles))
    of_dipoles = None if dipoles is None else interaction.constant * values[1] * dipoles
    return Multipoles(interaction.constant * values[0] * charges, of_dipoles)


def _order(multipoles: Multipoles) -> int:
    return 2 if multipoles.quadrupoles is not None else 1 if multipoles.dipoles is not None else 0
