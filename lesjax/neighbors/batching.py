"""Few padded shapes for many systems: each shape costs one compilation of each function."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from lesjax.system import System


MAX_BUCKETS = 3


def plan_buckets(shapes: Sequence[tuple[int, int]], max_buckets: int = MAX_BUCKETS) -> list[tuple[int, int]]:
    """Choose at most `max_buckets` padded shapes (atoms, neighbours) that waste the least work.

    Systems are sorted by their number of atoms and cut into contiguous groups; the cut that minimises the
    sum over systems of padded atoms times padded neighbours is found by dynamic programming.

    Args:
        shapes: numbers of atoms and of neighbours of each system.
        max_buckets: largest number of shapes.

    Returns:
        The shapes in increasing order of atoms. `assign_bucket` gives the one for a system.
    """
    counted: dict[int, list[int]] = {}
    for n, m in shapes:
        counted.setdefault(n, []).append(m)
    sizes = sorted(counted)
    if not sizes:
        raise ValueError("`shapes` is empty: there is no system to batch.")
    number = np.array([len(counted[n]) for n in sizes])
    widest = np.array([max(counted[n]) for n in sizes])
    k = len(sizes)
    cost = np.full((k + 1, max_buckets + 1), np.inf)
    cost[0] = 0.0
    origin = np.zeros((k + 1, max_buckets + 1), int)
    for buckets in range(1, max_buckets + 1):
        for stop in range(1, k + 1):
            for start in range(stop):
                group = number[start:stop].sum() * sizes[stop - 1] * widest[start:stop].max()
                if cost[start, buckets - 1] + group < cost[stop, buckets]:
                    cost[stop, buckets] = cost[start, buckets - 1] + group
                    origin[stop, buckets] = start
    plan = []
    stop, buckets = k, max_buckets
    while stop > 0:
        start = origin[stop, buckets]
        plan.append((int(sizes[stop - 1]), int(widest[start:stop].max())))
        stop, buckets = start, buckets - 1
    return plan[::-1]


def assign_bucket(shape: tuple[int, int], buckets: Sequence[tuple[int, int]]) -> int:
    """Index of the first bucket that holds a system of this shape.

    Raises:
        ValueError: if none does.
    """
    for i, (n, m) in enumerate(buckets):
        if shape[0] <= n and shape[1] <= m:
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
    return stack([system.pad_to(*shape) for system in systems])


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stack pytrees of equal structure along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
