"""The models, systems and runs of the frozen record. They stand until the redesign is done."""

import dataclasses

import ase
import numpy as np

from lesjax.dynamics import Settings
from lesjax.models.config import CACEConfig, LongRangeConfig, ModelConfig
from toy import CELL, FRACTIONAL


CACE = CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=2, max_l=2, max_nu=2)
MESSAGES = dataclasses.replace(CACE, messages=(("M", "Ar", "Bchi"),), bchi_shared=False, cutoff_function="cosine")
LATENT = LongRangeConfig(hidden=(4,), charge_scale=0.5, k_cutoff=2.6)


def _long_range(**changes: object) -> LongRangeConfig:
    return dataclasses.replace(LATENT, **changes)


def _model(long_range: LongRangeConfig | None = LATENT, representation: CACEConfig = CACE, **changes) -> ModelConfig:
    return ModelConfig(representation, long_range, hidden=(4,), reference_energies=(-5.0, -7.0), **changes)


INDUCED = {"hardness": True, "polarizability": "isotropic"}
# name: (model, kind of system)
MODELS: dict[str, tuple[ModelConfig, str]] = {
    "short_range": (_model(None), "bulk"),
    "latent": (_model(), "bulk"),
    "messages": (_model(representation=MESSAGES), "bulk"),
    "channels": (_model(_long_range(n_channels=3, charge_constraint="neutral")), "bulk"),
    "early_self_energy": (_model(_long_range(n_channels=2, self_energies_removed=2.0)), "bulk"),
    "element_charges": (_model(_long_range(element_charges=True, separate_representation=True)), "bulk"),
    "multipoles": (_model(_long_range(dipoles=True, quadrupoles=True, n_channels=2)), "bulk"),
    "one_shot": (_model(_long_range(induction="one_shot", dipoles=True, **INDUCED)), "bulk"),
    "self_consistent": (
        _model(_long_range(induction="self_consistent", hardness=True, polarizability="tensor", sigma=1.5)),
        "bulk",
    ),
    "fixed": (_model(_long_range(charges="fixed", fixed_charges=(("Na", 0.8), ("Cl", -0.8)))), "bulk"),
    "fixed_learned": (_model(_long_range(charges="fixed")), "cluster"),
    "equilibration": (_model(_long_range(charges="equilibration", element_charges=True)), "bulk"),
    "equilibrated_cluster": (_model(_long_range(charges="equilibration")), "cluster"),
    "states": (
        _model(_long_range(charge_constraint="total"), state_inputs=("total_charge", "spin_multiplicity")),
        "cluster",
    ),
    "slab": (_model(_long_range(dipoles=True)), "slab"),
    "background": (_model(_long_range(background=True)), "bulk"),
    "mesh": (_model(_long_range(k_cutoff=None, accuracy=1e-3)), "large"),
}
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
