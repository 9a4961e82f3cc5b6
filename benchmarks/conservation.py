"""Conservation, reversibility and restarts of molecular dynamics of 64 water molecules with a trained model.

    python benchmarks/real_data.py water
    python benchmarks/conservation.py --json benchmarks/results/conservation.json
    JAX_ENABLE_X64=1 python benchmarks/conservation.py --json benchmarks/results/conservation.json

From the last frame of the shared water set, after 10 000 steps of Langevin dynamics at 300 K, and at constant
pressure after a further part of the same kind, in which the volume of the data relaxes to that of the model. A part
of a run has 20 000 steps of 0.5 fs. `drift` is the slope of the conserved energy over all parts, in eV per atom and ps,
`drift_of_parts` the slopes of the parts: Verlet's energy differs from the conserved one by terms in the square of
the time step, which vary with the vibrations, and their scatter shows how reliable a slope over 10 ps is.
`reversal`: 500 steps, velocities turned round, 500 steps: the largest distance from the start. `kill`: a process is
killed (SIGKILL) at random moments and started again until it ends; its files are compared byte by byte with those of an
undisturbed run. `new_plan`: the cell is strained until the plan of the Ewald sum no longer holds; the change of the
energy by a new plan at the same configuration.
"""

import argparse
import dataclasses
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import ase
import ase.io
import jax
import numpy as np
from common import read_runs, shared, write_json

import lesjax
from lesjax import io
from lesjax.dynamics import Settings, simulate
from lesjax.dynamics.simulation import Simulation
from lesjax.runs import read_table


TIMESTEP = 0.5
ENSEMBLES = {
    "nve": {},
    "nvt": {"temperature": 300.0},
    "npt": {"temperature": 300.0, "pressure": 1.0},
    "npt-flexible": {"temperature": 300.0, "pressure": 1.0},
}
CHECKS = (*ENSEMBLES, "reversal_A", "new_plan_eV_per_atom", "kill")
KILLS = 4


def drift(
    potential: lesjax.Potential, start: ase.Atoms, ensemble: str, steps: int, parts: int, folder: pathlib.Path
) -> dict:
    """Slopes and scatter of the conserved energy."""
    settings = Settings(ensemble, steps, TIMESTEP, frame_every=steps, checkpoint_every=steps, **ENSEMBLES[ensemble])
    if settings.constant_pressure:
        start = simulate(potential, start, folder / "volume", settings, quiet=True)
    settings = dataclasses.replace(settings, steps=steps * parts)
    simulate(potential, start, folder, settings, quiet=True)
    log = read_table(folder / "log.csv")
    column = "total_energy_eV" if ensemble == "nve" else "conserved_energy_eV"
    ps, energy = 1e-3 * log["time_fs"], log[column] / len(start)
    slope, level = np.polyfit(ps, energy, 1)
    slopes = [np.polyfit(*part, 1)[0] for part in zip(*(np.array_split(x, parts) for x in (ps, energy)), strict=True)]
    return {
        "steps": steps * parts,
        "drift_eV_per_atom_and_ps": float(f"{slope:.3g}"),
        "drift_of_parts": [float(f"{x:.3g}") for x in slopes],
        "scatter_eV_per_atom": float(f"{np.std(energy - slope * ps - level):.3g}"),
        "temperature_K": round(float(log["temperature_K"].mean()), 1),
    }


def reversal(potential: lesjax.Potential, start: ase.Atoms, folder: pathlib.Path) -> float:
    """Distance from the start after 500 steps forward and back, Å."""
    settings = Settings(steps=500, timestep=TIMESTEP, frame_every=500)
    forward = simulate(potential, start, folder / "there", settings, quiet=True)
    forward.set_momenta(-forward.get_momenta())
    back = simulate(potential, forward, folder / "back", settings, quiet=True)
    return float(f"{np.abs(back.positions - start.positions).max():.3g}")


def killed(model: pathlib.Path, start: ase.Atoms, folder: pathlib.Path, seed: int) -> dict:
    """Check whether a run that is killed repeatedly writes the trajectory of one that is not."""
    ase.io.write(folder / "start.xyz", start)
    command = [sys.executable, "-m", "lesjax", "md", str(model), str(folder / "start.xyz"), "--steps", "3000"]
    command += ["--ensemble", "npt", "--temperature", "300", "--checkpoint-every", "100", "--frame-every", "50"]

    def start_run(name: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, "--out", str(folder / name)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def lines() -> int:
        log = folder / "killed" / "log.csv"
        return len(log.read_bytes().splitlines()) if log.exists() else 0

    if start_run("whole").wait() != 0:
        sys.exit("The run that was left alone ended with an error.")
    rng = random.Random(seed)
    for _ in range(KILLS):
        # of 30 lines that the log has at its end
        target, process = lines() + rng.randint(1, 7), start_run("killed")
        while process.poll() is None and lines() < target:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            sys.exit("A run ended before it was killed.")
    if start_run("killed").wait() != 0:
        sys.exit("The run that was killed did not go on.")
    same = all(
        (folder / "whole" / name).read_bytes() == (folder / "killed" / name).read_bytes()
        for name in ("trajectory.xyz", "log.csv", "final.xyz")
    )
    return {"kills": KILLS, "identical": same}


def new_plan(potential: lesjax.Potential, start: ase.Atoms, folder: pathlib.Path) -> float:
    """Largest change of the energy by a new plan of the Ewald sum at the edge of the old one, eV/atom."""
    changes = []
    for stretch in (0.88, 1.1):
        settings = Settings(ensemble="npt", temperature=300.0, steps=1)
        simulation = Simulation(potential, start, folder / str(stretch), settings)
        cell = simulation.cell
        # the first strain that the old plan does not hold for
        factors = np.linspace(1.0, stretch, 200)
        assert simulation.solver is not None
        factor = next(f for f in factors if not simulation.solver.still_valid(f * cell))
        position = simulation.state.position * factor
        simulation.state = dataclasses.replace(simulation.state, position=position, cell=cell * factor)
        simulation.neighbor_list = simulation.allocate(position, cell * factor, None)
        simulation.replan_if_drifted()
        changes.append(abs(simulation.progress.energy_offset) / len(start))
    return float(f"{max(changes):.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", default=CHECKS, help=f"of {', '.join(CHECKS)}; all by default")
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("runs/real_data/water/model"))
    parser.add_argument("--steps", type=int, default=20000, help="of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path, default=None, help="results; others that it has are kept")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.checks) - set(CHECKS))
    if unknown:
        parser.error(f"there is no check {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    potential = lesjax.load(arguments.model)
    dtype = "float64" if jax.config.jax_enable_x64 else "float32"
    atoms = io.read(shared("data/water/rpbe_d3_40.xyz"))[-1]
    values: dict = {"n_atoms": len(atoms)}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        warm = Settings(ensemble="langevin", temperature=300.0, steps=10000, timestep=TIMESTEP)
        start = simulate(potential, atoms, folder / "warm", warm, quiet=True)
        checks = {
            "reversal_A": lambda: reversal(potential, start, folder),
            "new_plan_eV_per_atom": lambda: new_plan(potential, start, folder),
            "kill": lambda: killed(arguments.model, start, folder, arguments.seed),
        }
        for check in arguments.checks:
            if check in ENSEMBLES:
                # in float32 drifts ten times as large are looked for; a moving cell scatters more
                parts = 1 if dtype == "float32" and check != "nve" else 6 if check.startswith("npt") else 3
                values[check] = drift(potential, start, check, arguments.steps, parts, folder / check)
            else:
                values[check] = checks[check]()
            print(dtype, check, values[check], flush=True)
            if arguments.json:
                runs = read_runs(arguments.json)
                runs[dtype] = {**runs.get(dtype, {}), **values}
                write_json(arguments.json, {"timestep_fs": TIMESTEP, "runs": runs})


if __name__ == "__main__":
    main()
