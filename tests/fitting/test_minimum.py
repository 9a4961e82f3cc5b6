"""Relaxed structures and their derivatives against finite differences of relaxed structures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystals import make_energy, parameters, rock_salt
from lesjax import fitting, properties
from lesjax.system import System
from lesjax.units import BAR


X64 = jax.config.jax_enable_x64
needs_x64 = pytest.mark.skipif(not X64, reason="finite differences need float64")
GUESS = 5.5
STEP = 1e-4


@pytest.fixture(scope="module")
def crystal():
    """Energy of eight ions, its solver, and a start with displaced atoms in a strained cell."""
    positions, cell, signs = rock_salt(GUESS)
    rng = np.random.default_rng(0)
    deform = jnp.asarray(np.eye(3) + np.diag([0.02, -0.01, 0.0]))
    moved = positions + jnp.asarray(0.05 * rng.normal(size=positions.shape))
    return *make_energy(positions, cell, signs), fitting.Frame(moved @ deform, cell @ deform)


def assert_derivative(observe, params, **options):
    """Compare `jax.grad` by each parameter with central differences."""
    gradient = jax.grad(observe)(params)
    for name, value in params.items():
        plus, minus = (float(observe(params | {name: value + s * STEP})) for s in (1, -1))
        np.testing.assert_allclose(gradient[name], (plus - minus) / (2.0 * STEP), **({"rtol": 1e-5} | options))


def lengths(relaxed):
    return jnp.linalg.norm(relaxed.system.cell, axis=1)


def molecule(positions):
    return fitting.Frame(jnp.asarray(positions), jnp.zeros((3, 3)))


def test_crystal_relaxes_to_rock_salt(crystal):
    energy, solver, start = crystal
    relaxed = fitting.relax(energy, parameters(), start, solver=solver, strain="full")
    system = relaxed.system
    atol = 1e-8 if X64 else 2e-3
    np.testing.assert_allclose(lengths(relaxed), float(lengths(relaxed)[0]), atol=atol)
    np.testing.assert_allclose(system.cell @ system.cell.T, lengths(relaxed)[0] ** 2 * np.eye(3), atol=10 * atol)
    apart = (system.positions[4:] - system.positions[:1]) / lengths(relaxed)[0]
    np.testing.assert_allclose(apart - np.round(2.0 * apart) / 2.0, 0.0, atol=atol)
    forces = jax.jit(properties.energy_forces_stress, static_argnums=0, static_argnames="with_stress")(
        energy, parameters(), system, solver=solver, with_stress=False
    )[1]
    np.testing.assert_allclose(forces, 0.0, atol=2e-9 if X64 else 2e-3)
    assert system.positions.dtype == start.positions.dtype


@needs_x64
def test_derivative_of_the_lattice_constant(crystal):
    energy, solver, start = crystal

    def lattice_constant(params):
        return jnp.mean(lengths(fitting.relax(energy, params, start, solver=solver, strain="full")))

    assert_derivative(lattice_constant, parameters())


SHIFTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
IMAGES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], float)


def lattice(params, system, solver):
    """Springs between two atoms and between their images, which hold all of a cell without symmetry."""
    positions, cell = system.positions, system.cell
    apart = positions[1:] - positions[:1] - jnp.asarray(SHIFTS) @ cell
    bonds = jnp.sum(apart**2, axis=1) - jnp.asarray([3.0, 3.5, 4.5, 5.0])
    edges = jnp.sum((jnp.asarray(IMAGES) @ cell) ** 2, axis=1) - jnp.asarray([8.0, 9.0, 10.0, 16.0, 19.0, 18.0])
    return params * jnp.sum(bonds**2) + jnp.sum(edges**2)


@needs_x64
@pytest.mark.parametrize("strain", ["none", "isotropic", "full"])
def test_derivative_by_the_cell(strain):
    """What of the cell is not free has derivatives; what is free has none, but that of the orientation of the cell."""
    rng = np.random.default_rng(1)
    change = jnp.asarray(rng.normal(size=(3, 3)))
    positions = jnp.asarray([[0.0, 0.0, 0.0], [1.3, 1.4, 1.5]])

    def observe(strength):
        start = fitting.Frame(positions, 3.0 * jnp.eye(3) + strength * change)
        relaxed = fitting.relax(lattice, 1.0, start, strain=strain)
        relaxed_positions, cell = relaxed.system.positions, relaxed.system.cell
        apart = jnp.linalg.norm(relaxed_positions[1] - relaxed_positions[0])
        return jnp.stack([relaxed.energy, apart, *(cell @ cell.T).ravel()])

    found, step = jax.jacrev(observe)(0.1), 1e-4
    expected = (observe(0.1 + step) - observe(0.1 - step)) / (2.0 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(observe)(0.1), found, rtol=1e-9, atol=1e-9)
    assert np.all(np.abs(found) < 1e-9) if strain == "full" else np.all(np.abs(found) > 0.01)


@needs_x64
def test_pressure_and_elastic_constants(crystal):
    """dV/dp = -V/B with B = (C11 + 2 C12) / 3; C against energies of relaxed, strained cells; their derivatives."""
    energy, solver, start = crystal
    params = parameters()
    free = fitting.relax(energy, params, start, solver=solver, strain="full").system

    @jax.jit
    def constants(params, system):
        return properties.elastic_constants(energy, params, system, solver=solver)

    found = constants(params, free)
    cubic = np.diag([found[0, 0] - found[0, 1]] * 3 + [found[3, 3]] * 3)
    cubic[:3, :3] += found[0, 1]
    np.testing.assert_allclose(found, cubic, atol=1e-8)

    def volume(pressure):
        squeezed = fitting.relax(energy, params, free, solver=solver, strain="full", pressure=pressure)
        return jnp.abs(jnp.linalg.det(squeezed.system.cell))

    slope = jax.grad(volume)(0.0)
    np.testing.assert_allclose(slope, -volume(0.0) * 3.0 * BAR / (found[0, 0] + 2.0 * found[0, 1]), rtol=1e-6)
    np.testing.assert_allclose(slope, (volume(100.0) - volume(-100.0)) / 200.0, rtol=1e-4)

    def shear(params):
        return constants(params, fitting.relax(energy, params, free, solver=solver, strain="full").system)[3, 3]

    assert_derivative(shear, params)


@needs_x64
def test_derivative_of_a_frequency_of_the_relaxed_crystal(crystal):
    """Of the highest mode: by the parameters, and by the lattice constant that follows them."""
    energy, solver, start = crystal
    masses = np.repeat([22.98977, 35.45], 4)

    @jax.jit
    def highest(params, system):
        hessian = properties.hessian(energy, params, system, solver=solver)
        return properties.normal_modes(hessian, masses).frequencies[-1]

    def observe(params):
        return highest(params, fitting.relax(energy, params, start, solver=solver, strain="full").system)

    assert_derivative(observe, parameters())


def water(params, system, solver):
    """Bonds, an angle and a repulsion that stretches them: no coordinate stays at its own minimum."""
    positions = system.positions
    first, second = positions[1] - positions[0], positions[2] - positions[0]
    cosine = jnp.sum(first * second) / (jnp.linalg.norm(first) * jnp.linalg.norm(second))
    bonds = (jnp.linalg.norm(first) - params["bond"]) ** 2 + (jnp.linalg.norm(second) - params["bond"]) ** 2
    repulsion = 1.0 / jnp.linalg.norm(first - second)
    return params["stiffness"] * bonds + 3.0 * (cosine - params["cosine"]) ** 2 + repulsion


WATER = {"bond": 0.96, "stiffness": 20.0, "cosine": -0.25}
BENT = np.array([[0.3, 0.1, 0.0], [1.2, 0.2, 0.1], [0.0, 1.0, -0.1]])


def water_parameters(**changes):
    return {name: jnp.asarray(value, float) for name, value in (WATER | changes).items()}


def bond_length(params, start=BENT):
    positions = fitting.relax(water, params, molecule(start)).system.positions
    return jnp.linalg.norm(positions[1] - positions[0])


@needs_x64
def test_derivatives_of_a_bond_length():
    """First and second, with translations and rotations free; forward as well."""
    params = water_parameters()
    assert_derivative(bond_length, params)
    reverse, forward = jax.grad(bond_length)(params), jax.jacfwd(bond_length)(params)
    np.testing.assert_allclose(list(forward.values()), list(reverse.values()), rtol=1e-9)
    second = jax.grad(lambda params: jax.grad(bond_length)(params)["bond"])(params)
    plus, minus = (jax.grad(bond_length)(water_parameters(cosine=-0.25 + s * STEP))["bond"] for s in (1, -1))
    np.testing.assert_allclose(second["cosine"], (plus - minus) / (2.0 * STEP), rtol=1e-5)


def test_rigid_motions_have_no_derivative():
    """What depends on the orientation follows the deformation alone: its shift and its turn are zero."""
    params = water_parameters()

    def positions(params):
        return fitting.relax(water, params, molecule(BENT)).system.positions

    relaxed, derivative = positions(params), jax.jacrev(positions)(params)["cosine"]
    atol = 1e-9 if X64 else 1e-4
    assert np.abs(derivative).max() > 0.05
    np.testing.assert_allclose(derivative.sum(axis=0), 0.0, atol=atol)
    np.testing.assert_allclose(np.cross(relaxed, derivative).sum(axis=0), 0.0, atol=atol)


def test_a_molecule_relaxes_again():
    """From its own result, and as a system without periodic directions in a box, which keeps the box."""
    params = water_parameters()
    once = fitting.relax(water, params, molecule(BENT))
    again = fitting.relax(water, params, once.system)
    np.testing.assert_array_equal(again.system.cell, np.zeros((3, 3)))
    box = System.from_arrays(BENT, 9.0 * np.eye(3), [8, 1, 1], False, cutoff=3.0)
    boxed = fitting.relax(water, params, box)
    np.testing.assert_allclose(boxed.energy, once.energy, rtol=1e-9 if X64 else 1e-5)
    np.testing.assert_array_equal(boxed.system.cell, 9.0 * np.eye(3))
    np.testing.assert_array_equal(boxed.system.atomic_numbers, [8, 1, 1])
    np.testing.assert_allclose(again.energy, once.energy, rtol=1e-9 if X64 else 1e-5)


@pytest.mark.skipif(not X64, reason="both starts agree to rounding in float64")
def test_linear_molecule_has_two_rotations():
    params = water_parameters(cosine=-1.5)
    bent, straight = (bond_length(params, start) for start in (BENT, BENT * [[1.0, 0.0, 0.0]]))
    assert np.isfinite(float(straight))
    assert float(bent) == pytest.approx(float(straight), rel=1e-6)


def test_saddle_point_is_refused():
    with pytest.raises(fitting.MinimumError, match=r"saddle point.*Displace the atoms at random"):
        fitting.relax(water, water_parameters(), molecule([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))


def test_singular_hessian_is_refused():
    """An atom that interacts with nothing; and a molecule in a fixed cell, whose rotations are not free."""
    params = water_parameters()
    with pytest.raises(fitting.MinimumError, match="The Hessian is singular: a soft mode or a free part"):
        fitting.relax(water, params, molecule(np.concatenate([BENT, [[5.0, 5.0, 5.0]]])))
    with pytest.raises(fitting.MinimumError, match="a `Frame` with a cell of zeros, so that its rotations are free"):
        fitting.relax(water, params, fitting.Frame(jnp.asarray(BENT), 9.0 * jnp.eye(3)))


def test_minimum_that_is_not_found():
    params, start = water_parameters(), molecule(BENT)
    with pytest.raises(fitting.MinimumError, match=r"not found in 1 steps: the gradient is .* Raise `max_iterations`"):
        fitting.relax(water, params, start, max_iterations=1)
    with pytest.raises(fitting.MinimumError, match=r"rounding leaves a gradient of .* Raise `tolerance`"):
        fitting.relax(water, params, start, tolerance=0.0)
    with pytest.raises(fitting.MinimumError, match="is not finite: check `system` and `params`"):
        fitting.relax(water, params, molecule(start.positions.at[1].set(jnp.nan)))


def test_wrong_arguments():
    params, start = water_parameters(), molecule(BENT)
    with pytest.raises(ValueError, match="`strain` must be one of 'none', 'isotropic', 'full', got 'cubic'"):
        fitting.relax(water, params, start, strain="cubic")
    with pytest.raises(ValueError, match="`strain` = 'full' needs a periodic cell with a volume"):
        fitting.relax(water, params, start, strain="full")
    with pytest.raises(ValueError, match="`pressure` acts on a free cell"):
        fitting.relax(water, params, start, pressure=0.1)
    with pytest.raises(TypeError, match=r"call it outside of jit and vmap.*`compiled=False`"):
        jax.jit(bond_length)(params)
