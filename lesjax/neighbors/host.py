"""Neighbour arrays on the host, padded to one width.

An atom i (receiver) keeps its neighbours j (senders) in row i of an ``[n, m]`` array, so that the sum over
neighbours is a matrix product and never a scatter. A pair's vector is r_j - r_i + shift · cell. A padded
entry points to the atom itself with shift zero and is False in the mask.
"""

import itertools
import math

import numpy as np
from jaxtyping import Bool, Float, Int

from lesjax.validate import BOUNDS, MAX_LENGTH, array, check_memory, number, positive


# Å; atoms that are closer, or a lattice that is lower, are a mistake or in another unit: nuclei of H2 have 0.74
MIN_DISTANCE = 0.1
# Å; of a potential with its skin
MAX_CUTOFF = BOUNDS["cutoff"][1] + BOUNDS["skin"][1]
# More neighbours of one atom are a mistake in the lattice or its units: diamond has 6000 within 20 Å
MAX_NEIGHBORS = 20_000
# Bins that vesin makes at most
MAX_BINS = 1e5
# Memory of a pair while a list is made, bytes
PAIR_BYTES = 85
# Grid that origins lie on, Å: positions near zero stay as they are
ORIGIN_STEP = 16.0


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
        ValueError: for a cutoff that is not positive, a singular cell, coordinates that are not finite, atoms closer
            than `MIN_DISTANCE`, more pairs than there is memory for, or a capacity that is too small.
    """
    positions, cell = np.asarray(positions), np.asarray(cell)
    check_geometry(positions, cell, pbc)
    cutoff = number("cutoff", cutoff, positive)
    if cutoff > MAX_CUTOFF:
        raise ValueError(f"`cutoff` must be at most {MAX_CUTOFF:g} Å, got {cutoff}.")
    n = len(positions)
    check_size(positions.astype(float), cell.astype(float), pbc, cutoff)
    first, second, shift, distances = _pairs(positions.astype(float), cell.astype(float), pbc, cutoff)
    if len(distances) and not distances.min() > MIN_DISTANCE:
        pair = int(np.argmin(distances))
        one, other = int(first[pair]), int(second[pair])
        names = (
            f"`positions` of atoms {one} and {other}" if one != other else f"`positions` of atom {one} and its image"
        )
        if distances[pair] < 1e-6:
            raise ValueError(f"{names} are the same: correct the structure.")
        raise ValueError(
            f"{names} are {distances[pair]:.3g} Å apart, less than {MIN_DISTANCE} Å: correct the structure, or its "
            "units (they must be Å, and no fractions of the cell)."
        )
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


def _pairs(
    positions: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool], cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return receivers and senders of all pairs in order, the lattice translations of the senders, and distances.

    vesin 0.6 divides by zero, or never ends, in large cells of which one direction is open. A period that is longer
    than the atoms extend by more than the cutoff takes its place. It also divides by zero where one edge is short and
    the bins of the others are too many for it; there a tree finds the pairs.
    """
    import vesin  # imports ase where that is installed, which `import lesjax` must not

    box = complete_cell(cell, pbc)
    extents = np.ptp(positions @ np.linalg.inv(box), axis=0) + 1.01 * cutoff
    box = box * np.where(pbc, 1.0, extents)[:, None]
    bins = np.maximum(np.floor(heights(box, (True, True, True)) / cutoff), 1.0)
    if bins.min() * (MAX_BINS / np.prod(bins)) ** (1 / 3) < 2.0 and np.prod(bins) > MAX_BINS:
        return _pairs_by_tree(positions, box, cutoff)
    n_threads = 1 if len(positions) < 4000 else 0  # for few atoms, starting threads costs more than it saves
    calculator = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=n_threads)
    first, second, shift, distances = calculator.compute(points=positions, box=box, periodic=True, quantities="ijSd")
    return first, second, shift, distances


def _pairs_by_tree(
    positions: Float[np.ndarray, "n 3"], box: Float[np.ndarray, "3 3"], cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As `_pairs`, for sparse boxes that are periodic in all directions."""
    from scipy.spatial import KDTree

    turns = np.floor(positions @ np.linalg.inv(box))
    home = positions - turns @ box
    low, high = home.min(axis=0) - cutoff, home.max(axis=0) + cutoff
    reach = np.ceil(cutoff / heights(box, (True, True, True))).astype(int)
    atoms, translations = [], []
    for translation in itertools.product(*(range(-k, k + 1) for k in reach)):
        images = home + np.array(translation, float) @ box
        near = np.flatnonzero(((images >= low) & (images <= high)).all(axis=1))
        atoms.append(near)
        translations.append(np.tile(translation, (len(near), 1)))
    atom, translation = np.concatenate(atoms), np.concatenate(translations)
    images = KDTree(home[atom] + translation @ box)
    found = KDTree(home).sparse_distance_matrix(images, cutoff, output_type="coo_matrix")
    first, second, shift = found.row, atom[found.col], translation[found.col]
    real = (first != second) | shift.any(axis=1)
    order = np.flatnonzero(real)[np.lexsort((second[real], first[real]))]
    first, second = first[order], second[order]
    return first, second, (shift[order] + turns[first] - turns[second]).astype(int), found.data[order]


def check_geometry(
    positions: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool]
) -> None:
    """Raise ValueError for a geometry that no neighbour list or sum can use."""
    if len(positions) == 0:
        raise ValueError("`positions` is empty: a system needs at least one atom.")
    if not np.all(np.abs(positions) <= MAX_LENGTH):
        bad = int(np.flatnonzero(~(np.abs(positions) <= MAX_LENGTH).all(axis=1))[0])
        problem = "not finite" if not np.isfinite(positions[bad]).all() else f"beyond {MAX_LENGTH:g} Å"
        raise ValueError(f"`positions` of atom {bad} are {problem}: {positions[bad].tolist()}.")
    periodic = cell[list(pbc)]
    if len(periodic):
        # singular values; the root of a Gram determinant would lose half of the digits
        extents = np.linalg.svd(periodic, compute_uv=False) if np.all(np.isfinite(cell)) else np.zeros(1)
        if not extents.min() > 1e-9 * extents.max():
            raise ValueError(
                f"`cell` is singular in its periodic directions {tuple(bool(p) for p in pbc)}: {cell.tolist()}. "
                "Give three independent lattice vectors, or set pbc to False for a cluster."
            )
    array("cell", cell, largest=MAX_LENGTH)


def heights(cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool]) -> Float[np.ndarray, " d"]:
    """Distances of the lattice planes along the periodic directions, Å: of the cell's opposite faces."""
    return 1.0 / np.linalg.norm(np.linalg.pinv(cell[list(pbc)], rcond=1e-12), axis=0)


def check_height(cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool]) -> None:
    """Raise ValueError for a lattice in which an atom would be closer than `MIN_DISTANCE` to its images."""
    lowest = float(np.min(heights(cell, pbc), initial=np.inf))
    if lowest < MIN_DISTANCE:
        raise ValueError(
            f"`cell` has lattice planes {lowest:.3g} Å apart, less than {MIN_DISTANCE} Å: {cell.tolist()}. Check the "
            "lattice and its units."
        )


def check_size(
    positions: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool], cutoff: float
) -> None:
    """Raise ValueError where there would be more neighbours than memory or sense can hold.

    The number is that of a cube around each atom, which it shares with the atoms of its bin, times π/6. It is too large
    by the skew of the cell.
    """
    n, periodic = len(positions), heights(cell, pbc)
    images = math.prod(2.0 * cutoff / h + 1.0 for h in periodic)
    if n * images <= MAX_NEIGHBORS and PAIR_BYTES * n * n * images <= 1e8:
        return
    frame = complete_cell(cell, pbc)
    fractional = positions @ np.linalg.inv(frame)
    width, sizes = np.full(3, cutoff), np.ones(3)
    sizes[list(pbc)] = np.maximum(np.floor(periodic / cutoff), 1.0)
    width[list(pbc)] = periodic / sizes[list(pbc)]
    bins = np.where(pbc, np.floor((fractional - np.floor(fractional)) * sizes), np.floor(fractional / cutoff))
    counts = np.unique(bins, axis=0, return_counts=True)[1].astype(float)
    neighbors = math.pi / 6.0 * counts * math.prod(2.0 * cutoff / width)
    what = f"A list of neighbours within {cutoff:g} Å of {n} atoms, "
    remedy = "Check the lattice and the units of the structure, lower the cutoff"
    if neighbors.max() > MAX_NEIGHBORS:
        raise ValueError(
            f"{what}up to about {neighbors.max():.2g} of one, is not made: the most is {MAX_NEIGHBORS}. {remedy}."
        )
    pairs = float(np.sum(counts * neighbors))
    check_memory(f"{what}about {pairs:.2g} pairs,", PAIR_BYTES * pairs, remedy)


def complete_cell(cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool]) -> Float[np.ndarray, "3 3"]:
    """The cell with orthogonal unit vectors in the rows that are not periodic; host only."""
    periodic = np.array(pbc)
    if not periodic.any():
        return np.eye(3)
    frame = np.where(periodic[:, None], cell, 0.0)
    # the right singular vectors beyond the rank span what is across the periodic vectors
    frame[~periodic] = np.linalg.svd(frame)[2][periodic.sum() :]
    return frame


def bring_home(
    positions: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool]
) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "n 3"], Float[np.ndarray, " 3"]]:
    """Move atoms near to the coordinates' origin, where float32 has digits for them; in float64.

    An atom that is further than one cell from the cell at the origin returns by whole lattice vectors. Across periodic
    directions all atoms move together, by what brings their centre to within 8 Å. Others stay where they are.

    Args:
        positions: Cartesian coordinates, Å.
        cell: lattice vectors as rows, Å.
        pbc: which directions are periodic.

    Returns:
        The new positions; the turns [n, 3] and the origin [3], Å, with which the old ones are
        ``new + turns @ cell + origin``.
    """
    frame, periodic = complete_cell(cell, pbc), np.array(pbc)
    fractional = positions @ np.linalg.inv(frame)
    turns = np.where(periodic & (np.abs(fractional - 0.5) > 1.5), np.floor(fractional), 0.0)
    home = positions - turns @ np.where(periodic[:, None], cell, 0.0)
    # along the open directions the frame has unit vectors, orthogonal to the others
    center = 0.5 * (fractional.min(axis=0) + fractional.max(axis=0))
    origin = np.where(periodic, 0.0, ORIGIN_STEP * np.round(center / ORIGIN_STEP)) @ frame
    return home - origin, turns.astype(np.int64), origin
