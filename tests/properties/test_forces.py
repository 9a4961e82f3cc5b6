"""Forces and stress of energies whose derivatives are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax.properties import Frame, energy_forces_stress


RTOL = 1e-12 if jax.config.jax_enable_x64 else 1e-5
CELL = np.array([[4.0, 0.0, 0.0], [1.0, 5.0, 0.0], [-0.5, 0.3, 6.0]])


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_stress_of_a_pressure(handedness):
    """E = γ |det cell| pulls the cell together with the stress γ, positive as ASE has it."""
    cell = jnp.asarray(CELL * [[1.0], [1.0], [handedness]], float)

    def energy(surface, system, solver):
        return surface * jnp.abs(jnp.linalg.det(system.cell)), solver

    system = Frame(jnp.ones((2, 3)), cell)
    (value, solver), forces, stress = energy_forces_stress(energy, 0.7, system, with_stress=True, has_aux=True)
    np.testing.assert_allclose(stress, 0.7 * np.eye(3), atol=RTOL)
    np.testing.assert_array_equal(forces, 0.0)
    assert float(value) == pytest.approx(0.7 * abs(np.linalg.det(CELL)), rel=RTOL)
    assert solver is None


def test_forces_and_stress_of_a_spring_across_the_boundary():
    """Spring between atom 0 and an image of atom 1: stress = r ⊗ ∂E/∂r / V."""
    positions, cell = jnp.asarray([[0.1, 0.2, 0.3], [3.0, 4.0, 5.0]]), jnp.asarray(CELL, float)
    shift = jnp.asarray([-1.0, 0.0, -1.0])

    def energy(k, system, solver):
        vector = system.positions[1] - system.positions[0] + shift @ system.cell
        return 0.5 * k * (jnp.linalg.norm(vector) - 1.0) ** 2

    value, forces, stress = energy_forces_stress(energy, 3.0, Frame(positions, cell), with_stress=True)
    vector = np.asarray(positions[1] - positions[0] + shift @ cell)
    pull = 3.0 * (1.0 - 1.0 / np.linalg.norm(vector)) * vector
    np.testing.assert_allclose(forces, [pull, -pull], rtol=10 * RTOL)
    np.testing.assert_allclose(stress, np.outer(vector, pull) / np.linalg.det(CELL), rtol=10 * RTOL, atol=10 * RTOL)
    np.testing.assert_allclose(value, energy(3.0, Frame(positions, cell), None))


def test_without_stress():
    """A cluster has no volume to divide by."""
    system = Frame(jnp.asarray([[1.0, 2.0, 3.0]]), jnp.zeros((3, 3)))
    value, forces, stress = energy_forces_stress(
        lambda params, system, solver: jnp.sum(system.positions**2), None, system, with_stress=False
    )
    assert stress is None
    assert float(value) == 14.0
    np.testing.assert_array_equal(forces, [[-2.0, -4.0, -6.0]])
