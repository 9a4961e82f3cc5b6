"""Infrared spectrum of water from a trajectory of a trained potential.

    python benchmarks/water_infrared.py runs/water/model --json benchmarks/results/water_infrared.json \\
        --csv water_infrared.csv --plot docs/images/water_infrared.png

Starts from the last frame of the shared water set, equilibrates at constant temperature (Langevin) and then runs at
constant energy, with Born effective charges of every few steps, interpolated between. n(ω) α(ω) from the
autocorrelation of the dipole's rate of change, classical nuclei; errors from blocks. Marked are the bands of the
measured spectrum at 25 °C, to about 10 cm^-1: Bertie and Lan, Appl. Spectrosc. 50, 1047 (1996).
"""

import argparse
import csv
import pathlib
import time

import ase
import jax
import numpy as np
from ase import units as ase_units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet
from common import shared, write_json

import lesjax
from lesjax import io, properties
from lesjax.dynamics import LesCalculator
from lesjax.files import atomic_path
from lesjax.system import System


# measured maximum, and where to look for ours, cm^-1
BANDS = {
    "libration": (680.0, 350.0, 1100.0),
    "bend": (1640.0, 1350.0, 2000.0),
    "stretch": (3400.0, 2700.0, 4200.0),
}


class BornCharges:
    """Born effective charges of atoms; padded to a width that only grows, so that they are compiled once."""

    def __init__(self, potential: lesjax.Potential, epsilon_infinity: float) -> None:
        self.potential, self.epsilon_infinity, self.capacity = potential, epsilon_infinity, 0

    def __call__(self, atoms: ase.Atoms) -> np.ndarray:
        system = System.from_ase(atoms, cutoff=self.potential.cutoff)
        n, m = system.shape
        if m > self.capacity:
            self.capacity = 4 * int(np.ceil(1.05 * m / 4))
        charges = self.potential.born_effective_charges(
            system.pad_to(n, self.capacity), epsilon_infinity=self.epsilon_infinity, acoustic_sum_rule=True
        )
        return np.asarray(charges)


def equilibrate(atoms: ase.Atoms, steps: int, temperature: float, time_step: float, seed: int) -> None:
    """Langevin dynamics with a friction of 1 / (100 fs), from random velocities."""
    rng = np.random.default_rng(seed)
    width = np.sqrt(ase_units.kB * temperature * atoms.get_masses())
    atoms.set_momenta(width[:, None] * rng.normal(size=(len(atoms), 3)))
    options = {"temperature_K": temperature, "friction": 0.01 / ase_units.fs, "fixcm": False, "rng": rng}
    Langevin(atoms, time_step * ase_units.fs, **options).run(steps)
    Stationary(atoms)


def record(atoms: ase.Atoms, born_charges: BornCharges, steps: int, every: int, time_step: float) -> dict:
    """Run at constant energy; returns the dipole's rate of change at each step, temperatures and total energies."""
    dynamics = VelocityVerlet(atoms, time_step * ase_units.fs)
    before, rates, temperatures, energies = born_charges(atoms), [], [], []
    for _ in range(steps // every):
        velocities = []
        for _ in range(every):
            velocities.append(atoms.get_velocities() * ase_units.fs)
            temperatures.append(atoms.get_temperature())
            energies.append(atoms.get_total_energy())
            dynamics.run(1)
        after = born_charges(atoms)
        weights = (np.arange(every) / every)[:, None, None, None]
        rates.append(properties.dipole_rate((1.0 - weights) * before + weights * after, np.array(velocities)))
        before = after
    return {"rate": np.concatenate(rates), "temperatures": np.array(temperatures), "energies": np.array(energies)}


def bands(spectrum: properties.Spectrum) -> dict:
    """Maximum of each band, and its integral with error, cm^-2."""
    maxima = {}
    for name, (measured, low, high) in BANDS.items():
        inside = (spectrum.wavenumber > low) & (spectrum.wavenumber < high)
        wavenumber, intensity = (np.asarray(x)[inside] for x in (spectrum.wavenumber, spectrum.intensity))
        if not len(wavenumber):
            continue
        maxima[name] = {
            "maximum_cm-1": round(float(wavenumber[np.argmax(intensity)]), 1),
            "measured_cm-1": measured,
            "window_cm-1": [low, high],
            "integral_cm-2": round(float(np.trapezoid(intensity, wavenumber)), 1),
        }
    return maxima


def plot(spectrum: properties.Spectrum, path: str) -> None:
    """Spectrum with a band of one standard error, and the measured maxima as lines."""
    from matplotlib.figure import Figure

    from lesjax.training import plots

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    wavenumber, intensity, error = (np.asarray(x) for x in spectrum)
    axes.fill_between(wavenumber, intensity - error, intensity + error, color=plots.COLORS[0], alpha=0.3, lw=0)
    axes.plot(wavenumber, intensity, color=plots.COLORS[0])
    top = float(np.max((intensity + error)[wavenumber < 4500.0]))
    for name, (measured, *_) in BANDS.items():
        axes.axvline(measured, color="0.5", lw=0.8, ls=":")
        axes.annotate(f"{name}\n{measured:.0f}", (measured, 1.02 * top), ha="center", va="bottom", fontsize=8)
    axes.set(xlim=(0, 4500), ylim=(0, 1.2 * top), xlabel="wavenumber (cm$^{-1}$)", ylabel="n α (cm$^{-1}$)")
    plots.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="folder of a trained potential")
    parser.add_argument("--structure", default=None, help="file to start from (last frame); the shared water set")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--time-step", type=float, default=0.5, help="fs")
    parser.add_argument("--equilibration", type=int, default=4000, help="steps")
    parser.add_argument("--steps", type=int, default=40000, help="steps at constant energy")
    parser.add_argument("--every", type=int, default=4, help="steps between Born effective charges")
    # the square of the refractive index of water, 1.333
    parser.add_argument("--epsilon-infinity", type=float, default=1.78, help="scales the latent charges")
    parser.add_argument("--resolution", type=float, default=30.0, help="cm^-1")
    parser.add_argument("--blocks", type=int, default=8, help="for the errors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default=None)
    parser.add_argument("--csv", default=None)
    parser.add_argument("--plot", default=None)
    arguments = parser.parse_args()
    if arguments.every < 1 or arguments.steps < arguments.every:
        parser.error(f"--steps {arguments.steps} must be at least --every {arguments.every}, and that at least 1.")

    potential = lesjax.load(arguments.model)
    analysis = {"resolution": arguments.resolution, "n_blocks": arguments.blocks}
    # an error for a run that is too short, before it
    whole = np.zeros((arguments.steps // arguments.every * arguments.every, 3))
    properties.infrared_spectrum(whole, arguments.time_step, 1.0, 1.0, **analysis)
    atoms = io.read(arguments.structure or shared("data/water/rpbe_d3_40.xyz"))[-1]
    atoms.calc = LesCalculator(potential)
    start = time.perf_counter()
    equilibrate(atoms, arguments.equilibration, arguments.temperature, arguments.time_step, arguments.seed)
    born_charges = BornCharges(potential, arguments.epsilon_infinity)
    run = record(atoms, born_charges, arguments.steps, arguments.every, arguments.time_step)
    temperature = float(run["temperatures"].mean())
    spectrum = properties.infrared_spectrum(
        run["rate"], arguments.time_step, float(atoms.get_volume()), temperature, **analysis
    )
    spectrum = jax.device_get(spectrum)
    maxima = bands(spectrum)
    for name, band in maxima.items():
        print(f"{name:10s} {band['maximum_cm-1']:8.1f} cm^-1, measured about {band['measured_cm-1']:.0f}")
    slope = np.polyfit(arguments.time_step * 1e-3 * np.arange(len(run["energies"])), run["energies"], 1)[0]
    if arguments.json:
        result = {
            "n_atoms": len(atoms),
            "steps": len(run["energies"]),
            "temperature_K": round(temperature, 2),
            "energy_drift_meV_per_atom_and_ps": float(f"{1e3 * slope / len(atoms):.3g}"),
            "epsilon_infinity": arguments.epsilon_infinity,
            "resolution_cm-1": arguments.resolution,
            "wall_s": round(time.perf_counter() - start, 1),
            "bands": maxima,
            "wavenumber_cm-1": np.round(np.asarray(spectrum.wavenumber, float), 2).tolist(),
            "intensity_cm-1": np.round(np.asarray(spectrum.intensity, float), 2).tolist(),
            "error_cm-1": np.round(np.asarray(spectrum.error, float), 2).tolist(),
        }
        write_json(arguments.json, result)
    if arguments.csv:
        with atomic_path(arguments.csv) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["wavenumber_cm-1", "intensity_cm-1", "error_cm-1"])
            writer.writerows(np.stack([np.asarray(x) for x in spectrum], 1).tolist())
    if arguments.plot:
        plot(spectrum, arguments.plot)


if __name__ == "__main__":
    main()
