"""The loss, in one place for training and validation; labels that are NaN are ignored.

Each term is the mean penalty of its labels in the batch, so that a batch of partly labelled structures has the same
loss as only its labelled part. Weights of structures multiply their penalties, not the errors that are reported. Sums
and counts add up over batches and devices.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from lesjax.models.potential import Potential, predict
from lesjax.models.prediction import Prediction
from lesjax.training.data import Batch, Part, take
from lesjax.training.terms import TERMS, Weights


class Pair(NamedTuple):
    """Predicted and reference values of one term, which of the references are known, and factors of the structures."""

    predicted: Float[Array, "b ..."]
    reference: Float[Array, "b ..."]
    known: Bool[Array, "b ..."]
    weights: Float[Array | np.ndarray, " b"] | None = None


class Sums(NamedTuple):
    """Sums over the known labels of one term; they add up."""

    penalties: Float[Array, ""]
    squares: Float[Array, ""]
    magnitudes: Float[Array, ""]
    number: Float[Array, ""]


def predict_batch(potential: Potential, batch: Batch, *, with_stress: bool) -> Prediction:
    """Predictions for stacked systems."""
    predict_system = partial(predict, with_stress=with_stress)
    return jax.vmap(predict_system, in_axes=(None, 0, 0))(potential, batch.system, batch.solver)


def compare(potential: Potential, batch: Batch, names: Collection[str]) -> tuple[dict[str, Pair], Prediction]:
    """Predict a batch, and pair the values of the terms `names` that exist for it."""
    needs = {need for term in TERMS if term.name in names for need in term.needs}
    prediction = predict_batch(potential, batch, with_stress="stress" in needs and all(batch.system.pbc))
    return pairs(potential, prediction, batch, names), prediction


def pairs(potential: Potential, prediction: Prediction, batch: Batch, names: Collection[str]) -> dict[str, Pair]:
    """Values of the terms `names` that structures of this periodicity have and that the model predicts.

    Energies are compared without the reference energies of the elements, charges summed over channels.
    """
    return {
        term.name: Pair(
            term.predicted(potential, prediction, batch),
            term.reference(batch),
            term.known(batch),
            batch.weights.get(term.name),
        )
        for term in TERMS
        if term.name in names
        and term.applies(batch.system.pbc)
        and all(getattr(prediction, need) is not None for need in term.needs)
    }


def sums(pairs: Mapping[str, Pair]) -> dict[str, Sums]:
    """Sums of each term over a batch."""
    result = {}
    for term in TERMS:
        if term.name in pairs:
            predicted, reference, has_label, weights = pairs[term.name]
            error = jnp.where(has_label, predicted - jnp.where(has_label, reference, 0.0), 0.0)
            penalty = jnp.where(has_label, term.penalty(error), 0.0)
            if weights is not None:
                penalty = penalty * weights.reshape(-1, *[1] * (penalty.ndim - 1))
            values = (penalty, error * error, jnp.abs(error), has_label.astype(error.dtype))
            result[term.name] = Sums(*map(jnp.sum, values))
    return result


def loss_of_sums(sums: Mapping[str, Sums], weights: Weights) -> Float[Array, ""] | float:
    """Weighted sum of the mean penalties, for the sums of one or of many batches; traced or on the host."""
    total = 0.0
    for term in TERMS:
        if term.name in weights and term.name in sums:
            penalties, number = sums[term.name].penalties, sums[term.name].number
            # one where there is no label
            total += weights[term.name] * penalties / (number + (number == 0).astype(number.dtype))
    return total


def batch_sums(potential: Potential, batch: Batch, names: Collection[str]) -> dict[str, Sums]:
    """Sums of the terms `names` over a batch."""
    return sums(compare(potential, batch, names)[0])


def batch_loss(potential: Potential, batch: Batch, weights: Weights, params: PyTree) -> Float[Array, ""]:
    """Loss of one batch as a function of groups of parameters, which replace the potential's.

    It is zero where no label has a weight.
    """
    potential = dataclasses.replace(potential, params={**potential.params, **params})
    return jnp.asarray(loss_of_sums(batch_sums(potential, batch, weights.keys()), weights), float)


def whole_loss(potential: Potential, parts: Sequence[Part], weights: Weights, params: PyTree) -> Float[Array, ""]:
    """Loss of all batches together as a function of groups of parameters, in the memory of one batch at a time."""
    potential = dataclasses.replace(potential, params={**potential.params, **params})
    total: dict[str, Sums] = {}
    for bucket, rows, masks in parts:

        def of_batch(batch: tuple[Array, Array], bucket: Batch = bucket) -> dict[str, Sums]:
            return batch_sums(potential, take(bucket, *batch), weights.keys())

        if len(rows) == 1:
            of_bucket = of_batch((rows[0], masks[0]))
        else:  # one after the other, and once more for the gradient
            of_each = jax.lax.map(jax.checkpoint(of_batch), (rows, masks))
            of_bucket = jax.tree.map(lambda x: jnp.sum(x, axis=0), of_each)
        for name, added in of_bucket.items():
            total[name] = jax.tree.map(jnp.add, total[name], added) if name in total else added
    return jnp.asarray(loss_of_sums(total, weights), float)
