"""Forces of argon-like atoms by models with a cutoff of 5 Å, with and without learned dispersion.

    JAX_ENABLE_X64=1 python benchmarks/dispersion.py --json benchmarks/results/dispersion.json

Rattled clusters (open) and crystals (periodic) of Lennard-Jones atoms, ε = 0.0104 eV and σ = 3.4 Å, whose attraction
reaches 20 Å in the labels, with the energy of a homogeneous density beyond. Both models are trained on the same
clusters with the same settings, and judged on other clusters and on crystals. Finished runs are kept in the folder
`--work`.
"""

import argparse
import itertools
import pathlib

import ase
import jax
import numpy as np
from ase.build import bulk
from common import write_json

from lesjax import io
from lesjax.models import CACEConfig, DispersionConfig, ModelConfig, Potential
from lesjax.system import System
from lesjax.training import train
from lesjax.training.config import DataConfig, Phase, RunConfig, TrainingSection


EPSILON, SIGMA, RANGE = 0.0104, 3.4, 20.0  # eV, Å, Å
N_CLUSTERS, CLUSTER_SIZE = 40, 43


def lennard_jones(positions: np.ndarray, cell: np.ndarray | None) -> tuple[float, np.ndarray]:
    """Energy, eV, and forces, eV/Å, over all images within 20 Å; the attraction beyond is that of a mean density."""
    images = np.zeros((1, 3))
    if cell is not None:
        n = int(RANGE / np.linalg.norm(cell, axis=1).min()) + 2
        images = np.array(list(itertools.product(range(-n, n + 1), repeat=3))) @ cell
    energy, forces = 0.0, np.zeros_like(positions)
    for i, at in enumerate(positions):
        vectors = (at - positions[:, None, :] - images[None, :, :]).reshape(-1, 3)
        squared = np.sum(vectors**2, axis=1)
        vectors, squared = (x[(squared > 1e-9) & (squared < RANGE**2)] for x in (vectors, squared))
        sixth = (SIGMA**2 / squared) ** 3
        energy += 2.0 * EPSILON * np.sum(sixth**2 - sixth)
        forces[i] = np.sum((24.0 * EPSILON * (2.0 * sixth**2 - sixth) / squared)[:, None] * vectors, axis=0)
    if cell is not None:
        density = len(positions) / abs(np.linalg.det(cell))
        energy -= len(positions) * 2.0 * np.pi / 3.0 * density * 4.0 * EPSILON * SIGMA**6 / RANGE**3
    return energy, forces


def frames(rng: np.random.Generator, n_clusters: int, n_crystals: int) -> list[ase.Atoms]:
    """Clusters cut from the crystal around any point, and cubes of 32 atoms, all rattled."""
    made = []
    for i in range(n_clusters + n_crystals):
        atoms = bulk("Ar", "fcc", a=rng.uniform(5.2, 5.5), cubic=True).repeat(2 if i >= n_clusters else 4)
        if i < n_clusters:
            middle = 0.5 * np.diag(atoms.cell.array) + rng.uniform(-1.0, 1.0, 3)
            nearest = np.argsort(np.linalg.norm(atoms.positions - middle, axis=1))[:CLUSTER_SIZE]
            atoms = ase.Atoms("Ar" * CLUSTER_SIZE, atoms.positions[nearest])
        atoms.positions += rng.normal(scale=rng.uniform(0.05, 0.15), size=atoms.positions.shape)
        energy, forces = lennard_jones(atoms.positions, atoms.cell.array if atoms.pbc.any() else None)
        atoms.info["REF_energy"] = energy
        atoms.set_array("REF_forces", forces)
        made.append(atoms)
    return made


def errors(potential: Potential, tests: list[ase.Atoms]) -> dict[str, float]:
    """Root mean square errors of the forces of clusters and crystals, meV/Å."""
    found: dict[str, list[np.ndarray]] = {"clusters": [], "crystals": []}
    for atoms in tests:
        forces = np.asarray(potential(System.from_ase(atoms, cutoff=potential.cutoff)).forces)
        found["crystals" if atoms.pbc.any() else "clusters"].append(forces - atoms.arrays["REF_forces"])
    return {name: round(1e3 * float(np.sqrt(np.mean(np.concatenate(x) ** 2))), 4) for name, x in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=300, help="of L-BFGS")
    parser.add_argument("--json", default=None)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/dispersion"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    file = arguments.work / "train.xyz"
    rng = np.random.default_rng(0)
    training, tests = frames(rng, N_CLUSTERS, 0), frames(rng, 8, 4)
    if not file.exists():
        io.write(file, training)
    short_range = CACEConfig((18,), cutoff=5.0, n_bessel=10, n_radial=10, n_embedding=1, max_l=0, max_nu=1)
    heads = {"short_range": None, "dispersion": DispersionConfig(hidden=())}
    runs = {}
    for name, dispersion in heads.items():
        model = ModelConfig(short_range, None, hidden=(16,), dispersion=dispersion)
        weights = {"energy": 1.0, "forces": 1.0}
        phases = (Phase(100, weights=weights), Phase(arguments.epochs, lbfgs=True, weights=weights))
        section = TrainingSection(batch_size=N_CLUSTERS, phases=phases, eval_every=50)
        config = RunConfig(
            DataConfig(str(file), valid_fraction=0.15, reference_energies="none"),
            str(arguments.work / name),
            model,
            section,
        )
        runs[name] = errors(train(config), tests)
        print(name, runs[name], flush=True)
    sizes = {
        kind: round(1e3 * float(np.sqrt(np.mean(np.concatenate(of_kind) ** 2))), 4)
        for kind, of_kind in {
            "clusters": [atoms.arrays["REF_forces"] for atoms in tests if not atoms.pbc.any()],
            "crystals": [atoms.arrays["REF_forces"] for atoms in tests if atoms.pbc.any()],
        }.items()
    }
    ratios = {kind: round(runs["short_range"][kind] / runs["dispersion"][kind], 2) for kind in sizes}
    print("ratio of the errors", ratios)
    if arguments.json:
        facts = {"dtype": str(jax.numpy.zeros(()).dtype), "epochs": arguments.epochs}
        write_json(arguments.json, {**facts, "forces_rms_meV_per_A": sizes, "errors_meV_per_A": runs, "ratios": ratios})


if __name__ == "__main__":
    main()
