"""A charge scale recovered from a radial distribution function and a dipole moment, by reweighting.

    python benchmarks/fit_charges.py --json benchmarks/results/fit_charges.json

A liquid of 16 flexible dumbbells: charges ±0.42 e on a spring, a soft repulsion of all atoms of different molecules,
and lesjax's Ewald sum over Gaussian charges. The targets come from a long run of Langevin dynamics with the true
charges. The fits start with charges of 0.8 and 1.25 times the true ones, know nothing else about them, and draw a new
trajectory when the effective sample size falls below a half.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import write_json

from lesjax import ewald, fitting
from lesjax.dynamics import Settings
from lesjax.numerics import safe_norm
from lesjax.properties import block_error


N_MOLECULES, BOX, TEMPERATURE = 16, 10.0, 400.0
CHARGE, BOND, SPRING = 0.42, 1.6, 12.0  # e, Å, eV/Å²
HEIGHT, RANGE = 300.0, 0.28  # of the repulsion A exp(-r/ρ): eV, Å
MASS = 20.0  # amu
SYMBOLS = ["Na", "Cl"] * N_MOLECULES
CELL = BOX * np.eye(3)
SOLVER = ewald.make_solver(CELL, True, n_atoms=2 * N_MOLECULES, accuracy=1e-3)
SIGNS = np.tile([1.0, -1.0], N_MOLECULES)
BONDED = np.kron(np.eye(N_MOLECULES, dtype=bool), np.ones((2, 2), bool))
TRUE = 0.0  # logarithm of the charge scale


def charges(log_scale: jax.Array, frame: fitting.Frame, solver: Any) -> jax.Array:
    """Charges of the atoms, e."""
    return jnp.exp(log_scale) * jnp.asarray(CHARGE * SIGNS, frame.positions.dtype)


def energy(log_scale: jax.Array, frame: fitting.Frame, solver: Any) -> jax.Array:
    """Springs, repulsion of nearest images and Ewald sum, eV."""
    positions, cell = frame.positions, frame.cell
    vectors = positions[:, None] - positions[None]
    vectors -= BOX * jnp.round(vectors / BOX)
    repulsion = jnp.where(BONDED, 0.0, HEIGHT * jnp.exp(-safe_norm(vectors, jnp.asarray(~BONDED)) / RANGE))
    bonds = positions[1::2] - positions[::2]
    lengths = safe_norm(bonds, jnp.ones(N_MOLECULES, bool))
    springs = 0.5 * SPRING * jnp.sum((lengths - BOND) ** 2)
    return springs + 0.5 * jnp.sum(repulsion) + ewald.energy(solver, positions, cell, charges(log_scale, frame, solver))


def molecular_dipole(log_scale: jax.Array, frame: fitting.Frame, solver: Any) -> jax.Array:
    """Mean magnitude of the dipole moments of the molecules, e Å."""
    q = charges(log_scale, frame, solver)
    bonds = frame.positions[1::2] - frame.positions[::2]
    return jnp.mean(jnp.abs(q[1::2]) * safe_norm(bonds, jnp.ones(N_MOLECULES, bool)))


OBSERVABLES = {
    "rdf": fitting.radial_distribution(SYMBOLS, "Na", "Cl", cutoff=5.0, width=0.25),
    "dipole": fitting.Observable(molecular_dipole),
}


def start_frame() -> fitting.Frame:
    """Molecules on a lattice, along x, in alternating directions."""
    corners = np.stack(np.meshgrid(*[np.arange(n) for n in (2, 2, 4)], indexing="ij"), axis=-1).reshape(-1, 3)
    centres = (corners + 0.5) * (BOX / np.array([2, 2, 4]))
    way = np.where(corners.sum(axis=1) % 2, 0.5, -0.5)[:, None] * np.array([BOND, 0.0, 0.0])
    positions = np.stack([centres - way, centres + way], axis=1).reshape(-1, 3)
    return fitting.Frame(jnp.asarray(positions, float), jnp.asarray(CELL, float))


def make_sampler(steps: int, equilibration: int, seed: int) -> fitting.Sampler:
    """Langevin dynamics with a frame every 0.1 ps."""
    settings = Settings(
        ensemble="langevin", steps=steps, timestep=2.0, temperature=TEMPERATURE, thermostat_time=200.0, frame_every=50,
        seed=seed,
    )  # fmt: skip
    masses = np.full(2 * N_MOLECULES, MASS)
    return fitting.make_sampler(energy, masses, settings, solver=SOLVER, equilibration=equilibration)


def measure(arguments: argparse.Namespace) -> tuple[dict[str, fitting.Target], int]:
    """Targets and their errors by blocks, from a run with the true charges."""
    sample = make_sampler(arguments.target_steps, arguments.equilibration, seed=1)
    scale = jnp.asarray(TRUE, float)
    frames = sample(scale, 0, start_frame())
    trajectory = fitting.make_trajectory(
        energy, scale, frames, temperature=TEMPERATURE, observables=OBSERVABLES, solver=SOLVER, batch_size=64
    )
    targets = {}
    for name, observable in OBSERVABLES.items():
        values = fitting.observable_values(name, observable, scale, trajectory, batch_size=64)
        error = np.asarray(block_error(values, n_blocks=20))
        # a bin that nearly no pair visits has nearly no spread
        error = np.maximum(error, 0.02) if error.ndim else np.maximum(error, 1e-4)
        targets[name] = fitting.Target(name, observable, np.asarray(jnp.mean(values, axis=0)), error)
    return targets, len(trajectory)


def run(names: list[str], scale: float, targets: dict[str, fitting.Target], arguments: argparse.Namespace) -> dict:
    """Run one fit to some of the targets."""
    started = time.perf_counter()
    sample = make_sampler(arguments.sample_steps, arguments.equilibration, seed=2)
    params = jnp.asarray(np.log(scale), float)
    first = fitting.make_trajectory(
        energy,
        params,
        sample(params, 0, start_frame()),
        temperature=TEMPERATURE,
        observables=OBSERVABLES,
        solver=SOLVER,
    )
    ensemble = fitting.Reweighting(
        energy, first, [targets[name] for name in names], sampler=sample, min_effective=0.5, batch_size=64
    )
    # a short memory: the first gradients, far from the targets, are large
    rate = optax.cosine_decay_schedule(arguments.learning_rate, arguments.fit_steps)
    optimizer = optax.adam(rate, b1=0.8, b2=0.9)
    fitted = fitting.fit(params, [ensemble], optimizer=optimizer, steps=arguments.fit_steps, quiet=True)
    last = fitted.history[-1]
    result = {
        "targets": names,
        "start": scale,
        "found": float(jnp.exp(fitted.params)),
        "error_percent": 100.0 * abs(float(jnp.exp(fitted.params)) - 1.0),
        "first_loss": fitted.history[0]["loss"],
        "last_loss": last["loss"],
        "trajectories": 1 + last["draws"][0],
        "frames": len(first),
        "last_effective": last["effective"][0],
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(result, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target-steps", type=int, default=500_000)
    parser.add_argument("--sample-steps", type=int, default=100_000)
    parser.add_argument("--equilibration", type=int, default=10_000)
    parser.add_argument("--fit-steps", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--json", help="write the results here")
    arguments = parser.parse_args()
    started = time.perf_counter()
    targets, n_frames = measure(arguments)
    seconds = round(time.perf_counter() - started, 1)
    print(f"targets of {n_frames} frames in {seconds} s: {targets['dipole'].value}", flush=True)
    runs = [
        run(names, scale, targets, arguments)
        for names, scale in ((["rdf", "dipole"], 0.8), (["rdf", "dipole"], 1.25), (["rdf"], 0.8), (["dipole"], 0.8))
    ]
    rdf, dipole = targets["rdf"], targets["dipole"]
    result = {
        "dtype": str(jnp.zeros(()).dtype),
        "target_frames": n_frames,
        "target_seconds": seconds,
        "dipole": {"value": float(dipole.value), "error": float(dipole.uncertainty)},
        "rdf": {"g": np.asarray(rdf.value).tolist(), "error": np.asarray(rdf.uncertainty).tolist()},
        "runs": runs,
        "seconds": round(time.perf_counter() - started, 1),
    }
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
