"""Energy, potential and field of Gaussian multipoles: the public face of the sums.

All are pure functions of arrays, differentiable to any order in positions, multipoles, cell and sigma, and
can be compiled and mapped. Units: eV, V and V/Å for charges in e and lengths in Å.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.ewald import direct, open_boundary
from lesjax.ewald.multipoles import Multipoles, make_multipoles, multipole_self_energy
from lesjax.ewald.solver import Solver


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

    for a periodic cell, and the sum over pairs of `open_boundary` without one. A net charge is compensated
    by a uniform background (the term k = 0 is left out, as in the published code). The self term holds for
    quadrupoles without trace (see `multipoles`).

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
        ValueError: for dipoles or quadrupoles whose shape does not follow that of the charges.

    References:
        Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7.
    """
    multipoles = make_multipoles(charges, dipoles, quadrupoles, atom_mask)
    sigma = jnp.asarray(solver.sigma, positions.dtype)
    # the periodic sum contains each Gaussian's energy with itself, the sum over pairs does not
    if solver.method == "open":
        pair_mask = _pair_mask(positions, atom_mask)
        total = open_boundary.pair_energy(positions, multipoles, sigma, pair_mask)
        return total + multipole_self_energy(multipoles, sigma) if self_interaction else total
    weights, shape = _reciprocal(solver, cell, sigma)
    channels = []
    for c in range(multipoles.charges.shape[1]):
        channel = jax.tree.map(lambda values, c=c: values[:, c], multipoles)
        factor = _structure_factor(positions, channel, cell, shape)
        channels.append(direct.quadratic_form(factor, factor, weights))
    total = jnp.sum(jnp.stack(channels))
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

    def energy_of_charges(charges: Float[Array, "n ..."]) -> Float[Array, ""]:
        return energy(
            solver,
            positions,
            cell,
            charges,
            dipoles=dipoles,
            quadrupoles=quadrupoles,
            atom_mask=atom_mask,
            self_interaction=self_interaction,
        )

    return jax.grad(energy_of_charges)(charges)


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
    multipoles = make_multipoles(charges, dipoles, quadrupoles, atom_mask)
    sigma = jnp.asarray(solver.sigma, positions.dtype)
    probes = jnp.ones_like(positions[:, 0])
    probes = probes if atom_mask is None else jnp.where(atom_mask, probes, 0.0)

    def of_channel(channel: Multipoles) -> Float[Array, "n 3"]:
        if solver.method == "open":
            pair_mask = _pair_mask(positions, atom_mask)
            return -jax.grad(open_boundary.charge_energy)(positions, probes, positions, channel, sigma, pair_mask)
        weights, shape = _reciprocal(solver, cell, sigma)
        sources = _structure_factor(positions, channel, cell, shape)

        def probe_energy(at: Float[Array, "n 3"]) -> Float[Array, ""]:
            return 2.0 * direct.quadratic_form(direct.structure_factor(at, probes, cell, shape), sources, weights)

        return -jax.grad(probe_energy)(positions)

    result = jax.vmap(of_channel, in_axes=1, out_axes=1)(multipoles)
    # as in the energy, of the dipoles alone: the other multipoles have no field at their own centre
    if dipoles is not None and self_interaction == (solver.method == "open"):
        own = -jax.grad(lambda u: multipole_self_energy(multipoles._replace(dipoles=u), sigma))(multipoles.dipoles)
        result = result + own if self_interaction else result - own
    return result[:, 0] if charges.ndim == 1 else result


def _pair_mask(positions: Float[Array, "n 3"], atom_mask: Bool[Array, " n"] | None) -> Bool[Array, "n n"]:
    real = jnp.ones(len(positions), bool) if atom_mask is None else atom_mask
    return real[:, None] & real[None, :] & ~jnp.eye(len(positions), dtype=bool)


def _reciprocal(
    solver: Solver, cell: Float[Array, "3 3"], sigma: Float[Array, ""]
) -> tuple[Float[Array, "4 n1 n2 n3"], tuple[int, int, int]]:
    """Weights of the k-vectors, and how many there are along each axis."""
    assert solver.kmask is not None
    kmask = jnp.asarray(solver.kmask)
    _, n1, n2, n3 = kmask.shape
    return direct.kspace_weights(cell, kmask, sigma), (n1, n2, n3)


def _structure_factor(
    positions: Float[Array, "n 3"],
    channel: Multipoles,
    cell: Float[Array, "3 3"],
    shape: tuple[int, int, int],
) -> Float[Array, "2 n1 2 n2 2 n3"]:
    charges, dipoles, quadrupoles = channel
    return direct.structure_factor(positions, charges, cell, shape, dipoles=dipoles, quadrupoles=quadrupoles)
