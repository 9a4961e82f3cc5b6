"""Neighbours of all atoms for a short-range model: vectors, and functions to gather from and sum over them."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


class Dense(NamedTuple):
    """Neighbours as rows of one width, made by `System.neighborhood`.

    A sum over neighbours is then a matrix product of each atom's rows, and never a scatter. A model that uses only
    these members can be given its neighbours in another form without a change.

    Attributes:
        vectors: vectors from each atom i to its neighbours j, r_j - r_i, Å; zero for padded entries.
        mask: True for real neighbours.
        senders: index j of each neighbour; the atom itself for padded entries.
    """

    vectors: Float[Array, "n m 3"]
    mask: Bool[Array, "n m"]
    senders: Int[Array, "n m"]

    def gather(self, values: Shaped[Array, "n ..."]) -> Shaped[Array, "n m ..."]:
        """Gather the values of the neighbours: `values` of the atom j for the pair (i, j)."""
        return values[self.senders]

    def sum(self, values: Float[Array, "n m ..."]) -> Float[Array, "n ..."]:
        """Sum over the real neighbours of each atom."""
        mask = self.mask.reshape(self.mask.shape + (1,) * (values.ndim - 2))
        return jnp.sum(jnp.where(mask, values, 0.0), axis=1)
