"""Errors of a potential on a whole data set, for the validation between epochs."""

import math

import jax
import numpy as np

from lesjax.models.checks import check_solution
from lesjax.models.potential import Potential
from lesjax.training.charges import charge_size, split_charges
from lesjax.training.config import Phase, TrainingSection
from lesjax.training.data import Dataset, epoch_batches
from lesjax.training.losses import Sums, loss_of_sums
from lesjax.training.step import evaluate_rows
from lesjax.training.terms import TERMS, Weights


def phase_weights(phase: Phase) -> Weights:
    """Positive weights of a phase: a term with a weight of zero is left out and costs nothing."""
    return {name: weight for name, weight in phase.weights.items() if weight > 0}


def validated(weights: Weights) -> tuple[str, ...]:
    """Terms of a validation: all of the loss, and others that cost no further pass through the model."""
    return tuple(term.name for term in TERMS if term.name in weights or not term.costly)


def labels_set_sign(section: TrainingSection) -> bool:
    """Return whether any phase trains on labels that depend on the sign of the latent charges."""
    return any(map(sets_sign, section.phases))


def sets_sign(phase: Phase) -> bool:
    """Return whether a phase trains on labels that depend on the sign of the latent charges."""
    return any(term.signed and term.name in phase_weights(phase) for term in TERMS)


def dataset_errors(
    potential: Potential, dataset: Dataset, batch_size: int, weights: Weights
) -> tuple[float, dict[str, float]]:
    """Loss of the whole set, and RMSE and MAE of each `validated` term with labels, and the size of the charges.

    Raises:
        ValueError: for induced or equilibrated charges that have no solution.
    """
    batches, charges = [], []
    for bucket, rows, mask in epoch_batches(dataset, batch_size, None):
        sums, prediction = evaluate_rows(potential, dataset.buckets[bucket], rows, mask, validated(weights))
        check_solution(prediction.induction, prediction.equilibration)
        batches.append(sums)
        charges.append((prediction.charges, bucket, rows, mask))
    batches = jax.device_get(batches)
    totals, metrics = {}, {}
    for term in TERMS:
        parts = [sums[term.name] for sums in batches if term.name in sums]
        total = Sums(*np.sum(parts, axis=0, dtype=float)) if parts else None
        if total is not None and total.number > 0:
            totals[term.name] = total
            metrics[f"{term.short}_rmse"] = math.sqrt(total.squares / total.number)
            metrics[f"{term.short}_mae"] = float(total.magnitudes / total.number)
    if potential.config.long_range is not None:
        parts = [split_charges(q, dataset.buckets[bucket].system, *place) for q, bucket, *place in charges]
        metrics["charges_size"] = charge_size([structure for part in parts for structure in part])
    return float(loss_of_sums(totals, weights)), metrics
