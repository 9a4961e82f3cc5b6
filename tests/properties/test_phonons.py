"""Normal modes against formulas, splitting of optical modes against Born and Huang and against long waves."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystals import make_energy, parameters, rock_salt
from lesjax import properties
from lesjax.units import AMU, COULOMB, WAVENUMBER


X64 = jax.config.jax_enable_x64
RTOL = 1e-10 if X64 else 1e-4
MASSES = np.array([22.98977, 35.45])
# Point charges (narrow ones) with repulsion r^-12 of nearest neighbours, at their equilibrium
A = 6.11585
PARAMS = {"epsilon": 0.2, "size": 2.6}
NARROW = {"sigma": 0.45, "k_cutoff": 9.0, "power": 0}
PERIODIC = (True, True, True)


def spring(k, system, solver):
    return 0.5 * k * (jnp.linalg.norm(system.positions[1] - system.positions[0]) - 1.2) ** 2


@jax.jit
def spring_modes(k):
    system = properties.Frame(jnp.asarray([[0.0, 0.0, 0.0], [0.0, 0.72, 0.96]]), jnp.zeros((3, 3)))
    modes = properties.normal_modes(properties.hessian(spring, k, system), MASSES)
    return modes, properties.mode_frequencies(spring, k, system, MASSES, modes.vectors[-1:])


def test_vibration_of_a_diatomic_molecule():
    """ω = √(k/μ) and its derivative ω / 2k; five rigid motions. One product with the Hessian gives the same."""
    k = jnp.asarray(20.0)
    modes, highest = spring_modes(k)
    expected = math.sqrt(20.0 * (1.0 / MASSES).sum() / AMU) * WAVENUMBER / (2.0 * math.pi)
    np.testing.assert_allclose(modes.frequencies[-1], expected, rtol=RTOL)
    np.testing.assert_allclose(modes.frequencies[:-1], 0.0, atol=1e-4 if X64 else 2.0)
    np.testing.assert_allclose(highest, [expected], rtol=RTOL)
    vectors = modes.vectors.reshape(6, 6)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(6), atol=RTOL)
    for which in (lambda k: spring_modes(k)[0].frequencies[-1], lambda k: spring_modes(k)[1][0]):
        np.testing.assert_allclose(jax.grad(which)(k), expected / 40.0, rtol=RTOL)


@pytest.fixture(scope="module")
def crystal():
    positions, cell, signs = rock_salt(A, primitive=True)
    return *make_energy(positions, cell, signs, **NARROW), properties.Frame(positions, cell), signs


@pytest.fixture(scope="module")
def optical(crystal):
    """Parameters -> frequencies for q -> 0 along z, of transverse and of all modes, cm⁻¹."""
    energy, solver, system, signs = crystal

    @jax.jit
    def find(params):
        hessian = properties.hessian(energy, params, system, solver=solver)
        born = properties.born_effective_charges(
            lambda r: params["charge"] * signs, system.positions, system.cell, PERIODIC, remove_mean=False
        )
        field = properties.nonanalytic_vector(born, 1.0, system.cell, jnp.asarray([0.0, 0.0, 3.0]))
        all_modes = properties.normal_modes(hessian, MASSES, nonanalytic=field)
        transverse = properties.normal_modes(hessian, MASSES)
        longitudinal = all_modes.vectors[-1:]
        by_product = properties.mode_frequencies(
            energy, params, system, MASSES, longitudinal, solver=solver, nonanalytic=field
        )
        return transverse.frequencies, all_modes.frequencies, by_product[0]

    return find


def angular(frequency):
    return np.asarray(frequency, float) * 2.0 * math.pi / WAVENUMBER


def test_splitting_of_optical_modes(crystal, optical):
    """ω_LO² - ω_TO² = 4π Z² / μV, and both: ω² = ω0² - Ω²/3 and + 2Ω²/3 with the curvature ω0² of the repulsion.

    Source: Born, Huang, Dynamical Theory of Crystal Lattices (1954), § 7, for rigid ions.
    """
    cell = crystal[2].cell
    transverse, both, by_product = optical(parameters(**PARAMS))
    reduced, distance = AMU / (1.0 / MASSES).sum(), A / 2.0
    plasma = 4.0 * math.pi * COULOMB / (reduced * abs(np.linalg.det(cell)))
    pair = 4.0 * PARAMS["epsilon"] * (PARAMS["size"] / distance) ** 12
    einstein = 2.0 / reduced * (156.0 - 2.0 * 12.0) * pair / distance**2
    splitting = angular(both[-1]) ** 2 - angular(transverse[-1]) ** 2
    np.testing.assert_allclose(splitting, plasma, rtol=1e-6 if X64 else 1e-3)
    # the charges have a width: 1e-3 is what their overlap and the cutoff leave
    np.testing.assert_allclose(angular(transverse[3:]) ** 2, einstein - plasma / 3.0, rtol=1e-3)
    np.testing.assert_allclose(angular(both[-1]) ** 2, einstein + 2.0 * plasma / 3.0, rtol=1e-3)
    np.testing.assert_allclose(both[3:5], transverse[3:5], rtol=1e-5)
    np.testing.assert_allclose(by_product, both[-1], rtol=1e-5)


def test_longitudinal_mode_is_the_limit_of_long_waves(optical):
    """Waves of 4 and 8 lattice constants along z in long cells, with no term added, extrapolated in q²."""
    params = parameters(**PARAMS)
    base = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.0, 0.0, 0.5]])
    edges = A * np.array([0.5**0.5, 0.5**0.5, 1.0])

    def highest(n):
        positions = jnp.asarray(np.concatenate([base + np.array([0, 0, k]) for k in range(n)]) * edges)
        cell = jnp.asarray(np.diag(edges * [1, 1, n]))
        signs = jnp.asarray(np.tile([1.0, 1.0, -1.0, -1.0], n))
        energy, solver = make_energy(positions, cell, signs, **NARROW)
        wave = jnp.cos(2.0 * math.pi / (A * n) * positions[:, 2])
        # one wave of each sublattice; each atom is a centre of inversion, so that a cosine stays one
        waves = [jnp.where(signs == s, wave, 0.0)[:, None] * jnp.asarray([0.0, 0.0, 1.0])[None] for s in (1.0, -1.0)]

        @jax.jit
        def product(vector):
            system = properties.Frame(positions, cell)
            return properties.hessian_vector_product(energy, params, system, vector, solver=solver)

        matrix = np.array([[jnp.sum(left * product(right)) for right in waves] for left in waves])
        matrix = matrix / float(jnp.sum(waves[0] ** 2)) / (AMU * np.sqrt(np.outer(MASSES, MASSES)))
        return math.sqrt(np.linalg.eigvalsh(matrix)[-1]) * WAVENUMBER / (2.0 * math.pi)

    near, far = highest(8), highest(4)
    limit = near + (near - far) / 3.0
    transverse, both, _ = optical(params)
    np.testing.assert_allclose(limit, both[-1], rtol=2e-3)
    # the splitting itself to 1 %
    split = angular(limit) ** 2 - angular(transverse[-1]) ** 2
    np.testing.assert_allclose(split, angular(both[-1]) ** 2 - angular(transverse[-1]) ** 2, rtol=1e-2)


@pytest.mark.skipif(not X64, reason="finite differences need float64")
def test_derivatives_of_frequencies(optical):
    """Of the longitudinal mode, by one product with the Hessian as well, and of three degenerate ones."""
    params = parameters(**PARAMS)
    step = 1e-4

    def observe(params):
        transverse, both, by_product = optical(params)
        return jnp.stack([both[-1], by_product, jnp.sum(transverse[3:])])

    gradient = jax.jit(jax.jacrev(observe))(params)
    for name, value in params.items():
        plus, minus = (observe(params | {name: value + s * step}) for s in (1, -1))
        np.testing.assert_allclose(gradient[name], (plus - minus) / (2.0 * step), rtol=1e-6)


def test_dielectric_tensor_screens_along_the_direction():
    born = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3)), float)
    cell, direction = jnp.asarray(4.0 * np.eye(3)), np.array([1.0, 0.0, 1.0])
    along = properties.nonanalytic_vector(born, jnp.diag(jnp.asarray([2.0, 9.0, 6.0])), cell, direction)
    scalar = properties.nonanalytic_vector(born, 4.0, cell, 5.0 * direction)
    np.testing.assert_allclose(along, scalar, rtol=1e-6)
    expected = math.sqrt(4.0 * math.pi * COULOMB / 64.0 / 4.0 / 2.0) * (born[:, 0] + born[:, 2])
    np.testing.assert_allclose(scalar, expected, rtol=1e-6)


def test_table():
    """1 cm⁻¹ is 0.1239842 meV and 0.0299792 THz (CODATA 2018)."""
    lines = properties.mode_table(jnp.asarray([-100.0, 1000.0])).splitlines()
    assert lines[1].split() == ["#", "meV", "THz", "cm^-1"]
    assert lines[3].split() == ["0", "12.40i", "2.9979i", "100.00i"]
    assert lines[4].split() == ["1", "123.98", "29.9792", "1000.00"]


def test_force_constants_file(tmp_path):
    hessian = np.random.default_rng(0).normal(size=(3, 3, 3, 3))
    path = tmp_path / "FORCE_CONSTANTS"
    properties.write_force_constants(path, hessian)
    lines = path.read_text().splitlines()
    assert lines[0].split() == ["3", "3"]
    assert len(lines) == 1 + 9 * 4
    # the block of atoms 2 and 3, as phonopy counts them
    start = 1 + (1 * 3 + 2) * 4
    assert lines[start].split() == ["2", "3"]
    block = np.array([line.split() for line in lines[start + 1 : start + 4]], float)
    np.testing.assert_allclose(block, hessian[1, :, 2, :], atol=1e-14)
    with pytest.raises(ValueError, match="`hessian` is not finite"):
        properties.write_force_constants(tmp_path / "other", np.full((1, 3, 1, 3), np.nan))
    assert [file.name for file in tmp_path.iterdir()] == ["FORCE_CONSTANTS"]


def test_errors():
    hessian, born, cell = jnp.zeros((2, 3, 2, 3)), jnp.zeros((2, 3, 3)), jnp.eye(3)
    with pytest.raises(ValueError, match=r"`masses` must be positive, got 0\.0"):
        properties.normal_modes(hessian, np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="`masses` must have one entry for each of the 2 atoms, got 3"):
        properties.normal_modes(hessian, np.ones(3))
    with pytest.raises(ValueError, match="`hessian` is not finite"):
        properties.normal_modes(hessian + jnp.nan, np.ones(2))
    with pytest.raises(ValueError, match="`direction` must have a length"):
        properties.nonanalytic_vector(born, 1.0, cell, np.zeros(3))
    with pytest.raises(ValueError, match="`epsilon_infinity` must be positive along `direction`, got -2"):
        properties.nonanalytic_vector(born, -2.0, cell, np.ones(3))
    with pytest.raises(ValueError, match="`cell` has no volume"):
        properties.nonanalytic_vector(born, 1.0, 0.0 * cell, np.ones(3))
