"""The sign of latent charges: energies and forces leave it open, one for each channel.

Convention: in every channel, the most electronegative element of the model is negative on average. It is applied once,
after training, to `Potential.signs`; the energy stays the same. Where the total charge of systems with a
net charge was constrained, or a phase has trained on labels of charges, the sign is set already and stays.
"""

from collections.abc import Sequence

import numpy as np

from lesjax.models.potential import Potential
from lesjax.models.sign import flip, most_electronegative
from lesjax.training.charges import charges_of
from lesjax.training.data import Dataset


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
