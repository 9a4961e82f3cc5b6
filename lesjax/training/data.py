"""Data sets of padded, stacked structures on the device."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lesjax import ewald, io
from lesjax.models.checks import check_elements, check_state
from lesjax.models.config import ModelConfig
from lesjax.models.long_range.plan import grid_sizes, make_solver, plan_bucket
from lesjax.neighbors.batching import MAX_BUCKETS, assign_bucket, pad_alike, plan_buckets, stack
from lesjax.neighbors.host import neighbor_arrays
from lesjax.properties import traceless
from lesjax.system import System, check_ghosts, electronic_state


Periodic = bool | tuple[bool, bool, bool] | None
LONE = re.compile("((isolated|single|lone|free)(atom|ion)|atoms?$)")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Stacked systems of one padded shape.

    Attributes:
        system: stacked systems.
        solver: stacked plans of the long-range sum, None for a short-range model.
        labels: stacked labels; energies without the reference energies of the elements, and the traceless part of
            the quadrupoles.
        origins: points that the moments are about, Å: centres of mass.
        epsilon_infinity: electronic dielectric constants, whose root scales Born effective charges.
        system_mask: False for systems that only fill up the batch.
        weights: factors of the structures in the loss by the names of the labels; empty where all are one.
    """

    system: System
    solver: ewald.Plan | None
    labels: io.Labels
    origins: Float[Array | np.ndarray, "b 3"]
    epsilon_infinity: Float[Array | np.ndarray, " b"]
    system_mask: Bool[Array | np.ndarray, " b"]
    weights: dict[str, Float[Array | np.ndarray, " b"]] = field(default_factory=dict)


# batches of one bucket: the bucket, rows [k, b] and masks of real rows [k, b]
Part = tuple[Batch, Array | np.ndarray, Array | np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """All structures, stacked in a few buckets of one shape each.

    Attributes:
        buckets: stacked structures.
        members: index in the original list of each structure of each bucket.
        config: the model that it was made for, which sets neighbours, plans and reference energies.
        config_types: entry ``config_type`` of each structure, empty where there is none.
    """

    buckets: tuple[Batch, ...]
    members: tuple[np.ndarray, ...]
    config: ModelConfig
    config_types: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.members))


def is_lone(atoms: io.Atoms, cutoff: float | None = None, pbc: Periodic = None) -> bool:
    """Whether a structure is one atom without neighbours: open, marked as such, or without an image within the cutoff.

    The mark is "IsolatedAtom" as `config_type`, both in any spelling, or a word like it, as "single_atom".
    """
    if len(atoms) != 1:
        return False
    directions = np.broadcast_to(atoms.pbc if pbc is None else pbc, 3)
    marks = [value for key, value in atoms.info.items() if _letters(key) == "configtype"]
    if any(LONE.match(_letters(mark)) for mark in marks) or not directions.any():
        return True
    a, b, c = map(bool, directions)
    return cutoff is not None and not neighbor_arrays(atoms.positions, atoms.cell.array, (a, b, c), cutoff)[2].any()


def _letters(text: object) -> str:
    return re.sub("[^a-z]", "", str(text).lower())


def lone_atom_energies(
    elements: Sequence[int],
    frames: Sequence[io.Atoms],
    labels: Sequence[io.Labels],
    *,
    cutoff: float | None = None,
    pbc: Periodic = None,
) -> Float[np.ndarray, " e"]:
    """Lowest energy of a lone neutral atom of each element, eV, NaN where there is none; see `reference_energies`."""
    lone: dict[int, list[float]] = {z: [] for z in elements}
    for atoms, label in zip(frames, labels, strict=True):
        is_neutral = np.nan_to_num(electronic_state(atoms)[0]) == 0.0
        if np.isfinite(label.energy) and is_neutral and is_lone(atoms, cutoff, pbc):
            lone.setdefault(int(atoms.numbers[0]), []).append(float(label.energy))
    return np.array([min(lone[z], default=np.nan) for z in elements])


def reference_energies(
    elements: Sequence[int],
    frames: Sequence[io.Atoms],
    labels: Sequence[io.Labels],
    *,
    cutoff: float | None = None,
    pbc: Periodic = None,
    held: Collection[int] = (),
) -> tuple[float, ...]:
    """Energy of one atom of each element, eV: that of the lone neutral atom, and of others by least squares.

    Of several lone atoms of one element the lowest counts; the least squares go over the frames that have an energy.

    Args:
        elements: atomic numbers.
        frames: structures.
        labels: their labels.
        cutoff: without a periodic image within it a single atom is lone, Å, see `is_lone`.
        pbc: overrides the periodicity of the structures.
        held: elements whose energy is zero.
    """
    counts = np.array([[np.sum(atoms.numbers == z) for z in elements] for atoms in frames], float)
    energies = np.array([float(label.energy) for label in labels])
    has_energy = np.isfinite(energies)
    solution = lone_atom_energies(elements, frames, labels, cutoff=cutoff, pbc=pbc)
    solution[np.isin(elements, list(held))] = 0.0
    free = np.isnan(solution)
    rows = has_energy & counts[:, free].any(axis=1)
    rest = energies - counts[:, ~free] @ solution[~free]
    solution[free] = np.linalg.lstsq(counts[rows][:, free], rest[rows], rcond=None)[0] if rows.any() else 0.0
    return tuple(float(e) for e in solution)


def subtract_reference(config: ModelConfig, numbers: np.ndarray, energy: Array | np.ndarray | float) -> np.ndarray:
    """Energy minus the reference energies of its atoms, in float64."""
    return np.asarray(np.asarray(energy, np.float64) - config.reference_energy(numbers))


def make_dataset(
    config: ModelConfig,
    frames: Sequence[io.Atoms],
    labels: Sequence[io.Labels],
    pbc: Periodic = None,
    indices: Sequence[int | str] | None = None,
    max_buckets: int = MAX_BUCKETS,
    epsilon_infinity: float = 1.0,
    weights: Sequence[Mapping[str, float]] | None = None,
) -> Dataset:
    """Make a data set of structures: neighbours, plans of the sum, padding and stacking; host only.

    Structures with different periodic directions go into different buckets, at most `max_buckets` for each. A lone atom
    (see `is_lone`) is open, whatever its box: the images of an ion would act on it.

    Args:
        config: the model.
        frames: structures.
        labels: their labels.
        pbc: overrides the periodicity of the structures.
        indices: their indices in the file they come from, for messages.
        max_buckets: most padded shapes, and so compilations.
        epsilon_infinity: electronic dielectric constant of the material, see `Batch`.
        weights: factors of each structure in the loss, by the names of the labels.

    Raises:
        ValueError: for a structure that the model cannot take, with its index.
    """
    dtype = jax.dtypes.canonicalize_dtype(float)
    systems: list[System] = []
    file_indices = list(range(len(frames))) if indices is None else list(indices)
    for index, atoms in zip(file_indices, frames, strict=True):
        cutoff = config.short_range.cutoff
        check_ghosts(atoms.numbers, where=f"Structure {index}: ")
        check_elements(config.short_range.elements, atoms.numbers, f"Structure {index}")
        try:
            check_electronic_state(config, atoms)
            directions = False if is_lone(atoms, cutoff, pbc) else pbc
            systems.append(System.from_ase(atoms, cutoff=cutoff, pbc=directions))
        except ValueError as error:
            raise ValueError(f"Structure {index}: {error}") from error
    weighted = sorted({name for factors in weights or () for name, value in factors.items() if value != 1.0})
    buckets, members = [], []
    for directions in sorted({system.pbc for system in systems}):
        group = [i for i, system in enumerate(systems) if system.pbc == directions]
        sizes = {i: (*systems[i].shape, *grid_sizes(config, systems[i])) for i in group}
        shapes = plan_buckets(list(sizes.values()), max_buckets)
        bucket_of = {i: assign_bucket(sizes[i], shapes) for i in group}
        for bucket, shape in enumerate(shapes):
            in_bucket = [i for i in group if bucket_of[i] == bucket]
            if not in_bucket:
                continue
            padded_labels = []
            for i in in_bucket:
                energy = subtract_reference(config, frames[i].numbers, labels[i].energy)
                quadrupole = traceless(labels[i].quadrupole)
                label = dataclasses.replace(labels[i], energy=energy, quadrupole=quadrupole).pad_to(shape[0])
                padded_labels.append(jax.tree.map(lambda x: x.astype(dtype), label))
            solvers = plan_solvers(config, [systems[i] for i in in_bucket], [file_indices[i] for i in in_bucket])
            batch = Batch(
                system=stack(pad_alike([systems[i] for i in in_bucket], *shape[:2])),
                solver=None if solvers is None else ewald.stack_solvers(solvers),
                labels=stack(padded_labels),
                epsilon_infinity=np.full(len(in_bucket), epsilon_infinity, dtype),
                origins=np.array([frames[i].get_center_of_mass() - systems[i].origin for i in in_bucket], dtype),
                system_mask=np.ones(len(in_bucket), bool),
                weights={name: np.array([weights[i][name] for i in in_bucket], dtype) for name in weighted}
                if weights
                else {},
            )
            buckets.append(jax.device_put(batch))
            members.append(np.array(in_bucket))
    types = tuple(str(atoms.info.get("config_type", "")) for atoms in frames)
    return Dataset(buckets=tuple(buckets), members=tuple(members), config=config, config_types=types)


def with_reference_energies(
    dataset: Dataset, config: ModelConfig, frames: Sequence[io.Atoms], labels: Sequence[io.Labels]
) -> Dataset:
    """Return the data set of the structures for a model that differs in its reference energies alone."""
    buckets = []
    for bucket, members in zip(dataset.buckets, dataset.members, strict=True):
        energies = [subtract_reference(config, frames[i].numbers, labels[i].energy) for i in members]
        energy = jnp.asarray(np.array(energies), bucket.labels.energy.dtype)
        buckets.append(dataclasses.replace(bucket, labels=dataclasses.replace(bucket.labels, energy=energy)))
    return dataclasses.replace(dataset, buckets=tuple(buckets), config=config)


def plan_solvers(
    config: ModelConfig, systems: Sequence[System], indices: Sequence[int | str]
) -> list[ewald.Plan] | None:
    """Plan the sums of one bucket; host only.

    Raises:
        ValueError: for a structure that cannot be summed, with its index.
    """
    try:
        return plan_bucket(config, systems)
    except ValueError:
        for index, system in zip(indices, systems, strict=True):
            try:
                make_solver(config, system)
            except ValueError as error:
                raise ValueError(f"Structure {index}: {error}") from error
        raise


def check_electronic_state(config: ModelConfig, atoms: io.Atoms) -> None:
    """Raise ValueError where the model needs a total charge or spin multiplicity that a structure lacks."""
    for name, value in zip(("total_charge", "spin_multiplicity"), electronic_state(atoms), strict=True):
        state = {"total_charge": 0.0, "spin_multiplicity": 1.0} | {name: value}
        try:
            check_state(config, **state)
        except ValueError as error:
            raise ValueError(
                f"the model needs its {name.replace('_', ' ')}, got {value:g}. Write `{name}=...` in the comment line "
                f"of each structure, or give the name under which the file has it as `data.keys.{name}`."
            ) from error


def epoch_batches(
    dataset: Dataset, batch_size: int, rng: np.random.Generator | None
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Cut a data set into batches: (bucket, rows, mask of real rows), in random order if `rng` is given.

    All batches of a bucket have one size; the last one is filled up with masked rows.
    """
    batches = []
    for bucket, rows in enumerate(dataset.members):
        order = np.arange(len(rows)) if rng is None else rng.permutation(len(rows))
        size = min(batch_size, len(rows))
        for start in range(0, len(rows), size):
            batch = order[start : start + size]
            mask = np.arange(size) < len(batch)
            batches.append((bucket, np.resize(batch, size), mask))
    return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]


def whole_set(dataset: Dataset, batch_size: int) -> tuple[Part, ...]:
    """All structures as the batches of each bucket, [k, b]: for a step on the whole set."""
    parts = []
    for i, batches in itertools.groupby(epoch_batches(dataset, batch_size, None), key=lambda batch: batch[0]):
        _, rows, masks = zip(*batches, strict=True)
        parts.append((dataset.buckets[i], np.stack(rows), np.stack(masks)))
    return tuple(parts)


def take(bucket: Batch, rows: Array, mask: Array) -> Batch:
    """Return rows of a bucket as one batch; traced."""
    selected = jax.tree.map(lambda x: x[rows], bucket)
    return dataclasses.replace(selected, system_mask=selected.system_mask & mask)
