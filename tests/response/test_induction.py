"""Induced charges and dipoles. The one-shot values of the published code are in tests/ewald/test_reference.py."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lesjax import ewald, response
from lesjax.units import COULOMB
from toy import with_slow


X64 = jax.config.jax_enable_x64
needs_x64 = pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")
ATOL = 1e-12 if X64 else 1e-5

CELL = np.array([[4.9, 0.0, 0.0], [1.4, 5.7, 0.0], [-0.9, 1.1, 4.3]])
N = 4


def make_solver(periodic=True, background=False):
    plan = {"sigma": 0.9, "k_cutoff": 2.5 if periodic else None, "interaction": ewald.Coulomb(background)}
    return ewald.make_solver(CELL, periodic, n_atoms=N, **plan)


def make_inputs():
    """One atom without polarizability, whose tensor has no inverse."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(N, 3, 3)) * [[[0.2]], [[0.1]], [[0.0]], [[0.15]]]
    arrays = {
        "positions": rng.uniform(0, 1, (N, 3)) @ CELL,
        "charges": rng.normal(size=N),
        "kappa": rng.uniform(0.005, 0.02, N),
        "alpha": roots @ roots.transpose(0, 2, 1),
        "external_potential": np.array([0.3, -0.5, 0.2, 0.4]),
        "external_field": np.array([0.1, 0.2, -0.3]),
    }
    return {name: jnp.asarray(array, float) for name, array in arrays.items()}


@functools.partial(jax.jit, static_argnames="max_iterations")
def induce(solver, inputs, atom_mask=None, max_iterations=100):
    options = {"atom_mask": atom_mask, "max_iterations": max_iterations}
    return response.self_consistent_induction(solver, cell=jnp.asarray(CELL, float), **options, **inputs)


@pytest.mark.parametrize(
    ("periodic", "background"),
    [(True, False), (True, True), (False, False)],
    ids=["periodic", "background", "open"],
)
def test_solution_is_that_of_the_dense_equations(periodic, background):
    solver, inputs = make_solver(periodic, background), make_inputs()
    positions, charges, kappa, alpha, external_potential, external_field = inputs.values()

    @jax.jit
    def energy(x):
        dipoles = x[N:].reshape(N, 3)
        return ewald.energy(solver, positions, jnp.asarray(CELL, float), charges + x[:N], dipoles=dipoles)

    zero = jnp.zeros(4 * N)
    external = jnp.concatenate([-external_potential, jnp.tile(external_field, N)])
    source, hessian = external - jax.grad(energy)(zero), jax.hessian(energy)(zero)
    chi = jax.scipy.linalg.block_diag(jnp.diag(kappa), *alpha)
    delta = jnp.linalg.solve(jnp.eye(4 * N) + chi @ hessian, chi @ source)

    found = response.check_induction(induce(solver, inputs))
    np.testing.assert_allclose(found.charges, delta[:N], rtol=0, atol=ATOL)
    np.testing.assert_allclose(found.dipoles, delta[N:].reshape(N, 3), rtol=0, atol=ATOL)
    np.testing.assert_array_equal(found.dipoles[2], 0.0)
    # W at its minimum, where the cost of polarization is half of delta times the total field
    minimum = energy(delta) + 0.5 * delta @ (source - hessian @ delta) - external @ delta
    np.testing.assert_allclose(found.energy, minimum, rtol=0, atol=20 * ATOL)


@needs_x64
@pytest.mark.parametrize("order", with_slow([1, 2], [2]))
def test_derivatives(order):
    """Energies to second order; of induced charges and dipoles, which are not stationary, the first."""
    solver, inputs = make_solver(), make_inputs()

    def outputs(positions, alpha, external_field, sigma):
        changed = dict(inputs, positions=positions, alpha=alpha, external_field=external_field)
        found = induce(dataclasses.replace(solver, sigma=sigma), changed)
        return found.energy if order == 2 else (found.energy, found.charges, found.dipoles)

    arguments = (inputs["positions"], inputs["alpha"], inputs["external_field"], jnp.asarray(0.9))
    check_grads(outputs, arguments, order=order, modes=("rev",))


def test_forces_take_one_solution():
    """W is stationary, so that its gradient contains no second loop of conjugate gradients."""
    solver, inputs = make_solver(), make_inputs()

    def loops(function):
        text = str(jax.make_jaxpr(function)(inputs["positions"]))
        return text.count("while[")

    def energy(positions):
        return induce.__wrapped__(solver, inputs | {"positions": positions}).energy

    def dipoles(positions):
        return jnp.sum(induce.__wrapped__(solver, inputs | {"positions": positions}).dipoles)

    assert loops(jax.grad(energy)) == loops(energy)
    assert loops(jax.grad(dipoles)) > loops(dipoles)


def test_no_induction_without_response():
    solver, inputs = make_solver(), make_inputs()
    inputs |= {"kappa": jnp.zeros(N), "alpha": jnp.zeros(N)}
    found = response.check_induction(induce(solver, inputs))
    bare = ewald.energy(solver, inputs["positions"], jnp.asarray(CELL, float), inputs["charges"])
    np.testing.assert_allclose(found.energy, bare, rtol=0, atol=20 * ATOL)
    np.testing.assert_array_equal(found.charges, 0.0)


def test_padded_is_unpadded():
    solver, inputs = make_solver(), make_inputs()
    padded = {
        name: values if name == "external_field" else jnp.concatenate([values, jnp.ones_like(values[:2])])
        for name, values in inputs.items()
    }
    found, expected = induce(solver, padded, jnp.arange(N + 2) < N), induce(solver, inputs)
    for name in ("charges", "dipoles"):
        np.testing.assert_allclose(getattr(found, name)[:N], getattr(expected, name), rtol=0, atol=ATOL)
        np.testing.assert_array_equal(getattr(found, name)[N:], 0.0)
    np.testing.assert_allclose(found.energy, expected.energy, rtol=0, atol=20 * ATOL)


# ---- two polarizable atoms without charges in an external field


DISTANCE, SIGMA = 2.5, 0.8


def dipole_tensor():
    """Field of a Gaussian dipole along and across its axis, per dipole."""
    x = DISTANCE / (math.sqrt(2.0) * SIGMA)
    gauss = math.sqrt(2.0 / math.pi) / SIGMA * math.exp(-(x**2))
    across = COULOMB * (gauss / DISTANCE**2 - math.erf(x) / DISTANCE**3)
    along = -2.0 * across - COULOMB * gauss / SIGMA**2
    return along, across


def two_atoms(alpha, direction, solver=None):
    alpha = jnp.asarray(alpha, float)
    solver = ewald.make_solver(CELL, False, n_atoms=2, sigma=SIGMA) if solver is None else solver
    return response.self_consistent_induction(
        solver,
        jnp.asarray([[0.0, 0.0, 0.0], [DISTANCE, 0.0, 0.0]]),
        jnp.zeros((3, 3)),
        jnp.zeros(2),
        alpha=jnp.stack([alpha, alpha]),
        external_field=jnp.asarray(direction),
    )


two_atoms_compiled = jax.jit(two_atoms)


@pytest.mark.parametrize("axis", [0, 1], ids=["along", "across"])
def test_two_dipoles(axis):
    """Silberstein's polarizability of a pair, with the field of Gaussian dipoles: α / (1 - α t)."""
    alpha, strength = 0.2, 0.1
    found = two_atoms_compiled(alpha, np.eye(3)[axis] * strength)
    expected = alpha * strength / (1.0 - alpha * dipole_tensor()[axis])
    np.testing.assert_allclose(found.dipoles, expected * np.eye(3)[[axis, axis]], rtol=0, atol=ATOL)
    np.testing.assert_allclose(found.energy, -expected * strength, rtol=0, atol=ATOL)


@pytest.mark.parametrize("direction", [(0.1, 0.0, 0.0), (0.0, 0.1, 0.0), (0.1, -0.2, 0.3)])
def test_polarization_catastrophe(direction):
    """Found at the polarizability where it sets in, also by a field that does not drive the unstable mode."""
    critical = 1.0 / max(abs(t) for t in dipole_tensor())
    response.check_induction(two_atoms_compiled(0.97 * critical, direction))
    found = two_atoms_compiled(1.03 * critical, direction)
    assert not found.stable
    assert not found.converged
    assert all(np.all(np.isfinite(values)) for values in jax.tree.leaves(found))
    gradient = jax.jit(jax.grad(lambda alpha: two_atoms(alpha, direction).energy))(1.03 * critical)
    assert np.isfinite(gradient)
    with pytest.raises(ValueError, match=r"without limit \(polarization catastrophe\).*`sigma` larger"):
        response.check_induction(found)


def test_flags_of_many_systems():
    """Under `vmap` each system has its own flags."""
    critical = 1.0 / max(abs(t) for t in dipole_tensor())
    alphas = jnp.asarray([0.5, 1.5, -0.1, 0.0]) * critical
    mapped = jax.vmap(lambda alpha: two_atoms_compiled(alpha, (0.1, 0.0, 0.0)))(alphas)
    np.testing.assert_array_equal(mapped.converged, [True, False, False, True])
    with pytest.raises(ValueError, match="catastrophe"):
        response.check_induction(mapped)


def test_too_few_iterations():
    found = induce(make_solver(), make_inputs(), max_iterations=2)
    assert found.stable
    with pytest.raises(ValueError, match=r"did not converge in 2 iterations\. Raise `max_iterations`"):
        response.check_induction(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kappa": None, "alpha": None}, r"`kappa` and `alpha` are both None"),
        ({"kappa": jnp.ones((N, 1))}, r"`kappa` must have the shape \(4,\).*got \(4, 1\)"),
        ({"alpha": jnp.ones((N, 3))}, r"`alpha` must have the shape \(4,\).*or \(4, 3, 3\), got \(4, 3\)"),
        ({"alpha": None}, r"`external_field` acts on induced dipoles only"),
        (
            {"kappa": None, "external_potential": jnp.ones(N)},
            r"`external_potential` acts on induced charges only: give `kappa`",
        ),
        ({"external_potential": jnp.ones((N, 1))}, r"`external_potential` must have the shape \(4,\).*got \(4, 1\)"),
    ],
)
@pytest.mark.parametrize("function", [response.one_shot_induction, response.self_consistent_induction])
def test_errors(function, change, message):
    with pytest.raises(ValueError, match=message):
        function(make_solver(), cell=jnp.asarray(CELL, float), **(make_inputs() | change))
