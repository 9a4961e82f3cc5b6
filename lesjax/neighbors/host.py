"""Neighbour arrays on the host, padded to one width.

An atom i (receiver) keeps its neighbours j (senders) in row i of an ``[n, m]`` array, so that the sum over
neighbours is a matrix product and never a scatter. A pair's vector is r_j - r_i + shift · cell. A padded
entry points to the atom itself with shift zero and is False in the mask.
"""

import numpy as np
from jaxtyping import Bool, Float, Int


MIN_DISTANCE = 1e-6  # Å; closer atoms have no direction, and NaN forces


def neighbor_arrays(
    positions: Float[np.ndarray, "n 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: tuple[bool, bool, bool],
    cutoff: float,
    *,
    capacity: int | None = None,
) -> tuple[Int[np.ndarray, "n m"], Int[np.ndarray, "n m 3"], Bool[np.ndarray, "n m"]]:
    """Find all neighbours within the cutoff, periodic images included, in a cell of any shape and size.

    Args:
        positions: Cartesian coordinates, Å; need not lie inside the cell.
        cell: lattice vectors as rows, Å; rows of non-periodic directions may be zero.
        pbc: which directions are periodic.
        cutoff: largest distance, Å.
        capacity: width m of the arrays; by default the largest number of neighbours, at least one.

    Returns:
        Index of each neighbour, its lattice translation, and the mask of real entries.

    Raises:
        ValueError: for a cutoff that is not positive, a singular cell, coordinates that are not finite or shared by two
            atoms, or a capacity that is too small.
    """
    import vesin  # imports ase where that is installed, which `import lesjax` must not

    positions, cell = np.asarray(positions), np.asarray(cell)
    check_geometry(positions, cell, pbc)
    if not cutoff > 0:
        raise ValueError(f"`cutoff` must be positive, got {cutoff}.")
    n = len(positions)
    n_threads = 1 if n < 4000 else 0  # for few atoms, starting threads costs more than it saves
    calculator = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=n_threads)
    positions, cell = positions.astype(float), cell.astype(float)  # vesin needs one dtype
    first, second, shift, distances = calculator.compute(points=positions, box=cell, periodic=pbc, quantities="ijSd")
    if len(distances) and not distances.min() > MIN_DISTANCE:
        pair = int(np.argmin(distances))
        raise ValueError(f"`positions` of atoms {first[pair]} and {second[pair]} are the same: correct the structure.")
    receivers, senders = first.astype(np.int64), second.astype(np.int32)
    counts = np.bincount(receivers, minlength=n)
    needed = max(1, int(counts.max(initial=0)))
    width = needed if capacity is None else capacity
    if needed > width:
        raise ValueError(f"`capacity` = {capacity} is too small: an atom has {needed} neighbours within {cutoff} Å.")
    column = np.arange(len(receivers)) - np.repeat(np.cumsum(counts) - counts, counts)
    neighbors = np.repeat(np.arange(n, dtype=np.int32)[:, None], width, axis=1)
    cell_shifts = np.zeros((n, width, 3), np.int32)
    mask = np.zeros((n, width), bool)
    neighbors[receivers, column] = senders
    cell_shifts[receivers, column] = shift
    mask[receivers, column] = True
    return neighbors, cell_shifts, mask


def check_geometry(
    positions: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool]
) -> None:
    """Raise ValueError for a geometry that no neighbour list or sum can use."""
    if len(positions) == 0:
        raise ValueError("`positions` is empty: a system needs at least one atom.")
    if not np.all(np.isfinite(positions)):
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise ValueError(f"`positions` of atom {bad} are not finite: {positions[bad].tolist()}.")
    periodic = cell[list(pbc)]
    if len(periodic):
        # singular values; the root of a Gram determinant would lose half of the digits
        extents = np.linalg.svd(periodic, compute_uv=False) if np.all(np.isfinite(cell)) else np.zeros(1)
        if not extents.min() > 1e-9 * extents.max():
            raise ValueError(
                f"`cell` is singular in its periodic directions {tuple(bool(p) for p in pbc)}: {cell.tolist()}. "
                "Give three independent lattice vectors, or set pbc to False for a cluster."
            )
