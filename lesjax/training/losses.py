"""Loss and error sums over a batch; labels that are NaN count for nothing.

The weight of a label is one over the number of labels of its kind in the batch, so that a batch of
partly labelled structures has the same loss as the labelled part alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lesjax.models.potential import Prediction
from lesjax.properties import dipole_moment, quadrupole_moment, traceless
from lesjax.training.data import Batch


# labels that depend on the sign of the latent charges
RESPONSE = ("charges", "dipole", "quadrupole", "born_effective_charges")


def metric_name(label: str) -> str:
    """The name of a label in metrics and plots: that of Born effective charges is shorter there."""
    return "bec" if label == "born_effective_charges" else label


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """Factors of the terms; all but energy and forces are None where they take no part, which saves their cost."""

    energy: Float[Array, ""] | float
    forces: Float[Array, ""] | float
    stress: Float[Array, ""] | float | None = None
    charges: Float[Array, ""] | float | None = None
    dipole: Float[Array, ""] | float | None = None
    quadrupole: Float[Array, ""] | float | None = None
    born_effective_charges: Float[Array, ""] | float | None = None

    def of_response(self) -> bool:
        """Whether any label weighs in that depends on the sign of the latent charges."""
        return any(getattr(self, name) is not None for name in RESPONSE)


def moments(prediction: Prediction, batch: Batch) -> tuple[Float[Array, "b 3"], Float[Array, "b 3 3"]]:
    """Dipoles (e Å) and traceless quadrupoles (e Å²) of stacked open systems, about their origins."""

    def one(
        positions: Array, charges: Array, dipoles: Array | None, quadrupoles: Array | None, origin: Array
    ) -> tuple[Array, Array]:
        dipole = dipole_moment(positions, charges, dipoles=dipoles, origin=origin)
        quadrupole = quadrupole_moment(positions, charges, dipoles=dipoles, quadrupoles=quadrupoles, origin=origin)
        return jnp.asarray(dipole), jnp.asarray(traceless(quadrupole))

    assert prediction.charges is not None
    latent = (prediction.charges, prediction.dipoles, prediction.quadrupoles)
    return jax.vmap(one)(jnp.asarray(batch.system.positions), *latent, jnp.asarray(batch.origins))


def residuals(
    prediction: Prediction, batch: Batch, born_charges: Float[Array, "b n 3 3"] | None = None
) -> dict[str, tuple[Array, Array]]:
    """Errors and their masks, by the names of `Weights`.

    Energy per atom (eV), forces (eV/Å), stress (eV/Å³), charges (e), for open systems dipole (e Å) and traceless
    quadrupole (e Å²), and Born effective charges (e) where they are given. Energies are compared without the reference
    energies of the elements. Charges are summed over channels.
    """
    real = batch.system_mask
    atoms = batch.system.atom_mask & real[:, None]
    n_atoms = jnp.maximum(jnp.sum(batch.system.atom_mask, axis=1), 1).astype(prediction.energy.dtype)
    labels = batch.labels
    pairs = {
        "energy": (prediction.energy / n_atoms, labels.energy / n_atoms, real),
        "forces": (prediction.forces, labels.forces, atoms[:, :, None]),
    }
    if prediction.stress is not None:
        pairs["stress"] = (prediction.stress, labels.stress, real[:, None, None])
    if prediction.charges is not None:
        pairs["charges"] = (jnp.sum(prediction.charges, axis=2), labels.charges, atoms)
        if not any(batch.system.pbc):
            dipole, quadrupole = moments(prediction, batch)
            pairs["dipole"] = (dipole, labels.dipole, real[:, None])
            pairs["quadrupole"] = (quadrupole, labels.quadrupole, real[:, None, None])
    if born_charges is not None:
        pairs["born_effective_charges"] = (born_charges, labels.born_effective_charges, atoms[:, :, None, None])
    result = {}
    for name, (value, label, mask) in pairs.items():
        known = mask & jnp.isfinite(label)
        result[name] = (jnp.where(known, value - jnp.where(known, label, 0.0), 0.0), known)
    return result


def square_sums(
    prediction: Prediction, batch: Batch, weights: Weights, born_charges: Float[Array, "b n 3 3"] | None = None
) -> dict[str, tuple[Array, Array]]:
    """For each kind of label that weighs in: sum of squares of the errors, and their number; batches add up."""
    return {
        name: (jnp.sum(error * error), jnp.sum(known).astype(error.dtype))
        for name, (error, known) in residuals(prediction, batch, born_charges).items()
        if getattr(weights, name) is not None
    }


def loss_of_sums(sums: Mapping[str, tuple[Array, Array]], weights: Weights) -> Float[Array, ""]:
    """Weighted sum of the mean squared residuals, of what `square_sums` gives for one or for many batches."""
    total = jnp.zeros((), sums["energy"][0].dtype)
    for name, (squares, count) in sums.items():
        total += getattr(weights, name) * squares / jnp.maximum(count, 1.0)
    return total


def error_sums(
    prediction: Prediction, batch: Batch, born_charges: Float[Array, "b n 3 3"] | None = None
) -> dict[str, Float[Array, "3"]]:
    """For each kind of label: sums of squares and of magnitudes of the errors, and their number."""
    return {
        name: jnp.stack([jnp.sum(e * e), jnp.sum(jnp.abs(e)), jnp.sum(known).astype(e.dtype)])
        for name, (e, known) in residuals(prediction, batch, born_charges).items()
    }
