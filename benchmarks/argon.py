"""Lennard-Jones argon, clusters and crystals: a model of cutoff 5 Å with and without learned dispersion.

    JAX_ENABLE_X64=1 python benchmarks/argon.py --json benchmarks/results/argon.json

The truth is the Lennard-Jones potential of argon without a cutoff, on pieces of the fcc crystal, pairs of such pieces
at a distance of 4 to 9 Å, and crystals under strain, all with atoms displaced as at about 20 K. Both models have the
configuration `argon` and see the same frames. Besides their errors, the results give the size of what no model of this
cutoff sees: the forces of pairs beyond it, and the part of these that falls as 1/r¹³, which dispersion does not have.
"""

import argparse
import json
import pathlib

import ase
import jax
import numpy as np
import scipy.optimize
from common import write_json

from lesjax import System, io
from lesjax.models import Potential
from lesjax.runs import read_log
from lesjax.training import evaluate, load_config, train


EPSILON, LENGTH = 0.0104, 3.40  # eV, Å
ROOT_C6 = 2.0 * EPSILON**0.5 * LENGTH**3  # √C6, eV½ Å³
LATTICE, CUTOFF, SHORTEST = 5.26, 5.0, 3.2  # Å: constant of the crystal, cutoff of the models, allowed distances
RANGE = 25.0  # Å, beyond which the crystal is a continuum
KINDS = ("cluster", "pair", "crystal")
SIZES = {"train": 30, "valid": 5, "test": 15}  # frames of each kind
MODELS = {"short_range": ("model.dispersion=false",), "dispersion": ()}


def crystal_sites(n: int) -> np.ndarray:
    """Positions of n³ cubic cells of the fcc crystal, Å."""
    corners = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    basis = 0.5 * np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return LATTICE * (corners + basis).reshape(-1, 3)


def displaced(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions with random displacements, of another size in each frame."""
    return positions + rng.normal(0.0, rng.uniform(0.05, 0.15), positions.shape)


def piece(rng: np.random.Generator, smallest: int, largest: int) -> np.ndarray:
    """An ellipsoid cut from a crystal under pressure or tension."""
    sites = rng.uniform(0.97, 1.05) * crystal_sites(5)
    distances = np.linalg.norm((sites - sites.mean(axis=0) - rng.uniform(-3, 3, 3)) * rng.uniform(0.6, 1.6, 3), axis=1)
    positions = displaced(sites[np.argsort(distances)[: rng.integers(smallest, largest + 1)]], rng)
    return positions - positions.mean(axis=0)


def two_pieces(rng: np.random.Generator) -> np.ndarray:
    """Two pieces, turned at random, whose nearest atoms are 4 to 9 Å apart."""
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2)]
    one, other = (piece(rng, 6, 16) @ turn for turn in turns)
    direction, gap = turns[0][0], rng.uniform(4.0, 9.0)

    def excess(shift: float) -> float:
        return np.linalg.norm(one[:, None] - other - shift * direction, axis=-1).min() - gap

    far = next(shift for shift in np.arange(40.0, 0.0, -0.5) if excess(shift - 0.5) < 0)
    return np.concatenate([one, other + scipy.optimize.brentq(excess, far - 0.5, far) * direction])


def frame(kind: str, rng: np.random.Generator) -> ase.Atoms:
    """A labelled frame of one of the kinds; drawn again while two atoms are too close."""
    cell = None
    if kind == "crystal":
        strain = rng.normal(0.0, 0.02, (3, 3))
        deformation = rng.uniform(0.98, 1.05) * np.eye(3) + 0.5 * (strain + strain.T)
        positions, cell = displaced(crystal_sites(2), rng) @ deformation, 2 * LATTICE * deformation
    else:
        positions = piece(rng, 13, 32) if kind == "cluster" else two_pieces(rng)
    parts = lennard_jones(positions, cell)
    if parts is None:
        return frame(kind, rng)
    energy, forces, beyond, steep = parts
    atoms = ase.Atoms(f"Ar{len(positions)}", positions, cell=cell, pbc=cell is not None)
    atoms.info = {"REF_energy": energy, "config_type": kind}
    for name, values in {"REF_forces": forces, "beyond": beyond, "steep": steep}.items():
        atoms.set_array(name, values)
    return atoms


def lennard_jones(
    positions: np.ndarray, cell: np.ndarray | None
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray] | None:
    """Energy, forces, those of pairs beyond the cutoff, and of these the ones of 1/r¹²; None if atoms are too close."""
    n = len(positions)
    shifts = np.zeros((1, 3))
    if cell is not None:
        reach = np.ceil(RANGE * np.linalg.norm(np.linalg.inv(cell), axis=0)) + 1
        shifts = np.stack(np.meshgrid(*[np.arange(-k, k + 1) for k in reach], indexing="ij"), -1).reshape(-1, 3) @ cell
    vectors = positions[None, :, None] - positions[:, None, None] + shifts
    squares = np.sum(vectors**2, axis=-1)
    same = squares < 1e-12
    if squares[~same].min() < SHORTEST**2:
        return None
    counted = ~same & (squares < (np.inf if cell is None else RANGE**2))
    powers = np.where(counted, LENGTH**2 / np.where(same, 1.0, squares), 0.0) ** 3
    energy = 2.0 * EPSILON * float(np.sum(powers**2 - powers))
    if cell is not None:  # the attraction of a continuum
        energy -= 0.5 * n * ROOT_C6**2 * 4.0 * np.pi / 3.0 * n / abs(np.linalg.det(cell)) / RANGE**3
    far = squares > CUTOFF**2
    # force on the first atom of a pair, towards the other where it attracts
    slopes = 24.0 * EPSILON / np.where(same, 1.0, squares)
    repulsion, attraction = -2.0 * slopes * powers**2, slopes * powers
    return energy, *(
        np.einsum("ijs,ijsk->ik", weights, vectors)
        for weights in (repulsion + attraction, far * (repulsion + attraction), far * repulsion)
    )


def root_mean_square(values: list[np.ndarray]) -> float:
    """Root mean square of all components, in thousandths of their unit."""
    return 1e3 * float(np.sqrt(np.mean(np.concatenate(values) ** 2)))


def errors(potential: Potential, frames: list[ase.Atoms]) -> dict[str, float]:
    """Errors by kind of frame, meV/Å and meV/atom."""
    result = evaluate(potential, frames)
    groups = {"all": result.metrics, **result.by_config_type}
    names = {"forces_rmse": "meV_A", "energy_rmse": "meV_atom"}
    return {f"{kind}_{key}_{unit}": 1e3 * group[key] for kind, group in groups.items() for key, unit in names.items()}


def mean_coefficient(potential: Potential, frames: list[ase.Atoms]) -> float | None:
    """Mean of the learned √C6 over the atoms of all frames, eV½ Å³; None for a model without dispersion."""
    if potential.config.dispersion is None:
        return None
    systems = [System.from_ase(atoms, cutoff=potential.cutoff) for atoms in frames]
    return float(np.mean(np.concatenate([potential(system).dispersion_coefficients for system in systems])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the results here")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/argon"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as for lesjax train")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    frames = {part: [frame(kind, rng) for kind in KINDS for _ in range(size)] for part, size in SIZES.items()}
    arguments.work.mkdir(parents=True, exist_ok=True)
    for part, members in frames.items():
        io.write(arguments.work / f"{part}.xyz", members)
    places = [f"data.{part}={(arguments.work / f'{part}.xyz').resolve()}" for part in ("train", "valid")]
    sizes = {
        kind: {
            name: root_mean_square([a.arrays[array] for a in frames["test"] if kind in (a.info["config_type"], "all")])
            for name, array in {"forces": "REF_forces", "beyond": "beyond", "steep": "steep"}.items()
        }
        for kind in (*KINDS, "all")
    }
    print(json.dumps(sizes, indent=1))
    runs = {}
    for name, settings in MODELS.items():
        output = arguments.work / name
        potential = train(load_config("argon", [*places, f"output={output}", *settings, *arguments.set]))
        runs[name] = {
            "errors": errors(potential, frames["test"]),
            "root_C6": mean_coefficient(potential, frames["test"][:: SIZES["test"]]),  # a frame of each kind
            "seconds": round(read_log(output / "log.jsonl")[-1]["seconds"]),
        }
        print(name, runs[name], flush=True)
    if arguments.json:
        facts = {"dtype": str(jax.numpy.zeros(()).dtype), "settings": arguments.set, "root_C6": ROOT_C6}
        write_json(arguments.json, {**facts, "frames": SIZES, "test_forces_meV_A": sizes, "runs": runs})


if __name__ == "__main__":
    main()
