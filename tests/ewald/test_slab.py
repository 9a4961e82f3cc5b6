"""Slabs against a two-dimensional Ewald sum written here, for Gaussian charges and without a cutoff along z."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, erfc

from lesjax import ewald
from lesjax.units import COULOMB


X64 = jax.config.jax_enable_x64
SIGMA, K_CUTOFF = 1.0, 7.0
# of the largest entry; margin and cutoff leave 1e-9
TOLERANCE = 1e-8 if X64 else 2e-5

CELLS = {
    "cubic": np.diag([5.0, 5.0, 6.0]),
    "triclinic": np.array([[4.9, 0.3, -0.2], [1.4, 5.7, 0.4], [2.1, -1.3, 6.0]]),
    "left-handed": np.array([[4.9, 0.3, -0.2], [1.4, 5.7, 0.4], [2.1, -1.3, -6.0]]),
}
# which is the lattice vector without periodicity
CASES = [("cubic", 2), ("triclinic", 2), ("triclinic", 1), ("triclinic", 0), ("left-handed", 2)]


def slow_sum(positions, cell, charges, axis, sigma=SIGMA):
    r"""Energy and forces of a slab, numpy, float64.

    The pair potential is :math:`\frac{1}{A} \sum_{k_p} e^{i k_p \rho} u(k_p, z)` with, for charges in e,

    u = C (π/k) [e^{kz} erfc(kσ/√2 + z/(√2σ)) + e^{-kz} erfc(kσ/√2 - z/(√2σ))],
    u(0, z) = -2π C [z erf(z/(√2σ)) + σ √(2/π) e^{-z²/2σ²}]

    (Parry, Surf. Sci. 49, 433 (1975), with the smearing of the charges in the place of the splitting).
    """
    first, second = (cell[i] for i in range(3) if i != axis)
    normal = np.cross(first, second)
    area = np.linalg.norm(normal)
    normal /= area
    reciprocal = 2 * math.pi * np.linalg.inv(np.stack([first, second, normal])).T[:2]
    n = np.mgrid[-9:10, -9:10].reshape(2, -1).T
    k = n[np.any(n != 0, axis=1)] @ reciprocal
    length = np.linalg.norm(k, axis=1)[:, None, None]
    vectors = positions[:, None] - positions[None]
    z = vectors @ normal
    with np.errstate(over="ignore", invalid="ignore"):
        plus = np.exp(length * z) * erfc(length * sigma / math.sqrt(2) + z / (math.sqrt(2) * sigma))
        minus = np.exp(-length * z) * erfc(length * sigma / math.sqrt(2) - z / (math.sqrt(2) * sigma))
    phase = np.einsum("kx,ijx->kij", k, vectors)
    u = math.pi / length * (plus + minus)
    zero = z * erf(z / (math.sqrt(2) * sigma)) + sigma * math.sqrt(2 / math.pi) * np.exp(-((z / sigma) ** 2) / 2)
    products = COULOMB / area * np.outer(charges, charges)
    energy = 0.5 * np.sum(products * ((np.cos(phase) * u).sum(0) - 2 * math.pi * zero))
    energy -= COULOMB * np.sum(charges**2) / (sigma * math.sqrt(2 * math.pi))
    in_plane = np.einsum("kij,kx->ijx", np.sin(phase) * u, k)
    along = (np.cos(phase) * math.pi * (plus - minus)).sum(0) - 2 * math.pi * erf(z / (math.sqrt(2) * sigma))
    forces = np.einsum("ij,ijx->ix", products, in_plane - along[..., None] * normal)
    return energy, forces


def slow_virial(positions, cell, charges, axis):
    """Its derivative with respect to a strain, by differences."""
    virial, step = np.zeros((3, 3)), 1e-4
    for a, b in np.ndindex(3, 3):
        for sign, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            deformation = np.eye(3)
            deformation[a, b] += sign * step
            virial[a, b] += weight * slow_sum(positions @ deformation, cell @ deformation, charges, axis)[0]
    return virial / (12 * step)


@jax.jit
def fast_sum(solver, positions, cell, charges):
    def function(positions, strain):
        deformation = jnp.eye(3, dtype=cell.dtype) + strain
        return ewald.energy(solver, positions @ deformation, cell @ deformation, charges)

    value, (gradient, virial) = jax.value_and_grad(function, (0, 1))(positions, jnp.zeros_like(cell))
    return value, -gradient, virial


def planned(positions, cell, charges, axis, sigma=SIGMA, k_cutoff=K_CUTOFF):
    pbc = [True, True, True]
    pbc[axis] = False
    solver = ewald.make_solver(cell, tuple(pbc), n_atoms=len(positions), sigma=sigma, k_cutoff=k_cutoff)
    solver.check_atoms(positions, cell)
    return fast_sum(solver, *(jnp.asarray(x, float) for x in (positions, cell, charges)))


def assert_equal(found, expected, tolerance=TOLERANCE):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


def make_slab(name="triclinic", axis=2, charge=0.0):
    """Six atoms, two of them at the bottom and the top of the cell."""
    rng = np.random.default_rng(7)
    order = np.roll([0, 1, 2], axis - 2)
    cell = CELLS[name][np.argsort(order)]
    fractional = rng.uniform(0, 1, (6, 3))
    fractional[:2, axis] = 0.0, 1.0
    charges = rng.normal(size=6)
    return fractional @ cell, cell, charges - charges.mean() + charge / 6


@pytest.mark.parametrize("charge", [0.0, 2.0], ids=["neutral", "charged"])
@pytest.mark.parametrize(("name", "axis"), CASES)
def test_two_dimensional_sum(name, axis, charge):
    """Energy, forces, derivative by strain. All of these slabs have a dipole along the normal."""
    positions, cell, charges = make_slab(name, axis, charge)
    normal = np.linalg.inv(cell)[:, axis]
    assert abs(charges @ positions @ normal / np.linalg.norm(normal)) > 1.0
    expected = *slow_sum(positions, cell, charges, axis), slow_virial(positions, cell, charges, axis)
    assert_equal(planned(positions, cell, charges, axis), expected)


def test_reference_is_an_ewald_sum():
    """Its forces are the derivative of its energy."""
    positions, cell, charges = make_slab(charge=1.0)
    step = 1e-4
    forces = np.zeros_like(positions)
    for index in np.ndindex(*positions.shape):
        for sign in (1, -1):
            moved = positions.copy()
            moved[index] += sign * step
            forces[index] -= sign * slow_sum(moved, cell, charges, 2)[0] / (2 * step)
    np.testing.assert_allclose(slow_sum(positions, cell, charges, 2)[1], forces, atol=1e-6)


@pytest.mark.parametrize("height", [0.5, 6.0])
def test_madelung_constant_of_a_checkerboard(height):
    """A plane of alternating unit charges, -1.615542626712824 over the nearest distance.

    Borwein, Borwein and Taylor, J. Math. Phys. 26, 2999 (1985): 4 (√2 - 1) ζ(1/2) β(1/2).
    """
    nearest = 1.0
    cell = np.array([[nearest, nearest, 0.0], [nearest, -nearest, 0.0], [0.3, 0.2, height]])
    sigma = nearest / 7.2
    positions, charges = np.array([[0.0, 0.0, 0.0], [nearest, 0.0, 0.0]]), np.array([1.0, -1.0])
    energy, forces, virial = planned(positions, cell, charges, 2, sigma=sigma, k_cutoff=7.2 / sigma)
    expected = -COULOMB * 1.615542626712824 / nearest
    np.testing.assert_allclose(energy, expected, rtol=1e-9 if X64 else 2e-5)
    np.testing.assert_allclose(forces, 0.0, atol=1e-9 if X64 else 1e-3)
    # an energy of points in a plane goes with the inverse length; nothing pulls along the normal
    np.testing.assert_allclose(np.diag(virial), [-expected / 2, -expected / 2, 0.0], atol=1e-7 if X64 else 2e-3)


@pytest.mark.parametrize("charge", [0.0, 2.0], ids=["neutral", "charged"])
def test_vacuum_and_third_vector_carry_nothing(charge):
    positions, cell, charges = make_slab(charge=charge)
    for third in (cell[2] * 1.7, cell[2] + 1.3 * cell[0] - 2.2 * cell[1], -cell[2], cell[2] * 1.05):
        other = np.stack([cell[0], cell[1], third])
        assert_equal(planned(positions, other, charges, 2), planned(positions, cell, charges, 2))


def test_atoms_that_stick_out_of_the_cell():
    positions, cell, charges = make_slab()
    normal = np.cross(cell[0], cell[1]) / np.linalg.norm(np.cross(cell[0], cell[1]))
    for shift in (3.3, -17.0):
        assert_equal(
            planned(positions + shift * normal, cell, charges, 2)[:2], planned(positions, cell, charges, 2)[:2]
        )
    # through the side, each by another lattice vector
    images = np.random.default_rng(0).integers(-3, 4, (6, 2)) @ cell[:2]
    assert_equal(planned(positions + images, cell, charges, 2)[:2], planned(positions, cell, charges, 2)[:2])


def test_plate_capacitor():
    """Two charged planes: the force between them is that of their field, however far apart."""
    cell = np.diag([1.0, 1.0, 9.0])
    for distance in (6.0, 9.0):
        positions, charges = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]]), np.array([1.0, -1.0])
        forces = planned(positions, cell, charges, 2)[1]
        np.testing.assert_allclose(forces[:, 2] / (2 * math.pi * COULOMB), [1.0, -1.0], rtol=TOLERANCE)


def test_default_accuracy():
    """The error of the forces for uncorrelated charges is a few hundredths of the one asked for."""
    if not X64:
        pytest.skip("needs JAX_ENABLE_X64=1: the error is as small as float32 rounds")
    rng = np.random.default_rng(0)
    cell = np.array([[9.0, 0.0, 0.0], [2.0, 8.5, 0.0], [-3.0, 1.0, 9.0]])
    positions, charges = rng.uniform(0, 1, (40, 3)) @ cell, rng.normal(size=40)
    exact = slow_sum(positions, cell, charges, 2, sigma=1.0)[1]
    solver = ewald.make_solver(cell, (True, True, False), n_atoms=40)
    forces = fast_sum(solver, *map(jnp.asarray, (positions, cell, charges)))[1]
    assert 5e-7 < np.linalg.norm(forces - exact) / np.linalg.norm(exact) < 1e-5


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (np.diag([5.0, 5.0, 0.0]), r"`cell` has no height along the normal of the slab: .*lattice vector 2 .*vacuum"),
        (np.array([[5.0, 0, 0], [0, 5.0, 0], [3.0, 2.0, 0]]), r"`cell` has no height"),
        (np.array([[5.0, 0, 0], [5.0, 0, 0], [3.0, 2.0, 9.0]]), r"`cell` is singular in its periodic plane"),
        (np.diag([5.0, 0.0, 9.0]), r"`cell` is singular in its periodic plane, without lattice vector 2"),
        (np.diag([5.0, np.nan, 9.0]), r"`cell` must be finite numbers"),
    ],
)
def test_cells_that_are_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        ewald.make_solver(cell, (True, True, False), n_atoms=2)


def test_atoms_further_apart_than_the_cell_is_high():
    positions, cell, charges = make_slab()
    with pytest.raises(ValueError, match=r"`positions` extend over .* Å along the normal .*height .*Unwrap"):
        planned(positions * [[1.0], [1.01], [1.0], [1.0], [1.0], [1.0]], cell, charges, 2)


def test_stack_of_different_normals():
    _, cell, _ = make_slab()
    solvers = [ewald.make_solver(cell, pbc, n_atoms=6) for pbc in ((True, True, False), (True, False, True))]
    with pytest.raises(ValueError, match=r"of one interaction to be stacked, got .*axis=1.*axis=2"):
        ewald.stack_solvers(solvers)
