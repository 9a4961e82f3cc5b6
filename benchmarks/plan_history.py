"""What the cells that a calculator has seen before do to an energy.

    python benchmarks/plan_history.py --json benchmarks/results/plan_history.json

`LesCalculator` keeps the plan of the long-range sum while the cell is close to the one it was made for. Each structure
is strained as at constant pressure, up to where the plan is made anew (`Periodic.still_valid`), with its atoms moving;
energies and forces of a calculator that keeps its plan are compared with those of a fresh one. 64 molecules of water
with the charges of SPC/Fw, 192 atoms, as a liquid, as a slab, and doubled (mesh, 768 atoms with four copies); rattled
NaCl with charges of one e, in which k-vectors add up in phase. In float64 unless --float32 is given.
"""

import argparse
from dataclasses import dataclass

import ase
import ase.build
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from common import write_json

from lesjax import datasets
from lesjax.dynamics import LesCalculator
from lesjax.models import Features, FixedCharges, LongRangeConfig, ModelConfig, Potential, register


@dataclass(frozen=True)
class NoneConfig:
    """No short-range energy, which has no history."""

    elements: tuple[int, ...] = ()
    cutoff: float = 2.0


class NoShortRange(nn.Module):
    """One constant feature."""

    config: NoneConfig

    @nn.compact
    def __call__(self, system: object) -> Features:
        ones = jnp.ones_like(system.positions[:, :1])
        return Features((ones,), energy=jnp.zeros_like(ones[:, 0]))


def strains(rng: np.random.Generator, pbc: np.ndarray, number: int) -> list[np.ndarray]:
    """Symmetric strains of all sizes and shapes up to where the plan ends: +3 %, -10 %."""
    found = [s * np.eye(3) for s in np.linspace(-0.095, 0.0295, number)]
    for _ in range(number):
        vectors = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        found.append(vectors @ np.diag(rng.uniform(-0.095, 0.0295, 3)) @ vectors.T)
    mask = np.outer(pbc, pbc)
    return [np.where(mask, strain, 0.0) for strain in found]


def measure(atoms: ase.Atoms, charges: dict[str, float], accuracy: float | None, number: int) -> dict:
    """Largest and root mean square differences of energies, meV per atom, and of forces, meV/Å."""
    elements = tuple(sorted({int(z) for z in atoms.numbers}))
    long_range = LongRangeConfig(FixedCharges(tuple(charges.items())), accuracy=accuracy)
    potential = Potential.create(ModelConfig(NoneConfig(elements), long_range, hidden=()))
    rng = np.random.default_rng(0)
    kept = LesCalculator(potential)
    kept.get_potential_energy(atoms)
    plan = kept._plan
    energies, forces = [], []
    for strain in strains(rng, atoms.pbc, number):
        changed = atoms.copy()
        changed.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        changed.positions += 0.05 * rng.normal(size=changed.positions.shape)
        kept._plan = plan
        fresh = LesCalculator(potential)
        pairs = [(c.get_potential_energy(changed), c.get_forces(changed)) for c in (kept, fresh)]
        assert kept._plan is plan
        energies.append(1e3 * (pairs[0][0] - pairs[1][0]) / len(atoms))
        forces.append(1e3 * (pairs[0][1] - pairs[1][1]))
    return {
        "atoms": len(atoms),
        "accuracy": accuracy or 1e-4,
        "energy_max_meV_per_atom": float(f"{np.abs(energies).max():.2g}"),
        "energy_rms_meV_per_atom": float(f"{np.sqrt(np.mean(np.square(energies))):.2g}"),
        "forces_max_meV_per_A": float(f"{np.abs(forces).max():.2g}"),
    }


def structures() -> dict[str, tuple[ase.Atoms, dict[str, float]]]:
    """Structures and their charges, e."""
    frames = datasets.load("kf_water_test")
    water = next(a for a in frames if a.info["kind"] == "bulk" and a.info["n_pairs"] == 0)
    slab = water.copy()
    slab.wrap()
    slab.pbc = (True, True, False)
    slab.center(vacuum=10.0, axis=2)
    salt = ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2)
    salt.rattle(0.1, seed=1)
    spc, ions = {"H": 0.4238, "O": -0.8476}, {"Na": 1.0, "Cl": -1.0}
    return {
        "water": (water, spc),
        "water slab": (slab, spc),
        "water, four copies": (water.repeat((2, 2, 1)), spc),
        "NaCl": (salt, ions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=20, help="strains of each kind")
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--json", default=None)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", not arguments.float32)
    register("none_of_plan_history", NoShortRange, NoneConfig)
    results = {}
    for name, (atoms, charges) in structures().items():
        for accuracy in (None, 1e-5):
            results[f"{name}, {accuracy or 1e-4:g}"] = measured = measure(atoms, charges, accuracy, arguments.number)
            print(f"{name}: {measured}", flush=True)
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
