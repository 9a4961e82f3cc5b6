"""The sign of latent charges: energies and forces leave it open, one for each channel.

Convention: in every channel, the most electronegative element of the model is negative on average. It is applied once,
after training, to `Potential.signs`; the energy stays the same. Where the total charge of systems with a
net charge was constrained, or a phase has trained on labels of charges, the sign is set already and stays.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from lesjax.models.potential import Potential
from lesjax.training.data import Dataset, epoch_batches
from lesjax.training.step import evaluate_rows


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
    elements = [z for z in potential.config.short_range.elements if z <= len(PAULING)]
    if len(elements) < 2 or not sign_is_free(potential, dataset):
        return None
    negative = max(elements, key=lambda z: PAULING[z - 1])
    charges, numbers = charges_of(potential, dataset, names, batch_size)
    totals = charges[numbers == negative].sum(axis=0)
    signs = np.where(totals > 0, -1.0, 1.0)
    return None if np.all(signs > 0) else flip(potential, signs)


def align(
    potentials: Sequence[Potential], dataset: Dataset, names: tuple[str, ...], batch_size: int
) -> list[Potential]:
    """Return the potentials with the signs for which their charges overlap with the first one's, channel by channel.

    Arguments as in `orient`.
    """
    if not sign_is_free(potentials[0], dataset):
        return list(potentials)
    charges = [charges_of(potential, dataset, names, batch_size)[0] for potential in potentials]
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


def charges_of(
    potential: Potential, dataset: Dataset, names: tuple[str, ...], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Latent charges of all atoms, [n, c], and their atomic numbers; arguments as in `orient`."""
    charges, numbers = [], []
    for bucket, rows, mask in epoch_batches(dataset, batch_size, None):
        system = dataset.buckets[bucket].system
        real = np.asarray(system.atom_mask)[rows] & mask[:, None]
        batch_charges = evaluate_rows(potential.core(), dataset.buckets[bucket], rows, mask, names)[1].charges
        charges.append(np.asarray(batch_charges)[real])
        numbers.append(np.asarray(system.atomic_numbers)[rows][real])
    return np.concatenate(charges), np.concatenate(numbers)


def flip(potential: Potential, signs: np.ndarray | float) -> Potential:
    """Multiply the latent charges, dipoles and quadrupoles of each channel by its sign."""
    assert potential.signs is not None
    return dataclasses.replace(potential, signs=potential.signs * jnp.asarray(signs, potential.signs.dtype))
