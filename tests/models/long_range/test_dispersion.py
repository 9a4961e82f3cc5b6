"""Learned dispersion, alone and with charges: the potential, and all that it is used for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.fd import calculate_numerical_forces
from jax_md import quantity

import toy
from lesjax import ewald, load
from lesjax.dynamics import LesCalculator, Settings, energy_neighbor_list, simulate
from lesjax.models import DispersionConfig, Ensemble, LatentCharges, LongRangeConfig, ModelConfig, load_ensemble
from lesjax.system import System
from lesjax.training import evaluate, load_config, train
from toy_model import ToyConfig


X64 = jax.config.jax_enable_x64
needs_x64 = pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")
SHORT_RANGE = ToyConfig((11, 17))
CHARGES = LongRangeConfig(LatentCharges(hidden=()), k_cutoff=2.0)
DISPERSION = DispersionConfig(hidden=(3,), accuracy=1e-3, scale=3.0)
MODELS = {
    "alone": ModelConfig(SHORT_RANGE, None, hidden=(), dispersion=DISPERSION),
    "charges": ModelConfig(SHORT_RANGE, CHARGES, hidden=(), dispersion=DISPERSION),
}


@pytest.fixture(scope="module", params=MODELS)
def potential(request):
    return toy.moved_potential(MODELS[request.param])


def make_system(scale=1.0, pbc=True, repeats=1):
    atoms = toy.make_frame(np.random.default_rng(2)).repeat((repeats, 1, 1))
    atoms.set_cell(scale * atoms.cell.array, scale_atoms=False)
    return System.from_ase(atoms, cutoff=SHORT_RANGE.cutoff, pbc=pbc)


def test_energy_is_that_of_its_coefficients(potential):
    system = make_system()
    out = potential(system)
    plan = ewald.make_solver(system.cell, True, n_atoms=4, sigma=0.72, accuracy=1e-3, interaction=ewald.InversePower6())
    arrays = (jnp.asarray(system.positions), jnp.asarray(system.cell))
    expected = ewald.energy(plan, *arrays, out.dispersion_coefficients)
    np.testing.assert_allclose(out.dispersion_energy, expected, rtol=1e-12 if X64 else 1e-4)
    assert out.dispersion_energy < -0.03
    assert (out.dispersion_coefficients > 0.1).all()
    assert np.ptp(out.dispersion_coefficients) > 1e-3
    parts = out.short_range_energy + out.dispersion_energy
    if potential.config.long_range is not None:
        parts += out.long_range_energy
        assert abs(out.long_range_energy) > 1e-6
    np.testing.assert_allclose(out.energy, parts, rtol=1e-12 if X64 else 1e-5)
    np.testing.assert_allclose(np.sum(potential.atomic_energies(system)), out.total_energy, rtol=1e-10 if X64 else 1e-4)


def test_padded_and_repeated(potential):
    one, twice, padded = (potential(system) for system in (
        make_system(), make_system(repeats=2), make_system().pad_to(7, 60)
    ))  # fmt: skip
    rtol = 1e-10 if X64 else 1e-4
    for name in ("energy", "dispersion_energy"):
        np.testing.assert_allclose(getattr(padded, name), getattr(one, name), rtol=rtol)
        np.testing.assert_allclose(getattr(twice, name), 2 * getattr(one, name), rtol=rtol)
    np.testing.assert_allclose(padded.stress, one.stress, atol=rtol)
    np.testing.assert_allclose(twice.stress, one.stress, atol=rtol)
    for name in ("forces", "dispersion_coefficients"):
        found, expected = np.asarray(getattr(padded, name)), getattr(one, name)
        np.testing.assert_array_equal(found[4:], 0.0)
        np.testing.assert_allclose(found[:4], expected, atol=rtol)
        np.testing.assert_allclose(getattr(twice, name), np.concatenate([expected, expected]), atol=rtol)


@needs_x64
def test_forces_and_stress_are_derivatives(potential):
    system = make_system()
    solver = potential.make_solver(system)
    out, rng, step = potential(system, solver), np.random.default_rng(0), 1e-4
    displacement, strain = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))

    def slope(moved):
        return float(potential.energy(moved(step), solver) - potential.energy(moved(-step), solver)) / (2 * step)

    def displaced(h):
        return dataclasses.replace(system, positions=system.positions + h * displacement)

    def strained(h):
        f = np.eye(3) + h * 0.5 * (strain + strain.T)
        return dataclasses.replace(system, positions=system.positions @ f, cell=system.cell @ f)

    assert slope(displaced) == pytest.approx(-float(np.sum(out.forces * displacement)), rel=1e-6)
    volume = abs(np.linalg.det(system.cell))
    assert slope(strained) == pytest.approx(float(volume * np.sum(out.stress * strain)), rel=1e-6)


def test_open_is_a_large_box():
    """But for the images, which are six nearest ones."""
    potential = toy.moved_potential(MODELS["alone"])
    atoms = toy.make_frame(np.random.default_rng(2))
    atoms.set_cell(24.0 * np.eye(3))
    box, alone = (potential(System.from_ase(atoms, cutoff=3.6, pbc=pbc)) for pbc in (True, False))
    images = -8.4019 * np.sum(np.asarray(alone.dispersion_coefficients)) ** 2 / (2 * 24.0**6)
    difference = float(box.dispersion_energy - alone.dispersion_energy)
    assert alone.stress is None
    np.testing.assert_allclose(box.forces, alone.forces, atol=2e-3)
    assert difference == pytest.approx(images, abs=2e-3 * abs(float(alone.dispersion_energy)))


def test_own_smearing():
    assert MODELS["alone"].dispersion_sigma == pytest.approx(0.72)
    narrow = dataclasses.replace(MODELS["charges"], long_range=dataclasses.replace(CHARGES, sigma=0.5))
    assert narrow.dispersion_sigma == 0.5
    given = dataclasses.replace(narrow, dispersion=DispersionConfig(sigma=0.9))
    assert given.dispersion_sigma == 0.9


def test_plans(potential):
    system = make_system()
    solver = potential.make_solver(system)
    assert isinstance(solver.dispersion, ewald.DirectSolver)
    assert (solver.charges is None) == (potential.config.long_range is None)
    assert solver.still_valid(system.cell)
    assert not solver.still_valid(1.05 * system.cell)
    with pytest.raises(
        ValueError, match=r"`solver` is a plan of one sum \(DirectSolver\), but the model has dispersion"
    ):
        potential.energy(system, solver.dispersion)
    with pytest.raises(ValueError, match=r"is a slab, which the interaction InversePower6\(\) does not have"):
        potential(make_system(pbc=(True, True, False)))
    stacked = ewald.stack_solvers([solver, potential.make_solver(make_system())])
    assert stacked.dispersion.sigma.shape == (2,)


def test_wrong_settings():
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        DispersionConfig(sigma=-1.0)
    with pytest.raises(ValueError, match="`k_cutoff`"):
        DispersionConfig(k_cutoff=2.0, accuracy=1e-4)


# ---- all that a potential is used for

MODEL = """
[model]
hidden = [4]
[model.short_range]
kind = "toy"
[model.dispersion]
hidden = [4]
accuracy = 1e-3
"""
PARTS = {"alone": "model.long_range=false", "charges": "model.long_range.k_cutoff=2.0"}


@pytest.fixture(scope="module", params=toy.with_slow(PARTS, ["alone"]))
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    # periodic cells and a cluster, in batches of their own
    frames = [*toy.make_frames(5), *(toy.make_frame(np.random.default_rng(9), pbc=False),) * 3]
    return train(load_config(toy.write_run(folder, MODEL, frames), [f"output={folder / 'run'}", PARTS[request.param]]))


def test_is_trained_and_evaluated(trained, tmp_path):
    start = type(trained).create(trained.config)
    for path, value in jax.tree_util.tree_leaves_with_path(trained.params["dispersion"]):
        first = dict(jax.tree_util.tree_leaves_with_path(start.params["dispersion"]))[path]
        assert not np.allclose(value, first, atol=1e-6), path
    frames = toy.make_frames(2, seed=2)
    metrics = evaluate(trained, frames).metrics
    predictions = [trained(System.from_ase(frame, cutoff=trained.cutoff)) for frame in frames]
    errors = [p.forces - f.arrays["REF_forces"] for p, f in zip(predictions, frames, strict=True)]
    assert metrics["forces_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)
    assert ("charges_r2" in metrics) == (trained.config.long_range is not None)

    trained.save(tmp_path / "model")
    system = System.from_ase(frames[0], cutoff=trained.cutoff)
    np.testing.assert_array_equal(load(tmp_path / "model")(system).forces, predictions[0].forces)
    other = dataclasses.replace(trained, params=jax.tree.map(lambda p: 1.1 * p, trained.params))
    Ensemble.of([trained, other]).save(tmp_path / "members")
    found = load_ensemble(tmp_path / "members")(system)
    np.testing.assert_allclose(found.members.dispersion_energy[0], predictions[0].dispersion_energy, rtol=1e-4)
    assert found.spread.dispersion_energy > 1e-4


@needs_x64
@pytest.mark.usefixtures("jax_md_leniency")
def test_engines(trained):
    """The calculator of ASE and the functions for jax-md."""
    atoms = toy.make_frame(np.random.default_rng(5))
    atoms.calc = LesCalculator(trained)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    solver = atoms.calc._plan[1]
    atoms.positions += 0.01
    atoms.get_forces()
    assert atoms.calc._plan[1] is solver
    with jax.numpy_rank_promotion("allow"):
        neighbor_fn, energy_fn = energy_neighbor_list(trained, atoms)
        positions = jnp.asarray(atoms.positions)
        neighbors = neighbor_fn.allocate(positions)
        force = jax.jit(quantity.force(energy_fn))(positions, neighbor=neighbors)
        np.testing.assert_allclose(force, atoms.get_forces(), atol=1e-9)
        larger = jnp.asarray(1.06 * atoms.cell.array.T)
        assert bool(neighbor_fn.update(positions, neighbors, box=larger).drifted)


@pytest.mark.slow
@needs_x64
@pytest.mark.usefixtures("jax_md_leniency")
def test_dynamics_are_resumed(trained, tmp_path):
    """With a new plan on the way."""
    atoms = toy.make_frame(np.random.default_rng(5))
    settings = Settings("npt", steps=4, temperature=100.0, pressure=1e5, timestep=1.0, log_every=2, frame_every=2,
                        checkpoint_every=2, thermostat_time=20.0, barostat_time=200.0)  # fmt: skip
    final = simulate(trained, atoms, tmp_path / "md", settings, quiet=True)
    longer = dataclasses.replace(settings, steps=8)
    resumed = simulate(trained, atoms, tmp_path / "md", longer, quiet=True)
    whole = simulate(trained, atoms, tmp_path / "whole", longer, quiet=True)
    assert np.abs(final.positions - whole.positions).max() > 1e-6
    np.testing.assert_allclose(resumed.positions, whole.positions, atol=1e-12)
