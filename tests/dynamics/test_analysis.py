"""What is read off trajectories, against direct sums and cases that are known."""

import ase.io
import ase.units
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from lesjax import cli, io, properties
from lesjax.dynamics import analysis
from lesjax.system import System
from toy import with_slow


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
    rng = np.random.default_rng(1)
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


SPRING = {"temperature": 300.0, "resolution": 60.0}


def oscillating(wavenumber, interval=1.0, steps=4000):
    """Frames of a charge of 0.7 e on three equal springs at 300 K, the directions a third of a turn apart."""
    omega = 2.0 * np.pi * wavenumber / 33356.40952  # 1 cm⁻¹ is a period of 33356 fs
    turns = omega * interval * np.arange(steps)[:, None] + np.array([0.0, 2.0, 4.0]) * np.pi / 3.0
    # kT for the sum of kinetic and potential energy along each spring, amu and ase's unit of time
    velocities = -np.sqrt(2.0 * ase.units.kB * 300.0 / 2.0) * np.sin(turns)
    frames = []
    for step, velocity in enumerate(velocities):
        atoms = Atoms("H", [[0.0, 0.0, 0.0]], masses=[2.0], cell=[8.0, 8.0, 8.0], pbc=True)
        atoms.set_velocities(velocity[None])
        atoms.info["time_fs"] = step * interval
        atoms.calc = SinglePointCalculator(atoms, born_effective_charges=0.7 * np.eye(3).reshape(1, 9))
        frames.append(atoms)
    return frames


def test_infrared_spectrum_of_a_charge_on_a_spring():
    frames = oscillating(1640.0)
    found = analysis.infrared_spectrum(frames, **SPRING)
    assert abs(found.wavenumber[np.argmax(found.intensity)] - 1640.0) <= found.wavenumber[1]
    # in SI: the integral of n α over the angular frequency is π q² / (2 c ε0 V m)
    plasma = (0.7 * 1.602176634e-19) ** 2 / (8.8541878128e-12 * 2.0 * 1.66053906660e-27 * 512e-30)
    area = 1e4 * np.trapezoid(found.intensity, found.wavenumber)  # 1/m²
    assert area == pytest.approx(plasma / (4.0 * 299792458.0**2), rel=1e-4)
    half = analysis.infrared_spectrum(frames, volume=2.0 * 512.0, skip=500.0, **SPRING)
    assert half.intensity.max() == pytest.approx(0.5 * found.intensity.max(), rel=1e-2)
    # the mean of one atom's kinetic energy is that of three degrees of freedom, counted as one
    assert analysis.infrared_spectrum(frames, resolution=60.0).intensity.max() == pytest.approx(
        found.intensity.max() / 3.0, rel=1e-2
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[0].calc.results.clear(), r"first frame 0: run `lesjax md` with --born-effective-charges"),
        (lambda f: f[5].info.pop("time_fs"), r"`info\['time_fs'\]` in each frame.*frame 5 lacks them"),
        (lambda f: f[3].arrays.pop("momenta"), r"needs velocities .*: frame 3 lacks them"),
        (lambda f: f.pop(7), r"at equal steps of time; the steps are \[1\.0, 2\.0\] fs"),
        (lambda f: f[2].set_pbc(False), r"`volume` per molecule, in Å³, is needed"),
        (lambda f: f.clear(), "`frames` is empty"),
        (len, r"`rate` .*larger `resolution`"),
    ],
)
def test_frames_without_an_infrared_spectrum(change, message):
    frames = oscillating(1640.0, steps=60)
    change(frames)
    with pytest.raises(ValueError, match=message):
        analysis.infrared_spectrum(frames, **SPRING)


@pytest.mark.parametrize("form", with_slow(["xyz", "traj"], ["xyz"]))
def test_infrared_spectrum_of_a_run_of_the_command(form, ions, small_potential, tmp_path):
    """As from Born effective charges computed anew for each frame, by all ways of reading the file."""
    small_potential.save(tmp_path / "model")
    io.write(tmp_path / "start.xyz", [ions])
    command = f"md {tmp_path}/model {tmp_path}/start.xyz --out {tmp_path}/md --format {form} --steps 120 --timestep 0.5"
    command += " --temperature 100 --frame-every 2 --log-every 120 --born-effective-charges --polarization --quiet"
    assert cli.main(command.split()) == 0
    path, options = tmp_path / "md" / f"trajectory.{form}", {"skip": 20.0, "resolution": 2000.0, "n_blocks": 2}
    found = analysis.infrared_spectrum(path, **options)
    frames = ase.io.read(path, ":")
    again = analysis.infrared_spectrum(frames, **options)
    np.testing.assert_array_equal(again.intensity, found.intensity)
    assert len(frames) == 61
    frames = frames[20:]  # 20 fs
    born = []
    for atoms in frames:
        atoms.calc = None
        born.append(small_potential.born_effective_charges(System.from_ase(atoms, cutoff=small_potential.cutoff)))
    velocities = np.array([atoms.get_velocities() for atoms in frames]) * ase.units.fs
    rate = properties.dipole_rate(jnp.asarray(np.array(born), float), jnp.asarray(velocities, float))
    temperature = float(np.mean([2.0 * atoms.get_kinetic_energy() / (21 * ase.units.kB) for atoms in frames]))
    expected = properties.infrared_spectrum(rate, 1.0, ions.get_volume(), temperature, resolution=2000.0, n_blocks=2)
    np.testing.assert_allclose(found.wavenumber, expected.wavenumber, rtol=1e-6)
    size = float(np.max(expected.intensity))
    np.testing.assert_allclose(found.intensity, expected.intensity, rtol=0, atol=1e-4 * size)
    assert size > 0.0
