"""Neighbours of all atoms for a short-range model: vectors, and functions to gather from and sum over them."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


class Dense(NamedTuple):
    """Neighbours as rows of one width, made by `System.neighborhood`.

    A sum over neighbours is then a matrix product of each atom's rows, and never a scatter. A model that uses only
    `vectors`, `mask`, `gather` and `sum` takes the neighbours as `edges` without a change.

    Attributes:
        vectors: vectors from each atom i to its neighbours j, r_j - r_i, Å; zero for padded entries.
        mask: True for real neighbours.
        senders: index j of each neighbour; the atom itself for padded entries.
        pairs: slots i · m + column of the two directions of each unique pair; equal ones for padded pairs.
    """

    vectors: Float[Array, "n m 3"]
    mask: Bool[Array, "n m"]
    senders: Int[Array, "n m"]
    pairs: Int[Array, "p 2"]

    def gather(self, values: Shaped[Array, "n ..."]) -> Shaped[Array, "n m ..."]:
        """Gather the values of the neighbours: `values` of the atom j for the pair (i, j)."""
        return values[self.senders]

    def sum(self, values: Float[Array, "n m ..."]) -> Float[Array, "n ..."]:
        """Sum over the real neighbours of each atom."""
        mask = self.mask.reshape(self.mask.shape + (1,) * (values.ndim - 2))
        return jnp.sum(jnp.where(mask, values, 0.0), axis=1)

    def of_pairs(self, values: Shaped[Array, "n m ..."]) -> Shaped[Array, "p ..."]:
        """Values of the unique pairs, of one of their two directions; those of padded pairs have no meaning."""
        return values.reshape(-1, *values.shape[2:])[self.pairs[:, 0]]

    def of_both(self, values: Float[Array, "p ..."]) -> Float[Array, "n m ..."]:
        """Values of unique pairs, such as functions of the distance, for both of their directions; zero elsewhere."""
        n, m = self.mask.shape
        padded = self.pairs[:, 0] == self.pairs[:, 1]
        # padded pairs write beyond the end, where nothing is kept
        slots = jnp.where(padded[:, None], n * m, self.pairs)
        index = jnp.zeros(n * m, jnp.int32).at[slots].set(jnp.arange(len(slots), dtype=jnp.int32)[:, None], mode="drop")
        mask = self.mask.reshape(n, m, *(1,) * (values.ndim - 1))
        return jnp.where(mask, values[index].reshape(n, m, *values.shape[1:]), 0.0)

    def edges(self) -> "Edges":
        """Return the real neighbours one after the other, for models that are written edge by edge."""
        n, m = self.mask.shape
        slots = self.pairs.reshape(-1)  # the directions of a pair lie side by side
        real = jnp.repeat(self.pairs[:, 0] != self.pairs[:, 1], 2)
        order = jnp.argsort(jnp.where(real, slots, n * m)).astype(jnp.int32)
        place = jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=jnp.int32))
        slots, mask = slots[order], real[order]
        receivers = jnp.where(mask, slots // m, n - 1)
        senders = jnp.where(mask, self.senders.reshape(-1)[slots], receivers)
        vectors = jnp.where(mask[:, None], self.vectors.reshape(-1, 3)[slots], 0.0)
        return Edges(vectors, mask, senders, receivers, place[order ^ 1], n)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Edges:
    """Neighbours as directed edges in the order of their receivers, made by `Dense.edges`.

    They are as many as twice the unique pairs, whose capacity and overflow are theirs; padded ones come last. Rows of
    neighbours of one width waste less time in the sum, edges less memory where the numbers of neighbours are uneven.

    Attributes:
        vectors: vector from the receiver i to the sender j of each edge, r_j - r_i, Å; zero for padded ones.
        mask: True for real edges.
        senders: index j.
        receivers: index i, which is sorted.
        reverse: place of the edge from i to j for that from j to i.
        n_atoms: number of atoms, padded ones included.
    """

    vectors: Float[Array, "e 3"]
    mask: Bool[Array, " e"]
    senders: Int[Array, " e"]
    receivers: Int[Array, " e"]
    reverse: Int[Array, " e"]
    n_atoms: int = field(metadata={"static": True})

    def gather(self, values: Shaped[Array, "n ..."]) -> Shaped[Array, "e ..."]:
        """Gather the values of the senders."""
        return values[self.senders]

    def sum(self, values: Float[Array, "e ..."]) -> Float[Array, "n ..."]:
        """Sum over the real edges of each receiver."""
        mask = self.mask.reshape(self.mask.shape + (1,) * (values.ndim - 1))
        return jax.ops.segment_sum(jnp.where(mask, values, 0.0), self.receivers, self.n_atoms, indices_are_sorted=True)
