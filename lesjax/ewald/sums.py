"""Energy, potential and field of Gaussian multipoles: the public face of the sums.

All are pure functions of arrays, differentiable to any order in positions, multipoles, cell and sigma, and
can be compiled and mapped. Units: eV, V and V/Å for charges in e and lengths in Å.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.ewald.arguments import check_arrays, check_geometry
from lesjax.ewald.multipoles import (
    Multipoles,
    check_order,
    make_multipoles,
    mask_atoms,
    multipole_self_energy,
    self_potential,
)
from lesjax.ewald.solver import Solver
from lesjax.ewald.solvers import DirectSolver, MeshSolver, NufftSolver, OpenSolver
from lesjax.ewald.solvers.periodic import Grid


@dataclass(frozen=True)
class Form:
    """The energy as a quadratic form of the multipoles of atoms at fixed positions, from `make_form`.

    Attributes:
        solver: the plan.
        positions: Cartesian coordinates, Å.
        grid: arrays that depend on the cell; None for open boundaries.
        atom_mask: True for real atoms; None if all are.
        self_interaction: keep the energy of each Gaussian with itself.
    """

    solver: Solver
    positions: Float[Array, "n 3"]
    grid: Grid | None
    atom_mask: Bool[Array, " n"] | None
    self_interaction: bool

    @property
    def sigma(self) -> Float[Array, ""]:
        """Smearing width in the dtype of the positions, Å."""
        return jnp.asarray(self.solver.sigma, self.positions.dtype)

    def energy(self, multipoles: Multipoles) -> Float[Array, ""]:
        """Return the energy, eV, of multipoles with an axis of channels.

        Raises:
            ValueError: for multipoles that the interaction does not have.
        """
        check_order(self.solver.interaction, multipoles)
        if isinstance(self.solver, OpenSolver):
            total = self.solver.pairs(self.positions, multipoles, _pair_mask(self.positions, self.atom_mask))
        else:
            assert self.grid is not None
            factors = [self.solver.factor(self.grid, self.positions, channel) for channel in _channels(multipoles)]
            total = jnp.sum(jnp.stack([self.solver.square(self.grid, factor) for factor in factors]))
        # the periodic sum contains each Gaussian's energy with itself, the sum over pairs does not
        if self.self_interaction != isinstance(self.solver, OpenSolver):
            return total
        self_part = multipole_self_energy(self.solver.interaction, multipoles, self.sigma)
        return total + self_part if self.self_interaction else total - self_part

    def gradient(
        self, multipoles: Multipoles, *, charges: bool = True, dipoles: bool = True
    ) -> tuple[Float[Array, "n c"] | None, Float[Array, "n c 3"] | None]:
        """Return the derivatives of `energy` with respect to charges, V, and dipoles, V/Å: potential and minus field.

        By the bilinear form: the energy of charges at the atoms with the multipoles, and its slope there. `charges` and
        `dipoles` say which of them is wanted; the other is None.

        Raises:
            ValueError: for multipoles that the interaction does not have.
        """
        check_order(self.solver.interaction, multipoles)
        if isinstance(self.solver, OpenSolver) and charges and dipoles and multipoles.dipoles is not None:
            # the same from the quadratic form: its kernels of dipoles cost half as much as slopes of those of charges
            pair_mask = _pair_mask(self.positions, self.atom_mask)
            potential, slope, _ = jax.grad(self.solver.pairs, 1)(self.positions, multipoles, pair_mask)
        else:
            probes = mask_atoms(jnp.ones_like(self.positions[:, 0]), self.atom_mask)
            argnums = [i for i, of in enumerate((charges, dipoles)) if of]
            slopes = [
                jax.grad(self._with_charges(channel), argnums)(probes, self.positions)
                for channel in _channels(multipoles)
            ]
            stacked = [jnp.stack(values, axis=1) for values in zip(*slopes, strict=True)]
            potential, slope = stacked[0], stacked[-1]
        own_potential, own_slope, _ = self_potential(self.solver.interaction, multipoles, self.sigma)
        return (
            self._with_self(mask_atoms(potential, self.atom_mask), own_potential) if charges else None,
            # of its own multipoles only the dipole has a field at the centre of an atom
            (slope if own_slope is None else self._with_self(slope, own_slope)) if dipoles else None,
        )

    def _with_charges(self, channel: Multipoles) -> Callable[[Array, Array], Array]:
        """Return the energy of charges at any positions with one channel of multipoles, eV, as a function."""
        if isinstance(self.solver, OpenSolver):
            solver, pair_mask = self.solver, _pair_mask(self.positions, self.atom_mask)
            return lambda charges, at: solver.product(at, charges, self.positions, channel, pair_mask)
        solver, grid = self.solver, self.grid
        assert grid is not None
        factor = solver.factor(grid, self.positions, channel)
        return lambda charges, at: solver.product(grid, solver.factor(grid, at, Multipoles(charges)), factor)

    def _with_self(self, values: Float[Array, "n ..."], self_part: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Add or remove self-interaction as in `energy`: the periodic form contains it, the sum over pairs does not."""
        if self.self_interaction != isinstance(self.solver, OpenSolver):
            return values
        return values + self_part if self.self_interaction else values - self_part


def make_form(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    atom_mask: Bool[Array, " n"] | None = None,
    self_interaction: bool = False,
) -> Form:
    """Prepare the form, which does not depend on the multipoles. Arguments as in `energy`."""
    grid = None if isinstance(solver, OpenSolver) else solver.grid(jnp.asarray(cell))
    return Form(solver, positions, grid, atom_mask, self_interaction)


def energy(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    dipoles: Float[Array, "n 3"] | Float[Array, "n c 3"] | None = None,
    quadrupoles: Float[Array, "n 3 3"] | Float[Array, "n c 3 3"] | None = None,
    atom_mask: Bool[Array, " n"] | None = None,
    self_interaction: bool = False,
) -> Float[Array, ""]:
    r"""Energy of Gaussian multipoles, self-interaction removed, channels summed.

    .. math:: E = \frac{1}{2 \varepsilon_0 V} \sum_{0 < |k| \le k_c} \frac{e^{-\sigma^2 k^2 / 2}}{k^2} |S(k)|^2
              - \frac{1}{2 \varepsilon_0 \sigma (2 \pi)^{3/2}} \sum_i \left(
              q_i^2 + \frac{u_i^2}{3 \sigma^2} + \frac{Q_i : Q_i}{10 \sigma^4} \right), \quad
              S(k) = \sum_i (q_i + i k \cdot u_i - \tfrac12 k \cdot Q_i k) e^{i k \cdot r_i}

    for a periodic cell, and the sum over pairs of `lesjax.ewald.solvers.open` without one; this is `Coulomb`, another
    interaction of the solver has other kernels (`lesjax.ewald.interaction`). The self term holds for quadrupoles
    without trace (see `multipoles`).

    A net charge in three periodic directions: the term k = 0 is left out, as in the published code, which leaves a part
    in the energy that depends on σ. ``Coulomb(background=True)``, given to `make_solver`, adds the energy of a
    uniform background.

    Args:
        solver: from `make_solver`.
        positions: Cartesian coordinates, Å.
        cell: lattice vectors as rows, Å, left-handed or right-handed; ignored for open boundaries.
        charges: latent charges, e, one column per channel if two-dimensional.
        dipoles: e Å, in the shape of the charges and three; none by default.
        quadrupoles: e Å², in the shape of the charges and three by three, of which the symmetric part
            counts; none by default.
        atom_mask: True for real atoms. All real by default.
        self_interaction: keep the energy of each Gaussian with itself.

    Returns:
        Energy, eV.

    Raises:
        ValueError: for charges or a mask that do not fit the positions, dipoles or quadrupoles whose shape does not
            follow that of the charges, or that the interaction of the solver does not have; entries that are complex,
            or, where they have values, not finite.

    References:
        Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7.
    """
    check_charges(solver, positions, cell, charges, atom_mask, dipoles=dipoles, quadrupoles=quadrupoles)
    multipoles = make_multipoles(charges, dipoles, quadrupoles, atom_mask)
    form = make_form(solver, positions, cell, atom_mask, self_interaction)
    return form.energy(multipoles)


def self_energy(
    solver: Solver,
    charges: Float[Array, " n"] | Float[Array, "n c"],
    dipoles: Float[Array, "n 3"] | Float[Array, "n c 3"] | None = None,
    quadrupoles: Float[Array, "n 3 3"] | Float[Array, "n c 3 3"] | None = None,
) -> Float[Array, ""]:
    """Energy of each Gaussian with itself, the second term of `energy`, eV."""
    multipoles = make_multipoles(charges, dipoles, quadrupoles, None)
    check_order(solver.interaction, multipoles)
    return multipole_self_energy(solver.interaction, multipoles, jnp.asarray(solver.sigma, charges.dtype))


def potential(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    dipoles: Float[Array, "n 3"] | Float[Array, "n c 3"] | None = None,
    quadrupoles: Float[Array, "n 3 3"] | Float[Array, "n c 3 3"] | None = None,
    atom_mask: Bool[Array, " n"] | None = None,
    self_interaction: bool = False,
) -> Float[Array, " n"] | Float[Array, "n c"]:
    """Electrostatic potential at the atoms, ∂E/∂q, in V. Arguments as in `energy`.

    Returns:
        One value per atom and channel, in the shape of `charges`; zero for padded atoms.
    """
    check_charges(solver, positions, cell, charges, atom_mask, dipoles=dipoles, quadrupoles=quadrupoles)
    multipoles = make_multipoles(charges, dipoles, quadrupoles, atom_mask)
    form = make_form(solver, positions, cell, atom_mask, self_interaction)
    values, _ = form.gradient(multipoles, dipoles=False)
    assert values is not None
    return values.reshape(charges.shape)


def field(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    dipoles: Float[Array, "n 3"] | Float[Array, "n c 3"] | None = None,
    quadrupoles: Float[Array, "n 3 3"] | Float[Array, "n c 3 3"] | None = None,
    atom_mask: Bool[Array, " n"] | None = None,
    self_interaction: bool = False,
) -> Float[Array, "n 3"] | Float[Array, "n c 3"]:
    """Electric field at the atoms, -∂E/∂u, in V/Å: minus the gradient of the potential of each channel.

    Arguments as in `energy`. Of the atom's own multipoles only the dipole has a field at the centre, which
    `self_interaction` keeps.

    Returns:
        One vector per atom and channel, in the shape of `charges` and three; zero for padded atoms.
    """
    check_charges(solver, positions, cell, charges, atom_mask, dipoles=dipoles, quadrupoles=quadrupoles)
    multipoles = make_multipoles(charges, dipoles, quadrupoles, atom_mask)
    form = make_form(solver, positions, cell, atom_mask, self_interaction)
    _, slopes = form.gradient(multipoles, charges=False)
    assert slopes is not None
    return -slopes.reshape(*charges.shape, 3)


def check_charges(
    solver: Solver, positions: Array, cell: Array, charges: Array, atom_mask: Array | None, **others: Array | None
) -> None:
    """Raise ValueError for arrays that would be broadcast, fail deep inside, or mean nothing.

    Args:
        solver: the plan.
        positions: as in `energy`.
        cell: as in `energy`.
        charges: as in `energy`.
        atom_mask: as in `energy`.
        **others: further arrays of real numbers.
    """
    if not isinstance(solver, DirectSolver | MeshSolver | NufftSolver | OpenSolver):
        raise ValueError(f"`solver` must be a plan from `make_solver`, got {type(solver).__name__}.")
    check_geometry(positions, None if isinstance(solver, OpenSolver) else cell, atom_mask)
    check_arrays(charges=charges, **{name: value for name, value in others.items() if value is not None})
    n = len(positions)
    if charges.ndim not in (1, 2) or len(charges) != n:
        raise ValueError(
            f"`charges` must have the shape {(n,)}, or {(n, 'channels')}, for {n} positions, got {charges.shape}."
        )


def _pair_mask(positions: Float[Array, "n 3"], atom_mask: Bool[Array, " n"] | None) -> Bool[Array, "n n"]:
    real = jnp.ones(len(positions), bool) if atom_mask is None else atom_mask
    return real[:, None] & real[None, :] & ~jnp.eye(len(positions), dtype=bool)


def _channels(multipoles: Multipoles) -> list[Multipoles]:
    return [jax.tree.map(lambda x, c=c: x[:, c], multipoles) for c in range(multipoles.charges.shape[1])]
