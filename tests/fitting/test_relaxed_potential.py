"""Relaxed structures of a model: plans made on the way, derivatives by all of its parameters, a correction by them."""

import dataclasses

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import Potential, fitting, properties
from lesjax.models import CACEConfig, Induction, LatentCharges, LongRangeConfig, ModelConfig
from lesjax.system import System
from toy import make_frames, moved_potential


# parameters are drawn in the dtype: in float32 this is another model, which need not have a minimum
pytestmark = pytest.mark.skipif(not jax.config.jax_enable_x64, reason="the model has a minimum in float64")
CONFIG = ModelConfig(
    CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2),
    LongRangeConfig(LatentCharges(hidden=(4,), scale=0.5), k_cutoff=2.6),
    hidden=(4,),
)


@pytest.fixture(scope="module")
def potential():
    return moved_potential(CONFIG)


@pytest.fixture(scope="module")
def atoms():
    return make_frames(1)[0]


@pytest.fixture(scope="module")
def relaxed(potential, atoms):
    """With a skin that is too narrow for the way: the cell shrinks by a fifth."""
    return fitting.relax(Potential.energy, potential, system_of(potential, atoms), strain="isotropic", skin=0.4)


def system_of(potential, atoms, **options):
    return System.from_ase(atoms, cutoff=potential.cutoff, **options)


def test_plans_are_made_on_the_way(potential, atoms, relaxed):
    """Forces and pressure vanish with neighbours and a k-grid made from nothing at the minimum; and with its own."""
    start = potential.make_solver(system_of(potential, atoms))
    assert not start.still_valid(relaxed.system.cell)
    assert relaxed.solver.still_valid(relaxed.system.cell)
    assert np.linalg.det(relaxed.system.cell) < 0.6 * atoms.get_volume()
    final = atoms.copy()
    final.set_cell(np.asarray(relaxed.system.cell, float))
    final.set_positions(np.asarray(relaxed.system.positions, float))
    for system in (system_of(potential, final), relaxed.system):
        prediction = potential(system, relaxed.solver)
        np.testing.assert_allclose(prediction.forces, 0.0, atol=1e-8)
        np.testing.assert_allclose(jnp.trace(prediction.stress), 0.0, atol=1e-8)
        np.testing.assert_allclose(prediction.energy, relaxed.energy, atol=1e-10)


def test_one_energy_for_all_functions(potential, relaxed):
    """The Hessian at the minimum has three rigid motions and no unstable mode; forces are those of the potential."""
    compiled = jax.jit(properties.hessian, static_argnums=0, static_argnames="batch_size")
    hessian = compiled(Potential.energy, potential, relaxed.system, solver=relaxed.solver, batch_size=6)
    values = np.linalg.eigvalsh(np.asarray(hessian).reshape(12, 12))
    np.testing.assert_allclose(values[:3], 0.0, atol=1e-8)
    assert values[3] > 1e-3
    moved = dataclasses.replace(relaxed.system, positions=relaxed.system.positions.at[0, 1].add(0.1))
    energy, forces, _ = properties.energy_forces_stress(
        Potential.energy, potential, moved, solver=relaxed.solver, with_stress=False
    )
    prediction = potential(moved, relaxed.solver)
    np.testing.assert_allclose(energy, prediction.energy, rtol=1e-12)
    np.testing.assert_allclose(forces, prediction.forces, atol=1e-10)


def test_lattice_constant_corrects_the_model(potential, relaxed):
    """Derivative along a random direction of all parameters; then the smallest change that gives a measured value."""

    def length(params):
        moved = dataclasses.replace(potential, params=params)
        minimum = fitting.relax(
            Potential.energy, moved, relaxed.system, solver=relaxed.solver, strain="isotropic", skin=0.4
        )
        return jnp.cbrt(jnp.abs(jnp.linalg.det(minimum.system.cell)))

    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), potential.params)
    value, gradient = jax.value_and_grad(length)(potential.params)
    along = sum(jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    step = 1e-5
    plus, minus = (
        float(length(jax.tree.map(lambda p, d, s=s: p + s * step * d, potential.params, direction))) for s in (1, -1)
    )
    np.testing.assert_allclose(along, (plus - minus) / (2.0 * step), rtol=1e-4)

    target, params = 1.01 * float(value), potential.params
    for _ in range(4):
        value, gradient = jax.value_and_grad(length)(params)
        squared = sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient))
        params = jax.tree.map(lambda p, g, f=(target - value) / squared: p + f * g, params, gradient)
    assert float(length(params)) == pytest.approx(target, rel=1e-6)
    moved = jax.tree.map(lambda p, q: jnp.max(jnp.abs(p - q)), params, potential.params)
    assert max(map(float, jax.tree.leaves(moved))) < 0.1


def test_a_potential_needs_neighbours(potential, atoms):
    frame = fitting.Frame(jnp.asarray(atoms.positions, float), jnp.asarray(atoms.cell.array, float))
    with pytest.raises(TypeError, match=r"`system` must be a `lesjax.System` for a potential.*got a Frame"):
        fitting.relax(Potential.energy, potential, frame)


def test_total_charge_that_is_missing_is_named(potential, atoms):
    long_range = LongRangeConfig(LatentCharges(hidden=(4,), scale=0.5, constraint="total"), k_cutoff=2.6)
    other = dataclasses.replace(potential, config=dataclasses.replace(CONFIG, long_range=long_range))
    with pytest.raises(ValueError, match=r"`total_charge` .* is needed by this model"):
        fitting.relax(Potential.energy, other, system_of(other, atoms))


def test_slab_beyond_the_height_of_its_cell(potential, atoms):
    """With the solver of another structure."""
    slab = atoms.copy()
    slab.pbc = (True, True, False)
    slab.center(vacuum=2.0, axis=2)
    solver = potential.make_solver(system_of(potential, slab))
    slab.positions[np.argmax(slab.positions[:, 2]), 2] += 4.1
    with pytest.raises(ValueError, match="`positions` extend over"):
        fitting.relax(Potential.energy, potential, system_of(potential, slab), solver=solver)


@pytest.mark.slow
def test_polarization_catastrophe_at_the_minimum():
    """One atom in a cell has no forces, whatever charge is induced by its images."""
    induction = Induction(kappa=True, self_consistent=True)
    induced = LongRangeConfig(LatentCharges(hidden=(4,), scale=0.5, induction=induction), k_cutoff=2.0)
    potential = moved_potential(dataclasses.replace(CONFIG, long_range=induced))
    start = system_of(potential, ase.Atoms("Na", cell=4.0 * np.eye(3), pbc=True))
    assert np.isfinite(fitting.relax(Potential.energy, potential, start).energy)
    heads = dict(potential.params["heads"])
    heads["kappa"] = {**heads["kappa"], "bias": jnp.full_like(heads["kappa"]["bias"], 100.0)}
    polarizable = dataclasses.replace(potential, params={**potential.params, "heads": heads})
    with pytest.raises(ValueError, match=r"polarization catastrophe.*Make them smaller"):
        fitting.relax(Potential.energy, polarizable, start)
