r"""Neighbour lists under `jit` and `vmap`: arrays of fixed size, any cell, with a skin.

A list holds all pairs within cutoff + skin of its reference configuration. It stays complete while no pair can have
come closer by more than the skin. With the fractional displacements d since then, and the strain F = h_ref⁻¹ h of
the cell, the part of the skin that is used up is at most

.. math:: \|F - 1\| (r_c + r_s) + 2 \max_i |d_i h|

and `update` builds a new list, inside `lax.cond`, before the next step of the same size could exceed the skin r_s.
`within_cutoff` picks the pairs that the potential needs at each step, in the layout of `System`: the work of the model
grows with the width of these arrays.

Small systems compare all pairs at their nearest image, and those farther images that the cutoff can reach; large ones
sort the atoms into bins and compare neighbouring bins. In fractional coordinates a pair within r is within r / h_a
along the lattice direction a, with h_a the height of the cell: true for any cell, however skewed, left-handed or not.
Along directions without periodicity a unit vector across the others takes the place of the lattice vector.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from lesjax.neighbors.host import check_geometry
from lesjax.neighbors.pairs import find_unique_pairs, n_pairs
from lesjax.neighbors.plan import (
    DEFAULT_SKIN,
    MAX_SHIFT,
    NeighborPlan,
    Pbc,
    at_least_as_roomy,
    bin_of,
    grown,
    make_plan,
)
from lesjax.numerics import inverse, matmul
from lesjax.system import System
from lesjax.validate import MAX_LENGTH, array, directions, not_negative, number, positive


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NeighborList:
    """Neighbours within cutoff + skin of a reference configuration. Made by `allocate`, renewed by `update`.

    Attributes:
        neighbors: index of each neighbour; a padded entry points to the atom itself.
        shifts: lattice translation of each neighbour as one integer, for the images of `nearest_images`.
        counts: number of real neighbours in each row.
        reference: fractional coordinates of the reference configuration, inside the cell, in `frame`.
        frame: its cell with unit vectors in the place of lattice vectors without periodicity, rows, Å.
        region: lower end and extent of the bins along each direction, in fractional coordinates.
        used: part of the skin that was used up at the last update, Å.
        overflow: an atom had more neighbours, or a bin more atoms, than there is room for. It stays set.
        cell_too_small: the cell has shrunk below what the plan holds for. It stays set.
        plan: sizes; static.
    """

    neighbors: Int[Array, "*b n w"]
    shifts: Int[Array, "*b n w"]
    counts: Int[Array, "*b n"]
    reference: Float[Array, "*b n 3"]
    frame: Float[Array, "*b 3 3"]
    region: Float[Array, "*b 2 3"]
    used: Float[Array, "*b"]
    overflow: Bool[Array, "*b"]
    cell_too_small: Bool[Array, "*b"]
    plan: NeighborPlan = field(metadata={"static": True})


def allocate(
    positions: Float[np.ndarray | Array, "n 3"],
    cell: Float[np.ndarray | Array, "3 3"],
    pbc: Pbc,
    *,
    cutoff: float,
    skin: float = DEFAULT_SKIN,
    at_least: NeighborPlan | None = None,
    bins: bool | None = None,
) -> NeighborList:
    """Plan and build a list; host only. Call it again, with the old plan as `at_least`, when a flag is set.

    Args:
        positions: Cartesian coordinates, Å; need not lie inside the cell. The list has their dtype.
        cell: lattice vectors as rows, Å; rows of directions without periodicity are not used.
        pbc: which directions are periodic.
        cutoff: range of the potential, Å.
        skin: added to the cutoff, Å. With a larger one the list is built less often, and takes more work to filter.
        at_least: a plan whose capacities are kept where they are larger.
        bins: sort the atoms into bins; by default from `BINS_FROM` atoms.

    Raises:
        ValueError: for a cutoff that is not positive, a negative skin, a singular cell, coordinates that are not
            finite, a cutoff that reaches over too many cells.
    """
    host_positions = array("positions", positions, largest=math.inf, missing=True).astype(float)
    host_cell = array("cell", cell, largest=MAX_LENGTH).astype(float)
    if host_positions.shape != (len(host_positions), 3) or host_cell.shape != (3, 3):
        raise ValueError(
            f"`positions` and `cell` must have the shapes (n, 3) and (3, 3), got {host_positions.shape} and "
            f"{host_cell.shape}."
        )
    pbc, cutoff = directions(pbc), number("cutoff", cutoff, positive)
    skin = number("skin", skin, not_negative, bounded=True)
    check_geometry(host_positions, host_cell, pbc)
    plan, frame, region = make_plan(host_positions, host_cell, pbc, cutoff, skin, bins)
    if at_least is not None:
        plan = at_least_as_roomy(plan, at_least)
    dtype = positions.dtype if isinstance(positions, jax.Array) else jax.dtypes.canonicalize_dtype(float)
    built = _build_compiled(plan, *(jnp.asarray(x, dtype) for x in (host_positions, frame, region)))
    # counted in another precision; a pair on the cutoff may have come in
    if bool(built.overflow):
        return allocate(positions, cell, pbc, cutoff=cutoff, skin=skin, at_least=grown(plan), bins=bins)
    return built


def update(neighbors: NeighborList, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]) -> NeighborList:
    """Return a list that holds for these positions and a next step as large as the last; the same one where it does.

    It can be compiled and mapped (then both branches run, so it is built each time). Check `overflow` and
    `cell_too_small` on the host.
    """
    renewed = renew(neighbors, positions, cell)
    return dataclasses.replace(renewed, overflow=renewed.overflow | crowded(renewed, positions, cell))


def renew(neighbors: NeighborList, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]) -> NeighborList:
    """`update` without the capacity check.

    `within_cutoff` at the same positions checks it anyway, and leaves no finite position where there is no room.
    """
    used = skin_used(neighbors, positions, cell)
    ahead = used + 1.5 * jnp.maximum(used - neighbors.used, 0.0)

    def rebuild() -> NeighborList:
        return _build(neighbors.plan, positions, _frame(neighbors, cell), neighbors.region)

    # not `ahead > skin`: positions that are not finite count as moved
    renewed = jax.lax.cond(~(ahead <= neighbors.plan.skin), rebuild, lambda: dataclasses.replace(neighbors, used=used))
    return dataclasses.replace(
        renewed,
        overflow=renewed.overflow | neighbors.overflow,
        cell_too_small=renewed.cell_too_small | neighbors.cell_too_small,
    )


def crowded(neighbors: NeighborList, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]) -> Bool[Array, ""]:
    """Return whether there are more neighbours within the cutoff than there is room for, of one atom or in all."""
    return _too_many(neighbors.plan, _filter(neighbors, positions, cell)[1])


def within_cutoff(
    neighbors: NeighborList, system: System, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]
) -> System:
    """Return `system` at these positions with the neighbours within the cutoff; pure and differentiable.

    Its positions are the images of `nearest_images`, or NaN where there is no room for the neighbours of an atom, so
    that nothing is computed without them; `update` at the same positions sets `overflow`.
    """
    plan = neighbors.plan
    frozen_positions, frozen_cell = jax.lax.stop_gradient((positions, cell))
    _, within = _filter(neighbors, frozen_positions, frozen_cell)
    columns, mask = compact(within, plan.capacity)
    rows = jnp.arange(len(positions), dtype=jnp.int32)[:, None]
    senders = neighbors.neighbors.at[rows, columns].get(mode="promise_in_bounds")
    shifts = neighbors.shifts.at[rows, columns].get(mode="promise_in_bounds")
    senders, shifts = _padded(senders, shifts, mask)
    turns = jax.lax.stop_gradient(_turns(neighbors, frozen_positions, frozen_cell))
    # added, for derivatives that are NaN, too
    poison = jnp.where(_too_many(plan, within), jnp.nan, 0.0).astype(positions.dtype)
    cell_shifts = _unpack(shifts)
    return dataclasses.replace(
        system,
        positions=positions - matmul(turns, _frame(neighbors, cell)) + poison,
        cell=cell,
        neighbors=senders,
        cell_shifts=cell_shifts,
        neighbor_mask=mask,
        pairs=find_unique_pairs(senders, cell_shifts, mask, plan.pair_capacity),
    )


def _too_many(plan: NeighborPlan, within: Bool[Array, "n w"]) -> Bool[Array, ""]:
    crowded = jnp.max(jnp.sum(within, axis=1, dtype=jnp.int32)) > plan.capacity
    return crowded | (n_pairs(within) > plan.pair_capacity)


def skin_used(neighbors: NeighborList, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]) -> Float[Array, ""]:
    """Upper bound of how much closer any pair is than in the reference configuration, Å; see the module."""
    frame = _frame(neighbors, cell)
    moved = matmul(positions, inverse(frame)) - neighbors.reference
    moved = matmul(moved - _whole(moved, neighbors.plan.pbc), frame)
    furthest = jnp.sqrt(jnp.max(jnp.sum(moved * moved, axis=1)))
    strain = matmul(inverse(neighbors.frame), frame) - jnp.eye(3, dtype=frame.dtype)
    # a cell that has not changed must not use up rounding errors at each step
    strain = jnp.where(jnp.all(frame == neighbors.frame), 0.0, jnp.sqrt(jnp.sum(strain * strain)))
    return strain * (neighbors.plan.cutoff + neighbors.plan.skin) + 2.0 * furthest


def nearest_images(
    neighbors: NeighborList, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]
) -> Float[Array, "n 3"]:
    """Return the periodic image of each atom nearest to its reference, which the list's translations refer to."""
    return positions - matmul(_turns(neighbors, positions, cell), _frame(neighbors, cell))


def compact(mask: Bool[Array, "n w"], width: int) -> tuple[Int[Array, "n m"], Bool[Array, "n m"]]:
    """Columns of the first `width` true entries of each row, and a mask of those that exist."""
    return _columns(_packed(mask), width)


def _packed(mask: Bool[Array, "*n w"]) -> UInt32[Array, "*n words"]:
    """32 entries of a row as the bits of one integer, the first as the lowest."""
    *rows, wide = mask.shape
    words = -(-wide // 32)
    padded = jnp.pad(mask, [(0, 0)] * len(rows) + [(0, 32 * words - wide)]).reshape(*rows, words, 32)
    bits = jnp.arange(32, dtype=jnp.uint32).reshape((1,) * (len(rows) + 1) + (32,))
    return jnp.sum(padded.astype(jnp.uint32) << bits, axis=-1, dtype=jnp.uint32)


def _columns(words: UInt32[Array, "n words"], width: int) -> tuple[Int[Array, "n m"], Bool[Array, "n m"]]:
    """Compute `compact` of packed rows by arithmetic on all entries at once: a scatter takes four times as long."""
    counts = jax.lax.population_count(words).astype(jnp.int32)
    ends = jnp.cumsum(counts, axis=1, dtype=jnp.int32)
    ordinals = jnp.arange(width, dtype=jnp.int32)[None, :]
    word_index = jnp.sum(ends[:, None, :] <= ordinals[:, :, None], axis=-1, dtype=jnp.int32)
    word_index = jnp.minimum(word_index, words.shape[1] - 1)
    word = jnp.take_along_axis(words, word_index, axis=1)
    # how many bits of this word come before; then halve the word that holds the next one
    rank = ordinals - jnp.take_along_axis(ends - counts, word_index, axis=1)
    bit = jnp.zeros_like(rank)
    for half in (16, 8, 4, 2, 1):
        lower = jax.lax.population_count(word & np.uint32(2**half - 1)).astype(jnp.int32)
        upper = rank >= lower
        rank = jnp.where(upper, rank - lower, rank)
        word = jnp.where(upper, word >> np.uint32(half), word)
        bit = jnp.where(upper, bit + half, bit)
    real = ordinals < ends[:, -1:]
    return jnp.where(real, 32 * word_index + bit, 0), real


def _build(
    plan: NeighborPlan, positions: Float[Array, "n 3"], frame: Float[Array, "3 3"], region: Float[Array, "2 3"]
) -> NeighborList:
    inverse_frame = inverse(frame)
    fractional = matmul(positions, inverse_frame)
    wrapped = fractional - jnp.floor(fractional) * jnp.asarray(plan.pbc, fractional.dtype)[None, :]
    reachable = (plan.cutoff + plan.skin) * jnp.sqrt(jnp.sum(inverse_frame * inverse_frame, axis=0))
    if plan.bins is None:
        too_small = jnp.floor(reachable + 0.5) > jnp.asarray(plan.images, reachable.dtype)
        too_small &= jnp.asarray(plan.pbc)
        senders, shifts, counts, full = _all_pairs(plan, wrapped, frame)
    else:
        sizes, reach = (jnp.asarray(x, reachable.dtype) for x in (plan.bins, plan.reach))
        # one bin along an open direction holds all
        too_small = (reachable / region[1] * sizes > reach) & jnp.asarray(
            [p or k > 1 for p, k in zip(plan.pbc, plan.bins, strict=True)]
        )
        senders, shifts, counts, full = _in_bins(plan, wrapped, frame, region)
    return NeighborList(
        neighbors=senders,
        shifts=shifts,
        counts=counts,
        reference=wrapped,
        frame=frame,
        region=region,
        used=jnp.zeros((), positions.dtype),
        overflow=full | (jnp.max(counts) > plan.wide_capacity),
        cell_too_small=jnp.any(too_small),
        plan=plan,
    )


_build_compiled = jax.jit(_build, static_argnums=0)


def _all_pairs(plan: NeighborPlan, wrapped: Float[Array, "n 3"], frame: Float[Array, "3 3"]) -> tuple[Array, ...]:
    n = len(wrapped)
    grid = np.array(list(itertools.product(*(range(-k, k + 1) for k in plan.images))), np.int32)
    apart = wrapped[None, :, :] - wrapped[:, None, :]
    nearest = _whole(apart, plan.pbc)
    vectors = matmul(apart - nearest, frame)
    translations = matmul(jnp.asarray(grid, frame.dtype), frame)
    vectors = vectors[:, :, None, :] + translations[None, None, :, :]
    within = jnp.sum(vectors * vectors, axis=-1) < (plan.cutoff + plan.skin) ** 2
    self_pairs = jnp.eye(n, dtype=bool)[:, :, None] & jnp.asarray(~grid.any(axis=1))[None, None, :]
    within = (within & ~self_pairs).reshape(n, -1)
    columns, mask = compact(within, plan.wide_capacity)
    senders = columns // len(grid)
    turns = jnp.take_along_axis(-nearest.astype(jnp.int32), senders[:, :, None], axis=1)
    shifts = _pack(turns + jnp.asarray(grid)[columns % len(grid)])
    return *_padded(senders, shifts, mask), jnp.sum(within, axis=1, dtype=jnp.int32), jnp.zeros((), bool)


def _in_bins(
    plan: NeighborPlan, wrapped: Float[Array, "n 3"], frame: Float[Array, "3 3"], region: Float[Array, "2 3"]
) -> tuple[Array, ...]:
    assert plan.bins is not None
    n, room = len(wrapped), plan.bin_capacity
    _, ids = bin_of(wrapped, region, plan.bins, jnp)
    order = jnp.argsort(ids).astype(jnp.int32)
    edges = jnp.searchsorted(ids[order], jnp.arange(math.prod(plan.bins) + 1, dtype=jnp.int32)).astype(jnp.int32)
    starts, filled = edges[:-1], edges[1:] - edges[:-1]
    slots = jnp.arange(room, dtype=jnp.int32)[None, :]
    table = order[jnp.minimum(starts[:, None] + slots, n - 1)]
    table = jnp.where(slots < filled[:, None], table, n)

    # the bins around each bin, and how many times the way there crosses the cell
    grid = np.array(list(np.ndindex(*plan.bins)), np.int32)
    offsets = np.array(list(itertools.product(*(range(-k, k + 1) for k in plan.reach))), np.int32)
    neighbor_bins = grid[:, None, :] + offsets[None]
    turns = neighbor_bins // np.array(plan.bins) * np.array(plan.pbc)
    inside = neighbor_bins - turns * np.array(plan.bins)
    valid = ((inside >= 0) & (inside < np.array(plan.bins))).all(axis=-1)
    around = np.where(valid, np.ravel_multi_index(np.moveaxis(inside, -1, 0), plan.bins, mode="clip"), len(grid))
    turns = jnp.asarray(turns, jnp.int32)
    # one bin more, without atoms, for those beyond an open boundary
    table = jnp.concatenate([table, jnp.full((1, room), n, jnp.int32)])
    candidates = table[around].reshape(len(grid), -1)
    self_pairs = candidates[:, None, :] == table[:-1, :, None]
    self_pairs &= jnp.repeat(~jnp.any(turns != 0, axis=-1), room, axis=1)[:, None, :]

    # the atom number n fills empty places
    cartesian = jnp.pad(matmul(wrapped, frame), ((0, 1), (0, 0)))
    shifts = jnp.repeat(matmul(turns.astype(frame.dtype), frame), room, axis=1)
    squared = jnp.zeros((), frame.dtype)
    for a in range(3):
        coordinate = cartesian[:, a]
        ends_at = coordinate[candidates] + shifts[:, :, a]
        squared += (ends_at[:, None, :] - coordinate[table[:-1]][:, :, None]) ** 2
    within = (squared < (plan.cutoff + plan.skin) ** 2) & ~self_pairs & (candidates < n)[:, None, :]

    rank = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32)) - starts[ids]
    words = _packed(within)[ids, jnp.minimum(rank, room - 1)]
    columns, mask = _columns(words, plan.wide_capacity)
    senders = candidates[ids[:, None], columns]
    images = _pack(turns)[ids[:, None], columns // room]
    counts = jnp.sum(jax.lax.population_count(words), axis=1, dtype=jnp.int32)
    return *_padded(senders, images, mask), counts, jnp.max(filled) > room


def _padded(senders: Array, shifts: Array, mask: Array) -> tuple[Array, Array]:
    receivers = jnp.arange(len(senders), dtype=jnp.int32)[:, None]
    return jnp.where(mask, senders, receivers), jnp.where(mask, shifts, _pack(jnp.zeros(3, jnp.int32)))


def _filter(
    neighbors: NeighborList, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]
) -> tuple[Float[Array, "n w"], Bool[Array, "n w"]]:
    """Squared distances of the list's pairs and which lie within the cutoff."""
    frame = _frame(neighbors, cell)
    images = nearest_images(neighbors, positions, cell)
    turns = _unpack(neighbors.shifts)
    squared = jnp.zeros((), positions.dtype)
    for a in range(3):
        coordinate = images[:, a]
        translation = sum(turns[..., b].astype(frame.dtype) * frame[b, a] for b in range(3))
        sender_coordinate = coordinate.at[neighbors.neighbors].get(mode="promise_in_bounds")
        squared += (sender_coordinate - coordinate[:, None] + translation) ** 2
    real = jnp.arange(neighbors.plan.wide_capacity, dtype=jnp.int32)[None, :] < neighbors.counts[:, None]
    return squared, (squared < neighbors.plan.cutoff**2) & real


def _turns(neighbors: NeighborList, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]) -> Float[Array, "n 3"]:
    moved = matmul(positions, inverse(_frame(neighbors, cell))) - neighbors.reference
    return _whole(moved, neighbors.plan.pbc)


def _frame(neighbors: NeighborList, cell: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    return jnp.where(jnp.asarray(neighbors.plan.pbc)[:, None], cell, neighbors.frame)


def _whole(fractional: Float[Array, "*n 3"], pbc: Pbc) -> Float[Array, "*n 3"]:
    return jnp.where(jnp.asarray(pbc).reshape((1,) * (fractional.ndim - 1) + (3,)), jnp.round(fractional), 0.0)


def _pack(shifts: Int[Array, "*n 3"]) -> Int[Array, "*n"]:
    x, y, z = (shifts[..., a] + MAX_SHIFT + 1 for a in range(3))
    return (x << 16) | (y << 8) | z


def _unpack(packed: Int[Array, "*n"]) -> Int[Array, "*n 3"]:
    return jnp.stack([(packed >> bits) & 255 for bits in (16, 8, 0)], axis=-1) - (MAX_SHIFT + 1)
