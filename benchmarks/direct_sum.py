"""Energy and forces of the periodic sum: product form (lesjax) against explicit cos and sin of k·r.

    python benchmarks/direct_sum.py --json benchmarks/results/direct_sum.json

Both take the same k-vectors, one of each pair k and -k, in float32, and run in turn in one process. Errors are
relative to the same sum in float64 (numpy). 0.1 atoms/Å³, σ = 1 Å, k_cutoff = π/Å, random charges.
"""

import argparse
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from common import interleaved, write_json
from rich.console import Console
from rich.table import Table

from lesjax import ewald
from lesjax.units import COULOMB


DENSITY, SIGMA, K_CUTOFF = 0.1, 1.0, math.pi
DTYPE = "float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="write the results to this file")
    parser.add_argument("--atoms", type=int, nargs="+", default=[100, 300, 1000, 3000])
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each; the median counts")
    arguments = parser.parse_args()
    rows = [measure(n, arguments.rounds) for n in arguments.atoms]
    Console().print(as_table(rows))
    if arguments.json:
        # what else ran: times taken beside other work are too long, and their ratio is still fair
        load = round(os.getloadavg()[0], 1)
        settings = {"density": DENSITY, "sigma": SIGMA, "k_cutoff": K_CUTOFF, "rounds": arguments.rounds}
        write_json(arguments.json, {"dtype": DTYPE, "load_average": load, "settings": settings, "cases": rows})


def as_table(rows: list[dict]) -> Table:
    """Table with a line per number of atoms and kind of sum."""
    table = Table("atoms", "k-vectors", "sum", "ms", "first call s", "energy error", "forces error", "ratio")
    for row in rows:
        for name in ("lesjax", "explicit"):
            values = row[name]
            table.add_row(
                str(row["n_atoms"]),
                str(row["n_kvectors"]),
                name,
                f"{values['ms']:.2f}",
                f"{values['compile_s']:.2f}",
                f"{values['energy_error']:.1e}",
                f"{values['forces_error']:.1e}",
                f"{row['ratio']:.1f}" if name == "lesjax" else "",
            )
    return table


def measure(n_atoms: int, rounds: int) -> dict:
    """Times and errors of both sums for one system; `compile_s` is the first call."""
    # an edge that float32 holds, so that all have the same cell
    edge = float(np.float32((n_atoms / DENSITY) ** (1 / 3)))
    rng = np.random.default_rng(n_atoms)
    positions = rng.uniform(0, edge, (n_atoms, 3)).astype(DTYPE)
    charges = rng.normal(size=n_atoms).astype(DTYPE)
    cell = (np.eye(3) * edge).astype(DTYPE)
    kvectors = half_space(edge)
    arrays = [jnp.asarray(x) for x in (positions, cell, charges, kvectors.astype(DTYPE))]
    solver = ewald.make_solver(cell, True, n_atoms=n_atoms, sigma=SIGMA, k_cutoff=K_CUTOFF, method="direct")
    fast = jax.jit(jax.value_and_grad(ewald.energy, 1))
    slow = jax.jit(jax.value_and_grad(explicit_energy))
    calls = {"lesjax": lambda: fast(solver, *arrays[:3]), "explicit": lambda: slow(*arrays)}
    times, first = interleaved(calls, rounds)
    exact_energy, exact_gradient = float64_energy(positions, cell, charges, kvectors)
    ratio = round(times["explicit"] / times["lesjax"], 2)
    row: dict = {"n_atoms": n_atoms, "n_kvectors": len(kvectors), "ratio": ratio}
    for name, call in calls.items():
        energy, gradient = call()
        error = np.linalg.norm(gradient - exact_gradient) / np.linalg.norm(exact_gradient)
        row[name] = {
            "ms": times[name],
            "compile_s": first[name],
            "energy_error": float(f"{abs(float(energy) / exact_energy - 1):.2e}"),
            "forces_error": float(f"{error:.2e}"),
        }
    return row


def half_space(edge: float) -> np.ndarray:
    """Return one of k and -k within the cutoff, 1/Å, for a cube."""
    size = math.floor(K_CUTOFF * edge / (2 * math.pi))
    n = np.mgrid[0 : size + 1, -size : size + 1, -size : size + 1].reshape(3, -1).T
    first = (n[:, 0] > 0) | ((n[:, 0] == 0) & ((n[:, 1] > 0) | ((n[:, 1] == 0) & (n[:, 2] > 0))))
    k = 2 * math.pi / edge * n[first]
    return k[np.sum(k**2, axis=1) <= K_CUTOFF**2]


def explicit_energy(positions: jax.Array, cell: jax.Array, charges: jax.Array, kvectors: jax.Array) -> jax.Array:
    """The sum as in the formula: cos and sin of an array of atoms times k-vectors."""
    k_squared = jnp.sum(kvectors**2, axis=1)
    weights = jnp.exp(-0.5 * SIGMA**2 * k_squared) / k_squared
    phases = jnp.matmul(positions, kvectors.T, precision=jax.lax.Precision.HIGHEST)
    squared = (charges @ jnp.cos(phases)) ** 2 + (charges @ jnp.sin(phases)) ** 2
    total = 4 * math.pi * COULOMB / jnp.linalg.det(cell) * jnp.sum(weights * squared)
    return total - 2 * math.pi * COULOMB / (SIGMA * (2 * math.pi) ** 1.5) * jnp.sum(charges**2)


def float64_energy(
    positions: np.ndarray, cell: np.ndarray, charges: np.ndarray, kvectors: np.ndarray
) -> tuple[float, np.ndarray]:
    """Energy and its gradient with respect to positions in float64, a few k-vectors at a time."""
    positions, charges = positions.astype("float64"), charges.astype("float64")
    prefactor = 4 * math.pi * COULOMB / np.linalg.det(cell.astype("float64"))
    energy = -2 * math.pi * COULOMB / (SIGMA * (2 * math.pi) ** 1.5) * np.sum(charges**2)
    gradient = np.zeros_like(positions)
    for k in np.array_split(kvectors, max(1, len(kvectors) // 256)):
        k_squared = np.sum(k**2, axis=1)
        weights = prefactor * np.exp(-0.5 * SIGMA**2 * k_squared) / k_squared
        wave = charges[:, None] * np.exp(1j * (positions @ k.T))
        factor = wave.sum(0)
        energy += np.sum(weights * np.abs(factor) ** 2)
        gradient += 2 * (weights * (1j * wave * factor.conj()).real) @ k
    return float(energy), gradient


if __name__ == "__main__":
    main()
