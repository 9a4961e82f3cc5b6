"""Train on molecules with lone atoms, and on lone atoms and ions, and compare their energies with the labels.

    python benchmarks/lone_atoms.py --json benchmarks/results/lone_atoms.json

The configurations `lone_atoms` and `lone_ions`. ``--data shared``: faults/isolated_atoms.xyz and isolated_ions.xyz of
the shared data; ``--data made``: sets of the same kind that are made here, used if the shared folder is absent.
Finished runs are kept in the folder `--work`.
"""

import argparse
import pathlib

import ase
import jax
import numpy as np
from common import SHARED, shared, write_json

from lesjax import io
from lesjax.models import Potential
from lesjax.system import System
from lesjax.training import load_config, train


SETS = ("atoms", "ions")
ATOMS = {"O": -432.0, "H": -13.6}  # eV
IONS = {("Na", 0): -100.0, ("Na", 1): -94.86, ("K", 0): -200.0, ("K", 1): -195.66}
DEPTH, STIFFNESS, LENGTH = 5.0, 2.2, 0.96  # Morse bond: eV, 1/Å, Å


def morse(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy of the bonds of the first atom to the others, eV, and forces, eV/Å."""
    bonds = positions[1:] - positions[0]
    lengths = np.linalg.norm(bonds, axis=1)
    decay = np.exp(-STIFFNESS * (lengths - LENGTH))
    slopes = 2.0 * DEPTH * STIFFNESS * (1.0 - decay) * decay
    on_others = -(slopes / lengths)[:, None] * bonds
    forces = np.concatenate([-on_others.sum(axis=0, keepdims=True), on_others])
    return DEPTH * float(np.sum((1.0 - decay) ** 2 - 1.0)), forces


def made_atoms(n_molecules: int = 24) -> list[ase.Atoms]:
    """Molecules of water with two Morse bonds, and the lone atoms."""
    rng = np.random.default_rng(0)
    frames = []
    start = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    for _ in range(n_molecules):
        positions = start + 0.1 * rng.normal(size=(3, 3))
        energy, forces = morse(positions)
        atoms = ase.Atoms("OH2", positions, info={"REF_energy": energy + ATOMS["O"] + 2 * ATOMS["H"]})
        atoms.set_array("REF_forces", forces)
        frames.append(atoms)
    return frames + [lone(symbol, energy, config_type="IsolatedAtom") for symbol, energy in ATOMS.items()]


def lone(symbol: str, energy: float, **info: object) -> ase.Atoms:
    """One atom with an energy and no forces."""
    atoms = ase.Atoms(symbol, [[0.0] * 3], info={"REF_energy": energy, **info})
    atoms.set_array("REF_forces", np.zeros((1, 3)))
    return atoms


def data_file(data: str, name: str, work: pathlib.Path) -> pathlib.Path:
    """Return the file of a set; one that is made is written first."""
    if data == "shared":
        return shared(f"faults/isolated_{name}.xyz")
    ions = [lone(symbol, energy, total_charge=charge) for (symbol, charge), energy in IONS.items()]
    path = work / f"isolated_{name}.xyz"
    if not path.exists():
        io.write(path, made_atoms() if name == "atoms" else ions)
    return path


def errors(potential: Potential, frames: list[ase.Atoms]) -> dict[str, float]:
    """Largest error of the total energy of each kind of lone atom, meV, and errors of molecules, meV per atom."""
    lone_errors: dict[str, float] = {}
    molecules = []
    for atoms in frames:
        energy = float(potential(System.from_ase(atoms, cutoff=potential.cutoff)).total_energy)
        error = 1e3 * abs(energy - atoms.info["REF_energy"])
        if len(atoms) > 1:
            molecules.append(error / len(atoms))
            continue
        charge = atoms.info.get("total_charge", 0)
        name = f"{atoms.symbols[0]}{f'{charge:+d}' if charge else ''}_meV"
        lone_errors[name] = max(lone_errors.get(name, 0.0), error)
    if molecules:
        lone_errors |= {
            "molecules_rmse_meV_per_atom": float(np.sqrt(np.mean(np.square(molecules)))),
            "molecules_largest_meV_per_atom": max(molecules),
        }
    return {name: round(float(error), 4) for name, error in lone_errors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "shared" if (SHARED / "faults").exists() else "made"
    parser.add_argument("--data", choices=("shared", "made"), default=default, help=f"here by default {default}")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--json", default=None)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/lone_atoms"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as for lesjax train")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs = {}
    for name in arguments.sets:
        file = data_file(arguments.data, name, arguments.work).resolve()
        output = arguments.work / f"{arguments.data}_{name}"
        settings = [f"data.train={file}", f"output={output}", *arguments.set]
        runs[name] = errors(train(load_config(f"lone_{name}", settings)), io.read(file))
        print(name, runs[name], flush=True)
    if arguments.json:
        facts = {"dtype": str(jax.numpy.zeros(()).dtype), "data": arguments.data}
        write_json(arguments.json, {**facts, "settings": arguments.set, "errors": runs})


if __name__ == "__main__":
    main()
