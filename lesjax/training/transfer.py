"""From the parameters of a model to those of one with more: elements, charges, dispersion.

A new element takes over all numbers of the nearest element that the model knows: one of its group of the periodic table
if there is any, of these the nearest in atomic number, and the lighter one of two. It then starts as this element, with
its charge, its readouts and its messages. Parts that the start lacks are initialized as in any training.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lesjax import io
from lesjax.models.config import ModelConfig
from lesjax.models.potential import Potential
from lesjax.training.config import TrainingSection
from lesjax.training.data import Dataset, Periodic, epoch_batches, reference_energies
from lesjax.training.initialize import scaled_potential
from lesjax.training.start import Start
from lesjax.training.step import evaluate_rows


NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)


def group(z: int) -> int:
    """Group of the periodic table, 1 to 18; lanthanides and actinides above each other have a negative number."""
    end = next(noble for noble in NOBLE_GASES if noble >= z)
    place = z - NOBLE_GASES[NOBLE_GASES.index(end) - 1]
    if place <= 2 and z != end:
        return place
    number = 18 - (end - z)
    return number if number >= 3 else number - 18


def nearest(z: int, known: Sequence[int]) -> int:
    """Return the element of these that is nearest to an element."""
    return min(known, key=lambda other: (group(other) != group(z), abs(other - z), other))


def new_elements(start: ModelConfig, config: ModelConfig) -> dict[int, int]:
    """Elements that the start does not know, with the nearest one that it knows."""
    known = start.short_range.elements
    return {z: nearest(z, known) for z in config.short_range.elements if z not in known}


def initial_potential(
    config: ModelConfig, section: TrainingSection, dataset: Dataset, start: Start | None
) -> Potential:
    """Potential that a training begins with: fresh, or with the parameters and signs of the start.

    Raises:
        ValueError: for a group of `freeze` that the model does not have, or a short-range model that does not take new
            elements.
    """
    if start is None or (config.long_range is not None and start.potential.config.long_range is None):
        potential = scaled_potential(config, section.seed, dataset, section.feature_scale)
    else:
        potential = Potential.create(config, section.seed)
    if start is not None:
        potential = transferred(start.potential, potential, copied=section.new_elements == "nearest")
    groups = sorted(potential.params)
    missing = [name for name in section.freeze if name not in groups]
    if missing:
        raise ValueError(f"`training.freeze` names {missing[0]!r}, but the model has {', '.join(groups)}.")
    if set(groups) <= set(section.freeze):
        raise ValueError(f"`training.freeze` = {list(section.freeze)} leaves nothing to train: leave one out.")
    return potential


def transferred(start: Potential, fresh: Potential, *, copied: bool = True) -> Potential:
    """Put the parameters and signs of a model into those of one with more.

    Args:
        start: the model.
        fresh: potential of the new configuration, whose parameters stay where the start has none.
        copied: new elements take over the numbers of the nearest element; otherwise those of `fresh`.

    Raises:
        ValueError: for new elements in a short-range model whose parameters or features do not say what belongs to an
            element.
    """
    known = dict(jax.tree_util.tree_leaves_with_path(start.params))
    rows = _Rows(start, fresh, copied)

    def transfer(path: tuple, leaf: Array) -> Array:
        if path not in known or known[path].shape == leaf.shape:
            return known.get(path, leaf)
        source = rows.of(tuple(str(entry.key) for entry in path), known[path], leaf)
        taken = source.reshape(-1, *[1] * (leaf.ndim - 1)) >= 0
        return jnp.where(taken, known[path][jnp.maximum(source, 0)], leaf)

    params = jax.tree_util.tree_map_with_path(transfer, fresh.params)
    return dataclasses.replace(fresh, params=params, signs=fresh.signs if start.signs is None else start.signs)


class _Rows:
    """Rows of the start's arrays that those of the new model are copied from; -1 where they stay fresh."""

    def __init__(self, start: Potential, fresh: Potential, copied: bool) -> None:
        old, new = start.config, fresh.config
        known, nearest_of = old.short_range.elements, new_elements(old, new)
        places = {z: i for i, z in enumerate(known)}
        if copied:
            places |= {z: places[other] for z, other in nearest_of.items()}
        self.elements = np.array([places.get(z, -1) for z in new.short_range.elements])
        self.kind = type(old.short_range).__name__
        self.n_known = len(known)
        scales = [potential.params["energy"]["feature_scale"] for potential in (start, fresh)]
        sizes = [[scale[f"layer{i}"].shape[0] for i in range(len(scale))] for scale in scales]
        by_element = getattr(old.short_range, "readout_by_element", False)
        self.features, self.layers, self.n_inputs = [], [], []
        for n_old, n_new in zip(*sizes, strict=True):
            features = np.arange(n_old)
            if n_new != n_old and by_element:  # the features of each element one after the other
                features = self._blocks(n_old // self.n_known)
            states = len(old.state_inputs)  # appended, for each element where it sees them in inputs of its own
            state_rows = self._blocks(states) if old.state_by_element else np.arange(states)
            self.features.append(features)
            self.layers.append(np.concatenate([features, np.where(state_rows < 0, -1, n_old + state_rows)]))
            self.n_inputs.append(n_old + states * (self.n_known if old.state_by_element else 1))

    def _blocks(self, width: int) -> Int[np.ndarray, " r"]:
        """Rows of arrays with a block of this many rows for each element."""
        rows = self.elements[:, None] * width + np.arange(width)
        return np.where(self.elements[:, None] < 0, -1, rows).reshape(-1)

    def of(self, name: tuple[str, ...], old: Array, new: Array) -> Int[np.ndarray, " r"]:
        """Rows for the array of this name.

        Raises:
            ValueError: if they are not those of elements or features.
        """
        n_old = old.shape[0] if old.ndim else 0
        if "feature_scale" in name:
            rows, expected = self.features[int(name[-1].removeprefix("layer"))], n_old
        elif "readout" in name:
            layer = int(name[name.index("readout") + 1].removeprefix("layer"))
            rows, expected = self.layers[layer], self.n_inputs[layer]
        elif name[0] == "heads":  # the features of all layers
            starts = np.cumsum([0, *self.n_inputs])
            rows = [np.where(x < 0, -1, x + begin) for x, begin in zip(self.layers, starts, strict=False)]
            rows, expected = np.concatenate(rows), sum(self.n_inputs)
        else:
            rows, expected = self.elements, self.n_known
        if n_old != expected or new.shape != (len(rows), *old.shape[1:]):
            raise ValueError(
                f"`training.start_from` has a short-range model ({self.kind}) that does not take new elements: its "
                f"parameter {'.'.join(name)} is {old.shape} for the elements of the start and {new.shape} with those "
                "of the data, not one row for each element. Leave out structures with new elements."
            )
        return rows


def corrected_references(
    potential: Potential,
    dataset: Dataset,
    frames: Sequence[io.Atoms],
    labels: Sequence[io.Labels],
    *,
    batch_size: int,
    pbc: Periodic,
    held: Sequence[int] = (),
) -> tuple[float, ...]:
    """Reference energies with which a potential fits the energies of structures best, eV.

    Args:
        potential: the model, whose configuration has the reference energies to correct.
        dataset: the structures.
        frames: the same structures.
        labels: their labels.
        batch_size: structures computed at once.
        pbc: overrides the periodicity of the structures.
        held: elements whose energies stay.
    """
    config = potential.config
    elements = config.short_range.elements
    energies = interaction_energies(potential, dataset, batch_size)
    rest = [
        dataclasses.replace(label, energy=np.asarray(label.energy - energy - config.reference_energy(atoms.numbers)))
        for atoms, label, energy in zip(frames, labels, energies, strict=True)
    ]
    cutoff = config.short_range.cutoff
    corrections = reference_energies(elements, frames, rest, cutoff=cutoff, pbc=pbc, held=held)
    return tuple(a + b for a, b in zip(config.reference_energies, corrections, strict=True))


def interaction_energies(potential: Potential, dataset: Dataset, batch_size: int) -> Float[np.ndarray, " n"]:
    """Energies of all structures without reference energies, eV, in their order."""
    energies = np.zeros(len(dataset))
    for bucket, rows, mask in epoch_batches(dataset, batch_size, None):
        prediction = evaluate_rows(potential.core(), dataset.buckets[bucket], rows, mask, ())[1]
        energies[dataset.members[bucket][rows[mask]]] = np.asarray(prediction.energy, float)[mask]
    return energies
