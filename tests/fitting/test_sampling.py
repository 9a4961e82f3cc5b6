"""Samplers, whose frames belong to the ensemble of the parameters that they get; and fits of a whole potential."""

import dataclasses
import math
from dataclasses import replace

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lesjax import Potential, fitting, io, units
from lesjax.dynamics import Settings
from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig
from lesjax.system import System
from lesjax.training import make_dataset
from lesjax.training.loop import dataset_errors
from lesjax.training.losses import batch_loss
from toy import make_frame, make_frames, moved_potential


KT = units.BOLTZMANN * 300.0
MASSES = np.full(8, 12.0)
START = fitting.Frame(jnp.zeros((8, 3)), 10.0 * jnp.eye(3))


def springs(k, frame, solver):
    return 0.5 * k * jnp.sum(frame.positions**2)


def test_langevin_sampler_draws_from_the_ensemble_and_draws_differ():
    settings = Settings(
        ensemble="langevin", steps=10_500, timestep=2.0, temperature=300.0, thermostat_time=50.0, frame_every=50
    )
    sample = fitting.make_sampler(springs, MASSES, settings, equilibration=500)
    for k in (1.0, 3.0):
        frames = sample(jnp.asarray(k), 1, START)
        assert frames.positions.shape == (200, 8, 3)
        assert frames.cell.shape == (200, 3, 3)
        # 4800 numbers, nearly independent
        assert jnp.mean(frames.positions**2) == pytest.approx(KT / k, rel=0.1)
    again, other = sample(jnp.asarray(3.0), 1, START), sample(jnp.asarray(3.0), 2, START)
    assert np.array_equal(frames.positions, again.positions)
    assert not np.allclose(frames.positions, other.positions)


def test_sampler_at_constant_pressure_moves_the_cell():
    """An ideal gas at 300 K: the mean volume is (n + 1) kT / p up to the centre of mass."""
    pressure = 8 * KT / 1000.0 / units.BAR
    settings = Settings(
        ensemble="npt", steps=4000, timestep=5.0, temperature=300.0, pressure=pressure, thermostat_time=100.0,
        barostat_time=300.0, frame_every=40,
    )  # fmt: skip

    def free(params, frame, solver):
        return params * jnp.sum(frame.positions)

    frames = fitting.make_sampler(free, MASSES, settings)(jnp.asarray(0.0), 0, START)
    volumes = np.linalg.det(np.asarray(frames.cell))
    assert len(volumes) == 100
    assert 600.0 < volumes.mean() < 1500.0
    assert volumes.std() > 50.0


def test_sampler_refuses_what_it_cannot_draw():
    settings = Settings(ensemble="langevin", steps=100, temperature=300.0, frame_every=50)
    with pytest.raises(ValueError, match="`equilibration` = 60 leaves no frame"):
        fitting.make_sampler(springs, MASSES, settings, equilibration=60)
    nve = Settings(steps=100, temperature=300.0, frame_every=10)
    with pytest.raises(ValueError, match="'nve' keeps the energy and has no temperature to draw at: take 'langevin'"):
        fitting.make_sampler(springs, MASSES, nve)
    with pytest.raises(ValueError, match="'nve' keeps the energy"):
        fitting.potential_sampler(ase.Atoms("H"), nve, "nowhere")
    field = dataclasses.replace(settings, electric_field=(0.1, 0.0, 0.0))
    with pytest.raises(ValueError, match="add the energy of the field to `energy_fn`"):
        fitting.make_sampler(springs, MASSES, field)
    with pytest.raises(ValueError, match="the energy that goes with it is that without the field"):
        fitting.potential_sampler(ase.Atoms("H"), field, "nowhere")
    with pytest.raises(ValueError, match="leaves no frame"):
        fitting.potential_sampler(ase.Atoms("H"), settings, "nowhere", equilibration=60)
    with pytest.raises(ValueError, match="`frames` is empty"):
        fitting.stack_frames([], cutoff=3.0)
    with pytest.raises(ValueError, match="frame 1 is Ar, the first another"):
        fitting.stack_frames([ase.Atoms("Ne"), ase.Atoms("Ar")], cutoff=3.0)


CONFIG = ModelConfig(
    CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2),
    LongRangeConfig(LatentCharges(hidden=(4,), scale=0.5), k_cutoff=2.6),
    hidden=(4,),
)


def test_a_potential_is_reweighted_and_fitted(tmp_path):
    """Energies of the frames are those that the simulation wrote, and a step of a fit gives another potential."""
    potential, atoms = moved_potential(CONFIG), make_frame(np.random.default_rng(0))
    settings = Settings(ensemble="npt", steps=12, temperature=100.0, timestep=0.5, frame_every=4, log_every=12)
    sampler = fitting.potential_sampler(atoms, settings, tmp_path, equilibration=4)
    start = System.from_ase(atoms, cutoff=potential.cutoff)
    solver = potential.make_solver(start)
    frames = sampler(potential, 0, start)
    with pytest.raises(ValueError, match="holds a run already"):
        sampler(potential, 0, start)

    energy = Potential.energy
    trajectory = fitting.make_trajectory(energy, potential, frames, temperature=100.0, pressure=0.0, solver=solver)
    written = [frame.get_potential_energy() for frame in ase.io.read(tmp_path / "draw-0" / "trajectory.xyz", ":")]
    expected = np.array(written[2:]) - potential.config.reference_energy(atoms.numbers)
    assert np.allclose(trajectory.energies, expected, rtol=1e-4, atol=1e-4)
    target = fitting.Target("density", fitting.density(atoms.get_masses()), 1.0, 0.1)
    ensemble = fitting.Reweighting(energy, trajectory, [target], sampler=sampler)
    result = fitting.fit(potential, [ensemble], steps=1, quiet=True)
    moved = result.params
    assert type(moved) is type(potential)
    assert jax.tree.leaves(result.reweightings[0].trajectory.solver)
    changes = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), moved.params, potential.params)
    assert max(jax.tree.leaves(changes)) == pytest.approx(0.01, rel=1e-3)  # Adam's first step
    assert math.isfinite(float(moved.energy(start)))


def test_signs_are_no_parameters():
    """A decay of all leaves moves the parameters of a potential, and of one inside of others, and leaves its signs."""
    potential = moved_potential(CONFIG)
    decay = optax.adamw(1e-3, weight_decay=100.0)

    def loss(params):
        return 0.0 * params["shift"] + jnp.sum(jnp.square(params["model"].params["energy"]["feature_scale"]["layer0"]))

    params = {"model": potential, "shift": jnp.asarray(1.0)}
    fitted = fitting.fit(params, losses={"size": loss}, optimizer=decay, steps=2, quiet=True).params
    assert float(fitted["shift"]) == pytest.approx(0.9**2)
    np.testing.assert_array_equal(fitted["model"].signs, potential.signs)
    bias, before = (p.params["charges"]["readout"]["layer0"]["hidden0"]["bias"] for p in (fitted["model"], potential))
    np.testing.assert_allclose(bias, 0.9**2 * before, rtol=1e-5)


def test_data_loss_is_that_of_training():
    potential, frames = moved_potential(CONFIG), make_frames(3)
    dataset = make_dataset(CONFIG, frames, io.all_labels(frames))
    weights = {"energy": 2.0, "forces": 3.0}
    expected, _ = dataset_errors(potential.core(), dataset, 2, weights)
    loss = fitting.data_loss(dataset, weights, batch_size=2)
    assert jax.jit(loss)(potential) == pytest.approx(expected, rel=1e-5)
    result = fitting.fit(potential, losses={"data": loss}, steps=5, quiet=True)
    assert result.history[-1]["data_loss"] < 0.9 * expected


@pytest.mark.slow
def test_data_loss_is_that_of_one_batch():
    """With labels that are missing, and structures of two sizes in two buckets, whatever the batches are."""
    rng = np.random.default_rng(1)
    potential, frames = moved_potential(CONFIG), [make_frame(rng, repeats) for repeats in (1, 1, 1, 2, 2)]
    labels = io.all_labels(frames)
    for i, name in ((0, "energy"), (1, "forces"), (3, "charges")):
        labels[i] = replace(labels[i], **{name: np.full_like(getattr(labels[i], name), np.nan)})
    weights = {"energy": 2.0, "forces": 3.0, "charges": 5.0}
    whole = make_dataset(CONFIG, frames, labels, max_buckets=1)
    expected = jax.jit(lambda potential: batch_loss(potential, whole.buckets[0], weights, potential.params))(potential)
    dataset = make_dataset(CONFIG, frames, labels)
    assert len(dataset.buckets) == 2
    for batch_size in (1, 2, 8):
        loss = jax.jit(fitting.data_loss(dataset, weights, batch_size=batch_size))(potential)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    loss, _ = dataset_errors(potential.core(), dataset, 2, weights)
    assert loss == pytest.approx(float(expected), rel=1e-5)
