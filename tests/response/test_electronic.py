"""Polarizabilities: known pairs and lattices, dense equations, second derivatives of the energy."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import ewald, response
from lesjax.units import COULOMB, VACUUM_PERMITTIVITY


X64 = jax.config.jax_enable_x64
ATOL = 1e-12 if X64 else 2e-5
CELL = np.array([[4.9, 0.0, 0.0], [1.4, 5.7, 0.0], [-0.9, 1.1, 4.3]])
N = 4


def arrays(values):
    return jnp.asarray(values, float)


def setting(periodic):
    """One atom without polarizability, one without kappa."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(N, 3, 3)) * [[[0.2]], [[0.1]], [[0.0]], [[0.15]]]
    solver = ewald.make_solver(CELL, periodic, n_atoms=N, sigma=0.9, k_cutoff=2.5 if periodic else None)
    positions = arrays(rng.uniform(0, 1, (N, 3)) @ CELL)
    return solver, positions, arrays(roots @ roots.transpose(0, 2, 1)), arrays([0.02, 0.0, 0.01, 0.015])


induced = jax.jit(response.induced_polarizability, static_argnames="self_consistent")


def test_second_derivative_of_the_energy():
    """Of W with permanent charges, which is minus the work of the field: M = -dW/dE. Open, which compiles faster."""
    solver, positions, alpha, _ = setting(False)
    charges = arrays([0.5, -1.0, 0.8, -0.3])

    @jax.jit
    def found(field):
        found = response.self_consistent_induction(
            solver, positions, arrays(CELL), charges, alpha=alpha, external_field=field
        )
        return found.energy, jnp.sum(found.dipoles, axis=0)

    tensor, induction = induced(solver, positions, arrays(CELL), alpha=alpha)
    response.check_induction(induction)
    by_dipole = response.polarizability(lambda field: found(field)[1], jnp.zeros(3))
    np.testing.assert_allclose(by_dipole, tensor, rtol=0, atol=10 * ATOL)
    # W is quadratic in the field, so that differences have no error
    unit = np.eye(3)
    w = {ab: float(found(arrays(unit[ab[0]] + unit[ab[1]]))[0]) for ab in np.ndindex(3, 3)}
    alone, nothing = [float(found(arrays(unit[a]))[0]) for a in range(3)], float(found(jnp.zeros(3))[0])
    by_energy = [[-(w[a, b] - alone[a] - alone[b] + nothing) for b in range(3)] for a in range(3)]
    np.testing.assert_allclose(by_energy, tensor, rtol=0, atol=20 * ATOL)
    np.testing.assert_allclose(tensor, tensor.T, rtol=0, atol=10 * ATOL)
    alone, _ = induced(solver, positions, arrays(CELL), alpha=alpha, self_consistent=False)
    np.testing.assert_allclose(alone, jnp.sum(alpha, axis=0), rtol=0, atol=ATOL)
    assert np.abs(tensor - alone).max() > 1e-3


def test_charges_that_flow_through_a_molecule():
    """Against the dense equations with the net charge held at zero by a Lagrange multiplier."""
    solver, positions, alpha, kappa = setting(False)

    @jax.jit
    @jax.hessian
    def interaction(x):
        return ewald.energy(solver, positions, jnp.zeros((3, 3)), x[:N], dipoles=x[N:].reshape(N, 3))

    chi = jax.scipy.linalg.block_diag(jnp.diag(kappa), *alpha)
    fields = jnp.concatenate([positions, jnp.tile(jnp.eye(3), (N, 1))])
    net = jnp.concatenate([jnp.ones(N), jnp.zeros(3 * N)])
    system = jnp.eye(4 * N) + chi @ interaction(jnp.zeros(4 * N))
    # δ = χ(b - Tδ + λ), sum of the δq = 0
    upper = jnp.concatenate([system, -(chi @ net)[:, None]], axis=1)
    whole = jnp.concatenate([upper, jnp.concatenate([net, jnp.zeros(1)])[None, :]])
    delta = jnp.linalg.solve(whole, jnp.concatenate([chi @ fields, jnp.zeros((1, 3))]))[:-1]
    expected = fields.T @ delta

    tensor, induction = induced(solver, positions, jnp.zeros((3, 3)), alpha=alpha, kappa=kappa)
    response.check_induction(induction)
    np.testing.assert_allclose(tensor, expected, rtol=0, atol=10 * ATOL)
    moved = positions + arrays([[30.0, -20.0, 10.0]])
    padded, _ = induced(
        solver,
        jnp.concatenate([moved, jnp.zeros((1, 3))]),
        jnp.zeros((3, 3)),
        alpha=jnp.concatenate([alpha, jnp.ones((1, 3, 3))]),
        kappa=jnp.concatenate([kappa, jnp.ones(1)]),
        atom_mask=jnp.arange(N + 1) < N,
    )
    np.testing.assert_allclose(padded, tensor, rtol=0, atol=100 * ATOL)

    # one shot: the charges of E·r alone, about their own middle
    alone, _ = induced(solver, positions, jnp.zeros((3, 3)), alpha=alpha, kappa=kappa, self_consistent=False)
    middle = np.average(positions, axis=0, weights=kappa)
    x = np.asarray(positions) - middle
    expected = np.sum(np.asarray(alpha), axis=0) + np.einsum("n,na,nb->ab", kappa, x, x)
    np.testing.assert_allclose(alone, expected, rtol=0, atol=10 * ATOL)


def test_pair_of_dipoles():
    """Silberstein: 2 α / (1 - α t), with the field t of a Gaussian dipole along and across the axis."""
    distance, sigma, alpha = 2.5, 0.8, 0.2
    x = distance / (math.sqrt(2.0) * sigma)
    gauss = math.sqrt(2.0 / math.pi) / sigma * math.exp(-(x**2))
    across = COULOMB * (gauss / distance**2 - math.erf(x) / distance**3)
    along = -2.0 * across - COULOMB * gauss / sigma**2
    solver = ewald.make_solver(CELL, False, n_atoms=2, sigma=sigma)
    positions = arrays([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
    tensor, _ = induced(solver, positions, jnp.zeros((3, 3)), alpha=arrays([alpha, alpha]))
    expected = [2.0 * alpha / (1.0 - alpha * t) for t in (along, across, across)]
    np.testing.assert_allclose(tensor, np.diag(expected), rtol=0, atol=ATOL)
    _, induction = induced(solver, positions, jnp.zeros((3, 3)), alpha=arrays([9.0, 9.0]))
    with pytest.raises(ValueError, match="polarization catastrophe"):
        response.check_induction(induction)


def test_cubic_lattice_obeys_clausius_and_mossotti():
    """Point-like dipoles on a simple cubic lattice: (ε - 1) / (ε + 2) = α / (3 ε0 V)."""
    cell, alpha = np.eye(3) * 3.0, 0.2
    solver = ewald.make_solver(cell, True, n_atoms=1, sigma=0.42, k_cutoff=18.0)
    tensor, _ = induced(solver, jnp.zeros((1, 3)), arrays(cell), alpha=arrays([alpha]))
    ratio = alpha / (3.0 * VACUUM_PERMITTIVITY * 27.0)
    expected = (1.0 + 2.0 * ratio) / (1.0 - ratio)
    epsilon = response.epsilon_infinity(tensor, arrays(cell))
    np.testing.assert_allclose(epsilon, expected * np.eye(3), rtol=0, atol=1e-8 if X64 else 1e-4)


def test_reference_dielectric_constants(shared_path):
    """A third of the trace, for the sum of the atoms (one shot).

    The reference has 1 / (2 ε0) = 90.4756 eV Å, ours has all digits.
    """
    cases = json.loads(shared_path("reference/les_ewald.json").read_text())["cases"]
    cases = [c for c in cases if c["outputs"].get("epsilon_r")]
    assert len(cases) == 4
    for case in cases:
        cell, alpha = (arrays(case["inputs"][name]) for name in ("cell", "alpha"))
        whole = jnp.sum(alpha if alpha.ndim == 3 else alpha[:, None, None] * jnp.eye(3)[None], axis=0)
        epsilon = np.trace(response.epsilon_infinity(whole, cell)) / 3.0
        np.testing.assert_allclose(epsilon, case["outputs"]["epsilon_r"][0], rtol=1e-6, err_msg=case["name"])


def test_errors():
    solver, positions, alpha, kappa = setting(True)
    with pytest.raises(ValueError, match=r"`kappa` lets charges flow.*Leave `kappa` out"):
        response.induced_polarizability(solver, positions, arrays(CELL), alpha=alpha, kappa=kappa)
    with pytest.raises(ValueError, match=r"`cell` has no volume, got .* three independent lattice vectors"):
        response.epsilon_infinity(jnp.eye(3), jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match="`polarizability` is not finite"):
        response.epsilon_infinity(jnp.full((3, 3), jnp.nan), arrays(CELL))
