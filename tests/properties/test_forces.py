"""Forces and stress of energies whose derivatives are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax.properties import energy_forces_stress


RTOL = 1e-12 if jax.config.jax_enable_x64 else 1e-5
CELL = np.array([[4.0, 0.0, 0.0], [1.0, 5.0, 0.0], [-0.5, 0.3, 6.0]])


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_stress_of_a_pressure(handedness):
    """E = γ |det cell| pulls the cell together with the stress γ, positive as ASE has it."""
    cell = jnp.asarray(CELL * [[1.0], [1.0], [handedness]], float)

    def energy(positions, cell):
        return 0.7 * jnp.abs(jnp.linalg.det(cell)), "extras"

    _, forces, stress, extras = energy_forces_stress(energy, jnp.ones((2, 3)), cell, with_stress=True)
    np.testing.assert_allclose(stress, 0.7 * np.eye(3), atol=RTOL)
    np.testing.assert_array_equal(forces, 0.0)
    assert extras == "extras"


def test_forces_and_stress_of_a_spring_across_the_boundary():
    """Spring between atom 0 and an image of atom 1: stress = r ⊗ ∂E/∂r / V."""
    positions, cell = jnp.asarray([[0.1, 0.2, 0.3], [3.0, 4.0, 5.0]]), jnp.asarray(CELL, float)
    shift = jnp.asarray([-1.0, 0.0, -1.0])

    def energy(positions, cell):
        vector = positions[1] - positions[0] + shift @ cell
        return 0.5 * 3.0 * (jnp.linalg.norm(vector) - 1.0) ** 2, None

    value, forces, stress, _ = energy_forces_stress(energy, positions, cell, with_stress=True)
    vector = np.asarray(positions[1] - positions[0] + shift @ cell)
    pull = 3.0 * (1.0 - 1.0 / np.linalg.norm(vector)) * vector
    np.testing.assert_allclose(forces, [pull, -pull], rtol=10 * RTOL)
    np.testing.assert_allclose(stress, np.outer(vector, pull) / np.linalg.det(CELL), rtol=10 * RTOL, atol=10 * RTOL)
    np.testing.assert_allclose(value, energy(positions, cell)[0])


def test_without_stress():
    """A cluster has no volume to divide by."""
    positions = jnp.asarray([[1.0, 2.0, 3.0]])
    value, forces, stress, _ = energy_forces_stress(
        lambda positions, cell: (jnp.sum(positions**2), None), positions, jnp.zeros((3, 3)), with_stress=False
    )
    assert stress is None
    assert float(value) == 14.0
    np.testing.assert_array_equal(forces, [[-2.0, -4.0, -6.0]])
