"""Few padded shapes for many systems: each shape costs one compilation of each function."""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from lesjax.system import System


MAX_BUCKETS = 3
# Work of the short-range model on one neighbour of an atom, in units of that of the sum on one k-vector for it.
NEIGHBOR_WORK = 100
# Systems of one size count as one; of more sizes, neighbouring ones are joined first.
MAX_SIZES = 128
# atoms, neighbours and, for a sum over k-vectors, the three sizes of the k-grid
Shape = tuple[int, ...]


def plan_buckets(shapes: Sequence[Shape], max_buckets: int = MAX_BUCKETS) -> list[Shape]:
    """Choose at most `max_buckets` padded shapes that waste the least work.

    Systems are sorted by their number of atoms, and once more by their k-grid, and cut into contiguous groups; the cut
    that minimises the sum over systems of `padded_work` is found by dynamic programming, and the better of both taken.

    Args:
        shapes: numbers of atoms and of neighbours of each system and, where all have one, the sizes of its k-grid.
        max_buckets: largest number of shapes.

    Returns:
        The shapes in increasing order of work. `assign_bucket` gives the one for a system.
    """
    if not shapes:
        raise ValueError("`shapes` is empty: there is no system to batch.")
    orders: list[Callable[[Shape], tuple[int, ...]]] = [lambda shape: (shape[0], math.prod(shape[2:]))]
    if len(shapes[0]) > 2:
        orders.append(lambda shape: (math.prod(shape[2:]), shape[0]))
    plans = [_best_cut(shapes, order, max_buckets) for order in orders]
    return min(plans, key=lambda plan: plan[0])[1]


def padded_work(shape: Shape) -> int:
    """Work on one system that is padded to this shape, in arbitrary units."""
    n, m, *grid = shape
    return n * (NEIGHBOR_WORK * m + (4 * math.prod(grid) if grid else 0))


def _best_cut(
    shapes: Sequence[Shape], order: Callable[[Shape], tuple[int, ...]], max_buckets: int
) -> tuple[float, list[Shape]]:
    """Work and shapes of the best contiguous groups of the systems in this order."""
    counted: dict[tuple[int, ...], list[Shape]] = {}
    for shape in sorted(shapes, key=order):
        counted.setdefault(order(shape), []).append(shape)
    sizes = list(counted.values())
    if len(sizes) > MAX_SIZES:
        chunks = np.array_split(np.arange(len(sizes)), MAX_SIZES)
        sizes = [[shape for i in chunk for shape in sizes[i]] for chunk in chunks]
    number = [len(group) for group in sizes]
    largest = np.array([np.max(np.array(group), axis=0) for group in sizes])
    k = len(sizes)
    cost = np.full((k + 1, max_buckets + 1), np.inf)
    cost[0] = 0.0
    origin = np.zeros((k + 1, max_buckets + 1), int)
    for stop in range(1, k + 1):
        for start in range(stop):
            group = sum(number[start:stop]) * padded_work(tuple(largest[start:stop].max(axis=0).tolist()))
            for buckets in range(1, max_buckets + 1):
                if cost[start, buckets - 1] + group < cost[stop, buckets]:
                    cost[stop, buckets] = cost[start, buckets - 1] + group
                    origin[stop, buckets] = start
    plan, stop, buckets = [], k, max_buckets
    while stop > 0:
        start = origin[stop, buckets]
        plan.append(tuple(largest[start:stop].max(axis=0).tolist()))
        stop, buckets = start, buckets - 1
    return float(cost[k, max_buckets]), sorted(plan, key=padded_work)


def assign_bucket(shape: Shape, buckets: Sequence[Shape]) -> int:
    """Index of the first bucket that holds a system of this shape.

    Raises:
        ValueError: if none does.
    """
    for i, bucket in enumerate(buckets):
        if all(size <= padded for size, padded in zip(shape, bucket, strict=True)):
            return i
    raise ValueError(f"A system of {shape[0]} atoms with {shape[1]} neighbours fits into none of {list(buckets)}.")


def stack_systems(systems: Sequence[System], shape: tuple[int, int] | None = None) -> System:
    """Pad systems to one shape and stack them along a leading axis for `vmap`; host only.

    Raises:
        ValueError: for no systems, or systems with different periodic directions.
    """
    if len({system.pbc for system in systems}) != 1:
        directions = sorted({system.pbc for system in systems})
        raise ValueError(f"`systems` must be non-empty and share their periodic directions, got {directions}.")
    if shape is None:
        shape = tuple(np.max(np.array([system.shape for system in systems]), axis=0).tolist())
    return stack(pad_alike(systems, *shape))


def pad_alike(systems: Sequence[System], n_atoms: int, n_neighbors: int) -> list[System]:
    """Pad systems to one shape, and to the largest number of pairs that any of them has; host only."""
    n_pairs = max((len(system.pairs) for system in systems if system.pairs is not None), default=None)
    return [system.pad_to(n_atoms, n_neighbors, n_pairs) for system in systems]


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stack pytrees of equal structure along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
