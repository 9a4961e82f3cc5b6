"""Sizes of a neighbour list, chosen on the host from one configuration; see `lesjax.neighbors.verlet`."""

import dataclasses
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from lesjax.neighbors.host import complete_cell, neighbor_arrays
from lesjax.neighbors.pairs import most_pairs


Pbc = tuple[bool, bool, bool]
Triple = tuple[int, int, int]

DEFAULT_SKIN = 0.5
# Number of atoms from which bins are faster than all pairs, on CPU
BINS_FROM = 600
# Lattice translations of one pair are kept in one integer, eight bits for each direction
MAX_SHIFT = 127


@dataclass(frozen=True)
class NeighborPlan:
    """Sizes of a list, chosen on the host; static, so that each plan is compiled separately.

    Attributes:
        pbc: which directions are periodic.
        cutoff: range of the potential, Å.
        skin: added to the cutoff, Å.
        capacity: neighbours per atom within the cutoff.
        wide_capacity: neighbours per atom within cutoff + skin.
        pair_capacity: unique pairs within the cutoff.
        images: farther images of a pair than the nearest along each direction; for all pairs.
        bins: bins along each direction; None for all pairs.
        reach: largest distance of a neighbour in bins, along each direction.
        bin_capacity: atoms per bin.
    """

    pbc: Pbc
    cutoff: float
    skin: float
    capacity: int
    wide_capacity: int
    pair_capacity: int
    images: Triple = (0, 0, 0)
    bins: Triple | None = None
    reach: Triple = (1, 1, 1)
    bin_capacity: int = 0


def make_plan(
    points: Float[np.ndarray, "n 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Pbc,
    cutoff: float,
    skin: float,
    bins: bool | None,
) -> tuple[NeighborPlan, Float[np.ndarray, "3 3"], Float[np.ndarray, "2 3"]]:
    """Choose sizes that suffice for this configuration; `bins` as in `lesjax.neighbors.verlet.allocate`.

    Returns:
        The plan; the cell with unit vectors in the place of lattice vectors without periodicity, rows, Å; lower end
        and extent of the bins along each direction, in fractional coordinates.

    Raises:
        ValueError: for a cutoff that reaches over too many cells.
    """
    counts, wide_counts = (neighbor_arrays(points, cell, pbc, r)[2].sum(axis=1) for r in (cutoff, cutoff + skin))
    within, wide, pairs = int(counts.max()), int(wide_counts.max()), int(counts.sum()) // 2
    frame = complete_cell(cell, pbc)
    inverse = np.linalg.inv(frame)
    fractional = points @ inverse
    # a cell that shrinks a little must not need another plan immediately
    reachable = (cutoff + skin) * np.linalg.norm(inverse, axis=0) / 0.98
    if np.max(reachable[list(pbc)], initial=0.0) > MAX_SHIFT - 2:
        raise ValueError(f"`cutoff` = {cutoff} reaches over {reachable.max():.0f} cells. Repeat the cell.")
    region = np.stack([np.zeros(3), np.ones(3)])
    open_ = ~np.array(pbc)
    region[:, open_] = np.stack([fractional.min(axis=0), np.ptp(fractional, axis=0) + 1e-3])[:, open_]
    # the model's work grows with the first capacity: little slack, and the host makes room if it is not enough
    capacity = 2 * math.ceil((within + 2) / 2)
    pair_capacity = min(_roomy(pairs), most_pairs(len(points), capacity))
    plan = NeighborPlan(pbc, float(cutoff), float(skin), capacity, _roomy(wide), pair_capacity)
    if bins if bins is not None else len(points) >= BINS_FROM:
        # no more bins than atoms; each at least as wide as the reach, where the cell is
        counts = np.clip(np.floor(region[1] / reachable), 1, math.ceil(len(points) ** (1 / 3)) + 1).astype(int)
        reach = np.where(pbc, np.ceil(reachable * counts), 1).astype(int)
        sizes = _triple(counts)
        wrapped = fractional - np.where(pbc, np.floor(fractional), 0.0)
        fullest = int(np.bincount(bin_of(wrapped, region, sizes, np)[1], minlength=math.prod(sizes)).max())
        plan = dataclasses.replace(plan, bins=sizes, reach=_triple(reach), bin_capacity=_roomy(fullest))
    else:
        plan = dataclasses.replace(plan, images=_triple(np.where(pbc, np.floor(reachable + 0.5), 0)))
    return plan, frame, region


def grown(plan: NeighborPlan) -> NeighborPlan:
    """Return the plan with more room, for `at_least` after an overflow."""
    room = {"capacity": plan.capacity + 2, "wide_capacity": plan.wide_capacity + 4}
    return dataclasses.replace(
        plan, **room, pair_capacity=_roomy(plan.pair_capacity), bin_capacity=plan.bin_capacity + 4
    )


def at_least_as_roomy(plan: NeighborPlan, other: NeighborPlan) -> NeighborPlan:
    """Return the plan with the capacities of another where those are larger."""
    names = ["capacity", "wide_capacity", "pair_capacity"] + ["bin_capacity"] * (plan.bins == other.bins)
    return dataclasses.replace(plan, **{name: max(getattr(plan, name), getattr(other, name)) for name in names})


def bin_of(wrapped: Any, region: Any, bins: Triple, xp: ModuleType) -> tuple[Any, Any]:
    """Bin of each atom along each direction, [n, 3], and as one number; the last ones hold atoms beyond."""
    sizes = np.asarray(bins, wrapped.dtype)[None]
    scaled = xp.floor((wrapped - region[:1]) / region[1:] * sizes)
    along = xp.clip(scaled, np.zeros_like(sizes), sizes - 1).astype(np.int32)
    return along, (along[:, 0] * bins[1] + along[:, 1]) * bins[2] + along[:, 2]


def _triple(values: np.ndarray) -> Triple:
    x, y, z = (int(v) for v in values)
    return x, y, z


def _roomy(number: int) -> int:
    return 4 * math.ceil((1.05 * number + 1) / 4)
