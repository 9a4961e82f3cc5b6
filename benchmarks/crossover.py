"""Number of atoms from which the mesh is faster than the direct sum: energy and forces at the same accuracy.

    python benchmarks/crossover.py --json benchmarks/results/crossover.json

The engines run in turn in one process, in float32, so that their ratio is fair on a busy machine too. 0.1 atoms/Å³,
σ = 1 Å, random charges. "nufft" is included if jax-finufft is installed. Errors are those of the forces relative to
the direct sum in float32 with accuracy 1e-6, up to 3000 atoms.
"""

import argparse
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
from common import interleaved, write_json
from rich.console import Console
from rich.table import Table

from lesjax import ewald


DENSITY = 0.1
DTYPE = "float32"
# the direct sum of more atoms takes seconds
MOST_ATOMS = {"direct": 10_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="write the results to this file")
    parser.add_argument("--atoms", type=int, nargs="+", default=[100, 200, 300, 500, 1000, 3000, 10_000, 100_000])
    parser.add_argument("--accuracy", type=float, nargs="+", default=[1e-3, 1e-4])
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each; the median counts")
    arguments = parser.parse_args()
    rows = [measure(n, accuracy, arguments.rounds) for accuracy in arguments.accuracy for n in arguments.atoms]
    table = Table("accuracy", "atoms", "engine", "plan", "ms", "first call s", "force error", "time / direct")
    for row in rows:
        for name, values in row["engines"].items():
            cells = (row["accuracy"], row["n_atoms"], name, values["plan"], values["ms"], values["first_call_s"])
            table.add_row(*map(str, (*cells, values.get("forces_error", ""), values.get("ratio", ""))))
    Console().print(table)
    if arguments.json:
        load = round(os.getloadavg()[0], 1)
        settings = {"density": DENSITY, "sigma": 1.0, "rounds": arguments.rounds}
        write_json(arguments.json, {"dtype": DTYPE, "load_average": load, "settings": settings, "cases": rows})


def measure(n_atoms: int, accuracy: float, rounds: int) -> dict:
    """Times and errors of all engines for one system."""
    edge = (n_atoms / DENSITY) ** (1 / 3)
    rng = np.random.default_rng(n_atoms)
    cell = np.eye(3) * edge
    arrays = [jnp.asarray(x, DTYPE) for x in (rng.uniform(0, edge, (n_atoms, 3)), cell, rng.normal(size=n_atoms))]
    methods = ["direct", "mesh"] + ["nufft"] * (importlib.util.find_spec("jax_finufft") is not None)
    methods = [method for method in methods if n_atoms <= MOST_ATOMS.get(method, n_atoms)]
    solvers = {
        method: ewald.make_solver(cell, True, n_atoms=n_atoms, accuracy=accuracy, method=method) for method in methods
    }
    function = jax.jit(jax.value_and_grad(ewald.energy, 1))
    times, first = interleaved({name: lambda s=s: function(s, *arrays) for name, s in solvers.items()}, rounds)
    exact = None
    if n_atoms <= 3000:
        exact = function(ewald.make_solver(cell, True, n_atoms=n_atoms, accuracy=1e-6, method="direct"), *arrays)[1]
    engines = {}
    for name, solver in solvers.items():
        mesh = isinstance(solver, ewald.MeshSolver)
        plan = f"{'x'.join(map(str, solver.mesh))} order {solver.order}" if mesh else str(solver.k_shape)
        engines[name] = {"plan": plan, "ms": times[name], "first_call_s": first[name]}
        if "direct" in times:
            engines[name]["ratio"] = round(times[name] / times["direct"], 3)
        if exact is not None:
            error = jnp.linalg.norm(function(solver, *arrays)[1] - exact) / jnp.linalg.norm(exact)
            engines[name]["forces_error"] = float(f"{float(error):.1e}")
    return {"n_atoms": n_atoms, "accuracy": accuracy, "engines": engines}


if __name__ == "__main__":
    main()
