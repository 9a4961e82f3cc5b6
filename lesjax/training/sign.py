"""The sign of latent charges: energies and forces leave it open, one for each channel.

Convention: in every channel, the most electronegative element of the model is negative on average. It is applied once,
after training, to `Potential.signs`; the energy stays the same. Where the total charge of systems with a
net charge was constrained, or a phase has trained on labels of charges, the sign is set already and stays.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from lesjax.models.config import ModelConfig
from lesjax.models.potential import Potential
from lesjax.training.charges import charges_of
from lesjax.training.data import Dataset


# Electronegativities of the elements from hydrogen to plutonium; 0 where there is none
PAULING = (
    2.20, 0.00, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, 0.00, 0.93, 1.31, 1.61, 1.90, 2.19, 2.58, 3.16, 0.00,
    0.82, 1.00, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.90, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96, 3.00,
    0.82, 0.95, 1.22, 1.33, 1.60, 2.16, 1.90, 2.20, 2.28, 2.20, 1.93, 1.69, 1.78, 1.96, 2.05, 2.10, 2.66, 2.60,
    0.79, 0.89, 1.10, 1.12, 1.13, 1.14, 1.13, 1.17, 1.20, 1.20, 1.10, 1.22, 1.23, 1.24, 1.25, 1.10, 1.27,
    1.30, 1.50, 2.36, 1.90, 2.20, 2.20, 2.28, 2.54, 2.00, 1.62, 1.87, 2.02, 2.00, 2.20, 2.20,
    0.79, 0.90, 1.10, 1.30, 1.50, 1.38, 1.36, 1.28,
)  # fmt: skip


def decisive(train: Dataset, valid: Dataset | None) -> Dataset:
    """Return the structures whose charges determine the sign.

    The validation set, whose shapes are compiled already, if it has all elements and total charges of the training set.
    """
    return valid if valid is not None and _kinds(train) <= _kinds(valid) else train


def _kinds(dataset: Dataset) -> set[tuple[str, float]]:
    """Elements and total charges of a data set."""
    systems = [bucket.system for bucket in dataset.buckets]
    numbers = np.concatenate([np.asarray(x.atomic_numbers)[np.asarray(x.atom_mask)] for x in systems])
    charges = np.concatenate([np.nan_to_num(np.ravel(x.total_charge)) for x in systems])
    return {("element", float(z)) for z in numbers} | {("total charge", float(q)) for q in charges}


def orient(potential: Potential, dataset: Dataset, names: tuple[str, ...], batch_size: int) -> Potential | None:
    """Return the potential with the signs of the convention, None if it has them already or they are set otherwise.

    Args:
        potential: a trained model.
        dataset: structures whose average charges decide.
        names: terms that are computed as well: terms of the validation, for which all is compiled.
        batch_size: structures computed at once.
    """
    negative = most_electronegative(potential.config)
    if negative is None or not sign_is_free(potential, dataset):
        return None
    charges, numbers = _all_charges(potential, dataset, names, batch_size)
    totals = charges[numbers == negative].sum(axis=0)
    signs = np.where(totals > 0, -1.0, 1.0)
    return None if np.all(signs > 0) else flip(potential, signs)


def most_electronegative(config: ModelConfig) -> int | None:
    """Return the atomic number of the element that is negative by the convention; None where there is but one."""
    elements = [z for z in config.short_range.elements if z <= len(PAULING)]
    return max(elements, key=lambda z: PAULING[z - 1]) if len(elements) > 1 else None


def align(
    potentials: Sequence[Potential], dataset: Dataset, names: tuple[str, ...], batch_size: int
) -> list[Potential]:
    """Return the potentials with the signs for which their charges overlap with the first one's, channel by channel.

    Arguments as in `orient`.
    """
    if not sign_is_free(potentials[0], dataset):
        return list(potentials)
    charges = [_all_charges(potential, dataset, names, batch_size)[0] for potential in potentials]
    overlaps = [np.sum(member_charges * charges[0], axis=0) for member_charges in charges]
    return [
        potential if np.all(overlap >= 0) else flip(potential, np.where(overlap < 0, -1.0, 1.0))
        for potential, overlap in zip(potentials, overlaps, strict=True)
    ]


def sign_is_free(potential: Potential, dataset: Dataset) -> bool:
    """Return whether energies and forces of these structures leave the sign of the latent charges open."""
    if potential.config.long_range is None:
        return False
    totals = [np.ravel(bucket.system.total_charge) for bucket in dataset.buckets]
    return potential.config.long_range.charges.sign_is_free(np.concatenate(totals))


def _all_charges(
    potential: Potential, dataset: Dataset, names: tuple[str, ...], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Latent charges of all atoms, [n, c], and their atomic numbers; arguments as in `orient`."""
    structures = charges_of(potential, dataset, names, batch_size)
    return np.concatenate([s.charges for s in structures]), np.concatenate([s.numbers for s in structures])


def flip(potential: Potential, signs: np.ndarray | float) -> Potential:
    """Multiply the latent charges, dipoles and quadrupoles of each channel by its sign."""
    assert potential.signs is not None
    flipped = potential.signs * jnp.asarray(signs, potential.signs.dtype)
    provenance = potential.provenance
    if provenance is not None and provenance.charges is not None:
        factors = np.broadcast_to(np.asarray(signs, float), potential.signs.shape)
        provenance = dataclasses.replace(provenance, charges=provenance.charges.flipped(factors))
    return dataclasses.replace(potential, signs=flipped, provenance=provenance)
