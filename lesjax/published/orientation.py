"""The sign of published charges, which is arbitrary.

Where structures with labels are given, the charges or dipole moments of each channel get the sign for which they
overlap with the labels. Otherwise the most electronegative element is negative on average, in the structures that are
given, or has the smaller charge in small molecules with each other element. Those are far from the data of many models:
what they give is a guess.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from lesjax.io import all_labels, chemical_symbols, covalent_radii
from lesjax.models.potential import Potential, apply
from lesjax.models.sign import PAULING, flip, most_electronegative
from lesjax.properties import dipole_moment
from lesjax.system import System


if TYPE_CHECKING:
    from lesjax.io import Atoms


def orient(potential: Potential, structures: "Sequence[Atoms] | None") -> tuple[Potential, str | None]:
    """Set the signs of all channels; returns the potential and what has set them, None for a short-range model.

    Raises:
        ValueError: for structures without elements of the model, or labels without a sign.
    """
    if potential.config.long_range is None:
        return potential, None
    overlap, reason = None, ""
    if structures is not None:
        overlap, reason = _with_labels(potential, structures)
    negative = most_electronegative(potential.config)
    if overlap is None and negative is not None:
        symbol = chemical_symbols[negative]
        if structures is None:
            overlap = _in_molecules(potential, negative)
            overlap = overlap if overlap.any() else None
            reason = f"electronegativities: {symbol} is negative in small molecules"
        else:
            systems = [_system(potential, atoms) for atoms in structures]
            systems = [system for system in systems if negative in system.atomic_numbers]
            if not systems:
                raise ValueError(f"The structures that set the sign have no {symbol}, which is negative by convention.")
            totals = [_charges(potential, s)[np.asarray(s.atomic_numbers) == negative].sum(axis=0) for s in systems]
            overlap = -np.sum(totals, axis=0)
            reason = f"electronegativities: {symbol} is negative in {len(systems)} given structures"
    if overlap is None:
        return potential, "nothing"
    return (potential if np.all(overlap >= 0.0) else flip(potential, np.where(overlap < 0.0, -1.0, 1.0))), reason


def _with_labels(potential: Potential, structures: "Sequence[Atoms]") -> tuple[np.ndarray | None, str]:
    """Overlap of each channel with labels of charges, or else of dipole moments; None where there are none."""
    charges, moments = [], []
    for atoms, labels in zip(structures, all_labels(structures), strict=True):
        has_charges = bool(np.isfinite(labels.charges).all())
        if not has_charges and (any(atoms.pbc) or not np.isfinite(labels.dipole).all()):
            continue
        system = _system(potential, atoms)
        found = _charges(potential, system)
        if has_charges:
            charges.append(np.asarray(labels.charges) @ found)
        else:
            found = found - found.mean(axis=0)
            columns = [dipole_moment(system.positions, found[:, c]) for c in range(found.shape[1])]
            moments.append(np.asarray(columns) @ np.asarray(labels.dipole))
    if charges:
        return np.sum(charges, axis=0), f"labels of charges in {len(charges)} structures"
    return (
        (np.sum(moments, axis=0), f"labels of dipole moments in {len(moments)} structures") if moments else (None, "")
    )


def _system(potential: Potential, atoms: "Atoms") -> System:
    return System.from_ase(atoms, cutoff=potential.cutoff)


def _charges(potential: Potential, system: System) -> np.ndarray:
    """Permanent charges of the atoms, [n, c], e."""
    potential.checked_solver(system, None)
    return np.asarray(_permanent(potential.core(), jax.device_put(system)), float)


# Run once or a few times: what the compiler could save is less than its own time. It dies of a flag that it does not
# know; the second one is to go.
_QUICK = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    _QUICK |= {"xla_cpu_use_fusion_emitters": False}


@functools.partial(jax.jit, compiler_options=_QUICK)
def _permanent(potential: Potential, system: System) -> jax.Array:
    sources = apply(potential, system)[1]
    assert sources is not None
    assert sources.charges is not None
    return sources.charges


_DIRECTIONS = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]) / 3.0**0.5
_CORES = (0, 2, 10, 18, 36, 54, 86)


# Å between molecules, beyond the range of any message
_APART = 60.0


def _in_molecules(potential: Potential, negative: int) -> np.ndarray:
    """Charge of the other element minus that of the negative one, weighted by their difference in electronegativity.

    Summed over molecules AB_n of both, with the valences of their groups and bonds of the sum of the covalent radii.
    All are in one system, far apart, so that one shape is compiled.
    """
    others = [z for z in potential.config.short_range.elements if z <= len(PAULING) and _valence(z) and z != negative]
    positions, numbers, molecules = [np.zeros((0, 3))], [], []
    for i, other in enumerate(others):
        center, ligand = sorted((negative, other), key=_valence)[::-1]
        n = _valence(center) // _valence(ligand)
        length = covalent_radii[other] + covalent_radii[negative]
        molecule = np.concatenate([np.zeros((1, 3)), length * _DIRECTIONS[:n]])
        positions.append(molecule + np.array([_APART * i, 0.0, 0.0]))
        numbers += [center] + [ligand] * n
        molecules += [i] * (n + 1)
    if not others:
        return np.zeros(1)
    cell, all_numbers = np.zeros((3, 3)), np.array(numbers)
    system = System.from_arrays(np.concatenate(positions), cell, all_numbers, False, cutoff=potential.cutoff)
    charges = _charges(potential, system)
    total = np.zeros(charges.shape[1])
    for i, other in enumerate(others):
        mine = np.array(molecules) == i
        difference = charges[mine & (all_numbers == other)].mean(0) - charges[mine & (all_numbers == negative)].mean(0)
        total += (PAULING[negative - 1] - PAULING[other - 1]) * difference
    return total


def _valence(z: int) -> int:
    """Bonds of an atom by its group: main groups 1 to 4 and back to 0, 2 between them."""
    core, following = max(c for c in _CORES if c < z), next((c for c in _CORES if c >= z), 118)
    if following - z < 6 and z > 2:
        return (0, 1, 2, 3, 4, 3)[following - z]
    return min(z - core, 2) if z != 2 else 0
