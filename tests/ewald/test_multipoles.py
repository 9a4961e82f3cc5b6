"""Dipoles and quadrupoles: as derivatives of charges, in every path of the code; what is refused."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from lesjax import ewald
from lesjax.ewald.interaction import boys_functions
from lesjax.ewald.multipoles import Multipoles, multipole_structure_factor
from lesjax.ewald.solvers import direct
from lesjax.numerics import inverse
from lesjax.units import COULOMB


X64 = jax.config.jax_enable_x64
RTOL = 1e-11 if X64 else 1e-4
CELL = np.array([[4.9, 0.0, 0.0], [1.4, 5.7, 0.0], [-0.9, 1.1, 4.3]])
SIGMA = 0.8


def atoms(n=4):
    rng = np.random.default_rng(0)
    quadrupoles = rng.normal(size=(n, 3, 3))
    arrays = rng.uniform(0, 3, (n, 3)), rng.normal(size=n), rng.normal(size=(n, 3)), quadrupoles
    return [jnp.asarray(array, float) for array in arrays]


def solver(periodic):
    cutoff = 3.0 if periodic else None
    return ewald.make_solver(CELL, periodic, n_atoms=4, sigma=SIGMA, k_cutoff=cutoff)


def energy(periodic, positions, charges, **others):
    return ewald.energy(solver(periodic), positions, jnp.asarray(CELL, float), charges, **others)


def close(found, expected):
    atol = RTOL * max(1.0, float(jnp.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("periodic", [True, False], ids=["periodic", "open"])
def test_what_is_not_given_is_zero(periodic):
    positions, charges, dipoles, quadrupoles = atoms()
    none = {"dipoles": jnp.zeros_like(dipoles), "quadrupoles": jnp.zeros_like(quadrupoles)}
    for given in ({}, {"dipoles": dipoles}, {"quadrupoles": quadrupoles}):
        close(energy(periodic, positions, charges, **given), energy(periodic, positions, charges, **(none | given)))


@pytest.mark.parametrize("periodic", [True, False], ids=["periodic", "open"])
def test_the_symmetric_part_of_quadrupoles_counts(periodic):
    positions, charges, _, quadrupoles = atoms()
    close(
        energy(periodic, positions, charges, quadrupoles=quadrupoles),
        energy(periodic, positions, charges, quadrupoles=jnp.swapaxes(quadrupoles, 1, 2)),
    )


@pytest.mark.parametrize("names", ["dipoles", "quadrupoles", "both"])
def test_any_sum_has_multipoles_by_differentiation(names):
    """From its structure factor of charges alone, as the explicit sum of products gives them."""
    positions, charges, dipoles, quadrupoles = atoms()
    multipoles = Multipoles(
        charges,
        None if names == "quadrupoles" else dipoles,
        None if names == "dipoles" else 0.5 * (quadrupoles + jnp.swapaxes(quadrupoles, 1, 2)),
    )
    grid = inverse(jnp.asarray(CELL, float)), (3, 4, 3)
    explicit = direct.structure_factor(positions, multipoles, *grid)

    def of_charges(positions, charges):
        return direct.structure_factor(positions, Multipoles(charges), *grid)

    close(multipole_structure_factor(of_charges, positions, multipoles), explicit)


def test_open_sum_is_the_derivative_of_the_sum_over_charges():
    positions, charges, dipoles, quadrupoles = atoms()
    quadrupoles = 0.5 * (quadrupoles + jnp.swapaxes(quadrupoles, 1, 2))

    def kernel(vector):
        r = jnp.sqrt(jnp.sum(vector**2))
        return COULOMB * jax.scipy.special.erf(r / (math.sqrt(2.0) * SIGMA)) / r

    def operate(function, vector, i, sign):
        gradient, hessian = jax.grad(function)(vector), jax.hessian(function)(vector)
        second = 0.5 * jnp.sum(quadrupoles[i] * hessian)
        return charges[i] * function(vector) + sign * jnp.sum(dipoles[i] * gradient) + second

    def pair(vector, i, j):
        return operate(lambda vector: operate(kernel, vector, j, -1.0), vector, i, 1.0)

    i, j = jnp.triu_indices(4, 1)
    expected = jnp.sum(jax.jit(jax.vmap(pair))(positions[i] - positions[j], i, j))
    close(energy(False, positions, charges, dipoles=dipoles, quadrupoles=quadrupoles), expected)


@pytest.mark.parametrize("order", [0, 4])
def test_boys_functions(order):
    x = np.concatenate([[1e-7, 1e-4], np.geomspace(5e-4, 60.0, 200), [0.999, 1.0, 1.001]])
    for l, function in enumerate(boys_functions(jnp.asarray(x, float), order)):
        a = l + 0.5
        expected = scipy.special.gammainc(a, x) * scipy.special.gamma(a) / (2.0 * x**a)
        np.testing.assert_allclose(function, expected, rtol=2e-13 if X64 else 2e-5)
    at_zero = [float(function) for function in boys_functions(jnp.zeros(()), order)]
    np.testing.assert_allclose(at_zero, [1.0 / (2 * l + 1) for l in range(order + 1)], rtol=1e-6)


def test_atoms_in_one_place():
    """Smooth: finite energy, no force of a charge on a charge, and the force of a charge on a dipole."""
    charges, dipoles = jnp.asarray([0.7, -0.4]), jnp.asarray([[0.0, 0.0, 0.0], [0.3, 0.1, -0.2]])
    zeros = jnp.zeros((2, 3))
    slope = COULOMB * math.sqrt(2.0 / math.pi) / SIGMA  # of F_0 at zero
    value, gradient = jax.jit(jax.value_and_grad(functools.partial(energy, False)))(zeros, charges)
    np.testing.assert_allclose(value, -0.28 * slope, rtol=1e-6)
    np.testing.assert_array_equal(gradient, 0.0)
    hessian = jax.jit(jax.hessian(functools.partial(energy, False)))(zeros, charges)
    np.testing.assert_allclose(hessian[0, :, 0, :], 0.28 * slope / (3 * SIGMA**2) * np.eye(3), rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda positions: energy(False, positions, charges, dipoles=dipoles)))(zeros)
    np.testing.assert_allclose(gradient[0], 0.7 * slope / (3 * SIGMA**2) * dipoles[1], rtol=1e-5)


def test_shapes_that_do_not_match_are_refused():
    positions, charges, dipoles, quadrupoles = atoms()
    with pytest.raises(ValueError, match=r"`dipoles` must have the shape \(4, 1, 3\).*\(4, 1\), got \(4, 3\)"):
        energy(True, positions, charges[:, None], dipoles=dipoles)
    with pytest.raises(ValueError, match=r"`quadrupoles` must have the shape \(4, 1, 3, 3\).*got \(4, 3, 3\)"):
        energy(True, positions, charges[:, None], quadrupoles=quadrupoles)
