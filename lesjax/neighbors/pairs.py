"""Unique pairs: a list of neighbours holds each pair of atoms twice, as (i, j) and as (j, i).

What depends on the distance alone, as the radial network of MACE and NequIP, is the same for both and is computed once.
A pair is given by its two slots, i · m + column, in the ``[n, m]`` arrays of neighbours; a padded pair has two equal
ones. The unique pairs are also without the padding of atoms that have fewer neighbours than others.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


# shifts as one integer; twice the largest shift of one direction must be below
BASE = 1024


def unique_pairs(
    neighbors: Int[np.ndarray, "n m"], cell_shifts: Int[np.ndarray, "n m 3"], mask: Bool[np.ndarray, "n m"]
) -> Int[np.ndarray, "p 2"]:
    """Slots of both directions of each pair; a padded one where there is none. Host only."""
    if not mask.any():
        return np.zeros((1, 2), np.int32)
    m = neighbors.shape[1]
    slots = np.flatnonzero(mask).astype(np.int32)
    first, second = slots // m, neighbors.reshape(-1)[slots]
    code = _code(cell_shifts.reshape(-1, 3)[slots].astype(np.int64))
    forward = (second > first) | ((second == first) & (code > 0))
    # both directions in the order of (lower atom, higher atom, translation of the higher one)
    ahead = np.lexsort((code[forward], second[forward], first[forward]))
    back = np.lexsort((-code[~forward], first[~forward], second[~forward]))
    return np.stack([slots[forward][ahead], slots[~forward][back]], axis=1)


def find_unique_pairs(
    neighbors: Int[Array, "n m"], cell_shifts: Int[Array, "n m 3"], mask: Bool[Array, "n m"], capacity: int
) -> Int[Array, "p 2"]:
    """As `unique_pairs`, compiled and padded to a capacity; pairs beyond it are left out, see `n_pairs`."""
    n, m = neighbors.shape
    code = _code(cell_shifts)
    own = jnp.arange(n, dtype=neighbors.dtype)[:, None]
    forward = mask & ((neighbors > own) | ((neighbors == own) & (code > 0)))
    (slots,) = jnp.nonzero(forward.reshape(-1), size=capacity, fill_value=n * m)
    real = slots < n * m
    slots = jnp.where(real, slots, 0).astype(jnp.int32)
    first, second = slots // m, neighbors.reshape(-1)[slots]
    back = (neighbors[second] == first[:, None]) & (code[second] == -code.reshape(-1)[slots][:, None]) & mask[second]
    reverse = second * m + jnp.argmax(back, axis=1).astype(jnp.int32)
    return jnp.where(real[:, None], jnp.stack([slots, reverse], axis=1), 0)


def n_pairs(mask: Bool[Array, "n m"]) -> Int[Array, ""]:
    """Return the number of unique pairs."""
    return jnp.sum(mask, dtype=jnp.int32) // 2


def most_pairs(n_atoms: int, n_neighbors: int) -> int:
    """The largest number of unique pairs of so many atoms with so many neighbours each."""
    return max(1, -(-n_atoms * n_neighbors // 2))


def pad_pairs(pairs: Int[np.ndarray, "p 2"], width: int, wider: int, capacity: int) -> Int[np.ndarray, "q 2"]:
    """Slots in rows of a larger width, with padded pairs; host only."""
    moved = pairs // width * wider + pairs % width
    return np.pad(moved, np.array([[0, capacity - len(pairs)], [0, 0]])).astype(np.int32)


def _code(shifts):
    """Translations as one integer, that of the reverse with the other sign."""
    return (shifts[..., 0] * BASE + shifts[..., 1]) * BASE + shifts[..., 2]
