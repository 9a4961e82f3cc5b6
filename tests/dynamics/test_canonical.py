"""Kinetic energies follow the canonical distribution: mean and variance, for crystal, liquid and cluster."""

import jax
import numpy as np
import pytest
from canonical import CASES, mean_and_variance, sample

from lesjax.dynamics.momenta import count_rotations, maxwell_boltzmann, remove_rotation


pytestmark = pytest.mark.skipif(not jax.config.jax_enable_x64, reason="the dtype does not matter here")


@pytest.mark.parametrize(
    ("system", "ensemble", "changes", "dof"),
    [
        ("crystal", "npt-flexible", {}, 93),
        ("liquid", "nvt", {}, 93),
        ("liquid", "csvr", {}, 93),
        ("cluster", "nvt", {}, 39),  # Langevin, which moves the centre of mass
        ("cluster", "nose-hoover", {"angular_momentum": "zero"}, 33),
        ("cluster", "csvr", {"angular_momentum": "zero"}, 33),
    ],
)
def test_mean_and_variance_of_the_kinetic_energy(system, ensemble, changes, dof):
    """A chain of 39 degrees for the 33 of the last one, at a scaled temperature, would have the variance 0.85."""
    samples = sample(CASES[system](), ensemble, 10_000 if dof > 50 else 40_000, **changes)
    assert samples.dof == dof
    found = mean_and_variance(samples.kinetic, dof / 2, dof / 2)
    for (value, error), most in zip(found.values(), (0.02, 0.15), strict=True):
        assert abs(value - 1.0) < 4 * error
        assert error < most  # the run is long enough to tell
    if changes:  # nothing of it is rotation, to the end
        np.testing.assert_allclose(samples.vibration * dof / 2, samples.kinetic, rtol=1e-6)


def test_nvt_of_a_cluster_heats_a_rotation_at_rest():
    """Why it is Langevin: a chain would keep the angular momentum at zero for ever."""
    samples = sample(CASES["cluster"](), "nvt", 40_000, angular_momentum="zero")
    mean, error = mean_and_variance(2.0 * samples.kinetic / 39 - samples.vibration, 1.0, 1.0)["mean"]
    assert samples.dof == 39
    assert abs(mean) < 4 * error < 0.1


@pytest.mark.parametrize(
    ("positions", "rotations"),
    [
        (np.zeros((1, 3)), 0),
        (np.array([[0.0, 0.0, 0.0], [0.3, 0.4, 1.2]]), 2),
        (np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.5, 2.5, 2.5]]), 2),
        (np.random.default_rng(0).normal(size=(5, 3)), 3),
    ],
)
def test_momenta_without_rotation(positions, rotations):
    masses = np.linspace(1.0, 16.0, len(positions))
    assert count_rotations(masses, positions) == rotations
    momenta = np.random.default_rng(1).normal(size=positions.shape)
    still = remove_rotation(momenta, masses, positions)
    arms = positions - masses @ positions / masses.sum()
    np.testing.assert_allclose(np.cross(arms, still).sum(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(still.sum(axis=0), momenta.sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(remove_rotation(still, masses, positions), still, atol=1e-12)
    if len(masses) > 1:
        drawn = maxwell_boltzmann(masses, 300.0, np.random.default_rng(2), without_rotation=positions)
        np.testing.assert_allclose(np.cross(arms, drawn).sum(axis=0), 0.0, atol=1e-10)
