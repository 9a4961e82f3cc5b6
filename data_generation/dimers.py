"""Pairs of molecules, charged (C), polar (P) and apolar (A), along their separation, labelled with GFN2-xTB.

The classes CC, CP, PP, CA, PA and AA follow Huguenin-Dumittan, Loche, Haoran, Ceriotti, J. Phys. Chem. Lett.
14, 9612 (2023), doi:10.1021/acs.jpclett.3c02375, there with DFT. Near pairs are for training and far ones for
testing, so that the interaction beyond a cutoff must come from physics: in GFN2-xTB, from Coulomb's law between
its charges, dipoles and quadrupoles, and from dispersion.

Molecules are rigid, each at its own minimum, with open boundaries. A frame has the total energy and forces
(forces of the lone molecules are below 2 meV/Å), Mulliken charges, and in ``info``

- ``inter_energy``: energy of the pair less those of the two molecules, eV; ``energyA``, ``energyB``: these;
- ``distance``: between the centres of mass, Å; ``indexB``: index of the first atom of the second molecule;
- ``charge``, ``chargeA``, ``chargeB``: total and of each molecule, e;
- ``class``, ``pair``, ``orientation``: names of class and pair; the number of the curve.

``python -m data_generation.dimers`` writes the set.
"""

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.optimize import BFGS

from data_generation import smoothness, storage
from data_generation.xtb import XTB, NotConverged, label, singlepoint


# Opposite ions are such that no charge moves between them: the highest level of the anion stays below the lowest
# empty one of the cation out to 15 Å. With carboxylates, 0.14 e move to the ammonium ion at 15 Å.
PAIRS = {
    "CC": (("NH4+", "BF4-"), ("CH3NH3+", "ClO4-"), ("NH4+", "CH3NH3+"), ("HCOO-", "CH3COO-")),
    "CP": (("NH4+", "H2O"), ("HCOO-", "CH3OH"), ("CH3NH3+", "H2CO")),
    "PP": (("H2O", "H2CO"), ("CH3OH", "CH3CN"), ("H2O", "HCOOH")),
    "CA": (("NH4+", "C2H4"), ("HCOO-", "CH4"), ("CH3NH3+", "CO2")),
    "PA": (("H2O", "CH4"), ("CH3OH", "CO2"), ("CH3CN", "C6H6")),
    "AA": (("CH4", "C2H6"), ("CO2", "C2H4"), ("C6H6", "CH4")),
}
METHOD = "GFN2-xTB"
ORIENTATIONS = 3  # number of curves of each pair
DISTANCES = {"train": np.arange(3.0, 9.01, 0.5), "test": np.arange(9.5, 15.01, 0.5)}  # Å
CONTACT = 2.0  # Å, smallest distance between atoms of the two molecules; nearer pairs are left out
MAX_FORCE = 0.002  # eV/Å, of a relaxed molecule


def charge_of(name: str) -> int:
    """Charge of a molecule in e, the sign at the end of its name."""
    return {"+": 1, "-": -1}.get(name[-1], 0)


def monomer(name: str) -> Atoms:
    """Make a molecule before relaxation; the ions are made from neutral molecules of ase.

    Raises:
        ValueError: for a name that is not in `PAIRS`.
    """
    if name not in {n for pairs in PAIRS.values() for pair in pairs for n in pair}:
        raise ValueError(f"`name` must be a molecule of `PAIRS`, got {name!r}.")
    if name in ("NH4+", "CH3NH3+"):  # as many electrons as methane and ethane
        atoms = molecule({"NH4+": "CH4", "CH3NH3+": "C2H6"}[name])
        atoms.symbols[0] = "N"
    elif name in ("BF4-", "ClO4-"):  # methane, enlarged
        atoms = molecule("CH4")
        atoms.symbols = ["B", "F", "F", "F", "F"] if name == "BF4-" else ["Cl", "O", "O", "O", "O"]
        atoms.positions *= 1.3
    elif name in ("HCOO-", "CH3COO-"):
        atoms = molecule({"HCOO-": "HCOOH", "CH3COO-": "CH3COOH"}[name])
        distances = atoms.get_all_distances()[:, atoms.symbols == "O"].min(axis=1)
        del atoms[[i for i in atoms.symbols.search("H") if distances[i] < 1.2]]
    else:
        atoms = molecule(name)
    return Atoms(atoms.numbers, atoms.positions - atoms.get_center_of_mass())


def relax(name: str) -> Atoms:
    """Relax a molecule to its minimum of GFN2-xTB, forces below `MAX_FORCE`; returned with its calculator.

    Raises:
        RuntimeError: if it is not reached.
    """
    atoms = monomer(name)
    atoms.calc = XTB(charge_of(name), 0, METHOD)
    if not BFGS(atoms, logfile=None).run(fmax=MAX_FORCE, steps=300):
        raise RuntimeError(f"{name} is not relaxed after 300 steps.")
    return atoms


def place(first: Atoms, second: Atoms, distance: float, rotations: np.ndarray) -> Atoms:
    """Join two molecules, turned by `rotations` [2, 3, 3], with centres of mass at a distance along z, in Å."""
    turned = [(m.positions - m.get_center_of_mass()) @ r for m, r in zip((first, second), rotations, strict=True)]
    turned[1][:, 2] += distance
    atoms = Atoms([*first.numbers, *second.numbers], np.concatenate(turned))
    atoms.info = {"distance": round(float(distance), 3), "indexB": len(first)}
    return atoms


def contact(atoms: Atoms) -> float:
    """Smallest distance between atoms of the two molecules, Å."""
    n = atoms.info["indexB"]
    return float(atoms.get_all_distances()[:n, n:].min())


def generate(seed: int = 0) -> tuple[dict[str, list[Atoms]], int]:
    """Generate the parts of the set, "CC_train", "CC_test", ..., and count the frames that did not converge."""
    names = sorted({name for pairs in PAIRS.values() for pair in pairs for name in pair})
    molecules = {name: relax(name) for name in names}
    parts: dict[str, list[Atoms]] = {f"{kind}_{part}": [] for kind in PAIRS for part in DISTANCES}
    dropped = 0
    for i, (kind, pairs) in enumerate(PAIRS.items()):
        for j, (a, b) in enumerate(pairs):
            for orientation in range(ORIENTATIONS):
                rotations = np.linalg.qr(np.random.default_rng([seed, i, j, orientation]).normal(size=(2, 3, 3)))[0]
                rotations *= np.linalg.det(rotations)[:, None, None]
                for part, distances in DISTANCES.items():
                    for distance in distances:
                        atoms = place(molecules[a], molecules[b], distance, rotations)
                        if contact(atoms) < CONTACT:
                            continue
                        atoms.info |= {"class": kind, "pair": f"{a} {b}", "orientation": orientation}
                        try:
                            frame = label(atoms, charge_of(a) + charge_of(b), 0, METHOD)
                        except NotConverged:
                            dropped += 1
                            continue
                        energies = [molecules[name].get_potential_energy() for name in (a, b)]
                        frame.info |= {
                            "chargeA": charge_of(a),
                            "chargeB": charge_of(b),
                            "energyA": round(energies[0], storage.ENERGY_DECIMALS),
                            "energyB": round(energies[1], storage.ENERGY_DECIMALS),
                            "inter_energy": round(
                                frame.get_potential_energy() - sum(energies), storage.ENERGY_DECIMALS
                            ),
                        }
                        parts[f"{kind}_{part}"].append(frame)
    return parts, dropped


def forces(atoms: Atoms) -> np.ndarray:
    """Forces of one frame, eV/Å."""
    return singlepoint(atoms, atoms.info["charge"], 0, METHOD)["forces"]


def second_molecule(atoms: Atoms, _: np.random.Generator) -> np.ndarray:
    """Atoms of the second molecule: molecules are rigid in this set, and one that is stretched may lose its charge."""
    return np.arange(atoms.info["indexB"], len(atoms))


def main() -> None:
    """Write the set; see ``--help``."""
    arguments = storage.parser(__doc__).parse_args()
    parts, dropped = generate(arguments.seed)
    rough = {
        kind: smoothness.check(
            kind, smoothness.roughness(parts[f"{kind}_train"], forces, moved=second_molecule, n_lines=20)
        )
        for kind in PAIRS
    }
    provenance = {
        "description": "rigid pairs of molecules, open boundaries; classes " + ", ".join(PAIRS),
        "command": "python -m data_generation.dimers",
        "seed": arguments.seed,
        "versions": storage.versions("tblite"),
        "labels": "GFN2-xTB, electronic temperature 300 K; charges: Mulliken; inter_energy: pair less molecules",
        "sampling": f"{ORIENTATIONS} random orientations of each pair; centres of mass 3 to 15 Å apart; pairs with "
        f"a contact below {CONTACT} Å are left out",
        "split": "train: 3 to 9 Å, test: 9.5 to 15 Å",
        "dropped": dropped,
        "smoothness": {"unit": "meV/Å", "what": smoothness.WHAT, **rough},
    }
    storage.write_set(arguments.out, "dimers", parts, provenance)


if __name__ == "__main__":
    main()
