"""What is read off trajectories, against direct sums and cases that are known."""

import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from lesjax.dynamics import analysis


def test_radial_distribution_counts_neighbours():
    salt = bulk("NaCl", "rocksalt", a=5.6)
    r, g = analysis.radial_distribution([salt, salt], "Na", "Cl", cutoff=6.0, width=0.1)
    density = 1 / salt.get_volume()
    running = np.cumsum(4 * np.pi * density * g * ((r + 0.05) ** 3 - (r - 0.05) ** 3) / 3)
    # 6 at a/2, 8 more at √3 a/2 = 4.85 Å; the cell has one of each, and the cutoff reaches over many
    assert np.interp(4.0, r, running) == pytest.approx(6.0)
    assert running[-1] == pytest.approx(14.0)
    assert r[np.argmax(g > 0)] == pytest.approx(2.8, abs=0.06)
    _, same = analysis.radial_distribution([salt * (2, 2, 2)], "Na", "Na", cutoff=5.0)
    assert np.count_nonzero(same) == 1


def test_radial_distribution_of_a_gas():
    rng = np.random.default_rng(0)
    cell = np.array([[9.0, 0.0, 0.0], [3.0, 8.0, 0.0], [0.0, 2.0, 9.0]])
    frames = [Atoms("Ar60", rng.uniform(-1, 2, (60, 3)) @ cell, cell=cell, pbc=True) for _ in range(20)]
    r, g = analysis.radial_distribution(frames, "Ar", "Ar", cutoff=8.0, width=0.5)
    np.testing.assert_allclose(g[r > 2], 1.0, atol=0.06)


def test_mean_squared_displacement_and_diffusion():
    rng = np.random.default_rng(1)
    walk = np.cumsum(0.1 * rng.normal(size=(40, 5, 3)), axis=0)
    direct = [np.mean(np.sum((walk[m:] - walk[: 40 - m]) ** 2, axis=2)) for m in range(40)]
    np.testing.assert_allclose(analysis.mean_squared_displacement(walk), direct, atol=1e-10)
    far = (walk + 40.0).astype(np.float32)
    np.testing.assert_allclose(analysis.mean_squared_displacement(far), direct, rtol=1e-4, atol=1e-6)
    masses = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    drifting = walk + 0.3 * np.arange(40)[:, None, None]
    np.testing.assert_allclose(
        analysis.mean_squared_displacement(drifting, masses),
        analysis.mean_squared_displacement(walk, masses),
        atol=1e-9,
    )
    # 6 D t, with t in ps
    assert analysis.diffusion(6 * 0.23 * 0.02 * np.arange(50), 20.0) == pytest.approx(0.23)


def test_density_profile():
    water = Atoms("OH2", [[0, 0, 4.0], [0, 0.8, 4.5], [0, -0.8, 4.5 - 10.0]], cell=[4, 5, 10], pbc=True)
    z, density = analysis.density_profile([water, water], width=0.5)
    gram = 1e-3 * ase.units.kg
    cubic_centimetre = (1e-2 * ase.units.m) ** 3
    assert density.sum() * 0.5 * 20 == pytest.approx(water.get_masses().sum() / gram * cubic_centimetre)
    np.testing.assert_allclose(z[density > 0], [4.25, 4.75])
    _, oxygen = analysis.density_profile([water], width=0.5, element="O")
    np.testing.assert_array_equal(np.nonzero(oxygen)[0], [8])


def test_pressure_and_temperature_of_an_ideal_gas():
    rng = np.random.default_rng(2)
    gas = Atoms("He30", rng.uniform(size=(30, 3)), cell=[50.0] * 3, pbc=True)
    momenta = rng.normal(size=(30, 3))
    gas.set_momenta(momenta - momenta.mean(axis=0))
    gas.calc = SinglePointCalculator(gas, stress=np.zeros(6))
    np.testing.assert_allclose(analysis.temperature([gas], dof=3 * len(gas)) * 30 / 29, analysis.temperature([gas]))
    (temperature,), (pressure,) = analysis.temperature([gas]), analysis.pressure([gas])
    # 29 instead of 30: the centre of mass is at rest
    expected = 29 * ase.units.kB * temperature / gas.get_volume() / (1e-4 * ase.units.GPa)
    assert pressure == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.radial_distribution([], "O", "O"), "`frames` is empty"),
        (lambda: analysis.radial_distribution([bulk("NaCl", "rocksalt", a=5.6)], "O", "Na"), "There is no 'O' in"),
        (lambda: analysis.radial_distribution([bulk("NaCl", "rocksalt", a=5.6)], "Na", "Na"), "There is one 'Na' in"),
        (lambda: analysis.radial_distribution([Atoms("O")], "O", "O"), "`frames` must be periodic in three directions"),
        (lambda: analysis.density_profile([Atoms("O")]), "`frames` need a cell"),
        (lambda: analysis.diffusion(np.zeros(3), 1.0), "`msd` has 3 points"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
