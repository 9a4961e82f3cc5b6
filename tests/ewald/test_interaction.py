"""London dispersion between Gaussians, for all solvers.

.. math:: E = -\\sum_{i<j} c_i c_j [1 - e^{-x^2} (1 + x^2 + x^4 / 2)] / r^6, \\quad x = α r, α = 1 / (√2 σ)

and in a periodic cell -1/2V Σ φ |S|² + α⁶/12 Σ c², where k = 0 counts (Williams, Acta Cryst. A 27, 452 (1971)).
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import formula
from lesjax import ewald


X64 = jax.config.jax_enable_x64
needs_x64 = pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")
CELL = np.array([[5.9, 0.0, 0.0], [1.4, 6.7, 0.0], [-0.9, 1.1, 6.3]])
SIGMA = 0.9
ALPHA = 1.0 / (math.sqrt(2.0) * SIGMA)


def kernel(k):
    """Fourier transform of `pair`, written for one number."""
    b = k / (2.0 * ALPHA)
    gauss, tail = (1.0 - 2.0 * b**2) * math.exp(-(b**2)), 2.0 * math.sqrt(math.pi) * b**3 * math.erfc(b)
    return math.pi**1.5 * ALPHA**3 / 3.0 * (gauss + tail)


def make_atoms(n=8):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 1, (n, 3)) @ CELL, rng.uniform(1.0, 3.0, n)


def make_solver(cell=CELL, pbc=True, n_atoms=8, **options):
    return ewald.make_solver(cell, pbc, n_atoms=n_atoms, sigma=SIGMA, interaction=ewald.InversePower6(), **options)


def arrays(*values):
    return tuple(jnp.asarray(value, float) for value in values)


def pair(r):
    """Damped 1/r⁶ of two unit sources, by the incomplete gamma function."""
    return -special.gammainc(3.0, (ALPHA * r) ** 2) / r**6


def test_direct_sum_is_the_formula():
    positions, sources = make_atoms()
    found = ewald.energy(make_solver(k_cutoff=5.0), *arrays(positions, CELL, sources))
    expected = -formula.lattice_sum(positions, CELL, sources, 5.0, kernel) + ALPHA**6 / 12 * np.sum(sources**2)
    np.testing.assert_allclose(found, expected, rtol=1e-11 if X64 else 2e-4)


def test_open_sum_is_the_formula():
    """Also where atoms are close, by the series."""
    positions, sources = make_atoms()
    positions[1] = positions[0] + [0.2, 0.1, 0.0]
    positions[3] = positions[2] + [0.02, 0.0, 0.0]
    found = ewald.energy(make_solver(pbc=False), *arrays(positions, CELL, sources))
    np.testing.assert_allclose(found, formula.open_energy(positions, sources, pair), rtol=1e-10 if X64 else 1e-5)
    forces = jax.grad(ewald.energy, 1)(make_solver(pbc=False), *arrays(np.zeros((8, 3)), CELL, sources))
    np.testing.assert_array_equal(forces, 0.0)


@needs_x64
def test_open_sum_is_a_large_box():
    """But for its images, of which six are nearest."""
    positions, sources = make_atoms()
    edge = 45.0
    box, places = edge * np.eye(3), arrays(positions)[0]
    found = [
        ewald.energy(solver, places, *arrays(box, sources))
        for solver in (make_solver(pbc=False), make_solver(box, accuracy=1e-8, method="direct"))
    ]
    images = -8.4019 * np.sum(sources) ** 2 / (2 * edge**6)  # of a simple cubic lattice
    assert abs(images) > 1e-7
    np.testing.assert_allclose(found[1] - found[0], images, rtol=0.1)


@pytest.mark.parametrize("method", ["direct", "mesh"])
def test_two_cells_have_twice_the_energy(method):
    """Also with atoms of padding."""
    positions, sources = make_atoms()
    twice = np.concatenate([positions, positions + CELL[0]])
    solver = make_solver(k_cutoff=5.0, method=method)
    double = make_solver(CELL * [[2.0], [1.0], [1.0]], n_atoms=16, k_cutoff=5.0, method=method)
    once = ewald.energy(solver, *arrays(positions, CELL, sources))
    found = ewald.energy(double, *arrays(twice, CELL * [[2.0], [1.0], [1.0]], np.tile(sources, 2)))
    np.testing.assert_allclose(found, 2 * once, rtol=1e-4 if method == "mesh" else 1e-10 if X64 else 1e-4)
    for one in (solver, make_solver(pbc=False)):
        mask = jnp.arange(12) < 8
        padded = arrays(np.pad(positions, ((0, 4), (0, 0))), CELL, np.pad(sources, (0, 4), constant_values=7.0))
        expected = ewald.energy(one, *arrays(positions, CELL, sources))
        np.testing.assert_allclose(ewald.energy(one, *padded, atom_mask=mask), expected, rtol=1e-11 if X64 else 1e-5)


def test_series_meets_the_closed_form():
    """In both dtypes, with its slope: at x = 1 they change over."""
    x = np.array([0.0, 1e-3, 0.3, 0.99, 1.01, 2.0, 6.0])
    value, slope = jax.vmap(jax.value_and_grad(lambda y: ewald.InversePower6().pair(y, jnp.ones(()), 0)[0]))(
        jnp.asarray(2.0 * x**2, float)
    )
    y = np.maximum(x, 1e-3) ** 2
    expected = special.gammainc(3.0, y) / (8.0 * y**3)
    np.testing.assert_allclose(value[1:], expected[1:], rtol=1e-11 if X64 else 2e-6)
    np.testing.assert_allclose(value[0], 1.0 / 48.0, rtol=1e-6)
    derivative = (np.exp(-y) / (2.0 * y) - 3.0 * special.gammainc(3.0, y) / y**4) / 16.0
    np.testing.assert_allclose(slope[2:], derivative[2:], rtol=1e-9 if X64 else 2e-5)
    np.testing.assert_allclose(slope[0], -1.0 / 128.0, rtol=1e-6)


@needs_x64
def test_crystal():
    """With the part in real space the constant of the face-centred cubic lattice, 14.45392104."""
    primitive = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]) * 3.0
    nearest = np.linalg.norm(primitive[0])
    solver = ewald.make_solver(primitive, True, n_atoms=1, sigma=0.5, k_cutoff=18.0, interaction=ewald.InversePower6())
    reciprocal = ewald.energy(solver, *arrays(np.zeros((1, 3)), primitive, [1.0]))
    real = 0.0
    for n in itertools.product(range(-4, 5), repeat=3):
        r = np.linalg.norm(n @ primitive)
        x2 = 0.5 * (r / 0.5) ** 2
        real -= 0.5 * math.exp(-x2) * (1 + x2 + x2**2 / 2) / r**6 if r else 0.0
    np.testing.assert_allclose(-2 * (reciprocal + real) * nearest**6, 14.45392104, rtol=1e-9)


@needs_x64
@pytest.mark.parametrize("accuracy", [1e-3, 1e-5])
def test_mesh_is_the_direct_sum(accuracy):
    """Sources of one sign, random and in a rattled crystal."""
    cell = 12.0 * np.eye(3)
    rng = np.random.default_rng(1)
    corners = np.array(list(itertools.product(range(4), repeat=3))) * 3.0
    for positions in (rng.uniform(0, 12, (64, 3)), corners + rng.normal(scale=0.1, size=(64, 3))):
        sources = rng.uniform(1.0, 3.0, 64)
        for method in ("direct", "mesh"):
            solver = make_solver(cell, n_atoms=64, accuracy=accuracy, method=method)
            assert solver.interaction == ewald.InversePower6()
            assert 0 < ewald.force_error(solver, positions, cell, sources) < 2 * accuracy


@needs_x64
@pytest.mark.parametrize("method", ["direct", "mesh"])
def test_stress_by_differences(method):
    """The term k = 0 has a part in it."""
    positions, cell, sources = arrays(make_atoms()[0], CELL, make_atoms()[1])
    solver = make_solver(accuracy=1e-4, method=method)

    @jax.jit
    def energy(strain):
        deformation = jnp.eye(3) + strain
        return ewald.energy(solver, positions @ deformation, cell @ deformation, sources)

    virial = jax.grad(energy)(jnp.zeros((3, 3)))
    for a, b in itertools.product(range(3), repeat=2):
        step = jnp.zeros((3, 3)).at[a, b].set(1e-4)
        difference = (energy(step) - energy(-step)) / 2e-4
        np.testing.assert_allclose(virial[a, b], difference, rtol=1e-5, atol=1e-6)


def test_potential_is_the_derivative():
    positions, cell, sources = arrays(make_atoms()[0], CELL, make_atoms()[1])
    for solver in (make_solver(accuracy=1e-3), make_solver(accuracy=1e-3, method="mesh"), make_solver(pbc=False)):
        expected = jax.jit(jax.grad(ewald.energy, 3))(solver, positions, cell, sources)
        found = jax.jit(ewald.potential)(solver, positions, cell, sources)
        np.testing.assert_allclose(found, expected, rtol=1e-10 if X64 else 1e-3)


def test_what_it_does_not_have_is_refused():
    positions, cell, sources = arrays(make_atoms()[0], CELL, make_atoms()[1])
    with pytest.raises(ValueError, match=r"is a slab, which the interaction InversePower6\(\) does not have"):
        make_solver(pbc=(True, True, False))
    for pbc in (True, False):
        solver = make_solver(pbc=pbc)
        for function in (ewald.energy, ewald.potential, ewald.field):
            with pytest.raises(ValueError, match=r"`dipoles` are not part of the interaction InversePower6\(\)"):
                function(solver, positions, cell, sources, dipoles=jnp.zeros((8, 3)))
    with pytest.raises(ValueError, match=r"`quadrupoles` are not part"):
        ewald.self_energy(solver, sources, quadrupoles=jnp.zeros((8, 3, 3)))


def test_two_interactions_compile_once_each():
    positions, cell, sources = arrays(make_atoms()[0], CELL, make_atoms()[1])
    traces = []

    @jax.jit
    def energy(solver):
        traces.append(type(solver.interaction).__name__)
        return ewald.energy(solver, positions, cell, sources)

    for interaction in 2 * (ewald.Coulomb(), ewald.InversePower6()):
        energy(ewald.make_solver(CELL, True, n_atoms=8, k_cutoff=3.0, interaction=interaction))
    assert traces == ["Coulomb", "InversePower6"]
