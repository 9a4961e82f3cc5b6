"""Energy, potential and field of Gaussian charges: the public face of the sums.

All are pure functions of arrays, differentiable to any order in positions, charges, cell and sigma, and can
be compiled and mapped. Units: eV, V and V/Å for charges in e and lengths in Å.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.ewald import open_boundary
from lesjax.ewald.engine import make_engine
from lesjax.ewald.solver import Solver
from lesjax.units import COULOMB


def energy(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    atom_mask: Bool[Array, " n"] | None = None,
    self_interaction: bool = False,
) -> Float[Array, ""]:
    r"""Energy of Gaussian charges, self-interaction removed, channels summed.

    .. math:: E = \frac{1}{2 \varepsilon_0 V} \sum_{0 < |k| \le k_c} \frac{e^{-\sigma^2 k^2 / 2}}{k^2} |S(k)|^2
              - \frac{1}{2 \varepsilon_0} \sum_i \frac{q_i^2}{\sigma (2 \pi)^{3/2}}

    for a periodic cell, and the sum over pairs of `open_boundary` without one. A net charge is compensated
    by a uniform background (the term k = 0 is left out, as in the published code).

    Args:
        solver: from `make_solver`.
        positions: Cartesian coordinates, Å.
        cell: lattice vectors as rows, Å, left-handed or right-handed; ignored for open boundaries.
        charges: latent charges, e, one column per channel if two-dimensional.
        atom_mask: True for real atoms. All real by default.
        self_interaction: keep the energy of each Gaussian with itself.

    Returns:
        Energy, eV.

    References:
        Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7.
    """
    q = _columns(charges, atom_mask)
    total = 0.5 * _interaction(solver, positions, positions, cell, q, q, atom_mask)
    # the periodic sum contains each Gaussian's energy with itself, the sum over pairs does not
    if solver.method == "open":
        return total + self_energy(solver, q) if self_interaction else total
    return total if self_interaction else total - self_energy(solver, q)


def self_energy(solver: Solver, charges: Float[Array, " n"] | Float[Array, "n c"]) -> Float[Array, ""]:
    r"""Energy of each Gaussian with itself, :math:`\sum_i q_i^2 / (2 \varepsilon_0 \sigma (2 \pi)^{3/2})`, eV."""
    sigma = jnp.asarray(solver.sigma, charges.dtype)
    return 2.0 * math.pi * COULOMB * jnp.sum(charges * charges) / (sigma * (2.0 * math.pi) ** 1.5)


def potential(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    atom_mask: Bool[Array, " n"] | None = None,
    self_interaction: bool = False,
) -> Float[Array, " n"] | Float[Array, "n c"]:
    """Electrostatic potential at the atoms, ∂E/∂q, in V. Arguments as in `energy`.

    Returns:
        One value per atom and channel, in the shape of `charges`; zero for padded atoms.
    """
    return jax.grad(
        lambda q: energy(solver, positions, cell, q, atom_mask=atom_mask, self_interaction=self_interaction)
    )(charges)


def field(
    solver: Solver,
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    charges: Float[Array, " n"] | Float[Array, "n c"],
    *,
    atom_mask: Bool[Array, " n"] | None = None,
) -> Float[Array, "n 3"] | Float[Array, "n c 3"]:
    """Electric field at the atoms, minus the gradient of the potential of each channel, in V/Å.

    A Gaussian exerts no field at its own centre, so there is no self-interaction to remove.
    Arguments as in `energy`. Zero for padded atoms.
    """
    q = _columns(charges, atom_mask)
    probes = _columns(jnp.ones_like(positions[:, 0]), atom_mask)

    def probe_energy(at: Float[Array, "n 3"], column: Float[Array, " n"]) -> Float[Array, ""]:
        return _interaction(solver, at, positions, cell, probes, column[:, None], atom_mask)

    result = -jax.vmap(jax.grad(probe_energy), in_axes=(None, 1), out_axes=1)(positions, q)
    return result[:, 0] if charges.ndim == 1 else result


def _columns(
    charges: Float[Array, " n"] | Float[Array, "n c"], atom_mask: Bool[Array, " n"] | None
) -> Float[Array, "n c"]:
    columns = charges[:, None] if charges.ndim == 1 else charges
    return columns if atom_mask is None else jnp.where(atom_mask[:, None], columns, 0.0)


def _interaction(
    solver: Solver,
    left_positions: Float[Array, "n 3"],
    right_positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    left: Float[Array, "n c"],
    right: Float[Array, "n c"],
    atom_mask: Bool[Array, " n"] | None,
) -> Float[Array, ""]:
    """Σ_ij left_i right_j v(r_i - r_j): twice the energy for two equal sets; periodic with i = j, open without."""
    sigma = jnp.asarray(solver.sigma, left_positions.dtype)
    if solver.method == "open":
        real = jnp.ones(len(left), bool) if atom_mask is None else atom_mask
        pair_mask = real[:, None] & real[None, :] & ~jnp.eye(len(left), dtype=bool)
        return open_boundary.pair_form(left_positions, right_positions, left, right, sigma, pair_mask)
    engine = make_engine(solver, cell, sigma)

    def one_channel(left: Float[Array, " n"], right: Float[Array, " n"]) -> Float[Array, ""]:
        factor = engine.structure_factor(left_positions, left)
        return engine.quadratic_form(factor, engine.structure_factor(right_positions, right))

    def equal_channel(charges: Float[Array, " n"]) -> Float[Array, ""]:
        factor = engine.structure_factor(left_positions, charges)
        return engine.quadratic_form(factor, factor)

    if left is right and left_positions is right_positions:
        channels = [equal_channel(left[:, c]) for c in range(left.shape[1])]
    else:
        channels = [one_channel(left[:, c], right[:, c]) for c in range(left.shape[1])]
    return 2.0 * jnp.sum(jnp.stack(channels))

