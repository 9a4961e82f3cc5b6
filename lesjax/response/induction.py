r"""Charges and dipoles that the potential and the field of all multipoles induce.

An atom answers to the potential φ and the field F at its position, the external φ_ext and F_ext included, with

.. math:: \delta q = -\kappa (\phi + \phi_{ext}), \quad \delta u = \alpha (F + F_{ext}).

`one_shot_induction` takes φ and F of the permanent multipoles only. Its energy
:math:`E_0 + \tfrac12 \sum \delta q\, \phi - \tfrac12 \sum \delta u \cdot F` contains no external field and is the
second order of a perturbation theory.
`self_consistent_induction` takes φ and F of the induced ones as well, which minimizes

.. math:: W = E(q + \delta q, u + \delta u, Q) + \sum \frac{\delta q^2}{2 \kappa}
              + \tfrac12 \sum \delta u \cdot \alpha^{-1} \delta u + \sum \delta q\, \phi_{ext}
              - \sum \delta u \cdot F_{ext}.

The work of the external field on permanent multipoles, :math:`-\sum (q r + u) \cdot F_{ext}`, is in neither:
it needs an origin and has no meaning in a periodic cell. The sum of the induced charges is not held at zero.

With δ = (δq, δu), χ = diag(κ, α), T the Hessian of E and b the (-φ - φ_ext, F + F_ext) of the permanent multipoles,
δ = χ(b - Tδ). W has a minimum where :math:`\chi^{-1} + T` is positive definite; where it is not, atoms
polarize each other without limit: the polarization catastrophe.

Source of the one-shot convention: reference values of the published `les` package.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lesjax.ewald import Solver
from lesjax.ewald.multipoles import Multipoles, make_multipoles, mask_atoms
from lesjax.ewald.sums import Form, check_charges, make_form
from lesjax.response.linear import Answer, add, dot, scale, stationary, total_field


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InducedMultipoles:
    """Induced multipoles and the energy with them.

    Attributes:
        energy: eV, see the module's docstring.
        charges: induced charges, e, in the shape of the permanent ones; zero without `kappa`.
        dipoles: induced dipoles, e Å; zero without `alpha`.
        converged: False where the self-consistent equations were not solved; the other values are finite but
            mean nothing then. `check_induction` turns it into an error.
        stable: False if a direction was met in which the energy falls without limit.
        n_iterations: number of multiplications with T that the solution took.
    """

    energy: Float[Array, "..."]
    charges: Float[Array, "... n"] | Float[Array, "... n c"]
    dipoles: Float[Array, "... n 3"] | Float[Array, "... n c 3"]
    converged: Bool[Array, "..."]
    stable: Bool[Array, "..."]
    n_iterations: Int[Array, "..."]


class _Problem(NamedTuple):
    solver: Solver
    positions: Array
    cell: Array
    charges: Array
    dipoles: Array | None
    quadrupoles: Array | None
    atom_mask: Array | None
    kappa: Array | None
    alpha: Array | None
    external_potential: Array | None
    external_field: Array | None


CHECKED_APART = ("solver", "positions", "cell", "charges", "atom_mask")


def one_shot_induction(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    kappa: Float[Array, " n"] | Float[Array, "n c"] | None = None,
    alpha: Float[Array, "n ..."] | None = None,
    external_potential: Float[Array, " n"] | Float[Array, "n c"] | None = None,
    external_field: Float[Array, "3"] | None = None,
    dipoles: Float[Array, "n 3"] | Float[Array, "n c 3"] | None = None,
    quadrupoles: Float[Array, "n 3 3"] | Float[Array, "n c 3 3"] | None = None,
    atom_mask: Bool[Array, " n"] | None = None,
    self_interaction: bool = False,
) -> InducedMultipoles:
    """Multipoles induced by the permanent ones only, and the energy of second order.

    Args:
        solver: from `make_solver`.
        positions: Cartesian coordinates, Å.
        cell: lattice vectors as rows, Å.
        charges: permanent charges, e.
        kappa: charge per potential, the inverse of a hardness, e/V, in the shape of the charges; none by default.
        alpha: polarizability, e Å²/V (times `COULOMB` it is a volume in Å³), in the shape of the charges, or
            with three by three more, symmetric; none by default.
        external_potential: V, in the shape of the charges; acts on the induced charges.
        external_field: V/Å; acts on the induced dipoles.
        dipoles: permanent dipoles, e Å.
        quadrupoles: permanent quadrupoles, e Å².
        atom_mask: True for real atoms. All real by default.
        self_interaction: as in `energy`.

    Raises:
        ValueError: for a shape that does not follow that of the charges, an external field without alpha, an external
            potential without kappa, or multipoles that the interaction of the solver does not have.
    """
    arguments = (charges, dipoles, quadrupoles, atom_mask, kappa, alpha, external_potential, external_field)
    problem = _checked(_Problem(solver, positions, cell, *arguments))
    form = _form(problem, self_interaction)
    energy_of = lambda induced: form.energy(_multipoles(problem, induced))  # noqa: E731
    value, gradient = jax.value_and_grad(energy_of)(_zeros(problem))
    induced = _respond(problem, add(scale(-1.0, gradient), _external(problem)))
    always = jnp.asarray(True)
    value = value + 0.5 * dot(induced, gradient)
    return _induction(problem, value, induced, (always, always, jnp.asarray(1, jnp.int32)))


def self_consistent_induction(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    kappa: Float[Array, " n"] | Float[Array, "n c"] | None = None,
    alpha: Float[Array, "n ..."] | None = None,
    external_potential: Float[Array, " n"] | Float[Array, "n c"] | None = None,
    external_field: Float[Array, "3"] | None = None,
    dipoles: Float[Array, "n 3"] | Float[Array, "n c 3"] | None = None,
    quadrupoles: Float[Array, "n 3 3"] | Float[Array, "n c 3 3"] | None = None,
    atom_mask: Bool[Array, " n"] | None = None,
    self_interaction: bool = False,
    tolerance: float | None = None,
    max_iterations: int = 100,
) -> InducedMultipoles:
    """Multipoles induced by all multipoles, and the energy W that they minimize.

    The linear equations are solved by conjugate gradients preconditioned with χ, without a matrix. Derivatives
    of the result to any order come from the equations, not from the iterations; since W is stationary, its
    first derivatives (forces, stress) need no second solution.

    Args:
        solver: from `make_solver`.
        positions: Cartesian coordinates, Å.
        cell: lattice vectors as rows, Å.
        charges: permanent charges, e.
        kappa: as in `one_shot_induction`; not negative.
        alpha: as in `one_shot_induction`; positive semidefinite.
        external_potential: V, as in `one_shot_induction`.
        external_field: V/Å.
        dipoles: permanent dipoles, e Å.
        quadrupoles: permanent quadrupoles, e Å².
        atom_mask: True for real atoms. All real by default.
        self_interaction: as in `energy`. With it T is positive semidefinite and there is no catastrophe.
        tolerance: tolerance of the residual, relative to that of no induction; 30 times the rounding of the dtype by
            default.
        max_iterations: number of iterations after which `converged` is False.

    Raises:
        ValueError: as `one_shot_induction`.
    """
    arguments = (charges, dipoles, quadrupoles, atom_mask, kappa, alpha, external_potential, external_field)
    problem = _checked(_Problem(solver, positions, cell, *arguments))
    form = _form(problem, self_interaction)
    gradient = _gradient(problem, form, _multipoles(problem, _zeros(problem)))
    source = add(scale(-1.0, gradient), _external(problem))
    bare = problem._replace(charges=jnp.zeros_like(problem.charges), dipoles=None, quadrupoles=None)

    def interact(induced: Answer) -> Answer:
        """Return T δ: the potential and minus the field of the induced multipoles."""
        return _gradient(problem, form, _multipoles(bare, induced))

    respond = functools.partial(_respond, problem)
    total, flags = total_field(interact, respond, source, tolerance=tolerance, max_iterations=max_iterations)
    induced = respond(total)
    value = _stationary_energy(problem, induced, total, self_interaction)
    return _induction(problem, value, induced, flags)


def check_induction(induction: InducedMultipoles) -> InducedMultipoles:
    """Return `induction` if it was solved. Runs on the host and cannot be traced.

    Raises:
        ValueError: with the reason and how to fix it if it was not, in any of the systems along a leading axis.
    """
    if not np.all(induction.stable):
        raise ValueError(
            "`kappa` and `alpha` let the atoms polarize each other without limit (polarization catastrophe), or "
            "are negative. Make them smaller or `sigma` larger, or keep `self_interaction`."
        )
    if not np.all(induction.converged):
        raise ValueError(
            f"The induced multipoles did not converge in {int(np.max(induction.n_iterations))} iterations. "
            "Raise `max_iterations` or `tolerance`; close to a polarization catastrophe, make `kappa` and `alpha` "
            "smaller."
        )
    return induction


def _form(problem: _Problem, self_interaction: bool) -> Form:
    return make_form(problem.solver, problem.positions, problem.cell, problem.atom_mask, self_interaction)


def _multipoles(problem: _Problem, induced: Answer) -> Multipoles:
    """Permanent and induced multipoles together, with an axis of channels."""
    charges, dipoles = problem.charges, problem.dipoles
    if induced.charges is not None:
        charges = charges + induced.charges
    if induced.dipoles is not None:
        dipoles = induced.dipoles if dipoles is None else dipoles + induced.dipoles
    return make_multipoles(charges, dipoles, problem.quadrupoles, problem.atom_mask)


def _gradient(problem: _Problem, form: Form, multipoles: Multipoles) -> Answer:
    """Potential and minus the field of multipoles, for the parts that answer to them."""
    shape = problem.charges.shape
    answers = {"charges": problem.kappa is not None, "dipoles": problem.alpha is not None}
    potential, slope = form.gradient(multipoles, **answers)
    return Answer(
        None if potential is None else potential.reshape(shape), None if slope is None else slope.reshape(*shape, 3)
    )


def _stationary_energy(problem: _Problem, induced: Answer, total: Answer, self_interaction: bool) -> Float[Array, ""]:
    """W with δχ⁻¹δ/2 as the stationary value of f·δ - f·χf/2, differentiated with respect to `problem` only."""
    leaves, structure = jax.tree.flatten(problem)

    def saddle(leaves: list[Any], induced: Answer, total: Answer) -> Float[Array, ""]:
        problem = jax.tree.unflatten(structure, leaves)
        work = dot(induced, add(total, scale(-1.0, _external(problem))))
        energy = _form(problem, self_interaction).energy(_multipoles(problem, induced))
        return energy + work - 0.5 * dot(total, _respond(problem, total))

    return stationary(saddle)(leaves, induced, total)


def _respond(problem: _Problem, total: Answer) -> Answer:
    """Return χ f."""
    kappa, alpha = problem.kappa, problem.alpha
    charges = None if kappa is None or total.charges is None else kappa * total.charges
    if alpha is None or total.dipoles is None:
        return Answer(charges, None)
    if alpha.ndim == problem.charges.ndim:
        return Answer(charges, alpha[..., None] * total.dipoles)
    dipoles = jnp.einsum("...ab,...b->...a", alpha, total.dipoles, precision=jax.lax.Precision.HIGHEST)
    return Answer(charges, dipoles)


def _zeros(problem: _Problem) -> Answer:
    shape, dtype = problem.charges.shape, problem.charges.dtype
    return Answer(
        None if problem.kappa is None else jnp.zeros(shape, dtype),
        None if problem.alpha is None else jnp.zeros((*shape, 3), dtype),
    )


def _external(problem: _Problem) -> Answer:
    external = _zeros(problem)
    if problem.external_potential is not None:
        external = external._replace(charges=-problem.external_potential)
    if problem.external_field is None:
        return external
    return external._replace(dipoles=jnp.broadcast_to(problem.external_field, (*problem.charges.shape, 3)))


def _induction(
    problem: _Problem, value: Array, induced: Answer, flags: tuple[Array, Array, Array]
) -> InducedMultipoles:
    charges, dipoles = induced
    charges = jnp.zeros_like(problem.charges) if charges is None else charges
    dipoles = jnp.zeros((*charges.shape, 3), charges.dtype) if dipoles is None else dipoles
    converged, stable, n_iterations = flags
    return InducedMultipoles(value, charges, dipoles, converged, stable, n_iterations)


def _checked(problem: _Problem) -> _Problem:
    """Check the arrays and set the response of padded atoms to zero."""
    arrays = {name: value for name, value in problem._asdict().items() if name not in CHECKED_APART}
    geometry = problem.solver, problem.positions, problem.cell
    check_charges(*geometry, problem.charges, problem.atom_mask, **arrays)
    shape = problem.charges.shape
    kappa, alpha, mask = problem.kappa, problem.alpha, problem.atom_mask
    if kappa is None and alpha is None:
        raise ValueError("`kappa` and `alpha` are both None: nothing is induced. Use `energy`.")
    if kappa is not None and kappa.shape != shape:
        raise ValueError(f"`kappa` must have the shape {shape} of `charges`, got {kappa.shape}.")
    if alpha is not None and alpha.shape not in (shape, (*shape, 3, 3)):
        raise ValueError(f"`alpha` must have the shape {shape} of `charges` or {(*shape, 3, 3)}, got {alpha.shape}.")
    if problem.external_field is not None and alpha is None:
        raise ValueError("`external_field` acts on induced dipoles only: give `alpha` as well.")
    if problem.external_potential is not None and kappa is None:
        raise ValueError("`external_potential` acts on induced charges only: give `kappa` as well.")
    if problem.external_potential is not None and problem.external_potential.shape != shape:
        potential_shape = problem.external_potential.shape
        raise ValueError(f"`external_potential` must have the shape {shape} of `charges`, got {potential_shape}.")

    return problem._replace(
        kappa=None if kappa is None else mask_atoms(kappa, mask),
        alpha=None if alpha is None else mask_atoms(alpha, mask),
    )
