"""Labels that a potential is compared with, one row for each.

Loss, validation, evaluation, plots, help texts and tables of the documentation iterate over `TERMS`. A new label is a
row here and, where the files hold it under a name of its own, a field of `lesjax.io.Keys` and of `lesjax.io.Labels`.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lesjax.models.potential import Potential, predict_born_charges
from lesjax.models.prediction import Prediction
from lesjax.properties import dipole_moment, quadrupole_moment, traceless
from lesjax.training.data import Batch, Dataset


# factors of the terms of a loss by their names; a term without one costs nothing
Weights = Mapping[str, float | Float[Array, ""]]
Pbc = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Term:
    """One label: its values, the structures that have it, and how it is written.

    Attributes:
        name: name in weights and messages, and of the label in a file.
        title: title in tables and plots.
        unit: unit of metrics, tables and plots, and of the square root of the loss.
        predicted: values of a batch from potential and prediction.
        reference: values of the labels of a batch, NaN where there are none.
        per_atom: whether the second axis of the values counts atoms.
        short: name in metrics and plots, `name` if it is empty.
        where: structures that have it: "periodic" in all directions, "open" in all, or any.
        needs: entries of `Prediction` that `predicted` uses and that some models or calls leave out.
        signed: whether it changes its sign with the latent charges; such terms have the scores R² besides errors.
        costly: more passes through the model; validated only in phases that give it a weight.
        vector: whether three numbers after one another are the components of one error of a calibration.
        parts: components that have scores of their own, by the ending of their name.
        penalty: function of one error; its mean over the labels is the term of the loss.
    """

    name: str
    title: str
    unit: str
    predicted: Callable[[Potential, Prediction, Batch], Any]
    reference: Callable[[Batch], Any]
    per_atom: bool = False
    short: str = ""
    where: Literal["any", "periodic", "open"] = "any"
    needs: tuple[str, ...] = ()
    signed: bool = False
    costly: bool = False
    vector: bool = False
    parts: tuple[tuple[str, np.ndarray], ...] = ()
    penalty: Callable[[Array], Array] = jnp.square

    def __post_init__(self) -> None:
        object.__setattr__(self, "short", self.short or self.name)

    def applies(self, pbc: Pbc) -> bool:
        """Return whether structures with these periodic directions have it."""
        return {"any": True, "periodic": all(pbc), "open": not any(pbc)}[self.where]

    def known(self, batch: Batch) -> Bool[Array, "b ..."]:
        """Mark the labels of real structures and atoms that are known."""
        reference, real = self.reference(batch), jnp.asarray(batch.system_mask)
        if self.per_atom:
            real = real[:, None] & batch.system.atom_mask
        return real.reshape(real.shape + (1,) * (reference.ndim - real.ndim)) & jnp.isfinite(reference)

    def metrics(self) -> list[str]:
        """Names of its metrics in `lesjax.training.Evaluation`."""
        if not self.signed:
            return [f"{self.short}_rmse", f"{self.short}_mae"]
        parts = [f"{name}_{score}" for name in self.names_of_parts() for score in ("r2", "corr2")]
        return [*(f"{self.short}_{score}" for score in ("r2", "corr2", "rmse", "mae")), *parts]

    def names_of_parts(self) -> dict[str, np.ndarray]:
        """Names in metrics of its `parts`, and their components."""
        return {f"{self.short}_{ending}": components for ending, components in self.parts}


def _n_atoms(batch: Batch) -> Float[Array, " b"]:
    return jnp.maximum(jnp.sum(jnp.asarray(batch.system.atom_mask), axis=1), 1).astype(batch.labels.energy.dtype)


def _charges(_: Potential, prediction: Prediction, batch: Batch) -> Float[Array, "b n"]:
    """Latent charges, summed over channels, e."""
    assert prediction.charges is not None
    return jnp.sum(prediction.charges, axis=2)


def _dipole(_: Potential, prediction: Prediction, batch: Batch) -> Float[Array, "b 3"]:
    """Dipole moments about the origins of the batch, e Å."""

    def moment(positions: Array, charges: Array, dipoles: Array | None, origin: Array) -> Array:
        return jnp.asarray(dipole_moment(positions, charges, dipoles=dipoles, origin=origin))

    assert prediction.charges is not None
    sources = (prediction.charges, prediction.dipoles)
    return jax.vmap(moment)(jnp.asarray(batch.system.positions), *sources, jnp.asarray(batch.origins))


def _quadrupole(_: Potential, prediction: Prediction, batch: Batch) -> Float[Array, "b 3 3"]:
    """Traceless quadrupole moments about the origins of the batch, e Å²."""

    def moment(positions: Array, charges: Array, dipoles: Array | None, quadrupoles: Array | None, origin: Array):
        second = quadrupole_moment(positions, charges, dipoles=dipoles, quadrupoles=quadrupoles, origin=origin)
        return jnp.asarray(traceless(second))

    assert prediction.charges is not None
    sources = (prediction.charges, prediction.dipoles, prediction.quadrupoles)
    return jax.vmap(moment)(jnp.asarray(batch.system.positions), *sources, jnp.asarray(batch.origins))


def born_effective_charges(potential: Potential, _: Prediction, batch: Batch) -> Float[Array, "b n 3 3"]:
    """Born effective charges of stacked systems, e: up to seven passes through the model."""
    assert potential.config.long_range is not None
    # charges that do not respond need no sum
    solver = batch.solver if potential.config.long_range.charges.responds else None
    of_system = partial(predict_born_charges, potential)
    return jax.vmap(of_system)(batch.system, solver, jnp.asarray(batch.epsilon_infinity))[0]


DIAGONAL = np.eye(3, dtype=bool)
BORN = Term(
    "born_effective_charges", "Born effective charges", "e", born_effective_charges,
    attrgetter("labels.born_effective_charges"), per_atom=True, short="bec", needs=("charges",), signed=True,
    costly=True, parts=(("diagonal", DIAGONAL), ("off_diagonal", ~DIAGONAL)),
)  # fmt: skip
TERMS = (
    Term(
        "energy", "energy per atom", "eV/atom", lambda _, prediction, batch: prediction.energy / _n_atoms(batch),
        lambda batch: batch.labels.energy / _n_atoms(batch),
    ),
    Term(
        "forces", "forces", "eV/Å", lambda _, prediction, batch: prediction.forces, attrgetter("labels.forces"),
        per_atom=True, vector=True,
    ),
    Term(
        "stress", "stress", "eV/Å³", lambda _, prediction, batch: prediction.stress, attrgetter("labels.stress"),
        where="periodic", needs=("stress",), costly=True,
    ),
    Term(
        "charges", "charges", "e", _charges, attrgetter("labels.charges"), per_atom=True, needs=("charges",),
        signed=True,
    ),
    Term(
        "dipole", "dipole", "e Å", _dipole, attrgetter("labels.dipole"), where="open", needs=("charges",),
        signed=True,
    ),
    Term(
        "quadrupole", "traceless quadrupole", "e Å²", _quadrupole, attrgetter("labels.quadrupole"), where="open",
        needs=("charges",), signed=True,
    ),
    BORN,
)  # fmt: skip


def find(short: str) -> Term:
    """Return the term with this name in metrics and plots."""
    return next(term for term in TERMS if term.short == short)


def check_weights(weights: Weights) -> None:
    """Raise ValueError for weights of terms that do not exist, negative ones, or none that is positive."""
    names = [term.name for term in TERMS]
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise ValueError(f"`weights` has no term {unknown[0]!r}; give some of {', '.join(names)}.")
    if min(weights.values(), default=0.0) < 0 or max(weights.values(), default=0.0) == 0:
        raise ValueError(f"`weights` must not be negative and not all zero, got {dict(weights)}.")


def labelled_rows(batch: Batch) -> dict[str, Bool[np.ndarray, " b"]]:
    """Mark, for each term that structures of this periodicity have, the structures with a label of it."""
    terms = [term for term in TERMS if term.applies(batch.system.pbc)]
    masks = {term.name: np.asarray(term.known(batch)) for term in terms}
    return {name: np.any(values.reshape(len(values), -1), axis=1) for name, values in masks.items()}


def labelled(dataset: Dataset) -> set[str]:
    """Terms that any structure has a label of."""
    buckets = [labelled_rows(bucket) for bucket in dataset.buckets]
    return {name for rows in buckets for name, values in rows.items() if values.any()}


def metrics_help() -> str:
    """Names of all metrics with their meaning and unit, for the command line."""
    lines = []
    for term in TERMS:
        names = textwrap.wrap(", ".join(term.metrics()), 76, initial_indent="  ", subsequent_indent="  ")
        where = "" if term.where == "any" else f", {term.where} structures"
        meaning = f"{term.title}, {term.unit}{where}"
        if len(names) == 1 and len(names[0]) < 28:
            lines.append(f"{names[0]:29}{meaning}")
        else:
            lines += [*names, " " * 29 + meaning]
    return "\n".join(lines)
