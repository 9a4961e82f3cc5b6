"""Steps per second of molecular dynamics of water, and their parts, against the same potential through ASE.

    python benchmarks/md.py --json benchmarks/results/md.json

Boxes of 192, 1536 and 12288 atoms with the published water model (converted), NVE at 0.5 fs and 300 K. `driver` is
`lesjax.dynamics.simulate` with its log (every 100 steps) and everything on the host; `energy_and_forces` only the model
on an existing neighbour list, 100 times in one compiled loop as the driver does, `call` once from the host,
`short_range` without the sum; `neighbours` a step's check and filter of the list, `new_list` those with a new list in
between; `ase` ase's VelocityVerlet on `LesCalculator`. Stretches of the driver and calls of the others are interleaved,
so that noise hits all alike. The speed of the PyTorch code is not measured here, see `common.TORCH_TIMINGS`.
"""

import argparse
import dataclasses
import pathlib
import tempfile
import time

import ase.units
import jax
import jax.numpy as jnp
import numpy as np
from ase.md.verlet import VelocityVerlet
from common import TORCH_TIMINGS, interleaved, published_potential, shared, write_json

from lesjax import io
from lesjax.dynamics import LesCalculator, Settings
from lesjax.dynamics.momenta import maxwell_boltzmann
from lesjax.dynamics.simulation import Simulation
from lesjax.models.potential import Potential, predict
from lesjax.neighbors.verlet import renew, within_cutoff


# published PyTorch code through ASE, see `TORCH_TIMINGS`, steps/s
REFERENCE = {192: 14.7, 1536: 1.9, 12288: 0.065}
# as users get it
LOG_EVERY = Settings.log_every


def measure(potential: Potential, repeat: int, steps: int, rounds: int) -> dict:
    """Measure one size."""
    atoms = io.read(shared("data/water/rpbe_d3_40.xyz"))[0] * (repeat, repeat, repeat)
    atoms.set_momenta(maxwell_boltzmann(atoms.get_masses(), 300.0, np.random.default_rng(0)))
    steps = max(LOG_EVERY, steps // LOG_EVERY * LOG_EVERY)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(steps=10**9, log_every=LOG_EVERY)
        start = time.perf_counter()
        simulation = Simulation(potential, atoms, pathlib.Path(folder), settings)
        simulation.output.log(simulation.progress, simulation.advance(LOG_EVERY))
        compile_s = time.perf_counter() - start
        # the velocities of a structure at rest take a while to reach all modes
        for _ in range(2):
            simulation.output.log(simulation.progress, simulation.advance(simulation.progress.step + LOG_EVERY))

        def driver() -> None:
            for _ in range(steps // LOG_EVERY):
                simulation.output.log(simulation.progress, simulation.advance(simulation.progress.step + LOG_EVERY))

        calculator = atoms.copy()
        calculator.set_momenta(atoms.get_momenta())
        calculator.calc = LesCalculator(potential)
        verlet = VelocityVerlet(calculator, 0.5 * ase.units.fs)

        functions = parts(simulation)
        functions["driver"] = driver
        functions["ase"] = lambda: verlet.run(1)
        times, _ = interleaved(functions, rounds)
    short_range = times.pop("short_range") / LOG_EVERY
    model = times.pop("energy_and_forces") / LOG_EVERY
    step = times.pop("driver") / steps
    return {
        "n_atoms": len(atoms),
        "steps_per_second": round(1e3 / step, 3),
        "step_ms": round(step, 4),
        "energy_and_forces_ms": round(model, 4),
        "energy_and_forces_call_ms": times["call"],
        "driver_overhead": round(step / model - 1.0, 3),
        "driver_overhead_over_calls": round(step / times["call"] - 1.0, 3),
        "long_range_share": round((model - short_range) / model, 3),
        "neighbours_ms": times["neighbours"],
        "new_list_ms": times["new_list"],
        "ase_steps_per_second": round(1e3 / times["ase"], 3),
        "reference_torch_steps_per_second": REFERENCE.get(len(atoms)),
        "neighbours_per_atom": simulation.neighbor_list.plan.capacity,
        "compile_s": round(compile_s, 2),
    }


def parts(simulation: Simulation) -> dict:
    """The parts of a step, each compiled by itself, for the current state of the simulation."""
    potential, solver, neighbor_list = simulation.potential, simulation.solver, simulation.neighbor_list
    position, cell = simulation.state.position, simulation.cell
    system = jax.jit(lambda: within_cutoff(neighbor_list, simulation.template, position, cell))()
    config = dataclasses.replace(potential.config, long_range=None)
    short_range = dataclasses.replace(potential, config=config, signs=None)

    @jax.jit
    def repeated(potential, system, solver):
        def again(_, forces):
            # nothing of an evaluation, the neighbours included, is the same as in the one before
            moved = dataclasses.replace(system, positions=system.positions + 1e-12 * forces)
            moved, _ = jax.lax.optimization_barrier((moved, forces))
            return predict(potential, moved, solver, with_stress=False).forces

        return jax.lax.fori_loop(0, LOG_EVERY, again, jnp.zeros_like(system.positions))

    @jax.jit
    def neighbours(neighbor_list, position):
        new = renew(neighbor_list, position, cell)
        return new.overflow, within_cutoff(new, simulation.template, position, cell).neighbor_mask

    far = position + jnp.asarray(simulation.settings.skin, position.dtype)

    @jax.jit
    def once(potential, system, solver):
        prediction = predict(potential, system, solver, with_stress=False)
        return prediction.energy, prediction.forces

    return {
        "call": lambda: once(potential, system, solver),
        "energy_and_forces": lambda: repeated(potential, system, solver),
        "short_range": lambda: repeated(short_range, system, None),
        "neighbours": lambda: neighbours(neighbor_list, position),
        "new_list": lambda: neighbours(neighbor_list, far),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None)
    parser.add_argument("--repeats", type=int, nargs="+", default=[1, 2, 4], help="of the box with 192 atoms")
    parser.add_argument("--steps", type=int, default=LOG_EVERY, help="of the driver in each round")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    potential, rows = published_potential("reference/cace_water.npz"), []
    for repeat in arguments.repeats:
        rows.append(measure(potential, repeat, arguments.steps, arguments.rounds))
        print(rows[-1], flush=True)
    if arguments.json:
        facts = {"dtype": str(jnp.zeros(()).dtype), "reference_torch": TORCH_TIMINGS}
        write_json(arguments.json, {**facts, "rows": rows})


if __name__ == "__main__":
    main()
