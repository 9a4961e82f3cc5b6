"""Weights of frames, and warnings of labels that look as if they had not been computed."""

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from lesjax.io.keys import Keys, Labels


LARGE_STRESS = 1.0  # eV/Å³, 160 GPa
WEIGHTS = ("config_weight", "energy_weight", "forces_weight", "stress_weight")
MAX_WEIGHT = 1e9
WEIGHT_LIKE = re.compile("(config|configuration|frame|structure|sample|loss|energy|forces?|stress|virials?)?weights?")


def letters(name: str) -> str:
    """A name without case and marks."""
    return re.sub("[^a-z0-9]", "", name.lower())


def entry(atoms: Atoms, names: Sequence[str]) -> tuple[str, Any]:
    """Name and value of the first of these entries of the comment line; None where none is.

    One in another case, or with other marks between its words, counts where no name is spelled exactly so.
    """
    info = {key: value for key, value in atoms.info.items() if isinstance(key, str) and value is not None}
    loose = {letters(key): key for key in info}
    found = [name for name in names if name in info] + [loose[letters(n)] for n in names if letters(n) in loose]
    return (found[0], info[found[0]]) if found else (names[0], None)


def weights(atoms: Atoms, keys: Keys) -> dict[str, float]:
    """Factor of each label of a frame in the loss.

    Raises:
        ValueError: for one that is negative, too large or no number.
    """
    found = {}
    for kind in WEIGHTS:
        name, value = entry(atoms, getattr(keys, kind))
        number = np.asarray(1.0 if value is None else value)
        if number.size != 1 or number.dtype.kind not in "iuf" or not 0 <= number.item() <= MAX_WEIGHT:
            raise ValueError(
                f"`{name}` must be a weight, a number from 0 to {MAX_WEIGHT:g}, got {str(value)[:60]!r}; its key is "
                f"set by `data.keys.{kind}`."
            )
        found[kind] = float(number.item())
    return {kind: found["config_weight"] * found.get(f"{kind}_weight", 1.0) for kind in Labels.shapes(0)}


def warn_of_unread_weights(frames: Sequence[Atoms], keys: Keys) -> None:
    """Warn of entries that look like weights and are not used."""
    used = {letters(name) for kind in WEIGHTS for name in getattr(keys, kind)}
    names = {str(key) for atoms in frames for key in atoms.info}
    unread = sorted(name for name in names if letters(name) not in used and WEIGHT_LIKE.fullmatch(letters(name)))
    if unread:
        warnings.warn(
            f"No weights of structures are read from `{'`, `'.join(unread)}`: name it in `data.keys.config_weight`, "
            "`energy_weight`, `forces_weight` or `stress_weight` if it is one.",
            stacklevel=3,
        )


def warn_of_values(
    frames: Sequence[Atoms],
    labels: Sequence[Labels],
    names: Mapping[str, str],
    members: Sequence[int],
    needed: Collection[str],
) -> None:
    """Warn of energies that are zero or all equal, of forces that are all zero, and of stresses beyond `LARGE_STRESS`.

    Single atoms may have energies and forces of zero.

    Args:
        frames: structures.
        labels: of each.
        names: of the labels.
        members: places of the structures in their file.
        needed: labels that are asked for.
    """
    several = [i for i, atoms in enumerate(frames) if len(atoms) > 1]
    energies = np.array([float(labels[i].energy) for i in several])
    known = energies[np.isfinite(energies)]
    zeros = int(np.sum(known == 0.0))
    advice = "Name the right one in `data.keys.{0}`, or train without a weight of the {0}."
    if "energy" not in needed or not len(known):
        pass
    elif zeros > 1 or (zeros and (len(known) == 1 or known.min() < 0.0)):  # relative energies have one zero, the lowest
        warnings.warn(
            f"The energy `{names['energy']}` is exactly 0 in {zeros} of {len(known)} structures, as if it had not been "
            f"computed. {advice.format('energy')}",
            stacklevel=3,
        )
    elif len(known) > 1 and np.ptp(known) < 1e-8 and not _all_same([frames[i] for i in several]):
        warnings.warn(
            f"The energy `{names['energy']}` is {known[0]:.6g} eV in all of {len(known)} structures, which differ. "
            f"{advice.format('energy')}",
            stacklevel=3,
        )
    forces = [labels[i].forces for i in several if np.isfinite(labels[i].forces).any()]
    if "forces" in needed and len(forces) > 1 and not any(np.nan_to_num(x).any() for x in forces):
        warnings.warn(
            f"The forces `{names['forces']}` are exactly 0 in all of {len(forces)} structures, as if they had not been "
            f"computed. {advice.format('forces')}",
            stacklevel=3,
        )
    largest = np.array([np.max(np.abs(label.stress)) for label in labels])
    large = np.flatnonzero(largest > LARGE_STRESS)
    if len(large):
        warnings.warn(
            f"The stress `{names['stress']}` reaches {largest[large].max():.3g} eV/Å³ in {len(large)} structures "
            f"(first: {members[large[0]]}); 1 eV/Å³ is 160 GPa. Give a virial as `data.keys.virial`, and a stress in "
            "eV/Å³.",
            stacklevel=3,
        )


def _all_same(frames: Sequence[Atoms]) -> bool:
    first = frames[0]
    return all(
        len(atoms) == len(first)
        and np.array_equal(atoms.positions, first.positions)
        and np.array_equal(atoms.cell.array, first.cell.array)
        and np.array_equal(atoms.numbers, first.numbers)
        for atoms in frames
    )
