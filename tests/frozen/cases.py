"""The models, systems and runs of the frozen record. They stand until the redesign is done."""

import ase
import numpy as np

from lesjax.dynamics import Settings
from toy import CELL, FRACTIONAL


# model: kind of system
MODELS = {
    **dict.fromkeys(
        ("short_range", "latent", "messages", "channels", "early_self_energy", "element_charges", "multipoles",
         "one_shot", "self_consistent", "fixed", "equilibration", "background"), "bulk"
    ),
    **dict.fromkeys(("fixed_learned", "equilibrated_cluster", "states"), "cluster"),
    "slab": "slab",
    "mesh": "large",
}  # fmt: skip
MD = {
    ensemble: Settings(
        ensemble, steps=100, timestep=0.5, temperature=200.0, pressure=1e4, thermostat_time=20.0, barostat_time=1000.0,
        log_every=10, frame_every=100,
    )
    for ensemble in ("nve", "nvt", "langevin", "npt", "npt-flexible")
}  # fmt: skip
TRAINED = ("latent", "multipoles", "equilibration", "states", "short_range")


def atoms_of(kind: str) -> ase.Atoms:
    """The structure of a kind of system, on two sides of the walls of its cell."""
    rng = np.random.default_rng(3)
    repeats = (8, 8, 2) if kind == "large" else (2, 1, 1)
    atoms = ase.Atoms("Na2Cl2", FRACTIONAL @ CELL, cell=CELL, pbc=True).repeat(repeats)
    atoms.positions += 0.15 * rng.normal(size=(len(atoms), 3))
    if kind == "slab":
        atoms.cell = atoms.cell.array + np.array([[0, 0, 0], [0, 0, 0], [0, 0, 9.0]])
        atoms.pbc = (True, True, False)
    if kind == "cluster":
        atoms.pbc = False
    atoms.info |= {"charge": 1.0 if kind == "cluster" else 0.0, "spin": 2}
    return atoms
