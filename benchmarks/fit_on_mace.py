"""A vibration of a molecule fitted with the published MACE-LES and NequIP-LES models of dipeptides: time and memory.

    JAX_ENABLE_X64=1 python benchmarks/fit_on_mace.py --json benchmarks/results/fit_on_mace.json

The smallest molecule of the validation set is relaxed, its highest vibration below 2000 cm⁻¹ is found, and steps along
the gradient with respect to all parameters, through the minimum and the second derivatives, take it 2 % down. Times are
CPU seconds of all threads, also on a machine that does other things; memory is what XLA allocates for intermediate
results.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import shared, write_json
from jax.flatten_util import ravel_pytree
from markdown_tables import number, table

from lesjax import Potential, convert, fitting, io, properties
from lesjax.system import System


FILES = {"mace": "checkpoints/mace_dipep_r4_l0.model", "nequip": "checkpoints/nequip_dipep_r4_nl3_l1.ckpt"}
HIGHEST, CHANGE, STEPS, BATCH = 2000.0, 0.98, 2, 4  # cm⁻¹; factor on the frequency; steps of the fit; products at once


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a function and the CPU seconds of all threads that it took."""
    start = time.process_time()
    result = jax.block_until_ready(function())
    return result, round(time.process_time() - start, 2)


def measure(name: str) -> dict:
    """Relax, find the vibration, and fit it; time and memory of each part."""
    potential = convert(shared(FILES[name]))
    atoms = min(io.read(shared("data/dipeptides/valid.xyz")), key=len)
    masses, n = atoms.get_masses(), len(atoms)
    system = System.from_ase(atoms, cutoff=potential.cutoff, pbc=False)
    flat, unravel = ravel_pytree(potential.params)

    def moved(parameters: jax.Array) -> Potential:
        return dataclasses.replace(potential, params=unravel(parameters))

    relaxed, first_relax = timed(lambda: fitting.relax(Potential.energy, potential, system))
    solver = relaxed.solver
    hessian = jax.jit(partial(properties.hessian, Potential.energy, solver=solver, batch_size=BATCH))
    first_hessian = timed(lambda: hessian(potential, relaxed.system))[1]
    values, seconds_hessian = timed(lambda: hessian(potential, relaxed.system))
    modes = properties.normal_modes(values, masses)
    chosen = int(np.flatnonzero(np.asarray(modes.frequencies) < HIGHEST)[-1])
    vector = modes.vectors[chosen : chosen + 1]

    @jax.jit
    def frequency(parameters: jax.Array, minimum: System) -> jax.Array:
        frequencies = properties.mode_frequencies(
            Potential.energy, moved(parameters), minimum, masses, vector, solver=solver
        )
        return frequencies[0]

    def at_minimum(parameters: jax.Array) -> jax.Array:
        minimum = fitting.relax(Potential.energy, moved(parameters), relaxed.system, solver=solver)
        return frequency(parameters, minimum.system)

    target, parameters, path, seconds = CHANGE * float(modes.frequencies[chosen]), flat, [], []
    for _ in range(STEPS):
        (value, gradient), cpu = timed(lambda parameters=parameters: jax.value_and_grad(at_minimum)(parameters))
        path.append(float(value))
        seconds.append(cpu)
        parameters = parameters + (target - value) / jnp.sum(gradient**2) * gradient
    path.append(float(at_minimum(parameters)))

    def all_frequencies(parameters: jax.Array, batch_size: int | None) -> jax.Array:
        frequencies = properties.mode_frequencies(
            Potential.energy, moved(parameters), relaxed.system, masses, modes.vectors[6:], solver=solver,
            batch_size=batch_size,
        )  # fmt: skip
        return jnp.mean(frequencies)

    memory = {}
    for size in (None, BATCH):
        compiled = jax.jit(jax.grad(partial(all_frequencies, batch_size=size))).lower(flat).compile()
        memory["all" if size is None else str(size)] = round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 1)
    result = {
        "molecule": atoms.get_chemical_formula(), "n_atoms": n, "n_parameters": len(flat),
        "target_cm": target, "path_cm": path,
        "largest_change": float(jnp.max(jnp.abs(parameters - flat))),
        "first_relax_s": first_relax, "first_hessian_s": first_hessian, "hessian_s": seconds_hessian,
        "first_gradient_s": seconds[0], "gradient_s": seconds[-1], "gradient_of_all_modes_MB": memory,
    }  # fmt: skip
    print(name, result, flush=True)
    return result


def summary(content: dict) -> list[str]:
    """Table of a result file, for the page of results."""
    rows = []
    for name, case in content["cases"].items():
        memory = case["gradient_of_all_modes_MB"]
        path = " → ".join(f"{value:.1f}" for value in case["path_cm"])
        numbers = [case[key] for key in ("first_relax_s", "first_gradient_s", "gradient_s")]
        atoms = f"{case['molecule']}, {case['n_parameters']}"
        cells = [name, atoms, path, f"{case['target_cm']:.1f}", *map(number, numbers), *map(number, memory.values())]
        rows.append(cells)
    header = ["model", "molecule, parameters", "frequency (cm⁻¹)", "target", "relaxation, first (s)"]
    header += ["gradient, first (s)", "gradient (s)", "memory, all modes (MB)", f"{content['batch_size']} at once"]
    note = "CPU seconds of all threads; the first call compiles. Gradients are with respect to all parameters, through "
    note += "the minimum and the second derivatives. Memory: for the gradient of the mean of all vibrations, without "
    note += "batches and with them."
    return [*table(header, rows), note, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--json", help="write the results here")
    arguments = parser.parse_args()
    cases = {name: measure(name) for name in arguments.models}
    if arguments.json:
        write_json(arguments.json, {"dtype": str(jnp.zeros(()).dtype), "batch_size": BATCH, "cases": cases})


if __name__ == "__main__":
    main()
