"""The equations with their sums written out, in numpy: slow, and what the solvers are compared with."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from lesjax.units import COULOMB


def energy(positions: np.ndarray, cell: np.ndarray, charges: np.ndarray, sigma: float, k_cutoff: float) -> float:
    """Long-range energy of Gaussian charges in a periodic cell, eV, without self-interaction."""
    total = 0.0
    for k in kvectors(cell, k_cutoff):
        if k @ k > 0:
            structure_factor = sum(q * np.exp(1j * k @ r) for q, r in zip(charges, positions, strict=True))
            total += math.exp(-(sigma**2) * (k @ k) / 2) / (k @ k) * abs(structure_factor) ** 2
    self_energy = sum(q**2 for q in charges) / (sigma * (2 * math.pi) ** 1.5)
    return 2 * math.pi * COULOMB * (total / abs(np.linalg.det(cell)) - self_energy)  # 2π COULOMB = 1 / (2 ε0)


def kvectors(cell: np.ndarray, k_cutoff: float) -> Iterator[np.ndarray]:
    """All k up to the cutoff, zero included."""
    reciprocal_cell = 2 * math.pi * np.linalg.inv(cell).T
    largest = [math.floor(k_cutoff * np.linalg.norm(vector) / (2 * math.pi)) for vector in cell]
    for n in itertools.product(*(range(-m, m + 1) for m in largest)):
        k = n @ reciprocal_cell
        if k @ k <= k_cutoff**2:
            yield k


def open_energy(positions: np.ndarray, charges: np.ndarray, pair: Callable[[float], float]) -> float:
    """Sum over all pairs of the products of their charges and of `pair` of their distance."""
    pairs = itertools.combinations(range(len(charges)), 2)
    return sum(charges[i] * charges[j] * pair(np.linalg.norm(positions[i] - positions[j])) for i, j in pairs)


def lattice_sum(
    positions: np.ndarray, cell: np.ndarray, charges: np.ndarray, k_cutoff: float, kernel: Callable[[float], float]
) -> float:
    """Return Σ φ(|k|) |S(k)|² / 2V over all k up to the cutoff, k = 0 included."""
    squares = ((k, abs(np.exp(1j * positions @ k) @ charges) ** 2) for k in kvectors(cell, k_cutoff))
    return sum(kernel(np.linalg.norm(k)) * square for k, square in squares) / (2 * abs(np.linalg.det(cell)))
