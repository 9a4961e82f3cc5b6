"""The interpolating engines against the converged direct sum, and their plans."""

import dataclasses
import importlib.util
import math
import sys

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import ewald
from lesjax.ewald.solvers import mesh_plan, spline


X64 = jax.config.jax_enable_x64
METHODS = ["mesh"] + ["nufft"] * (importlib.util.find_spec("jax_finufft") is not None)
CELLS = {
    "cubic": np.eye(3) * 11.0,
    "elongated": np.diag([7.0, 8.0, 24.0]),
    "skewed": np.array([[11.0, 0.0, 0.0], [5.5, 10.0, 0.0], [-4.0, 3.0, 11.0]]),
}

needs_x64 = pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1: the error is as small as float32 rounds")
gradient = jax.jit(jax.grad(ewald.energy, 1))


def relative_error(cell, positions, charges, **options):
    """Of the forces, in the norm of all."""
    arrays = [jnp.asarray(x, float) for x in (positions, cell, charges)]
    found, exact = (
        gradient(ewald.make_solver(cell, True, n_atoms=len(charges), **chosen), *arrays)
        for chosen in (options, {"accuracy": 1e-7 if X64 else 1e-5, "method": "direct"})
    )
    return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))


def random_system(cell, clustered=False):
    rng = np.random.default_rng(7)
    n = round(0.08 * abs(np.linalg.det(cell)))
    fractional = 0.5 + 0.1 * rng.normal(size=(n, 3)) if clustered else rng.uniform(0, 1, (n, 3))
    return fractional @ cell, rng.normal(size=n)


# ---- against the direct sum


@needs_x64
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "clustered", "accuracy"),
    [
        ("cubic", False, 1e-3),
        ("cubic", True, 1e-4),
        ("elongated", False, 1e-4),
        ("elongated", True, 1e-3),
        ("skewed", False, 1e-5),
        ("skewed", True, 1e-4),
    ],
)
def test_accuracy(name, clustered, accuracy, method):
    """Within what was asked for, by the factor that crystals need."""
    error = relative_error(CELLS[name], *random_system(CELLS[name], clustered), accuracy=accuracy, method=method)
    assert accuracy / 500 < error < accuracy / 5


@needs_x64
def test_accuracy_in_another_cell_of_the_same_lattice():
    """The plan knows how oblique a cell is."""
    cell = CELLS["cubic"]
    positions, charges = random_system(cell)
    for sheared in (cell + 2 * cell[[1, 0, 2]] * [[0], [1], [0]], cell + 2 * (cell[0] + cell[1]) * [[0], [0], [1]]):
        assert relative_error(sheared, positions, charges, accuracy=1e-4, method="mesh") < 1e-4


@needs_x64
@pytest.mark.parametrize("method", ["direct", *METHODS])
@pytest.mark.parametrize("accuracy", [1e-3, 1e-4])
def test_accuracy_in_water(shared_path, accuracy, method):
    """A molecular liquid screens its charges, which makes its relative error larger than that of random charges."""
    water = ase.io.read(shared_path("data/water/rpbe_d3_40.xyz"), 0)
    charges = np.where(water.numbers == 8, -0.8, 0.4)
    error = relative_error(water.cell[:], water.positions, charges, accuracy=accuracy, method=method)
    assert accuracy / 100 < error < accuracy


@needs_x64
@pytest.mark.parametrize("order", [4, 7])
@pytest.mark.parametrize("spacing", [0.55, 0.9])
def test_error_estimate(order, spacing):
    """The error of a given mesh, without that of the cutoff, for uncorrelated charges, within a factor of 1.5."""
    cell, cutoff = CELLS["cubic"] * 1.2, 3.2
    positions, charges = random_system(cell)
    # the force of a charge on itself grows with its square, so that large charges among small ones make more error
    charges = np.sign(charges)
    size = round(cell[0, 0] / spacing)
    direct, planned = (
        ewald.make_solver(cell, True, n_atoms=len(charges), k_cutoff=cutoff, method=method)
        for method in ("direct", "mesh")
    )
    arrays = [jnp.asarray(x) for x in (positions, cell, charges)]
    exact = gradient(direct, *arrays)
    found = gradient(dataclasses.replace(planned, mesh=(size, size, size), order=order), *arrays)
    error = float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))
    density = len(charges) / np.linalg.det(cell)
    estimate = mesh_plan.mesh_error(
        np.full(3, cell[0, 0] / size), order, cutoff, sigma=1.0, density=density, interaction=ewald.Coulomb()
    )
    assert estimate / 1.5 < error < estimate * 1.5


def test_all_atoms_in_one_cell_of_the_mesh():
    """No bin that could overflow: every atom counts, wherever it is."""
    cell = np.eye(3) * 9.0
    positions = np.full((40, 3), 4.5) + np.random.default_rng(3).uniform(0, 0.05, (40, 3))
    error = relative_error(cell, positions, np.ones(40), accuracy=1e-4, method="mesh")
    assert error < 1e-3
    ones = jnp.ones((1, 40, 1))
    scaled = jnp.asarray(positions)[None] / 0.5
    mesh = spline.spread(scaled, ones, terms=((0, 0, 0),), shape=(18, 18, 18), order=6)
    np.testing.assert_allclose(jnp.sum(mesh), 40.0, rtol=1e-5)


def test_sorting_of_large_meshes(monkeypatch):
    """Points are visited by columns once the mesh is large; the sum is the same."""
    rng = np.random.default_rng(0)
    scaled, values = jnp.asarray(rng.uniform(-20, 40, (1, 30, 3))), jnp.asarray(rng.normal(size=(1, 30, 2)))
    terms, plan = ((0, 0, 0), (0, 1, 1)), ((18, 12, 20), 5)
    results = []
    for limit in (2**18, 1):
        monkeypatch.setattr(spline, "_CACHED_MESH", limit)
        results.append(jax.jit(lambda *x: spline._spread_loop(*x, terms=terms, plan=plan))(scaled, values))
    results.append(jax.jit(lambda *x: spline._spread_windows(*x, terms=terms, plan=plan))(scaled, values))
    for other in results[1:]:
        np.testing.assert_allclose(results[0], other, rtol=0, atol=1e-12 if X64 else 1e-5)


# ---- while the cell drifts


@needs_x64
@pytest.mark.parametrize("method", METHODS)
def test_smooth_along_a_strain(method):
    """±3 % in steps of 1e-4 with one plan: no jump, and the slope is the stress."""
    cell, n_atoms = CELLS["skewed"], 30
    rng = np.random.default_rng(1)
    positions, charges = rng.uniform(0, 1, (n_atoms, 3)) @ cell, jnp.asarray(rng.normal(size=n_atoms))
    solver = ewald.make_solver(cell, True, n_atoms=n_atoms, method=method)
    direction = jnp.asarray([[1.0, 0.2, 0.0], [0.2, -0.3, 0.1], [0.0, 0.1, 0.6]])

    @jax.jit
    def strained(strain):
        deformation = jnp.eye(3) + strain * direction
        return ewald.energy(solver, jnp.asarray(positions) @ deformation, jnp.asarray(cell) @ deformation, charges)

    steps = np.arange(-0.03, 0.03 + 1e-9, 1e-4)
    both = jax.jit(lambda all_steps: jax.lax.map(jax.value_and_grad(strained), all_steps))
    energies, slopes = both(jnp.asarray(steps))
    # what a smooth function leaves after Simpson's rule over two steps
    jumps = energies[2:] - energies[:-2] - 1e-4 / 3 * (slopes[2:] + 4 * slopes[1:-1] + slopes[:-2])
    # 1e-6 eV/atom is asked for; the finufft library's kernel is smooth to its tolerance only
    assert np.abs(jumps).max() < (1e-8 if method == "mesh" else 1e-6) * n_atoms
    step = 1e-5
    difference = (strained(0.01 + step) - strained(0.01 - step)) / (2 * step)
    np.testing.assert_allclose(difference, jax.grad(strained)(0.01), rtol=1e-7 if method == "mesh" else 1e-3)


@needs_x64
def test_error_where_the_plan_is_still_valid():
    """At the limit, it is at most twice that of a new plan's."""
    cell = CELLS["skewed"]
    solver = ewald.make_solver(cell, True, n_atoms=100, method="mesh", accuracy=1e-4)
    stretched = cell * 1.029
    assert solver.still_valid(stretched)
    positions, charges = random_system(stretched)
    arrays = [jnp.asarray(x) for x in (positions, stretched, charges)]
    exact = gradient(ewald.make_solver(stretched, True, n_atoms=len(charges), accuracy=1e-7, method="direct"), *arrays)
    error = jnp.linalg.norm(gradient(solver, *arrays) - exact) / jnp.linalg.norm(exact)
    assert error < 2e-4


# ---- planning


def test_auto_takes_the_mesh_for_many_atoms():
    cell = np.eye(3) * 20.0
    assert isinstance(ewald.make_solver(cell, True, n_atoms=100), ewald.DirectSolver)
    solver = ewald.make_solver(cell, True, n_atoms=1000)
    assert isinstance(solver, ewald.MeshSolver)
    assert all(max(_primes(n)) <= 5 for n in solver.mesh)
    # no dependence on the orientation or on the handedness
    assert ewald.make_solver(cell[[1, 0, 2]], True, n_atoms=1000).mesh == solver.mesh


def _primes(n):
    return [p for p in range(2, n + 1) if n % p == 0 and all(p % q for q in range(2, math.isqrt(p) + 1))]


def test_five_smooth():
    assert [mesh_plan.five_smooth(n) for n in (7, 11, 17, 31, 97, 128)] == [8, 12, 18, 32, 100, 128]


def test_nufft_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax_finufft", None)
    with pytest.raises(ImportError, match=r"lesjax\[nufft\].*method='mesh'"):
        ewald.make_solver(CELLS["cubic"], True, n_atoms=10, method="nufft")
