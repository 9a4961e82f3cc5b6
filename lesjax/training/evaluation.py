"""Errors of a potential on labelled structures, and whether the spread of an ensemble predicts them."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lesjax import io
from lesjax.models.checks import check_solution
from lesjax.models.ensemble import Ensemble
from lesjax.models.potential import Potential
from lesjax.models.provenance import ChargeStatistics
from lesjax.training.charges import StructureCharges, charge_statistics, split_charges
from lesjax.training.data import Dataset, epoch_batches, make_dataset
from lesjax.training.groups import Groups, groups
from lesjax.training.parity import Parity
from lesjax.training.sign import sign_is_free
from lesjax.training.step import compare_rows
from lesjax.training.terms import BORN, TERMS, Term, labelled_rows
from lesjax.validate import number, positive


@dataclass(frozen=True)
class Calibration:
    """Errors of the mean of an ensemble and its spread, for the same quantities.

    Attributes:
        error: magnitudes of the difference to the references.
        spread: standard deviations over the members.

    Forces are taken atom by atom: the error is the length of the difference, and the spread the root of the sum of the
    squares of its three components. All other terms are taken number by number.
    """

    error: np.ndarray
    spread: np.ndarray

    def spearman(self) -> float:
        """Rank correlation of spread and error: 1 where a larger spread always means a larger error."""
        return spearman(self.spread, self.error)

    def ratio(self) -> float:
        """Root mean square error over root mean square spread; above one where the spread is too small."""
        spread = float(np.sqrt(np.mean(self.spread**2)))
        return float(np.sqrt(np.mean(self.error**2))) / spread if spread > 0 else math.inf


@dataclass(frozen=True)
class Evaluation:
    """Numbers and pairs of values by the short names of `lesjax.training.terms.TERMS`, in the units given there.

    Attributes:
        metrics: errors of each term with labels in the data. ``_r2`` is the coefficient of determination,
            ``_corr2`` the squared correlation; one that is not defined, as for references that do not vary, is absent.
        parity: references and predictions; flat, in the order of the structures, where there is a label.
            Energies are per atom and without the reference energies of the elements. Predictions of an ensemble are
            the mean of its members.
        calibration: error and spread of the same terms, for an ensemble.
        by_element: errors of the labels of atoms for each element, with its number of atoms ``n_atoms``.
        by_config_type: errors for each ``config_type`` of the structures, with ``n_structures``; empty where none has
            one.
        by_composition: the same for each composition, such as "H2O×64".
        charges: statistics of the latent charges, labels or not, with the sign of the model; None for a short-range
            model. For an ensemble, those of the mean of its members, channels summed.
    """

    metrics: dict[str, float | int]
    parity: dict[str, Parity]
    calibration: dict[str, Calibration] = field(default_factory=dict)
    by_element: Groups = field(default_factory=dict)
    by_config_type: Groups = field(default_factory=dict)
    by_composition: Groups = field(default_factory=dict)
    charges: ChargeStatistics | None = None

    def to_json(self) -> dict[str, Any]:
        """Metrics, latent charges, ``units`` and the errors of groups, as in the JSON files of the command line."""
        units = {term.short: term.unit for term in TERMS if term.short in self.parity}
        groups = {name: value for name, value in vars(self).items() if name.startswith("by_") and value}
        charges = {} if self.charges is None else self.charges.metrics()
        return {**self.metrics, **charges, "units": units, **groups}


def evaluate(
    potential: Potential | Ensemble,
    data: Dataset | Sequence[io.Atoms],
    *,
    keys: io.Keys | None = None,
    pbc: bool | tuple[bool, bool, bool] | None = None,
    mixed: str = "error",
    batch_size: int = 8,
    epsilon_infinity: float | str | None = None,
) -> Evaluation:
    r"""Compare a potential, or the mean of an ensemble, with the labels of structures.

    Energies and forces fix the latent charges up to one sign for all of them. It is chosen once, by the one of
    charges, dipole, quadrupole and Born effective charges whose predictions p and references r have the largest
    :math:`|r \cdot p| / (|r| |p|)`, and used for all four; where the model holds a net charge of a structure, or has
    charges that were given, their sign is left as it is. Channels are summed.

    Moments are computed for systems without a periodic direction, about the centre of mass, see `lesjax.io.Labels`;
    with a net charge that the model may leave they depend on it. Quadrupoles are compared as the traceless part
    :math:`M - \operatorname{tr}(M) / 3` of the second moment :math:`M = \sum_i q_i x_i x_i^T`. Born effective charges
    are those of the charges minus their mean.

    For an ensemble, the metrics also hold of each kind the root mean square ``_spread``, the standard deviation over
    the members in the unit of the kind, and the rank correlation ``_spearman`` of spread and error, see `Calibration`.

    Args:
        potential: the model, or several.
        data: structures with labels, or the data set that `lesjax.training.data.make_dataset` made of them for this
            model.
        keys: names of the labels of structures.
        pbc: overrides the periodicity of structures.
        mixed: "skip" leaves out structures that have a label under another name than most, see `lesjax.io.select`.
        batch_size: structures computed at once.
        epsilon_infinity: electronic dielectric constant; Born effective charges are multiplied by its root. "fit" for
            the value of least squares, which is reported in the metrics. By default the value of the data set, and one
            for structures.

    Raises:
        ValueError: for structures without a single label, elements that the model does not know, a data set of another
            model, or an `epsilon_infinity` that is not a positive number, or that cannot be fitted.
    """
    if not isinstance(data, Dataset):
        needed = {"energy", "forces", *potential.config.state_inputs}
        needed |= {"total_charge"} if potential.config.needs_total_charge else set()
        chosen = io.select(data, keys, mixed=mixed, needed=needed)
        dataset = make_dataset(potential.config, chosen.frames, chosen.labels, pbc, chosen.members)
    else:
        dataset = data
        if keys is not None or pbc is not None:
            raise ValueError("`keys` and `pbc` are for structures: a data set was made with its own. Leave them out.")
        if dataset.config != potential.config:
            raise ValueError(
                "`data` was made for a model of another configuration, with other neighbours or reference energies: "
                "make it with `potential.config`."
            )
    if epsilon_infinity is not None:
        dataset = _with_epsilon(dataset, epsilon_infinity)
    parity, spread = {}, {}
    values, structures = _values(potential, dataset, batch_size)
    for name, pair in values.items():
        if len(pair.reference):
            members = pair.predicted
            parity[name] = dataclasses.replace(pair, predicted=members.mean(axis=0))
            spread[name] = members.std(axis=0, ddof=1) if len(members) > 1 else None
    terms = [term for term in TERMS if term.short in parity]
    signed = [term for term in terms if term.signed]
    if not terms:
        titles = ", ".join(term.title for term in TERMS)
        raise ValueError(f"No structure has any of {titles} under the names of `keys`.")
    metrics: dict[str, float | int] = {"n_structures": len(dataset)}
    is_free = sign_is_free(potential.stacked if isinstance(potential, Ensemble) else potential, dataset)
    sign = latent_sign([parity[term.short] for term in signed]) if is_free else 1.0
    born_factor = sign
    if BORN.short in parity and epsilon_infinity == "fit":
        metrics["epsilon_infinity"] = fitted_epsilon(parity[BORN.short], sign)
        born_factor *= math.sqrt(metrics["epsilon_infinity"])
    scored = {name: term for term in signed for name in (term.short, *term.names_of_parts()) if name in parity}
    for name, term in scored.items():
        factor = born_factor if term is BORN else sign
        parity[name] = dataclasses.replace(parity[name], predicted=factor * parity[name].predicted)
        spread[name] = None if spread[name] is None else abs(factor) * spread[name]
    for term in terms:
        metrics[f"{term.short}_rmse"] = parity[term.short].rmse()
        metrics[f"{term.short}_mae"] = parity[term.short].mae()
    for name in scored:
        scores = {f"{name}_r2": parity[name].r2(), f"{name}_corr2": parity[name].corr2()}
        metrics.update({key: score for key, score in scores.items() if math.isfinite(score)})
    calibrations = {}
    for term in terms:
        if (deviation := spread[term.short]) is not None:
            metrics[f"{term.short}_spread"] = float(np.sqrt(np.mean(deviation**2)))
            calibrations[term.short] = calibration(term, parity[term.short], deviation)
            rank = calibrations[term.short].spearman()
            if math.isfinite(rank):
                metrics[f"{term.short}_spearman"] = rank
    of_terms = {term.short: parity[term.short] for term in terms}
    charges = charge_statistics(structures, _initial_size(potential)) if structures else None
    return Evaluation(metrics, of_terms, calibrations, *groups(of_terms, dataset), charges)


def _initial_size(potential: Potential | Ensemble) -> float | None:
    """Size of the charges before training, if the model knows it; of the first member of an ensemble."""
    provenance = (potential[0] if isinstance(potential, Ensemble) else potential).provenance
    return None if provenance is None or provenance.charges is None else provenance.charges.initial_size


def _with_epsilon(dataset: Dataset, epsilon_infinity: float | str) -> Dataset:
    """Return the data set with this electronic dielectric constant; one if it is to be fitted."""
    if isinstance(epsilon_infinity, str) and epsilon_infinity != "fit":
        raise ValueError(f"`epsilon_infinity` must be a positive number or 'fit', got {epsilon_infinity!r}.")
    fitted = isinstance(epsilon_infinity, str)
    value = 1.0 if fitted else number("epsilon_infinity", epsilon_infinity, positive, bounded=True)
    buckets = (
        dataclasses.replace(bucket, epsilon_infinity=jnp.full_like(bucket.epsilon_infinity, value))
        for bucket in dataset.buckets
    )
    return dataclasses.replace(dataset, buckets=tuple(buckets))


def latent_sign(pairs: Sequence[Parity]) -> float:
    """Return the sign of the latent charges, 1.0 or -1.0, from the most decisive pair."""
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
            "the references: give a number, and check the order and the labels."
        )
    return (overlap / size) ** 2


def _values(
    potential: Potential | Ensemble, dataset: Dataset, batch_size: int
) -> tuple[dict[str, Parity], list[StructureCharges]]:
    """Return values by term and part, in the order of the structures, with predictions [m, values] of m members.

    And the latent charges of all structures, if there are any.
    """
    potentials = [member.core() for member in (potential if isinstance(potential, Ensemble) else [potential])]
    labelled = [labelled_rows(bucket) for bucket in dataset.buckets]
    values: dict[str, dict[int, Parity]] = {}
    structures: list[StructureCharges] = []
    for bucket, rows, mask in epoch_batches(dataset, batch_size, None):
        batch = dataset.buckets[bucket]
        elements = np.asarray(batch.system.atomic_numbers)
        # costly terms are left out of batches without their labels, others of whole buckets: fewer compilations
        names = tuple(
            term.name
            for term in TERMS
            if term.name in labelled[bucket]
            and np.any(labelled[bucket][term.name][rows[mask]] if term.costly else labelled[bucket][term.name])
        )
        members, member_charges = [], []
        for member in potentials:
            pairs, solution, charges = jax.device_get(compare_rows(member, batch, rows, mask, names))
            check_solution(*solution)
            members.append(pairs)
            member_charges.append(charges)
        if member_charges[0] is not None:
            # channels mix freely between members
            of_all = [charges.sum(axis=2, keepdims=True) for charges in member_charges]
            mean = np.mean(of_all, axis=0) if len(of_all) > 1 else member_charges[0]
            structures += split_charges(mean, batch.system, rows, mask)
        for term in (term for term in TERMS if term.name in members[0]):
            reference, has_label = members[0][term.name].reference, members[0][term.name].known
            predicted = np.stack([pairs[term.name].predicted for pairs in members], axis=1)
            for name, part in ((term.short, True), *term.names_of_parts().items()):
                for k in np.flatnonzero(mask):
                    selected = has_label[k] & part
                    structure = int(dataset.members[bucket][rows[k]])
                    labels, outputs = reference[k][selected], predicted[k][:, selected]
                    values.setdefault(name, {})[structure] = Parity(
                        np.asarray(labels, np.float64),
                        np.asarray(outputs, np.float64),
                        np.full(len(labels), structure),
                        elements[rows[k]][np.nonzero(selected)[0]] if term.per_atom else None,
                    )
    result = {}
    for name, by_structure in values.items():
        pairs = [by_structure[i] for i in sorted(by_structure)]
        columns = zip(*(vars(pair).values() for pair in pairs), strict=True)
        joined = (None if parts[0] is None else np.concatenate(parts, axis=-1) for parts in columns)
        result[name] = Parity(*joined)  # pyright: ignore[reportArgumentType]
    return result, structures


def evaluate_file(
    potential: Potential | Ensemble,
    path: str | pathlib.Path,
    *,
    keys: io.Keys | None = None,
    pbc: bool | None = None,
    mixed: str = "error",
    epsilon_infinity: float | str | None = None,
) -> Evaluation:
    """Apply `evaluate` to a file that ase reads; an error names the file."""
    frames = io.read(path)
    try:
        return evaluate(potential, frames, keys=keys, pbc=pbc, mixed=mixed, epsilon_infinity=epsilon_infinity)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


def calibration(term: Term, pair: Parity, spread: np.ndarray) -> Calibration:
    """Error and spread of each number, or of each vector; `spread` has an entry for each predicted number."""
    error = np.abs(pair.predicted - pair.reference)
    if term.vector and len(error) % 3 == 0:
        error, spread = (np.linalg.norm(x.reshape(-1, 3), axis=1) for x in (error, spread))
    return Calibration(error, spread)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    r"""Spearman's correlation: Pearson's of the ranks; NaN where one of them does not vary.

    .. math:: \rho = \frac{\sum_i (r_i - \bar r)(s_i - \bar s)}{\sqrt{\sum_i (r_i - \bar r)^2 \sum_i (s_i - \bar s)^2}}
    """
    r, s = (ranks(x) - (len(x) + 1) / 2 for x in (a, b))
    size = math.sqrt(float(np.sum(r * r)) * float(np.sum(s * s)))
    return float(np.sum(r * s)) / size if size > 0 else math.nan


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from one; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
