"""Plans of the long-range sum for the cells of systems, made on the host."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from lesjax import ewald
from lesjax.models.long_range.config import LongRangeConfig
from lesjax.system import System


def make_solver(long_range: LongRangeConfig | None, system: System) -> ewald.Solver | None:
    """Plan the long-range sum of a model; host only. Plans are kept for cells seen before."""
    if long_range is None:
        return None
    cell, mask = np.asarray(system.cell, np.float64), np.asarray(system.atom_mask)
    key = cell.tobytes() if any(system.pbc) else b""
    solver = _planned(long_range, key, system.pbc, int(np.sum(mask)))
    solver.check_atoms(np.asarray(system.positions, np.float64)[mask], cell)
    return solver


def plan_bucket(long_range: LongRangeConfig | None, systems: Sequence[System]) -> list[ewald.Solver] | None:
    """Plan the sums of systems that are stacked, with one kind of solver and the same sizes; host only.

    Raises:
        ValueError: as `make_solver`.
    """
    if long_range is None:
        return None
    pbc, masks = systems[0].pbc, [np.asarray(system.atom_mask) for system in systems]
    cells = [np.asarray(system.cell, np.float64) for system in systems]
    n_atoms = [int(np.sum(mask)) for mask in masks]
    solvers = ewald.plan_bucket(cells, pbc, n_atoms=n_atoms, **_settings(long_range, pbc))
    for solver, system, mask, cell in zip(solvers, systems, masks, cells, strict=True):
        solver.check_atoms(np.asarray(system.positions, np.float64)[mask], cell)
    return solvers


def grid_sizes(long_range: LongRangeConfig | None, system: System) -> tuple[int, ...]:
    """Sizes of the k-grid of a system, nearly, to plan batches with; none without a sum over k-vectors; host only."""
    if long_range is None or not any(system.pbc):
        return ()
    k_cutoff = long_range.k_cutoff
    if k_cutoff is None:
        accuracy = ewald.DEFAULT_ACCURACY if long_range.accuracy is None else long_range.accuracy
        k_cutoff = ewald.cutoff_for_accuracy(accuracy, long_range.sigma, ewald.Coulomb())
    lengths = np.linalg.norm(np.asarray(system.cell, np.float64), axis=1)
    return tuple(int(n) for n in k_cutoff * lengths / (2.0 * np.pi) + 1.0)


@functools.lru_cache(maxsize=64)
def _planned(long_range, cell: bytes, pbc: tuple[bool, bool, bool], n_atoms: int) -> ewald.Solver:
    array = np.frombuffer(cell).reshape(3, 3) if cell else np.zeros((3, 3))
    return ewald.make_solver(array, pbc, n_atoms=n_atoms, **_settings(long_range, pbc))


def _settings(long_range: LongRangeConfig, pbc: tuple[bool, bool, bool]) -> dict[str, Any]:
    return {
        "sigma": long_range.sigma, "k_cutoff": long_range.k_cutoff, "accuracy": long_range.accuracy,
        "interaction": ewald.Coulomb(background=long_range.background and all(pbc)),
    }  # fmt: skip
