"""Lattice sums of point charges: they set prefactor, self-energy and weights of the k-vectors at once.

Where Gaussians do not overlap, they interact like points, so at small σ the sum without self-interaction is
the sum over point charges.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from lesjax import ewald
from lesjax.units import COULOMB


X64 = jax.config.jax_enable_x64

# Madelung constants over the nearest-neighbour distance, and this distance over the edge of the cubic cell:
# rock salt OEIS A085469, caesium chloride OEIS A181152, zinc blende OEIS A182566.
CRYSTALS = {
    "rocksalt": (1.747564594633182, 1 / 2),
    "cesiumchloride": (1.762674773070988, np.sqrt(3) / 2),
    "zincblende": (1.638055053388789, np.sqrt(3) / 4),
}


@pytest.mark.parametrize("cubic", [True, False], ids=["cubic", "primitive"])
@pytest.mark.parametrize("structure", CRYSTALS)
def test_madelung(structure, cubic):
    madelung, nearest = CRYSTALS[structure]
    edge, charge = 4.2, 2.0
    crystal = bulk("ZnS", structure, a=edge, cubic=cubic)
    charges = np.where(crystal.symbols == "Zn", charge, -charge)
    # erfc(7.2/√2) = 6e-13 of the interaction of neighbours is left out by the smearing,
    # erfc(7.2/√2) of the self-energy by the cutoff
    sigma = nearest * edge / 7.2
    solver = ewald.make_solver(crystal.cell[:], True, n_atoms=len(crystal), sigma=sigma, k_cutoff=7.2 / sigma)
    positions, cell, charges = (jnp.asarray(x, float) for x in (crystal.positions, crystal.cell[:], charges))
    energy, gradient = jax.jit(jax.value_and_grad(ewald.energy, 1))(solver, positions, cell, charges)
    expected = -COULOMB * charge**2 * madelung / (nearest * edge) * (len(crystal) / 2)
    np.testing.assert_allclose(energy, expected, rtol=1e-9 if X64 else 2e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-9 if X64 else 1e-2)


# Simple cubic Wigner lattice, Nijboer and Ruijgrok, J. Stat. Phys. 53, 361 (1988)
WIGNER = 2.837297479480620


def one_charge(edge, charge, sigma, *, background, function=ewald.energy):
    plan = {"n_atoms": 1, "sigma": sigma, "k_cutoff": 7.2 / sigma, "interaction": ewald.Coulomb(background)}
    solver = ewald.make_solver(np.eye(3) * edge, True, **plan)
    return function(solver, jnp.zeros((1, 3)), jnp.eye(3) * edge, jnp.full(1, charge))


def test_one_charge_in_its_background():
    """The term k = 0 is left out, which leaves out the energy of the background in the Gaussian, π σ² q² / V."""
    edge, charge, sigma = 3.0, 1.5, 3.0 / 7.2
    lattice = -COULOMB * charge**2 * WIGNER / (2 * edge)
    left_out = COULOMB * np.pi * sigma**2 * charge**2 / edge**3
    rtol = 1e-9 if X64 else 2e-5
    np.testing.assert_allclose(one_charge(edge, charge, sigma, background=False), lattice + left_out, rtol=rtol)
    np.testing.assert_allclose(one_charge(edge, charge, sigma, background=True), lattice, rtol=rtol)
    potential = one_charge(edge, charge, sigma, background=True, function=ewald.potential)
    np.testing.assert_allclose(potential, 2 * lattice / charge, rtol=rtol)


@pytest.mark.parametrize("background", [False, True])
def test_one_charge_in_larger_cells(background):
    """With the background the energy goes with 1/L from the smallest cell on, without it there is a part in 1/L³."""
    energies = np.array([one_charge(edge, 1.0, 1.0, background=background) for edge in (8.0, 16.0)])
    scaled = energies * [8.0, 16.0] / COULOMB
    rest = 0.0 if background else np.pi / np.array([8.0, 16.0]) ** 2
    np.testing.assert_allclose(scaled, rest - WIGNER / 2, rtol=1e-9 if X64 else 2e-4)


def test_pressure_of_one_charge_in_its_background():
    """An energy in 1/L has the virial -E, which needs the volume in the term of the background."""
    edge, sigma = 3.0, 3.0 / 7.2
    plan = {"n_atoms": 1, "sigma": sigma, "k_cutoff": 7.2 / sigma, "interaction": ewald.Coulomb(background=True)}
    solver = ewald.make_solver(np.eye(3) * edge, True, **plan)

    def energy(scale):
        return ewald.energy(solver, jnp.zeros((1, 3)), jnp.eye(3) * edge * scale, jnp.ones(1))

    value, slope = jax.value_and_grad(energy)(jnp.ones(()))
    np.testing.assert_allclose(slope, -value, rtol=1e-8 if X64 else 2e-4)


@pytest.mark.parametrize("pbc", [False, (True, True, False)], ids=["open", "slab"])
def test_background_needs_three_periodic_directions(pbc):
    with pytest.raises(ValueError, match=r"`background` needs three periodic directions, got (a slab|open bound)"):
        ewald.make_solver(np.eye(3) * 5.0, pbc, n_atoms=1, interaction=ewald.Coulomb(background=True))
