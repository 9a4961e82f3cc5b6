"""Errors of a potential on labelled structures."""

import math
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from lesjax import io
from lesjax.models.potential import Potential, check_solved
from lesjax.training.data import epoch_batches, make_dataset, subtract_reference
from lesjax.training.losses import Weights
from lesjax.training.step import make_evaluation


@dataclass(frozen=True)
class Parity:
    """Reference and predicted values of one kind, without those that have no reference."""

    reference: np.ndarray
    predicted: np.ndarray

    def rmse(self) -> float:
        """Root mean square error."""
        return float(np.sqrt(np.mean((self.predicted - self.reference) ** 2)))

    def mae(self) -> float:
        """Mean absolute error."""
        return float(np.mean(np.abs(self.predicted - self.reference)))

    def r2(self) -> float:
        """Coefficient of determination; NaN where the reference does not vary."""
        spread = np.sum((self.reference - self.reference.mean()) ** 2)
        if spread == 0:
            return math.nan
        return float(1.0 - np.sum((self.predicted - self.reference) ** 2) / spread)


@dataclass(frozen=True)
class Evaluation:
    """Numbers and pairs of values; kinds that the data do not have are absent.

    Attributes:
        metrics: energies in eV/atom, forces in eV/Å, stress in eV/Å³, charges in e.
        parity: energy (eV/atom, without the reference energies of the elements), forces, stress, charges.
    """

    metrics: dict[str, float | int]
    parity: dict[str, Parity]


def evaluate(
    potential: Potential,
    frames: Sequence[io.Atoms],
    *,
    keys: io.Keys | None = None,
    pbc: bool | tuple[bool, bool, bool] | None = None,
    batch_size: int = 8,
) -> Evaluation:
    """Compare a potential with the labels of structures.

    Energies and forces fix the latent charges up to one sign for all of them; the sign that correlates with the
    reference charges is taken, and channels are summed.

    Args:
        potential: the model.
        frames: structures with labels.
        keys: names of the labels.
        pbc: overrides the periodicity of the structures.
        batch_size: structures computed at once.

    Raises:
        ValueError: for structures without a single label, or elements that the model does not know.
    """
    labels = io.all_labels(frames, keys)
    dataset = make_dataset(potential.config, frames, labels, pbc)
    with_stress = any(np.isfinite(label.stress).any() for label in labels)
    compute = make_evaluation(potential.config, with_stress=with_stress)
    values: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    weights = Weights(energy=jnp.asarray(1.0), forces=jnp.asarray(1.0))
    for bucket, rows, mask in epoch_batches(dataset, batch_size, None):
        prediction = compute(potential.params, dataset.buckets[bucket], rows, mask, weights)[2]
        check_solved(prediction)
        found = jax.device_get(vars(prediction))
        for k in np.flatnonzero(mask):
            index = int(dataset.members[bucket][rows[k]])
            n, label = len(frames[index]), labels[index]
            reference = subtract_reference(potential.config, frames[index].numbers, label.energy)
            pairs: dict[str, tuple[ArrayLike, ArrayLike]] = {}
            pairs["energy"] = (reference / n, found["interaction_energy"][k] / n)
            pairs["forces"] = (label.forces, found["forces"][k, :n])
            if found["stress"] is not None:
                pairs["stress"] = (label.stress, found["stress"][k])
            if found["charges"] is not None:
                pairs["charges"] = (label.charges, found["charges"][k, :n].sum(axis=1))
            for name, (known, value) in pairs.items():
                values.setdefault(name, []).append((np.ravel(known), np.ravel(np.asarray(value, np.float64))))
    parity = {}
    for name, parts in values.items():
        reference, predicted = (np.concatenate(side) for side in zip(*parts, strict=True))
        known = np.isfinite(reference)
        if known.any():
            parity[name] = Parity(reference[known], predicted[known])
    if not parity:
        raise ValueError("No structure has an energy, forces, a stress or charges under the names of `keys`.")
    if "charges" in parity:
        charges = parity["charges"]
        sign = -1.0 if float(charges.reference @ charges.predicted) < 0 else 1.0
        parity["charges"] = Parity(charges.reference, sign * charges.predicted)
    metrics: dict[str, float | int] = {"n_structures": len(frames)}
    for name, pair in parity.items():
        metrics[f"{name}_rmse"] = pair.rmse()
        metrics[f"{name}_mae"] = pair.mae()
        if name == "charges" and math.isfinite(pair.r2()):
            metrics["charges_r2"] = pair.r2()
    return Evaluation(metrics, parity)


def evaluate_file(
    potential: Potential, path: str | pathlib.Path, *, keys: io.Keys | None = None, pbc: bool | None = None
) -> Evaluation:
    """`evaluate` for a file that ase reads; an error names the file."""
    frames = io.read(path)
    try:
        return evaluate(potential, frames, keys=keys, pbc=pbc)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error

