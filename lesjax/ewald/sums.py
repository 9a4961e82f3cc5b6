"""Energy, potential and field of Gaussian multipoles: the public face of the sums.

All are pure functions of arrays, differentiable to any order in positions, multipoles, cell and sigma, and
can be compiled and mapped. Units: eV, V and V/Å for charges in e and lengths in Å.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.ewald import open_boundary
from lesjax.ewald.engine import make_engine
from lesjax.ewald.multipoles import Multipoles, make_multipoles, mask_atoms, multipole_self_energy
from lesjax.ewald.solver import Solver
from lesjax.numerics import determinant
from lesjax.units import COULOMB


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
    background: bool = False,
) -> Float[Array, ""]:
    r"""Energy of Gaussian multipoles, self-interaction removed, channels summed.

    .. math:: E = \frac{1}{2 \varepsilon_0 V} \sum_{0 < |k| \le k_c} \frac{e^{-\sigma^2 k^2 / 2}}{k^2} |S(k)|^2
              - \frac{1}{2 \varepsilon_0 \sigma (2 \pi)^{3/2}} \sum_i \left(
              q_i^2 + \frac{u_i^2}{3 \sigma^2} + \frac{Q_i : Q_i}{10 \sigma^4} \right), \quad
              S(k) = \sum_i (q_i + i k \cdot u_i - \tfrac12 k \cdot Q_i k) e^{i k \cdot r_i}

    for a periodic cell, and the sum over pairs of `open_boundary` without one. The self term holds for quadrupoles
    without trace (see `multipoles`).

    A net charge Q in three periodic directions: the term k = 0 is left out, as in the published code, which leaves
    a part in the energy that depends on σ. `background` adds what belongs to a uniform background of charge -Q,

    .. math:: -\frac{1}{2 \varepsilon_0 V} \frac{\sigma^2}{2} Q^2,

    the finite part of the weight for k → 0. The energy is then that of point charges in the background wherever the
    Gaussians do not overlap. Forces are the same with and without; the stress is not. A charged slab and a charged
    cluster have no background; for the slab see `lesjax.ewald.slab`.

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
        background: compensate a net charge by a uniform background; three periodic directions only.

    Returns:
        Energy, eV.

    Raises:
        ValueError: for charges or a mask that do not fit the positions, dipoles or quadrupoles whose shape does not
            follow that of the charges; if `background` is asked for without three periodic directions.

    References:
        Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7.
    """
    _check_shapes(positions, charges, atom_mask)
    multipoles = make_multipoles(charges, dipoles, quadrupoles, atom_mask)
    sigma = jnp.asarray(solver.sigma, positions.dtype)
    neutralized = _background_energy(solver, cell, multipoles.charges) if background else 0.0
    # the periodic sum contains each Gaussian's energy with itself, the sum over pairs does not
    if solver.method == "open":
        pair_mask = _pair_mask(positions, atom_mask)
        total = open_boundary.pair_energy(positions, multipoles, sigma, pair_mask)
        return total + multipole_self_energy(multipoles, sigma) if self_interaction else total
    engine = make_engine(solver, cell, sigma)
    channels = []
    for c in range(multipoles.charges.shape[1]):
        channel = jax.tree.map(lambda values, c=c: values[:, c], multipoles)
        factor = engine.structure_factor(positions, channel)
        channels.append(engine.quadratic_form(factor, factor))
    total = jnp.sum(jnp.stack(channels)) + neutralized
    return total if self_interaction else total - multipole_self_energy(multipoles, sigma)


def self_energy(
    solver: Solver,
    charges: Float[Array, " n"] | Float[Array, "n c"],
    dipoles: Float[Array, "n 3"] | Float[Array, "n c 3"] | None = None,
    quadrupoles: Float[Array, "n 3 3"] | Float[Array, "n c 3 3"] | None = None,
) -> Float[Array, ""]:
    """Energy of each Gaussian with itself, the second term of `energy`, eV."""
    multipoles = make_multipoles(charges, dipoles, quadrupoles, None)
    return multipole_self_energy(multipoles, jnp.asarray(solver.sigma, charges.dtype))


def _background_energy(solver: Solver, cell: Float[Array, "3 3"], charges: Float[Array, "n c"]) -> Float[Array, ""]:
    if solver.method == "open" or solver.slab_axis is not None:
        boundaries = "open boundaries" if solver.method == "open" else "a slab"
        raise ValueError(f"`background` needs three periodic directions, got {boundaries}; leave it out.")
    sigma = jnp.asarray(solver.sigma, charges.dtype)
    net = jnp.sum(charges, axis=0)
    return -math.pi * COULOMB * sigma**2 * jnp.sum(net * net) / jnp.abs(determinant(cell))


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
    background: bool = False,
) -> Float[Array, " n"] | Float[Array, "n c"]:
    """Electrostatic potential at the atoms, ∂E/∂q, in V. Arguments as in `energy`.

    Returns:
        One value per atom and channel, in the shape of `charges`; zero for padded atoms.
    """

    def energy_of(charges: Array) -> Float[Array, ""]:
        return energy(
            solver, positions, cell, charges, dipoles=dipoles, quadrupoles=quadrupoles, atom_mask=atom_mask,
            self_interaction=self_interaction, background=background,
        )  # fmt: skip

    return jax.grad(energy_of)(charges)


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
    _check_shapes(positions, charges, atom_mask)
    multipoles = make_multipoles(charges, dipoles, quadrupoles, atom_mask)
    sigma = jnp.asarray(solver.sigma, positions.dtype)
    probes = mask_atoms(jnp.ones_like(positions[:, 0]), atom_mask)

    def of_channel(channel: Multipoles) -> Float[Array, "n 3"]:
        if solver.method == "open":
            pair_mask = _pair_mask(positions, atom_mask)
            return -jax.grad(open_boundary.charge_energy)(positions, probes, positions, channel, sigma, pair_mask)
        engine = make_engine(solver, cell, sigma)
        sources = engine.structure_factor(positions, channel)

        def probe_energy(at: Float[Array, "n 3"]) -> Float[Array, ""]:
            return 2.0 * engine.quadratic_form(engine.structure_factor(at, Multipoles(probes)), sources)

        return -jax.grad(probe_energy)(positions)

    result = jax.vmap(of_channel, in_axes=1, out_axes=1)(multipoles)
    # as in the energy, of the dipoles alone: the other multipoles have no field at their own centre
    if dipoles is not None and self_interaction == (solver.method == "open"):
        own = -jax.grad(lambda u: multipole_self_energy(multipoles._replace(dipoles=u), sigma))(multipoles.dipoles)
        result = result + own if self_interaction else result - own
    return result[:, 0] if charges.ndim == 1 else result


def _check_shapes(positions: Array, charges: Array, atom_mask: Array | None) -> None:
    """Raise ValueError for what would be broadcast, or fail deep inside."""
    n = len(positions)
    if charges.ndim not in (1, 2) or len(charges) != n:
        raise ValueError(
            f"`charges` must have the shape {(n,)}, or {(n, 'channels')}, for {n} positions, got {charges.shape}."
        )
    if atom_mask is not None and atom_mask.shape != (n,):
        raise ValueError(f"`atom_mask` must have the shape {(n,)} for {n} positions, got {atom_mask.shape}.")


def _pair_mask(positions: Float[Array, "n 3"], atom_mask: Bool[Array, " n"] | None) -> Bool[Array, "n n"]:
    real = jnp.ones(len(positions), bool) if atom_mask is None else atom_mask
    return real[:, None] & real[None, :] & ~jnp.eye(len(positions), dtype=bool)
