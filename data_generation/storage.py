"""How the generators write a set: labelled frames in compressed extended xyz, provenance in JSON."""

import argparse
import importlib.metadata
import io
import lzma
import pathlib
from collections.abc import Mapping, Sequence

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from lesjax.datasets import FOLDER, SUFFIX
from lesjax.files import atomic_path, write_json
from lesjax.io import read as read


# Decimals that are kept. Positions are rounded before the labels are computed, so that these belong to
# exactly the positions in the file.
POSITION_DECIMALS = 5  # Å
ENERGY_DECIMALS = 6  # eV
FORCE_DECIMALS = 4  # eV/Å
CHARGE_DECIMALS = 5  # e


def round_positions(atoms: Atoms) -> Atoms:
    """A copy with positions as the file will hold them, without velocities or a calculator."""
    return Atoms(
        atoms.numbers,
        atoms.positions.round(POSITION_DECIMALS),
        cell=atoms.cell.array.round(POSITION_DECIMALS),
        pbc=atoms.pbc,
        info=dict(atoms.info),
    )


def attach(atoms: Atoms, energy: float, forces: np.ndarray, charges: np.ndarray) -> Atoms:
    """Give a frame its labels, rounded: eV, eV/Å [n, 3], e [n]."""
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=round(float(energy), ENERGY_DECIMALS),
        forces=forces.round(FORCE_DECIMALS) + 0.0,  # no -0.0
        charges=charges.round(CHARGE_DECIMALS) + 0.0,
    )
    return atoms


def write_frames(path: pathlib.Path, frames: Sequence[Atoms]) -> None:
    """Write compressed extended xyz; the file appears whole or not at all."""
    text = io.StringIO()
    ase.io.write(text, list(frames), format="extxyz")
    # new versions of ase call the column "charge" and read both names, old ones read this one alone
    content = text.getvalue().replace(":charge:R:1", ":charges:R:1")
    with atomic_path(path) as temporary:
        temporary.write_bytes(lzma.compress(content.encode(), preset=9))


def write_set(folder: pathlib.Path, name: str, parts: Mapping[str, Sequence[Atoms]], provenance: dict) -> None:
    """Write ``{name}_{part}.xyz.xz`` for each part, and ``{name}.json``."""
    for part, frames in parts.items():
        write_frames(folder / f"{name}_{part}{SUFFIX}", frames)
    sizes = {f"{name}_{part}": len(frames) for part, frames in parts.items()}
    units = {"energy": "eV", "forces": "eV/Å", "charges": "e", "positions": "Å"}
    write_json(folder / f"{name}.json", {"frames": sizes, "units": units, **provenance})


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of programs that made the labels, numpy and ase included."""
    return {package: importlib.metadata.version(package) for package in (*packages, "numpy", "ase")}


def parser(description: str | None) -> argparse.ArgumentParser:
    """Command line of a generator: ``--out`` and ``--seed``."""
    result = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    result.add_argument("--out", type=pathlib.Path, default=FOLDER, help="folder for the files (default: %(default)s)")
    result.add_argument("--seed", type=int, default=0, help="of the random numbers (default: %(default)s)")
    return result
