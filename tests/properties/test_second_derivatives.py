"""Hessians and elastic constants of energies whose second derivatives are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import constants

from lesjax import properties
from lesjax.properties.second_derivatives import check_stable
from lesjax.units import GIGAPASCAL


X64 = jax.config.jax_enable_x64
RTOL = 1e-10 if X64 else 2e-4
LATTICE = 5.4


def test_hessian_of_a_spring():
    """E = k (r - b)² / 2 at r = b has the blocks ±k n ⊗ n; products and batches agree with the matrix."""
    k, direction = 3.0, np.array([1.0, 2.0, -2.0]) / 3.0
    positions = jnp.asarray([np.zeros(3), 1.5 * direction, [9.0, 9.0, 9.0]], float)
    system = properties.Frame(positions, jnp.zeros((3, 3)))

    def energy(k, system, solver):
        return 0.5 * k * (jnp.linalg.norm(system.positions[1] - system.positions[0]) - 1.5) ** 2

    compiled = jax.jit(properties.hessian, static_argnums=0, static_argnames="batch_size")
    found = compiled(energy, k, system)
    block = k * np.outer(direction, direction)
    expected = np.zeros((3, 3, 3, 3))
    for i, j in itertools.product((0, 1), (0, 1)):
        expected[i, :, j] = block if i == j else -block
    np.testing.assert_allclose(found, expected, atol=10 * RTOL)
    few = compiled(energy, k, system, batch_size=4)
    np.testing.assert_allclose(few, found, atol=RTOL)
    vector = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), float)
    product = properties.hessian_vector_product(energy, k, system, vector)
    np.testing.assert_allclose(product, np.tensordot(expected, vector, axes=2), atol=50 * RTOL)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        properties.hessian(energy, k, system, batch_size=0)


def keating(constants, system, solver):
    """Diamond with α for bonds and β for angles; the angles are the same around both atoms.

    Source: Keating, Phys. Rev. 145, 637 (1966), in the form of Martin, Phys. Rev. B 1, 4005 (1970).
    """
    alpha, beta = constants
    shifts = -jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)])
    bonds = (system.positions[1] - system.positions[0])[None] + shifts @ system.cell
    products = bonds @ bonds.T
    d2 = 3.0 * LATTICE**2 / 16.0
    angles = jnp.sum((products + d2 / 3.0)[np.triu_indices(4, 1)] ** 2)
    return 3.0 / (8.0 * d2) * (alpha * jnp.sum((jnp.diag(products) - d2) ** 2) + 2.0 * beta * angles)


DIAMOND = LATTICE * (np.ones((3, 3)) - np.eye(3)) / 2.0


@jax.jit
def keating_constants(constants):
    positions = jnp.asarray([[0.0, 0.0, 0.0], [LATTICE / 4.0] * 3])
    return properties.elastic_constants(keating, constants, properties.Frame(positions, jnp.asarray(DIAMOND)))


def test_elastic_constants_of_the_keating_model():
    """C44 has the displacement of the two sublattices in it: without it, it would be α + β over a."""
    alpha, beta = 3.0, 0.7
    found = keating_constants((jnp.asarray(alpha), jnp.asarray(beta)))
    c11, c12 = (alpha + 3.0 * beta) / LATTICE, (alpha - beta) / LATTICE
    c44 = 4.0 * alpha * beta / (alpha + beta) / LATTICE
    expected = np.diag([c11 - c12] * 3 + [c44] * 3)
    expected[:3, :3] += c12
    np.testing.assert_allclose(found, expected, atol=RTOL)


def test_derivative_of_elastic_constants():
    alpha, beta = 3.0, 0.7
    gradient = jax.grad(lambda constants: keating_constants(constants)[3, 3])((jnp.asarray(alpha), jnp.asarray(beta)))
    expected = np.array([beta, alpha]) ** 2 * 4.0 / (alpha + beta) ** 2 / LATTICE
    np.testing.assert_allclose(gradient, expected, rtol=10 * RTOL)


def test_an_unstable_hessian_is_refused():
    check_stable(jnp.diag(jnp.asarray([1.0, 20.0])))
    for lowest in (0.0, -0.5):
        with pytest.raises(ValueError, match=r"eigenvalues reach from .* to 20 eV/Å².*not a minimum or has a soft"):
            check_stable(jnp.diag(jnp.asarray([lowest, 20.0])))


def test_gigapascal():
    assert GIGAPASCAL == pytest.approx(constants.giga * constants.angstrom**3 / constants.e, rel=1e-12)
