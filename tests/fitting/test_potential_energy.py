"""Relaxed structures of a model: plans made on the way, derivatives by all of its parameters, a correction by them."""

import dataclasses

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import fitting
from lesjax.models.config import CACEConfig, LongRangeConfig, ModelConfig
from lesjax.system import System
from toy import make_frames, moved_potential


# parameters are drawn in the dtype: in float32 this is another model, which need not have a minimum
pytestmark = pytest.mark.skipif(not jax.config.jax_enable_x64, reason="the model has a minimum in float64")
CONFIG = ModelConfig(
    CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2),
    LongRangeConfig(hidden=(4,), charge_scale=0.5, k_cutoff=2.6),
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
    """With a skin that is too narrow for the way: the cell grows by 5 %."""
    energy = fitting.potential_energy(potential, atoms, skin=0.4)
    return fitting.relax(energy, potential.params, positions(atoms), atoms.cell.array, strain="isotropic")


def positions(atoms):
    return jnp.asarray(atoms.positions, float)


def test_plans_are_made_on_the_way(potential, atoms, relaxed):
    """Forces and pressure vanish with a neighbour list and a k-grid made from nothing at the minimum."""
    start = fitting.potential_energy(potential, atoms, skin=0.4)
    assert not start.holds(relaxed.positions, relaxed.cell)
    assert isinstance(relaxed.energy_fn, fitting.PotentialEnergy)
    assert relaxed.energy_fn.holds(relaxed.positions, relaxed.cell)
    assert np.linalg.det(relaxed.cell) > 1.1 * atoms.get_volume()
    final = atoms.copy()
    final.set_cell(np.asarray(relaxed.cell, float))
    final.set_positions(np.asarray(relaxed.positions, float))
    solver = relaxed.energy_fn.solver
    found = potential(System.from_ase(final, cutoff=potential.cutoff), solver)
    np.testing.assert_allclose(found.forces, 0.0, atol=1e-8)
    np.testing.assert_allclose(jnp.trace(found.stress), 0.0, atol=1e-8)
    np.testing.assert_allclose(found.interaction_energy, relaxed.energy, atol=1e-10)


def test_lattice_constant_corrects_the_model(potential, relaxed):
    """Derivative along a random direction of all parameters; then the smallest change that gives a measured value."""

    def length(params):
        found = fitting.relax(relaxed.energy_fn, params, relaxed.positions, relaxed.cell, strain="isotropic")
        return jnp.cbrt(jnp.abs(jnp.linalg.det(found.cell)))

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


def test_periodic_model_needs_a_cell(potential, atoms):
    energy = fitting.potential_energy(potential, atoms)
    with pytest.raises(ValueError, match=r"`energy_fn` is periodic and needs a `cell`.*pbc=False"):
        fitting.relax(energy, potential.params, positions(atoms))


def test_total_charge_that_is_missing_is_named(potential, atoms):
    long_range = dataclasses.replace(CONFIG.long_range, charge_constraint="total")
    other = dataclasses.replace(potential, config=dataclasses.replace(CONFIG, long_range=long_range))
    with pytest.raises(ValueError, match=r"`total_charge` .* is needed by this model"):
        fitting.potential_energy(other, atoms)


def test_slab_beyond_the_height_of_its_cell(potential, atoms):
    slab = atoms.copy()
    slab.pbc = (True, True, False)
    slab.center(vacuum=2.0, axis=2)
    energy = fitting.potential_energy(potential, slab)
    far = slab.positions.copy()
    far[np.argmax(far[:, 2]), 2] += 4.1
    with pytest.raises(ValueError, match="`positions` extend over"):
        energy.renewed(jnp.asarray(far), jnp.asarray(slab.cell.array))


def test_polarization_catastrophe_at_the_minimum():
    """One atom in a cell has no forces, whatever charge is induced by its images."""
    induced = LongRangeConfig(hidden=(4,), charge_scale=0.5, k_cutoff=2.0, induction="self_consistent", hardness=True)
    potential = moved_potential(dataclasses.replace(CONFIG, long_range=induced))
    sodium = ase.Atoms("Na", cell=4.0 * np.eye(3), pbc=True)
    energy = fitting.potential_energy(potential, sodium)
    start = positions(sodium), sodium.cell.array
    assert np.isfinite(fitting.relax(energy, potential.params, *start).energy)
    heads = dict(potential.params["params"]["heads"])
    heads["kappa"] = {**heads["kappa"], "bias": jnp.full_like(heads["kappa"]["bias"], 100.0)}
    with pytest.raises(ValueError, match=r"polarization catastrophe.*Make them smaller"):
        fitting.relax(energy, {"params": {**potential.params["params"], "heads": heads}}, *start)
