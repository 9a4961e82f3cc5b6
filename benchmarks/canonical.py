"""Distributions of the kinetic energy and volume in molecular dynamics, compared with the canonical ensemble.

    JAX_ENABLE_X64=1 python benchmarks/canonical.py --json benchmarks/results/canonical.json

Argon-like Lennard-Jones atoms with the integrators of `lesjax md`: a crystal and a liquid of 32 atoms, and a cluster of
13. With f degrees of freedom the kinetic energy has the mean f kT / 2 and the variance f (kT)² / 2 in every canonical
ensemble. At constant energy the variance is smaller, by half for a harmonic crystal, and the mean depends on the
initial state. The volume at constant pressure is compared with the distribution exp(-(F + P V) / kT), dF/dV = -⟨P⟩ from
runs at seven fixed volumes; the flexible cell, whose shape fluctuates as well, with the same one. Errors are errors of
means over 20 blocks.

The last column is for clusters: the temperature of the motion without rotation, relative to that of the thermostat. A
chain ("nose-hoover") keeps the angular momentum of the start, which takes its rotational energy out of equilibrium.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ase.build import bulk
from common import write_json
from jaxtyping import Array
from rich.console import Console
from rich.table import Table

from lesjax.dynamics import Settings
from lesjax.dynamics.energy import forces_and_virial
from lesjax.dynamics.integrators import with_mixed_dtypes
from lesjax.dynamics.momenta import count_rotations, maxwell_boltzmann
from lesjax.dynamics.settings import make_integrator
from lesjax.properties import Frame
from lesjax.units import BAR, BOLTZMANN


EPSILON, SIZE, MASS = 0.0104, 3.4, 39.948
ONSET, CUTOFF = 4.0, 5.0  # of the switching function
N_BLOCKS = 20
SAMPLE_EVERY = 10


@dataclasses.dataclass(frozen=True)
class Case:
    """Atoms in a cell (zero for a cluster) at a temperature, K, and a pressure, bar."""

    positions: np.ndarray
    cell: np.ndarray
    temperature: float
    pressure: float = 0.0

    @property
    def pbc(self) -> tuple[bool, bool, bool]:
        """Periodic directions."""
        return (bool(self.cell.any()),) * 3


def crystal() -> Case:
    """A face-centred cubic crystal of 32 atoms."""
    atoms = bulk("Ar", "fcc", a=5.4, cubic=True).repeat(2)
    return Case(atoms.positions, atoms.cell.array, 40.0, 500.0)


def liquid() -> Case:
    """The same atoms at a density and temperature of the liquid."""
    atoms = bulk("Ar", "fcc", a=5.75, cubic=True).repeat(2)
    return Case(atoms.positions, atoms.cell.array, 150.0, 1500.0)


def cluster() -> Case:
    """An icosahedron of 13 atoms."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [np.roll([0.0, a, b * golden], i) for i in range(3) for a in (1, -1) for b in (1, -1)]
    return Case(np.array([[0.0, 0.0, 0.0], *corners]) * 3.75 / math.sqrt(1 + golden**2), np.zeros((3, 3)), 15.0)


CASES = {"crystal": crystal, "liquid": liquid, "cluster": cluster}


def energy(positions: Array, cell: Array, *, periodic: bool) -> Array:
    """Lennard-Jones energy of the nearest images, smoothly cut off in a periodic cell, eV."""
    vectors = positions[:, None] - positions[None]
    if periodic:
        shifts = jax.lax.stop_gradient(jnp.round(vectors @ jnp.linalg.inv(cell)))
        vectors = vectors - shifts @ cell
    mask = ~jnp.eye(len(positions), dtype=bool)
    distances = jnp.sqrt(jnp.where(mask, jnp.sum(vectors**2, axis=-1), 1.0))
    inverse = (SIZE / distances) ** 6
    t = jnp.clip((CUTOFF - distances) / (CUTOFF - ONSET), 0.0, 1.0)
    smooth = t**3 * (10.0 - 15.0 * t + 6.0 * t * t) if periodic else 1.0
    return 2.0 * EPSILON * jnp.sum(jnp.where(mask, (inverse**2 - inverse) * smooth, 0.0))


@dataclasses.dataclass(frozen=True)
class Samples:
    """Kinetic energy over kT, volume (Å³), pressure (eV/Å³) and temperature without rotation over T, in time."""

    kinetic: np.ndarray
    volume: np.ndarray
    pressure: np.ndarray
    vibration: np.ndarray
    dof: int
    last: np.ndarray


def sample(case: Case, ensemble: str, steps: int, *, seed: int = 0, **changes: object) -> Samples:
    """Run the dynamics; the first tenth is left out."""
    settings = Settings(
        ensemble, temperature=case.temperature, pressure=case.pressure, timestep=4.0, thermostat_time=200.0,
        barostat_time=2000.0, seed=seed, **changes,
    )  # fmt: skip
    n, periodic = len(case.positions), case.pbc[0]
    masses = np.full(n, MASS)
    still = settings.angular_momentum == "zero"
    rotations = count_rotations(masses, case.positions)
    kT = case.temperature * BOLTZMANN

    def force_virial(positions: Array, cell: Array) -> tuple[Array, Array]:
        energy_of = lambda _, frame, __: energy(frame.positions, frame.cell, periodic=periodic)  # noqa: E731
        return forces_and_virial(energy_of, None, Frame(positions, cell), with_virial=periodic)

    integrator, dof = make_integrator(settings, masses, force_virial, pbc=case.pbc, positions=case.positions)
    cell = jnp.asarray(case.cell)
    fixed = {} if settings.constant_pressure else {"cell": cell}

    def observe(state: object) -> tuple[Array, ...]:
        now = integrator.cell(state, cell)
        kinetic = 0.5 * jnp.sum(state.momentum**2 / state.mass)
        volume = jnp.abs(jnp.linalg.det(now))
        if not periodic:
            return kinetic / kT, volume, volume, _vibration(state) / kT
        virial = jnp.trace(force_virial(state.position, now)[1])
        return kinetic / kT, volume, (2.0 * kinetic + virial) / (3.0 * volume), kinetic / kT

    @with_mixed_dtypes
    @jax.jit
    def run(positions: Array, momenta: Array) -> tuple[Array, ...]:
        state = integrator.initialize(positions, cell, jnp.asarray(masses), momenta)

        def sample_once(state: object, _: None) -> tuple[object, tuple[Array, ...]]:
            state = jax.lax.fori_loop(0, SAMPLE_EVERY, lambda _, s: integrator.step(s, **fixed), state)
            return state, observe(state)

        state, observed = jax.lax.scan(sample_once, state, None, length=steps // SAMPLE_EVERY)
        return *observed, state.position

    rng = np.random.default_rng(seed)
    momenta = maxwell_boltzmann(masses, case.temperature, rng, without_rotation=case.positions if still else None)
    results = run(jnp.asarray(case.positions), jnp.asarray(momenta))
    *results, last = results
    samples = [np.asarray(x)[len(x) // 10 :] for x in results]
    inner = 3 * n - (3 if settings.scheme(case.pbc).conserves_momentum else 0) - rotations
    return Samples(*samples[:3], samples[3] * 2.0 / inner, dof, np.asarray(last))


def _vibration(state: object) -> Array:
    """Kinetic energy without rotation about the centre of mass, eV."""
    arms = state.position - jnp.mean(state.position, axis=0)
    angular = jnp.sum(jnp.cross(arms, state.momentum), axis=0)
    inertia = MASS * (jnp.sum(arms**2) * jnp.eye(3) - arms.T @ arms)
    kinetic = 0.5 * jnp.sum(state.momentum**2 / state.mass)
    return kinetic - 0.5 * angular @ jnp.linalg.solve(inertia, angular)


def mean_and_variance(values: np.ndarray, mean: float, variance: float) -> dict[str, tuple[float, float]]:
    """Mean and variance over the expected ones, each with its standard error from blocks."""
    usable = len(values) // N_BLOCKS * N_BLOCKS
    blocks = values[:usable].reshape(N_BLOCKS, -1)
    results = {}
    for name, rows, expected in (
        ("mean", blocks.mean(axis=1), mean),
        ("variance", ((blocks - values.mean()) ** 2).mean(axis=1), variance),
    ):
        error = rows.std(ddof=1) / math.sqrt(N_BLOCKS) / expected
        results[name] = (round(float(rows.mean() / expected), 5), round(float(error), 5))
    return results


def volumes(case: Case, sampled: np.ndarray, steps: int) -> tuple[float, float]:
    """Mean and variance of the volume at this pressure from the equation of state, Å³ and Å⁶.

    The equation of state covers four standard deviations around the volumes of the run, `sampled`.
    """
    kT, pressure = case.temperature * BOLTZMANN, case.pressure * BAR
    grid, pressures = [], []
    for volume in sampled.mean() + sampled.std() * np.linspace(-4.0, 4.0, 7):
        scale = (volume / abs(np.linalg.det(case.cell))) ** (1 / 3)
        scaled = dataclasses.replace(case, positions=case.positions * scale, cell=case.cell * scale)
        samples = sample(scaled, "nose-hoover", steps)
        grid.append(samples.volume[0])
        pressures.append(samples.pressure.mean())
    middle = np.mean(grid)
    slope = np.polynomial.Polynomial.fit(np.array(grid) - middle, np.array(pressures), 4)
    fine = np.linspace(grid[0], grid[-1], 2000)
    exponent = (slope.integ()(fine - middle) - pressure * fine) / kT
    weight = np.exp(exponent - exponent.max())
    weight /= weight.sum()
    mean = float(weight @ fine)
    return mean, float(weight @ (fine - mean) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="write the results to this file")
    parser.add_argument("--steps", type=int, default=1_000_000)
    arguments = parser.parse_args()
    rows: list[dict] = []
    show: Callable[[tuple[float, float]], str] = lambda value: f"{value[0]:.4f} ± {value[1]:.4f}"  # noqa: E731
    table = Table("system", "ensemble", "kinetic mean", "variance", "volume mean", "variance", "without rotation")
    for name, make in CASES.items():
        case = make()
        case = dataclasses.replace(case, positions=sample(case, "langevin", arguments.steps // 10).last)
        ensembles = ["nve", "langevin", "csvr", *(("nvt", "npt") if case.pbc[0] else ("nose-hoover",))]
        ensembles += ["npt-flexible"] * (name == "crystal")
        runs = [(ensemble, {}) for ensemble in ensembles]
        if not case.pbc[0]:
            runs.append(("nose-hoover", {"angular_momentum": "zero"}))
        expected = None
        for ensemble, changes in runs:
            samples = sample(case, ensemble, arguments.steps, **changes)
            half = samples.dof / 2
            row: dict = {"system": name, "ensemble": ensemble, **changes, "dof": samples.dof}
            row |= {f"kinetic_{k}": v for k, v in mean_and_variance(samples.kinetic, half, half).items()}
            cells = [show(row["kinetic_mean"]), show(row["kinetic_variance"]), "", "", ""]
            if ensemble.startswith("npt"):
                expected = expected or volumes(case, samples.volume, arguments.steps // 5)
                row |= {f"volume_{k}": v for k, v in mean_and_variance(samples.volume, *expected).items()}
                cells[2:4] = show(row["volume_mean"]), show(row["volume_variance"])
            if not case.pbc[0]:
                row["without_rotation"] = mean_and_variance(samples.vibration, 1.0, 1.0)["mean"]
                cells[4] = show(row["without_rotation"])
            rows.append(row)
            table.add_row(name, " ".join([ensemble, *changes.values()]), *cells)
    Console().print(table)
    if arguments.json:
        write_json(arguments.json, {"dtype": "float64", "steps": arguments.steps, "rows": rows})


if __name__ == "__main__":
    main()
