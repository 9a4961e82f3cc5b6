"""Test that reference energies are smooth: a potential that learns from labels with steps learns their steps.

GFN2-xTB has steps of 14 meV in the energy of some salt clusters, within 0.04 Å, which neither the charges nor the
threshold of the self-consistent field explain, and forces there that jump by 0.3 eV/Å; GFN1-xTB does not.
"""

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms


HALF_LENGTH = 0.3  # Å, of a line on both sides of a frame
POINTS, DEGREE = 13, 7  # points on a line; degree of the polynomial that must fit them
LARGEST = 1.0  # meV/Å, root mean square that a set may have
WHAT = f"forces along lines of ±{HALF_LENGTH} Å less polynomials of degree {DEGREE}"


def one_atom(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """Draw one atom."""
    return rng.integers(len(atoms), size=1)


def roughness(
    frames: Sequence[Atoms],
    forces: Callable[[Atoms], np.ndarray],
    *,
    moved: Callable[[Atoms, np.random.Generator], np.ndarray] = one_atom,
    n_lines: int = 40,
    seed: int = 0,
) -> dict[str, float]:
    r"""Return how far forces along random lines are from polynomials of degree `DEGREE`.

    On each line some atoms of one frame move by ±`HALF_LENGTH` in a random direction; each component of the forces on
    all atoms is fitted by least squares. Kinks and steps remain, and what is smooth goes.

    Args:
        frames: some are drawn from all.
        forces: forces of a frame, [n, 3], eV/Å.
        moved: indices of the atoms that move together; one atom by default.
        n_lines: number of lines.
        seed: seed of the random numbers.

    Returns:
        ``rms``, ``largest``: of the residuals, meV/Å; ``lines``: their number.
    """
    rng = np.random.default_rng(seed)
    steps = np.linspace(-1.0, 1.0, POINTS)
    powers = np.vander(steps, DEGREE + 1)
    hat = powers @ np.linalg.pinv(powers)
    residuals = []
    for _ in range(n_lines):
        frame = frames[rng.integers(len(frames))]
        indices, direction = moved(frame, rng), rng.normal(size=3)
        direction *= HALF_LENGTH / np.linalg.norm(direction)
        values = []
        for step in steps:
            shifted = frame.copy()
            shifted.positions[indices] += step * direction
            values.append(forces(shifted).reshape(-1))
        line = np.array(values)
        residuals.append((line - hat @ line).reshape(-1))
    errors = 1e3 * np.concatenate(residuals)
    return {
        "rms": round(float(np.sqrt(np.mean(errors**2))), 4),
        "largest": round(float(abs(errors).max()), 3),
        "lines": n_lines,
    }


def check(name: str, result: dict[str, float]) -> dict[str, float]:
    """Return the roughness of a set, or raise ValueError if the set must not be shipped."""
    if result["rms"] > LARGEST:
        raise ValueError(
            f"The labels of {name} are not smooth: {result['rms']} meV/Å remain beside polynomials, of which "
            f"{LARGEST} are allowed. Take another method."
        )
    return result
