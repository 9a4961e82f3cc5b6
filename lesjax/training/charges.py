"""Latent charges of the structures of a data set, and their statistics."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lesjax.io import chemical_symbols
from lesjax.models.checks import NEUTRAL
from lesjax.models.potential import Potential
from lesjax.models.provenance import ChargeStatistics
from lesjax.system import System
from lesjax.training.data import Dataset, epoch_batches
from lesjax.training.step import evaluate_rows


class StructureCharges(NamedTuple):
    """Latent charges of one structure, e, its atomic numbers, and whether it is a cell that should be neutral."""

    charges: Float[np.ndarray, "n c"]
    numbers: Int[np.ndarray, " n"]
    is_neutral_cell: bool


def split_charges(
    charges: Float[Array | np.ndarray, "b n c"],
    system: System,
    rows: Int[np.ndarray, " b"],
    mask: Bool[np.ndarray, " b"],
) -> list[StructureCharges]:
    """Latent charges of the real structures of a batch, which are rows of stacked systems."""
    values, numbers, real = (np.asarray(x) for x in (charges, system.atomic_numbers, system.atom_mask))
    total = np.nan_to_num(np.asarray(system.total_charge))
    periodic = any(system.pbc)
    return [
        StructureCharges(values[k][real[row]].astype(float), numbers[row][real[row]], periodic and total[row] == 0.0)
        for k, row in enumerate(rows)
        if mask[k]
    ]


def charges_of(
    potential: Potential, dataset: Dataset, names: tuple[str, ...], batch_size: int
) -> list[StructureCharges]:
    """Latent charges of all structures.

    Args:
        potential: a model with charges.
        dataset: structures.
        names: terms that are computed as well: terms of the validation, for which all is compiled.
        batch_size: structures computed at once.
    """
    structures = []
    for bucket, rows, mask in epoch_batches(dataset, batch_size, None):
        batch = dataset.buckets[bucket]
        charges = evaluate_rows(potential.core(), batch, rows, mask, names)[1].charges
        assert charges is not None
        structures += split_charges(charges, batch.system, rows, mask)
    return structures


def charge_size(structures: Sequence[StructureCharges]) -> float:
    r"""Root mean square over the atoms of the charges of all channels, :math:`\sqrt{\sum_{ic} q_{ic}^2 / n}`, e."""
    return float(np.sqrt(np.mean(np.concatenate([np.sum(s.charges**2, axis=1) for s in structures]))))


def charge_statistics(structures: Sequence[StructureCharges], initial_size: float | None = None) -> ChargeStatistics:
    """Statistics of the latent charges, by element, and of their sums over the structures.

    Args:
        structures: at least one.
        initial_size: `charge_size` before training.
    """
    charges, numbers = (np.concatenate(parts) for parts in list(zip(*structures, strict=True))[:2])
    net = np.array([s.charges.sum(axis=0) for s in structures])
    largest = net[np.argmax(np.abs(net), axis=0), np.arange(net.shape[1])]
    of_cells = np.abs(net[[s.is_neutral_cell for s in structures]]).max(axis=1, initial=0.0)
    of_elements = {chemical_symbols[z]: charges[numbers == z] for z in np.unique(numbers)}
    return ChargeStatistics(
        n_structures=len(structures),
        mean={symbol: _rounded(values.mean(axis=0)) for symbol, values in of_elements.items()},
        std={symbol: _rounded(values.std(axis=0)) for symbol, values in of_elements.items()},
        net_mean=_rounded(net.mean(axis=0)),
        net_largest=_rounded(largest),
        n_cells=len(of_cells),
        n_charged_cells=int(np.sum(of_cells > NEUTRAL)),
        largest_of_cells=_rounded(of_cells.max(initial=0.0, keepdims=True))[0],
        size=_rounded(np.array([charge_size(structures)]))[0],
        initial_size=initial_size,
    )


def _rounded(values: Float[np.ndarray, " c"]) -> tuple[float, ...]:
    """Numbers to a millionth of e: beyond it are rounding errors of single precision."""
    return tuple(float(round(value, 6)) + 0.0 for value in values)
