"""Equilibrated charges against dense equations with a Lagrange multiplier, and their derivatives."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import erf

from lesjax import ewald, response
from lesjax.units import COULOMB
from toy import with_slow


X64 = jax.config.jax_enable_x64
needs_x64 = pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")
ATOL = 1e-12 if X64 else 1e-5

CELL = np.array([[4.9, 0.0, 0.0], [1.4, 5.7, 0.0], [-0.9, 1.1, 4.3]])
N, SIGMA = 5, 0.9


def solver_of(periodic, background=False):
    plan = {"sigma": SIGMA, "k_cutoff": 2.5 if periodic else None, "interaction": ewald.Coulomb(background)}
    return ewald.make_solver(CELL, periodic, n_atoms=N, **plan)


def make_inputs(total_charge=0.5):
    rng = np.random.default_rng(0)
    arrays = {
        "positions": rng.uniform(0, 1, (N, 3)) @ CELL,
        "cell": CELL.copy(),
        "electronegativity": rng.normal(size=N) * 3.0 + 5.0,
        "hardness": rng.uniform(2.0, 10.0, N),
        "total_charge": np.asarray(total_charge),
    }
    return {name: jnp.asarray(array, float) for name, array in arrays.items()}


@functools.partial(jax.jit, static_argnames="max_iterations")
def equilibrate(solver, inputs, atom_mask=None, max_iterations=200):
    return response.equilibrate(solver, **inputs, atom_mask=atom_mask, max_iterations=max_iterations)


def open_matrix(positions):
    """Interaction of unit Gaussians and their energy with themselves, from the formulas of Ko et al. in numpy."""
    sigma = SIGMA / math.sqrt(2.0)  # theirs
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1) + np.eye(N)
    off_diagonal = erf(distances / (2.0 * sigma)) / distances * (1.0 - np.eye(N))
    return COULOMB * (off_diagonal + np.eye(N) / (sigma * math.sqrt(math.pi)))


def periodic_matrix(positions):
    """∂²E/∂q² as the explicit sum over the k-vectors."""
    matrix = np.zeros((N, N))
    reciprocal = 2.0 * np.pi * np.linalg.inv(CELL).T
    for integers in np.ndindex(21, 21, 21):
        k = (np.array(integers) - 10) @ reciprocal
        squared = k @ k
        if 0 < squared <= 2.5**2:
            phases = np.exp(1j * positions @ k)
            matrix += np.exp(-(SIGMA**2) * squared / 2) / squared * np.real(np.outer(phases, phases.conj()))
    return 4.0 * np.pi * COULOMB / abs(np.linalg.det(CELL)) * matrix


@pytest.mark.parametrize("total_charge", [0.0, 1.0])
@pytest.mark.parametrize("periodic", [True, False], ids=["periodic", "open"])
def test_solution_is_that_of_the_dense_equations(periodic, total_charge):
    inputs = make_inputs(total_charge)
    positions, _, chi, hardness, _ = (np.asarray(x, float) for x in inputs.values())
    matrix = np.diag(hardness) + (periodic_matrix if periodic else open_matrix)(positions)
    bordered = np.block([[matrix, -np.ones((N, 1))], [np.ones((1, N)), np.zeros((1, 1))]])
    solution = np.linalg.solve(bordered, np.append(-chi, total_charge))
    q = solution[:N]

    found = response.check_equilibration(equilibrate(solver_of(periodic), inputs))
    np.testing.assert_allclose(found.charges, q, rtol=0, atol=ATOL)
    np.testing.assert_allclose(jnp.sum(found.charges), total_charge, rtol=0, atol=1e-14 if X64 else 1e-6)
    np.testing.assert_allclose(found.chemical_potential, solution[N], rtol=0, atol=20 * ATOL)
    np.testing.assert_allclose(found.energy, chi @ q + 0.5 * q @ matrix @ q, rtol=0, atol=50 * ATOL)
    assert np.abs(q).max() > 0.1


def test_background():
    """The charges are the same, and the energy has a term in the total charge alone."""
    inputs = make_inputs(0.5)
    without, found = (equilibrate(solver_of(True, background), inputs) for background in (False, True))
    slope = -2.0 * math.pi * COULOMB * SIGMA**2 * 0.5 / abs(np.linalg.det(CELL))
    np.testing.assert_allclose(found.charges, without.charges, rtol=0, atol=ATOL)
    np.testing.assert_allclose(found.energy - without.energy, 0.25 * slope, rtol=0, atol=50 * ATOL)
    np.testing.assert_allclose(found.chemical_potential - without.chemical_potential, slope, rtol=0, atol=50 * ATOL)


@needs_x64
@pytest.mark.parametrize("periodic", with_slow([True, False], [False]), ids=["periodic", "open"])
def test_derivatives(periodic):
    """Of charges, which are not stationary, and of energies; to second order without cell, which compiles faster."""
    solver, inputs = solver_of(periodic), make_inputs()
    if not periodic:
        inputs["cell"] = jnp.zeros((3, 3))

    def energy(inputs):
        return response.equilibrate(solver, **inputs).energy

    def both(inputs):
        """The energy in units in which its derivatives are as large as those of the charges."""
        found = response.equilibrate(solver, **inputs)
        return found.charges, 0.1 * found.energy

    check_grads(jax.jit(both), (inputs,), order=1, modes=("rev",), rtol=1e-5, atol=1e-5, eps=1e-5)
    if not periodic:
        check_grads(jax.jit(energy), (inputs,), order=2, modes=("rev",), rtol=1e-4, atol=1e-4, eps=1e-5)
        gradient = jax.jit(jax.grad(energy))(inputs)["total_charge"]
        np.testing.assert_allclose(gradient, equilibrate(solver, inputs).chemical_potential, rtol=1e-9)


def test_padded_atoms_and_batches():
    solver, inputs = solver_of(False), make_inputs()
    expected = equilibrate(solver, inputs)
    padded = dict(inputs)
    for name in ("positions", "electronegativity", "hardness"):
        padded[name] = jnp.pad(inputs[name], [(0, 2), (0, 0)][: inputs[name].ndim])
    mask = jnp.arange(N + 2) < N
    found = equilibrate(solver, padded, mask)
    np.testing.assert_array_equal(found.charges[N:], 0.0)
    np.testing.assert_allclose(found.charges[:N], expected.charges, rtol=0, atol=ATOL)
    np.testing.assert_allclose(found.energy, expected.energy, rtol=0, atol=50 * ATOL)
    gradient = jax.jit(jax.grad(lambda inputs: equilibrate(solver, inputs, mask).charges[0]))(padded)
    for name in ("positions", "electronegativity", "hardness"):
        np.testing.assert_array_equal(gradient[name][N:], 0.0)
    several = [make_inputs(q) for q in (-1.0, 0.5)]
    together = jax.vmap(functools.partial(equilibrate, solver))(jax.tree.map(lambda *x: jnp.stack(x), *several))
    for i, one in enumerate(several):
        np.testing.assert_allclose(together.charges[i], equilibrate(solver, one).charges, rtol=0, atol=ATOL)


def test_equal_atoms_share_the_charge():
    """Nothing but rounding drives the charges apart, next to a large electronegativity."""
    inputs = make_inputs(1.0)
    corners = 2.0 * np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
    inputs |= {"positions": jnp.asarray(corners, float)}
    inputs |= {"electronegativity": jnp.full(4, 1000.3), "hardness": jnp.full(4, 7.0)}
    found = response.check_equilibration(equilibrate(solver_of(False), inputs))
    np.testing.assert_allclose(found.charges, 0.25, rtol=0, atol=1e-12 if X64 else 1e-4)


def test_too_few_iterations_are_an_error():
    found = equilibrate(solver_of(False), make_inputs(), max_iterations=2)
    assert np.all(np.isfinite(found.charges))
    with pytest.raises(ValueError, match=r"did not equilibrate in 2 iterations.*raise `max_iterations`"):
        response.check_equilibration(found)
    with pytest.raises(ValueError, match=r"not finite: one of positions, .* and `total_charge` is not"):
        response.check_equilibration(equilibrate(solver_of(False), make_inputs(np.nan)))
