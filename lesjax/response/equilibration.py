r"""Charges that minimize an energy of electronegativity, hardness and interaction at a given total charge.

.. math:: E(q) = \sum_i \left( \chi_i q_i + \tfrac12 J_i q_i^2 \right) + E_C(q), \quad \sum_i q_i = Q,

with the Coulomb energy E_C of `lesjax.ewald.energy` *with* self-interaction: each Gaussian's energy with itself adds
:math:`2 / (2 \varepsilon_0 \sigma (2 \pi)^{3/2})`, 11.49 V/e at 1 Å, to its hardness. The energy that is returned is
the minimum. Ko et al. take the same charges and keep only :math:`E_C`; the terms of one atom are left to their
short-range energy. Here, as in the older equilibration schemes, they belong to the energy: it is then stationary
in the charges, so that forces need no second solution. Their Gaussians of width σ have the interaction
:math:`\operatorname{erf}(r / 2 \sigma) / r`, those of lesjax :math:`\operatorname{erf}(r / \sqrt 2 \sigma) / r`: this σ
is √2 times theirs.

E has one minimum where the hardness is positive, as E_C is never negative. (With a net charge in a slab it may be.)

Source: Ko, Finkler, Goedecker, Behler, Nat. Commun. 12, 398 (2021), doi:10.1038/s41467-020-20427-2.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lesjax.ewald import Solver, energy
from lesjax.ewald.multipoles import Multipoles, mask_atoms
from lesjax.ewald.sums import check_charges, make_form
from lesjax.response.linear import Answer, stationary, total_field


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Equilibration:
    """Equilibrated charges and their energy.

    Attributes:
        energy: the minimum of E, eV.
        charges: e; their sum is the total charge. Zero for padded atoms.
        chemical_potential: the derivative of the energy with respect to the total charge, V.
        converged: False where the equations were not solved; the other values are finite but mean nothing then.
            `check_equilibration` turns it into an error.
        n_iterations: number of sums that the solution took.
    """

    energy: Float[Array, "..."]
    charges: Float[Array, "... n"]
    chemical_potential: Float[Array, "..."]
    converged: Bool[Array, "..."]
    n_iterations: Int[Array, "..."]


def equilibrate(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    electronegativity: Float[Array, " n"],
    hardness: Float[Array, " n"],
    total_charge: Float[Array, ""],
    *,
    atom_mask: Bool[Array, " n"] | None = None,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> Equilibration:
    """Minimize E of the module's docstring by conjugate gradients, without a matrix.

    All derivatives, to any order, are those of the minimum; first derivatives of the energy need no second
    solution.

    Args:
        solver: from `make_solver`.
        positions: Cartesian coordinates, Å.
        cell: lattice vectors as rows, Å; ignored for open boundaries.
        electronegativity: χ, V. Where it is larger the charge is more negative.
        hardness: J, V/e; positive.
        total_charge: Q, e.
        atom_mask: True for real atoms. All real by default.
        tolerance: tolerance of the residual, relative to that of free atoms; 30 times the rounding of the dtype by
            default.
        max_iterations: number of iterations after which `converged` is False.
    """
    total_charge = jnp.asarray(total_charge)
    check_charges(solver, positions, cell, electronegativity, atom_mask, hardness=hardness, total_charge=total_charge)
    dtype = positions.dtype
    total_charge = total_charge.astype(dtype)
    sigma = jnp.asarray(solver.sigma).astype(dtype)
    chi = mask_atoms(electronegativity, atom_mask)
    padded = hardness if atom_mask is None else jnp.where(atom_mask, hardness, 1.0)
    # the interaction with itself is part of the preconditioner: E_C = this, and the rest
    (at_zero,) = solver.interaction.at_origin(sigma, 0)
    softness = mask_atoms(1.0 / (padded + solver.interaction.constant * at_zero), atom_mask)
    share = softness / jnp.sum(softness)

    form = make_form(solver, positions, cell, atom_mask)

    def coulomb(charges: Float[Array, " n"]) -> Float[Array, " n"]:
        multipoles = Multipoles(mask_atoms(charges[:, None], atom_mask))
        values, _ = form.gradient(multipoles, dipoles=False)
        assert values is not None
        return values[:, 0]

    # The sum of the answers is held at zero, so that a constant field has no effect. It is taken out of all fields:
    # next to it their differences would lose their digits.
    def variation(field: Answer) -> Answer:
        assert field.charges is not None
        return Answer(mask_atoms(field.charges - jnp.sum(share * field.charges), atom_mask), None)

    def interact(answer: Answer) -> Answer:
        assert answer.charges is not None
        return variation(Answer(coulomb(answer.charges - share * jnp.sum(answer.charges)), None))

    def respond(field: Answer) -> Answer:
        return jax.tree.map(lambda varied: softness * varied, variation(field))

    base = share * total_charge
    source = variation(Answer(-(chi + coulomb(base)), None))
    field, (converged, stable, n_iterations) = total_field(
        interact, respond, source, tolerance=tolerance, max_iterations=max_iterations, project=variation
    )
    answer = respond(field).charges
    assert answer is not None
    charges = base + answer
    # ∂E/∂q is the same for all atoms
    chemical_potential = jnp.sum(share * (chi + coulomb(charges))) + total_charge / jnp.sum(softness)
    leaves, structure = jax.tree.flatten((solver, positions, cell, chi, padded, total_charge, atom_mask))
    value = _stationary_energy(leaves, structure, charges, chemical_potential)
    return Equilibration(value, charges, chemical_potential, converged & stable, n_iterations)


def _stationary_energy(
    leaves: list[Any],
    structure: Any,
    charges: Float[Array, " n"],
    chemical_potential: Float[Array, ""],
) -> Float[Array, ""]:
    """E + μ (Q - Σ q), without derivative with respect to q and μ, in which it is stationary."""

    def lagrangian(leaves: list[Any], charges: Array, chemical_potential: Array) -> Float[Array, ""]:
        solver, positions, cell, chi, hardness, total_charge, atom_mask = jax.tree.unflatten(structure, leaves)
        atomic = jnp.sum(chi * charges + 0.5 * hardness * charges * charges)
        interaction = energy(solver, positions, cell, charges, atom_mask=atom_mask, self_interaction=True)
        return atomic + interaction + chemical_potential * (total_charge - jnp.sum(charges))

    return stationary(lagrangian)(leaves, charges, chemical_potential)


def check_equilibration(equilibration: Equilibration) -> Equilibration:
    """Return `equilibration` if it was solved. Runs on the host and cannot be traced.

    Raises:
        ValueError: if it was not, in any of the systems along a leading axis, with how to fix it.
    """
    if not np.all(np.isfinite(equilibration.chemical_potential)):
        raise ValueError(
            "The charges that equilibrate are not finite: one of positions, `electronegativity`, `hardness` and "
            "`total_charge` is not."
        )
    if not np.all(equilibration.converged):
        raise ValueError(
            f"The charges did not equilibrate in {int(np.max(equilibration.n_iterations))} iterations. `hardness` must "
            "be positive; raise `max_iterations` or `tolerance`, or make `sigma` smaller."
        )
    return equilibration
