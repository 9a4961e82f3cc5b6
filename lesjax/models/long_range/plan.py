"""Plans of the sums of a model, of charges and of dispersion, for the cells of systems; made on the host."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lesjax import ewald
from lesjax.models.config import ModelConfig
from lesjax.system import System


class _Sum(NamedTuple):
    """Settings of one sum, under the names of the arguments of `ewald.make_solver`."""

    sigma: float
    k_cutoff: float | None
    accuracy: float | None
    interaction: ewald.Interaction


def make_solver(config: ModelConfig, system: System) -> ewald.Plan | None:
    """Plan the sums of a model, None for one without; host only. Plans are kept for cells seen before."""
    cell, mask = np.asarray(system.cell, np.float64), np.asarray(system.atom_mask)
    key = cell.tobytes() if any(system.pbc) else b""
    plans = [s and _planned(s, key, system.pbc, int(np.sum(mask))) for s in _sums(config, system.pbc)]
    solver = _joined(*plans)
    if solver is not None:
        solver.check_atoms(np.asarray(system.positions, np.float64)[mask], cell)
    return solver


def plan_bucket(config: ModelConfig, systems: Sequence[System]) -> list[ewald.Plan] | None:
    """Plan the sums of systems that are stacked, with one kind of solver and the same sizes; host only.

    Raises:
        ValueError: as `make_solver`.
    """
    if not config.has_sum:
        return None
    pbc, masks = systems[0].pbc, [np.asarray(system.atom_mask) for system in systems]
    cells = [np.asarray(system.cell, np.float64) for system in systems]
    n_atoms = [int(np.sum(mask)) for mask in masks]
    charges, dispersion = (
        [None] * len(systems) if s is None else ewald.plan_bucket(cells, pbc, n_atoms=n_atoms, **s._asdict())
        for s in _sums(config, pbc)
    )
    solvers = []
    for pair, system, mask, cell in zip(zip(charges, dispersion, strict=True), systems, masks, cells, strict=True):
        solver = _joined(*pair)
        assert solver is not None
        solver.check_atoms(np.asarray(system.positions, np.float64)[mask], cell)
        solvers.append(solver)
    return solvers


def split(solver: ewald.Plan | None) -> tuple[ewald.Solver | None, ewald.Solver | None]:
    """Return the plans of the charges and of the dispersion."""
    return (solver.charges, solver.dispersion) if isinstance(solver, ewald.Solvers) else (solver, None)


def grid_sizes(config: ModelConfig, system: System) -> tuple[int, ...]:
    """Sizes of the k-grids of a system, nearly, to plan batches with; none without a sum over k-vectors; host only."""
    if not any(system.pbc):
        return ()
    lengths = np.linalg.norm(np.asarray(system.cell, np.float64), axis=1)
    sizes: list[int] = []
    for s in _sums(config, system.pbc):
        if s is not None:
            k_cutoff = s.k_cutoff
            if k_cutoff is None:
                accuracy = ewald.DEFAULT_ACCURACY if s.accuracy is None else s.accuracy
                k_cutoff = ewald.cutoff_for_accuracy(accuracy, s.sigma, s.interaction)
            sizes += [int(n) for n in k_cutoff * lengths / (2.0 * np.pi) + 1.0]
    return tuple(sizes)


@functools.lru_cache(maxsize=64)
def _planned(settings: _Sum, cell: bytes, pbc: tuple[bool, bool, bool], n_atoms: int) -> ewald.Solver:
    array = np.frombuffer(cell).reshape(3, 3) if cell else np.zeros((3, 3))
    return ewald.make_solver(array, pbc, n_atoms=n_atoms, **settings._asdict())


def _joined(charges: ewald.Solver | None, dispersion: ewald.Solver | None) -> ewald.Plan | None:
    return charges if dispersion is None else ewald.Solvers(charges=charges, dispersion=dispersion)


def _sums(config: ModelConfig, pbc: tuple[bool, bool, bool]) -> tuple[_Sum | None, _Sum | None]:
    """Settings of the sums over charges and over coefficients of dispersion."""
    charges, dispersion = config.long_range, config.dispersion
    coulomb = ewald.Coulomb(background=charges is not None and charges.background and all(pbc))
    return (
        charges and _Sum(charges.sigma, charges.k_cutoff, charges.accuracy, coulomb),
        dispersion and _Sum(config.dispersion_sigma, dispersion.k_cutoff, dispersion.accuracy, ewald.InversePower6()),
    )
