"""Errors by element, by ``config_type`` and by composition of the structures."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from lesjax import io
from lesjax.training.data import Dataset
from lesjax.training.parity import Parity


# name of the group → number of its members, and errors as in the metrics
Groups = dict[str, dict[str, float | int]]
NO_TYPE = "(none)"  # structures without a config type beside others that have one


def groups(parity: Mapping[str, Parity], dataset: Dataset) -> tuple[Groups, Groups, Groups]:
    """Errors by element, by config type (empty where no structure has one) and by composition."""
    numbers = structure_numbers(dataset)
    types = [name or NO_TYPE for name in dataset.config_types] if any(dataset.config_types) else []
    return (
        by_element(parity, np.concatenate(numbers)),
        by_structure(parity, types),
        by_structure(parity, [io.composition(of_structure.tolist()) for of_structure in numbers]),
    )


def structure_numbers(dataset: Dataset) -> list[np.ndarray]:
    """Atomic numbers of each structure, in their order."""
    result: list[np.ndarray] = [np.empty(0, int)] * len(dataset)
    for bucket, members in zip(dataset.buckets, dataset.members, strict=True):
        numbers, real = np.asarray(bucket.system.atomic_numbers), np.asarray(bucket.system.atom_mask)
        for row, structure in enumerate(members):
            result[structure] = numbers[row][real[row]]
    return result


def by_element(parity: Mapping[str, Parity], numbers: np.ndarray) -> Groups:
    """Errors of the labels of atoms for each of the elements of these atoms, in the order of the periodic table."""
    elements, counts = np.unique(numbers, return_counts=True)
    result: Groups = {io.chemical_symbols[z]: {"n_atoms": int(n)} for z, n in zip(elements, counts, strict=True)}
    for short, pair in parity.items():
        if pair.numbers is not None:
            _add_errors(result, short, pair, np.searchsorted(elements, pair.numbers))
    return result


def by_structure(parity: Mapping[str, Parity], names: Sequence[str]) -> Groups:
    """Errors of the structures of each name, the most frequent one first; `names` has one for each structure."""
    result: Groups = {name: {"n_structures": count} for name, count in Counter(names).most_common()}
    places = {name: i for i, name in enumerate(result)}
    place_of_structure = np.array([places[name] for name in names], int)
    for short, pair in parity.items():
        if result and pair.structures is not None:
            _add_errors(result, short, pair, place_of_structure[pair.structures])
    return result


def _add_errors(result: Groups, short: str, pair: Parity, place: np.ndarray) -> None:
    """Add the errors of one term to the groups, whose place in `result` each value has."""
    error = pair.predicted - pair.reference
    count, squares, magnitudes = (np.bincount(place, x, len(result)) for x in (None, error**2, np.abs(error)))
    for i, group in enumerate(result.values()):
        if count[i]:
            group[f"{short}_rmse"] = float(np.sqrt(squares[i] / count[i]))
            group[f"{short}_mae"] = float(magnitudes[i] / count[i])
