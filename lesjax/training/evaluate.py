"""Errors of a potential on labelled structures."""

import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from lesjax import io
from lesjax.models.checks import check_solution
from lesjax.models.ensemble import Ensemble
from lesjax.models.potential import Potential, Prediction
from lesjax.properties import traceless
from lesjax.training.calibration import Calibration, calibration
from lesjax.training.data import Batch, Dataset, epoch_batches, make_dataset, subtract_reference, take
from lesjax.training.losses import Weights, moments
from lesjax.training.sign import sign_is_free
from lesjax.training.step import born_charges_of_rows, evaluate_rows


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
        if np.ptp(self.reference) == 0:
            return math.nan
        spread = np.sum((self.reference - self.reference.mean()) ** 2)
        return float(1.0 - np.sum((self.predicted - self.reference) ** 2) / spread)

    def corr2(self) -> float:
        """Square of Pearson's correlation, blind to a factor and an offset; NaN where one of the two does not vary."""
        if np.ptp(self.reference) == 0 or np.ptp(self.predicted) == 0:
            return math.nan
        reference, predicted = self.reference - self.reference.mean(), self.predicted - self.predicted.mean()
        return float((reference @ predicted) ** 2 / ((reference @ reference) * (predicted @ predicted)))


@dataclass(frozen=True)
class Evaluation:
    """Numbers and pairs of values; kinds that the data do not have are absent.

    Attributes:
        metrics: energies in eV/atom, forces in eV/Å, stress in eV/Å³, charges and Born effective charges (bec) in e,
            dipoles in e Å, traceless quadrupoles in e Å². ``_r2`` is the coefficient of determination, ``_corr2`` the
            squared correlation; one that is not defined, as for references that do not vary, is absent.
        parity: energy (eV/atom, without the reference energies of the elements), forces, stress, charges, dipole,
            quadrupole, bec; flat, in the order of the frames, without those that have no label. Of an ensemble, that of
            the mean.
        calibration: error and spread of the same kinds, for an ensemble.
    """

    metrics: dict[str, float | int]
    parity: dict[str, Parity]
    calibration: dict[str, Calibration] = field(default_factory=dict)


# what depends on the sign of the latent charges
RESPONSE = ("charges", "dipole", "quadrupole", "bec")
LABELS_WANTED = "an energy, forces, a stress, charges, a dipole, a quadrupole or Born effective charges"


def evaluate(
    potential: Potential | Ensemble,
    frames: Sequence[io.Atoms],
    *,
    keys: io.Keys | None = None,
    pbc: bool | tuple[bool, bool, bool] | None = None,
    batch_size: int = 8,
    epsilon_infinity: float | str = 1.0,
) -> Evaluation:
    r"""Compare a potential, or the mean of an ensemble, with the labels of structures.

    Energies and forces fix the latent charges up to one sign for all of them. It is chosen once, by the one of
    charges, dipole, quadrupole and Born effective charges whose predictions p and references r have the largest
    :math:`|r \cdot p| / (|r| |p|)`, and used for all four; where the model holds a net charge of a structure, or has
    charges that were given, their sign is left as it is. Channels are summed.

    Moments are those of systems without a periodic direction, about the centre of mass, see `lesjax.io.Labels`; that of
    a net charge that the model may leave depends on it. Quadrupoles are compared as the traceless part
    :math:`M - \operatorname{tr}(M) / 3` of the second moment :math:`M = \sum_i q_i x_i x_i^T`. Born effective charges
    are those of the charges minus their mean.

    For an ensemble, the metrics also hold of each kind the root mean square ``_spread``, the standard deviation over
    the members in the unit of the kind, and the rank correlation ``_spearman`` of spread and error, see `Calibration`.

    Args:
        potential: the model, or several.
        frames: structures with labels.
        keys: names of the labels.
        pbc: overrides the periodicity of the structures.
        batch_size: structures computed at once.
        epsilon_infinity: electronic dielectric constant; Born effective charges are multiplied by its root. "fit" for
            the value of least squares, which is reported in the metrics. One for molecules.

    Raises:
        ValueError: for structures without a single label, elements that the model does not know, or an
            `epsilon_infinity` that is no positive number, or that cannot be fitted.
    """
    if epsilon_infinity != "fit" and (isinstance(epsilon_infinity, str) or not epsilon_infinity > 0):
        raise ValueError(f"`epsilon_infinity` must be a positive number or 'fit', got {epsilon_infinity!r}.")
    labels = io.all_labels(frames, keys)
    parity, spread = {}, {}
    given = 1.0 if epsilon_infinity == "fit" else float(epsilon_infinity)
    dataset = make_dataset(potential.config, frames, labels, pbc, epsilon_infinity=given)
    for name, (reference, predicted) in _values(potential, dataset, frames, labels, batch_size).items():
        known = np.isfinite(reference)
        if known.any():
            parity[name] = Parity(reference[known], predicted.mean(axis=0)[known])
            spread[name] = predicted.std(axis=0, ddof=1)[known] if len(predicted) > 1 else None
    if not parity:
        raise ValueError(f"No structure has {LABELS_WANTED} under the names of `keys`.")
    metrics: dict[str, float | int] = {"n_structures": len(frames)}
    is_free = sign_is_free(potential.stacked if isinstance(potential, Ensemble) else potential, dataset)
    sign = latent_sign([parity[name] for name in RESPONSE if name in parity]) if is_free else 1.0
    born_factor = sign
    if "bec" in parity and epsilon_infinity == "fit":
        metrics["epsilon_infinity"] = fitted_epsilon(parity["bec"], sign)
        born_factor *= math.sqrt(metrics["epsilon_infinity"])
    for name, pair in parity.items():
        if name.startswith(RESPONSE):
            factor = born_factor if name.startswith("bec") else sign
            parity[name] = Parity(pair.reference, factor * pair.predicted)
            spread[name] = None if spread[name] is None else abs(factor) * spread[name]
    parts = {name: parity.pop(name) for name in ("bec_diagonal", "bec_off_diagonal") if name in parity}
    for name, pair in parity.items():
        metrics[f"{name}_rmse"] = pair.rmse()
        metrics[f"{name}_mae"] = pair.mae()
    for name, pair in {**parity, **parts}.items():
        if name.startswith(RESPONSE):
            scores = {f"{name}_r2": pair.r2(), f"{name}_corr2": pair.corr2()}
            metrics.update({key: score for key, score in scores.items() if math.isfinite(score)})
    calibrations = {}
    for name, pair in parity.items():
        if (own := spread[name]) is not None:
            metrics[f"{name}_spread"] = float(np.sqrt(np.mean(own**2)))
            calibrations[name] = calibration(name, pair.reference, pair.predicted, own)
            rank = calibrations[name].spearman()
            if math.isfinite(rank):
                metrics[f"{name}_spearman"] = rank
    return Evaluation(metrics, parity, calibrations)


def latent_sign(pairs: Sequence[Parity]) -> float:
    """The sign of the latent charges, 1.0 or -1.0, by the pair that makes the strongest statement."""
    cosines = [0.0]
    for pair in pairs:
        size = np.linalg.norm(pair.reference) * np.linalg.norm(pair.predicted)
        cosines.append(float(pair.reference @ pair.predicted / size) if size > 0 else 0.0)
    return -1.0 if max(cosines, key=abs) < 0 else 1.0


def fitted_epsilon(pair: Parity, sign: float) -> float:
    """The electronic dielectric constant whose root scales Born effective charges best, by least squares."""
    overlap, size = sign * float(pair.reference @ pair.predicted), float(pair.predicted @ pair.predicted)
    if not overlap > 0:
        raise ValueError(
            "`epsilon_infinity` = 'fit' finds no positive factor between the Born effective charges of the model and "
            "the references: give a number, and look for an order or labels that are wrong."
        )
    return (overlap / size) ** 2


@jax.jit
def _moments(prediction: Prediction, batch: Batch, rows: Array) -> tuple[Array, Array]:
    """Dipoles and quadrupoles of these rows of a bucket."""
    return moments(prediction, take(batch, rows, rows >= 0))


def _values(
    potential: Potential | Ensemble,
    dataset: Dataset,
    frames: Sequence[io.Atoms],
    labels: Sequence[io.Labels],
    batch_size: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each kind flattened references of all structures, NaN where there is none, and predictions, [m, values]."""
    with_stress = any(np.isfinite(label.stress).any() for label in labels)
    compute = partial(evaluate_rows, with_stress=with_stress)
    references, predictions = {}, []
    for member in potential if isinstance(potential, Ensemble) else [potential]:
        own: dict[str, list[np.ndarray]] = {}
        references = {}
        pairs = _pairs(member, dataset, frames, labels, batch_size, compute)
        for _, name, known, value in sorted(pairs, key=lambda pair: pair[0]):
            references.setdefault(name, []).append(np.ravel(known))
            own.setdefault(name, []).append(np.ravel(np.asarray(value, np.float64)))
        predictions.append({name: np.concatenate(parts) for name, parts in own.items()})
    return {
        name: (np.concatenate(parts), np.stack([own[name] for own in predictions]))
        for name, parts in references.items()
    }


def _pairs(
    potential: Potential,
    dataset: Dataset,
    frames: Sequence[io.Atoms],
    labels: Sequence[io.Labels],
    batch_size: int,
    compute: Callable,
) -> Iterator[tuple[int, str, ArrayLike, ArrayLike]]:
    """Index of the frame, kind, reference and prediction of one potential, batch after batch."""
    weights = Weights(energy=jnp.asarray(1.0), forces=jnp.asarray(1.0))
    for bucket, rows, mask in epoch_batches(dataset, batch_size, None):
        batch = dataset.buckets[bucket]
        prediction = compute(potential.core(), batch, rows, mask, weights)[1]
        check_solution(prediction.induction, prediction.equilibration)
        found = jax.device_get(vars(prediction))
        members = dataset.members[bucket][rows]
        has_charges = found["charges"] is not None
        has_moments = has_charges and not any(batch.system.pbc)
        dipole, quadrupole = jax.device_get(_moments(prediction, batch, rows)) if has_moments else ([], [])
        has_born = has_charges and any(np.isfinite(labels[i].born_effective_charges).any() for i in members)
        born = np.asarray(born_charges_of_rows(potential.core(), batch, rows, mask), np.float64) if has_born else None
        for k in np.flatnonzero(mask):
            index = int(members[k])
            n, label = len(frames[index]), labels[index]
            reference = subtract_reference(potential.config, frames[index].numbers, label.energy)
            pairs: dict[str, tuple[ArrayLike, ArrayLike]] = {}
            pairs["energy"] = (reference / n, found["energy"][k] / n)
            pairs["forces"] = (label.forces, found["forces"][k, :n])
            if found["stress"] is not None:
                pairs["stress"] = (label.stress, found["stress"][k])
            if has_charges:
                pairs["charges"] = (label.charges, found["charges"][k, :n].sum(axis=1))
            if has_moments:
                pairs["dipole"] = (label.dipole, dipole[k])
                pairs["quadrupole"] = (traceless(label.quadrupole), quadrupole[k])
            if born is not None:
                reference, predicted = label.born_effective_charges, born[k, :n]
                pairs["bec"] = (reference, predicted)
                diagonal = np.eye(3, dtype=bool)
                pairs["bec_diagonal"] = (reference[:, diagonal], predicted[:, diagonal])
                pairs["bec_off_diagonal"] = (reference[:, ~diagonal], predicted[:, ~diagonal])
            for name, (known, value) in pairs.items():
                yield index, name, known, value


def evaluate_file(
    potential: Potential | Ensemble,
    path: str | pathlib.Path,
    *,
    keys: io.Keys | None = None,
    pbc: bool | None = None,
    epsilon_infinity: float | str = 1.0,
) -> Evaluation:
    """`evaluate` for a file that ase reads; an error names the file."""
    frames = io.read(path)
    try:
        return evaluate(potential, frames, keys=keys, pbc=pbc, epsilon_infinity=epsilon_infinity)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
