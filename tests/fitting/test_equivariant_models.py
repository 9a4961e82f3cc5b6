"""Relaxed structures, phonons and reweighted averages of MACE and NequIP with latent charges, and their derivatives."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lesjax import Potential, fitting, properties, units
from lesjax.models import LatentCharges, LongRangeConfig, ModelConfig
from lesjax.models.mace import MACEConfig
from lesjax.models.nequip import NequIPConfig
from lesjax.system import System
from toy import make_frames, moved_potential, with_slow


pytestmark = pytest.mark.skipif(not jax.config.jax_enable_x64, reason="minima are compared to nine digits")
SHORT_RANGE = {
    "mace": MACEConfig(
        (11, 17), cutoff=3.6, hidden_irreps="2x0e+2x1o", max_ell=1, correlation=2, num_radial_basis=3, radial_MLP=(4,),
        avg_num_neighbors=8.0,
    ),
    "nequip": NequIPConfig(
        (11, 17), cutoff=3.6, num_bessels=3, num_layers=2, num_features=2, parity=False, invariant_layers=1,
        invariant_neurons=4, avg_num_neighbors=8.0,
    ),
}  # fmt: skip
CHARGES = LongRangeConfig(LatentCharges(hidden=(), scale=0.3), k_cutoff=2.0)
MASSES = np.array([23.0, 23.0, 35.5, 35.5])
STIFFNESS = 1.0  # eV/Å²


def energy(potential, system, solver):
    """The potential, and springs between all atoms, without which random parameters have no minimum."""
    moved = system.positions - jnp.asarray(make_frames(1)[0].positions)
    moved = moved - jnp.mean(moved, axis=0, keepdims=True)
    return Potential.energy(potential, system, solver) + 0.5 * STIFFNESS * jnp.sum(moved**2)


@pytest.fixture(scope="module", params=with_slow(SHORT_RANGE, ["nequip"]))
def potential(request):
    return moved_potential(ModelConfig(SHORT_RANGE[request.param], CHARGES, hidden=()))


@pytest.fixture(scope="module")
def relaxed(potential):
    return fitting.relax(energy, potential, System.from_ase(make_frames(1)[0], cutoff=potential.cutoff))


def step_along(potential, seed=0):
    """Parameters as a function of the step along a random direction."""
    flat, unravel = ravel_pytree(potential.params)
    direction = jnp.asarray(np.random.default_rng(seed).normal(size=flat.shape))
    return lambda step: dataclasses.replace(potential, params=unravel(flat + step * direction))


def test_phonons_at_the_minimum(potential, relaxed):
    """Frequencies of the Hessian in batches are those of its products."""
    compiled = jax.jit(properties.hessian, static_argnums=0, static_argnames="batch_size")
    hessian = compiled(energy, potential, relaxed.system, solver=relaxed.solver, batch_size=4)
    modes = properties.normal_modes(hessian, MASSES)
    springs = STIFFNESS * (np.eye(12) - np.kron(np.ones((4, 4)) / 4.0, np.eye(3)))
    assert np.linalg.norm(hessian.reshape(12, 12) - springs) > 0.05  # the model has its part in it
    np.testing.assert_allclose(modes.frequencies[:3], 0.0, atol=0.1)
    assert modes.frequencies[3] > 10.0

    @jax.jit
    def frequencies(params, system):
        return properties.mode_frequencies(
            energy, params, system, MASSES, modes.vectors[3:], solver=relaxed.solver, batch_size=4
        )

    np.testing.assert_allclose(frequencies(potential, relaxed.system), modes.frequencies[3:], rtol=1e-9)


@pytest.mark.slow
def test_batches_bound_the_memory_of_a_hessian_and_of_its_derivatives(potential, relaxed):
    """The gradient by all parameters of a function of the whole Hessian is the same, and needs less."""

    flat, unravel = ravel_pytree(potential.params)

    def stiffness(flat, batch_size):
        params = dataclasses.replace(potential, params=unravel(flat))
        hessian = properties.hessian(energy, params, relaxed.system, solver=relaxed.solver, batch_size=batch_size)
        return jnp.sum(hessian**2)

    compiled = [jax.jit(jax.grad(partial(stiffness, batch_size=size))).lower(flat).compile() for size in (None, 1)]
    whole, one = (function(flat) for function in compiled)
    np.testing.assert_allclose(one, whole, rtol=1e-7, atol=1e-9 * float(jnp.max(jnp.abs(whole))))
    memory, memory_of_one = (function.memory_analysis().temp_size_in_bytes for function in compiled)
    assert memory_of_one < memory / 4  # twelve products


@pytest.mark.slow
def test_reweighted_average_and_its_derivative(potential):
    """At the parameters of the frames it is minus the covariance with the derivative of the energy, over kT."""
    atoms = make_frames(1)[0]
    frames = [atoms.copy() for _ in range(12)]
    for i, frame in enumerate(frames):
        frame.rattle(0.05, seed=i)
    stacked = fitting.stack_frames(frames, cutoff=potential.cutoff)
    solver = potential.make_solver(System.from_ase(atoms, cutoff=potential.cutoff))
    along = step_along(potential)
    distance = fitting.Observable(lambda _, frame, __: jnp.linalg.norm(frame.positions[1] - frame.positions[0]))
    trajectory = fitting.make_trajectory(energy, potential, stacked, temperature=300.0, solver=solver, batch_size=4)

    def average(step):
        return fitting.ensemble_averages(energy, along(step), trajectory, {"d": distance}, batch_size=4)[0]["d"]

    value, slope = jax.jit(jax.value_and_grad(average))(0.0)
    distances = [np.linalg.norm(frame.positions[1] - frame.positions[0]) for frame in frames]
    slopes = jax.vmap(lambda frame: jax.grad(lambda step: energy(along(step), frame, solver))(0.0))(stacked)
    expected = -np.cov(distances, slopes, bias=True)[0, 1] / (units.BOLTZMANN * 300.0)
    assert value == pytest.approx(np.mean(distances), rel=1e-9)
    assert slope == pytest.approx(expected, rel=1e-7)
    assert abs(expected) > 1e-4
