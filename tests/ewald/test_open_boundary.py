"""Charges without periodic images."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lesjax import ewald
from lesjax.units import COULOMB


RTOL = 1e-12 if jax.config.jax_enable_x64 else 1e-5


def open_solver(sigma):
    return ewald.make_solver(np.zeros((3, 3)), False, n_atoms=2, sigma=sigma)


def test_two_charges():
    positions, charges = jnp.asarray([[0.0, 0.0, 0.0], [0.0, 1.2, 0.9]]), jnp.asarray([1.5, -0.5])
    r, sigma = 1.5, 0.7
    energy = ewald.energy(open_solver(sigma), positions, jnp.zeros((3, 3)), charges)
    np.testing.assert_allclose(energy, -0.75 * COULOMB * math.erf(r / (math.sqrt(2) * sigma)) / r, rtol=RTOL)


def test_self_interaction_is_the_limit_of_contact():
    """Two charges in one place have twice the energy of each with itself as their interaction."""
    solver = open_solver(0.7)
    positions = jnp.asarray([[0.0, 0.0, 0.0], [1e-3, 0.0, 0.0]])
    energy = ewald.energy(solver, positions, jnp.zeros((3, 3)), jnp.ones(2))
    np.testing.assert_allclose(energy, ewald.self_energy(solver, jnp.ones(2)), rtol=1e-5)
    with_self = ewald.energy(solver, positions, jnp.zeros((3, 3)), jnp.ones(2), self_interaction=True)
    np.testing.assert_allclose(with_self, 2 * energy, rtol=1e-5)


def test_one_atom_has_no_energy_and_no_force():
    energy, gradient = jax.value_and_grad(ewald.energy, 1)(
        open_solver(1.0), jnp.ones((1, 3)), jnp.zeros((3, 3)), jnp.ones(1)
    )
    assert float(energy) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_large_box_without_dipole_is_open():
    """A quadrupole in a box of 40 Å: its images change the energy by less than 1e-5 of it."""
    positions = jnp.asarray([[0.0, 0.0, 0.0], [1.1, 0.0, 0.0], [0.0, 1.1, 0.0], [1.1, 1.1, 0.0]])
    charges = jnp.asarray([1.0, -1.0, -1.0, 1.0])
    cell = np.eye(3) * 40.0
    periodic = ewald.make_solver(cell, True, n_atoms=4, accuracy=1e-5)
    arguments = (positions, jnp.asarray(cell, float), charges)
    np.testing.assert_allclose(
        jax.jit(ewald.energy)(periodic, *arguments), ewald.energy(open_solver(1.0), *arguments), rtol=1e-4
    )
