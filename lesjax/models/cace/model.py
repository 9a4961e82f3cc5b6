r"""Cartesian Atomic Cluster Expansion as a Flax Linen module.

The atomic basis of atom i, for radial channel r, angular function a of order l and element channel (s, q)::

    A_i[a, r, (s,q)] = θ_q(z_i) Σ_b W^l[b, r, (s,q)] Σ_j θ_s(z_j) R_b(r_ij) f_c(r_ij) x^lx y^ly z^lz

The sum over neighbours is one small matrix product per atom; the receiver's embedding and the radial
mixing W come after the sum (the paper has them inside: the same numbers, for a fraction of the work).
Messages of layer t, with the same mixing W and per-order weights c, p, λ::

    memory  A^t[a, r, k] c^l[r, k]
    Ar      Σ_j A_j^t[a, r, k] p^l[r, k] e^{-λ^l[r, k] r_ij} f_c(r_ij)
    Bchi    Σ_j (edge features as above) · h^{l,k}(B_j^t),  h one dense layer

Source: Cheng, npj Comput. Mater. 10, 157 (2024), doi:10.1038/s41524-024-01332-4.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax.models import basis
from lesjax.models.cace.config import CACEConfig
from lesjax.models.cace.symmetrize import symmetrized_products
from lesjax.models.short_range import Features, species_index
from lesjax.neighbors import Dense
from lesjax.numerics import einsum, safe_norm
from lesjax.system import System


class CACE(nn.Module):
    """Invariant features of each atom's neighbourhood; vectors and tensors are the atomic basis of the last layer.

    The features of all message-passing layers are one layer here: layers, invariants, radial and element channels,
    flattened in this order.
    """

    config: CACEConfig
    no_decay: ClassVar[tuple[str, ...]] = ("bessel_frequencies",)

    @nn.compact
    def __call__(self, system: System) -> Features:
        c = self.config
        dtype = system.positions.dtype
        species = jnp.asarray(species_index(c.elements))[system.atomic_numbers]
        embedding = nn.initializers.normal(c.embedding_scale)
        shapes = c.shapes()
        senders = self.param("sender_embedding", embedding, shapes["sender_embedding"], dtype)
        receivers = self.param("receiver_embedding", embedding, shapes["receiver_embedding"], dtype)
        frequencies = self.param("bessel_frequencies", basis.first_frequencies, (c.n_bessel, c.cutoff), dtype)
        if not c.trainable_bessel:
            frequencies = jax.lax.stop_gradient(frequencies)
        mixing = self.param("radial_mixing", nn.initializers.normal(c.n_bessel**-0.5), shapes["radial_mixing"], dtype)

        neighbors = system.neighborhood()
        distances = safe_norm(neighbors.vectors, neighbors.mask)
        envelope = jnp.where(neighbors.mask, self._cutoff(distances), 0.0)
        radial = basis.bessel_functions(distances, frequencies, c.cutoff) * envelope[..., None]
        unit_vectors = neighbors.vectors / (distances + c.distance_offset)[..., None]
        angular = basis.angular_functions(unit_vectors, c.max_l)
        theta_s = neighbors.gather(senders[species])
        theta_q = receivers[species]

        n, m = distances.shape
        # the embedding multiplies the radial functions, which are fewer than the angular functions
        edges = (radial[..., :, None] * theta_s[..., None, :]).reshape(n, m, -1)
        summed = einsum("nma,nmx->nax", angular, edges).reshape(n, -1, c.n_bessel, c.n_embedding, 1)
        a = mix_radial(summed, mixing, c.max_l) * theta_q[None, :, None, None, :]
        features = [self._products(a)]
        for layer, messages in enumerate(c.messages):
            a = self._pass_messages(
                f"layer{layer}", messages, a, features[-1], neighbors, distances, envelope, radial, angular, theta_s,
                theta_q, mixing,
            )  # fmt: skip
            features.append(self._products(a))
        return Features((jnp.concatenate(features, axis=1),), self._order(a, 1), self._order(a, 2))

    def _order(self, a: Float[Array, "a n r s q"], l: int) -> Array | None:
        """Return the atomic basis of order 1 as vectors [n, k, 3], of order 2 as symmetric tensors [n, k, 3, 3]."""
        if self.config.max_l < l:
            return None
        sizes = basis.block_sizes(l)
        block = a[sum(sizes[:-1]) : sum(sizes)].reshape(sizes[-1], a.shape[1], -1)
        components = jnp.moveaxis(block, 0, -1)
        # xx, xy, xz, yy, yz, zz is the order of the monomials
        return components if l == 1 else components[..., np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])]

    def _cutoff(self, distances: Float[Array, "n m"]) -> Float[Array, "n m"]:
        if self.config.cutoff_function == "cosine":
            return basis.cosine_cutoff(distances, self.config.cutoff)
        return basis.polynomial_cutoff(distances, self.config.cutoff, self.config.cutoff_p)

    def _products(self, a: Float[Array, "a n r s q"]) -> Float[Array, "n f"]:
        """Invariants, flattened per atom as (invariant, radial, sender, receiver)."""
        n = a.shape[1]
        products = symmetrized_products(a.reshape(a.shape[0], -1), self.config.max_l, self.config.max_nu)
        return products.reshape(products.shape[0], n, -1).swapaxes(0, 1).reshape(n, -1)

    def _pass_messages(
        self,
        name: str,
        messages: tuple[str, ...],
        a: Float[Array, "a n r s q"],
        features: Float[Array, "n f"],
        neighbors: Dense,
        distances: Float[Array, "n m"],
        envelope: Float[Array, "n m"],
        radial: Float[Array, "n m b"],
        angular: Float[Array, "n m a"],
        theta_s: Float[Array, "n m s"],
        theta_q: Float[Array, "n q"],
        mixing: Float[Array, "l b r s q"],
    ) -> Float[Array, "a n r s q"]:
        c = self.config
        dtype = a.dtype
        n, m = distances.shape
        order = basis.order_of_function(c.max_l)
        per_order = (c.max_l + 1, c.n_radial, c.n_embedding, c.n_embedding)
        total = jnp.zeros_like(a)
        if "M" in messages:
            memory = self.param(f"{name}_memory", nn.initializers.ones, per_order, dtype)
            total += a * memory[order][:, None]
        if "Ar" in messages:
            prefactor = self.param(f"{name}_prefactor", nn.initializers.ones, per_order, dtype)
            decay = self.param(f"{name}_decay", nn.initializers.constant(0.5), per_order, dtype)
            # order by order: gathering the orders of all functions at once is ten times slower backwards
            parts = []
            for l, block in enumerate(jax.lax.split(a, basis.block_sizes(c.max_l))):
                weights = jnp.exp(-distances[..., None] * decay[l].reshape(1, 1, -1)) * envelope[..., None]
                senders = neighbors.gather(block.swapaxes(0, 1).reshape(n, block.shape[0], -1))
                part = jnp.sum(weights[:, :, None, :] * senders, axis=1).swapaxes(0, 1)
                parts.append(part.reshape(block.shape) * prefactor[l][None, None])
            total += c.message_scale * jnp.concatenate(parts)
        if "Bchi" in messages:
            n_filters = 1 if c.bchi_shared else (c.max_l + 1) * c.n_embedding**2
            filters = nn.Dense(n_filters, name=f"{name}_bchi", param_dtype=dtype, precision="highest")(features)
            h = neighbors.gather(filters).reshape(n, m, *((1, 1, 1) if c.bchi_shared else (-1, *per_order[2:])))
            scaled = (h * theta_s[:, :, None, :, None]).reshape(n, m, h.shape[2], -1)
            summed = sum_filtered(angular, radial, scaled, c.max_l)
            summed = summed.reshape(n, -1, c.n_bessel, c.n_embedding, h.shape[4])
            total += c.message_scale * mix_radial(summed, mixing, c.max_l) * theta_q[None, :, None, None, :]
        return total


def sum_filtered(
    angular: Float[Array, "n m a"], radial: Float[Array, "n m b"], filters: Float[Array, "n m l c"], max_l: int
) -> Float[Array, "n a b c"]:
    """Σ_j Y_a R_b h^l_c over the edges of each atom, with the filters h of the order of a, or one for all orders.

    Two of the three factors of an edge become an outer product, and the third a matrix product with it. The angular
    functions are paired with the fewer of the others: the other choice makes a training step four times as long.
    """
    n, m, n_bessel = radial.shape
    n_orders, n_filters = filters.shape[2:]
    of_order = jax.lax.split(filters, (1,) * n_orders, axis=2)
    blocks = jax.lax.split(angular, basis.block_sizes(max_l), axis=2)
    pairs = [(block, of_order[min(l, n_orders - 1)]) for l, block in enumerate(blocks)]
    if n_filters <= n_bessel:  # all orders side by side
        edges = jnp.concatenate([(block[..., None] * h).reshape(n, m, -1) for block, h in pairs], axis=2)
        summed = einsum("nmb,nmx->nbx", radial, edges)
        return summed.reshape(n, n_bessel, -1, n_filters).swapaxes(1, 2)
    parts = []
    for block, h in pairs:
        edges = (block[..., None] * radial[:, :, None, :]).reshape(n, m, -1)
        part = einsum("nmx,nmc->nxc", edges, h[:, :, 0])
        parts.append(part.reshape(n, -1, n_bessel, n_filters))
    return jnp.concatenate(parts, axis=1)


def mix_radial(
    summed: Float[Array, "n a b s p"], mixing: Float[Array, "l b r s q"], max_l: int
) -> Float[Array, "a n r s q"]:
    """Mix the radial functions: Σ_b W^l[b, r, s, q] A[n, a, b, s, p], with p = q, or p of length one for all q.

    One matrix product per order, with the element channels as its batch.
    """
    n, _, n_bessel, n_s, n_p = summed.shape
    n_radial, n_q = mixing.shape[2], mixing.shape[4]
    columns = n_q // n_p
    mixed = []
    start = 0
    for l, size in enumerate(basis.block_sizes(max_l)):
        block = summed[:, start : start + size].transpose(3, 4, 1, 0, 2).reshape(n_s * n_p, size * n, n_bessel)
        weights = mixing[l].reshape(n_bessel, n_radial, n_s, n_p, columns).transpose(2, 3, 0, 1, 4)
        product = einsum("xzb,xbw->xzw", block, weights.reshape(n_s * n_p, n_bessel, n_radial * columns))
        product = product.reshape(n_s, n_p, size, n, n_radial, columns).transpose(2, 3, 4, 0, 1, 5)
        mixed.append(product.reshape(size, n, n_radial, n_s, n_q))
        start += size
    return jnp.concatenate(mixed)
