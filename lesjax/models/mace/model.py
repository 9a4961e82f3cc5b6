r"""MACE as a Flax Linen module.

Features h^l of an atom have the components m of order l and channels c. A layer sums messages of the neighbours j::

    A_i^{l3} = 1/n̄ Σ_paths W^{l3}_path Σ_j R_path(r_ij) C^{l1 l2 l3} h_j^{l1} Y_{l2}(r_ij)

with the couplings C of the paths (l1, l2, l3) with l1 + l2 + l3 even, the radial network R with a number for each path
and channel, and one matrix over paths and channels for each order. The divisor n̄ is the mean number of neighbours, or
with a density 1 + Σ_j tanh[(w · B(r_ij))²], with the radial functions B. From A follow the symmetric products of up to
`correlation` factors, `lesjax.models.mace.contraction`, with weights of the element of atom i, and

    h_i^l ← W^l Σ_path w_path(z_i) products_path^l + W^l(z_i) h_i^l

Normalization constants of e3nn are part of the weights. The vector of an edge points from the sender j to the receiver
i, as in mace-torch. Everywhere components come first, [component, atom, channel], so that each sum over neighbours is
one matrix product for each atom, and each matrix over channels one for all atoms.

Source: Batatia, Kovács, Simm, Ortner, Csányi, NeurIPS 2022, arXiv:2206.07697.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax.models import basis
from lesjax.models.irreps import coupling, element_matrices, spherical_harmonics, symmetric_tensors
from lesjax.models.mace.config import NON_RESIDUAL, WITH_DENSITY, MACEConfig
from lesjax.models.mace.contraction import n_paths, start_sizes, symmetric_products
from lesjax.models.mace.radial import AGNESI, agnesi, bond_lengths, learned_density, radial_functions
from lesjax.models.mace.repulsion import nuclear_repulsion
from lesjax.models.short_range import Features, species_index
from lesjax.neighbors import Dense
from lesjax.numerics import einsum, matmul, safe_norm
from lesjax.system import System


# 1 / the root mean square of silu(x) for normal x: keeps the size of features from layer to layer
SILU_GAIN = 1.6765


class MACE(nn.Module):
    """Invariants of each layer; vectors and tensors of the last layer that has them."""

    config: MACEConfig
    no_decay: ClassVar[tuple[str, ...]] = ("bessel_frequencies", "agnesi")
    feature_scale: ClassVar[str] = "none"

    @nn.compact
    def __call__(self, system: System) -> Features:
        c = self.config
        dtype = system.positions.dtype
        species = jnp.asarray(species_index(c.elements))[system.atomic_numbers]
        elements = (species[:, None] == jnp.arange(len(c.elements), dtype=species.dtype)[None, :]).astype(dtype)
        neighbors = system.neighborhood()
        distances = safe_norm(neighbors.vectors, neighbors.mask)
        frequencies = None
        if c.radial_type == "bessel":
            shape = (c.num_radial_basis, c.cutoff)
            frequencies = self.param("bessel_frequencies", basis.first_frequencies, shape, dtype)
            if not c.trainable_bessel:
                frequencies = jax.lax.stop_gradient(frequencies)
        lengths, transformed = neighbors.of_pairs(distances), None
        if c.distance_transform == "Agnesi":
            constants = jax.lax.stop_gradient(self.param("agnesi", lambda _: jnp.asarray(AGNESI, dtype)))
            transformed = agnesi(lengths / bond_lengths(system.atomic_numbers, neighbors, dtype), constants)
        radial = radial_functions(lengths, frequencies, c, transformed)
        harmonics = spherical_harmonics(-neighbors.vectors / distances[..., None], c.max_ell)

        n_elements = len(c.elements)
        shape = (n_elements, c.channels)
        embedding = self.param("embedding", nn.initializers.normal(n_elements**-0.5), shape, dtype)
        features = [matmul(elements, embedding)[None]]
        layers, vectors, tensors = [], None, None
        for i in range(c.num_interactions):
            layer = MessageLayer(c, i, name=f"layer{i}")
            features = layer(features, elements, neighbors, radial, harmonics)
            layers.append(features[0][0])
            if len(features) > 1:
                vectors = features[1].transpose(1, 2, 0)
            if len(features) > 2:
                tensors = symmetric_tensors(features[2].swapaxes(0, 1))
        energy = None
        if c.pair_repulsion:
            energy = c.pair_repulsion_scale * nuclear_repulsion(
                jnp.asarray(system.atomic_numbers), neighbors, distances, float(c.num_polynomial_cutoff)
            )
        return Features(tuple(layers), vectors, tensors, energy)


class MessageLayer(nn.Module):
    """Interaction and product of one layer."""

    config: MACEConfig
    layer: int

    @nn.compact
    def __call__(
        self,
        features: list[Float[Array, "_ n c"]],
        elements: Float[Array, "n z"],
        neighbors: Dense,
        radial: Float[Array, "p b"],
        harmonics: list[Float[Array, "n m _"]],
    ) -> list[Float[Array, "_ n c"]]:
        """Return the features of the next layer, of orders from 0 on."""
        c = self.config
        dtype, channels, n_elements = radial.dtype, c.channels, elements.shape[1]
        orders = tuple(range(c.max_l(self.layer) + 1))

        def weights(name: str, *shape: int, scale: float | Float[np.ndarray, "1 p 1"]) -> Array:
            return self.param(name, nn.initializers.normal(scale), shape, dtype)

        sources = [
            matmul(x, weights(f"up{l}", channels, channels, scale=channels**-0.5)) for l, x in enumerate(features)
        ]
        steps = message_paths(len(features) - 1, c.max_ell)
        hidden, n_inputs, gain = radial, c.num_radial_basis, 1.0
        for i, width in enumerate(c.radial_MLP):
            hidden = matmul(hidden, weights(f"radial{i}", n_inputs, width, scale=gain * n_inputs**-0.5))
            hidden, n_inputs, gain = jax.nn.silu(hidden), width, SILU_GAIN
        last = weights(f"radial{len(c.radial_MLP)}", n_inputs, len(steps) * channels, scale=gain * n_inputs**-0.5)
        # path by path, so that an array of all their filters for all neighbours is never made
        filters = [neighbors.of_both(matmul(hidden, w)) for w in jax.lax.split(last, [channels] * len(steps), axis=1)]
        sums = sum_messages(sources, filters, harmonics, neighbors, c.max_ell)
        kind = c.interaction_of(self.layer)
        divisor: float | Array = 1.0 if c.avg_num_neighbors is None else c.avg_num_neighbors
        if kind in WITH_DENSITY:
            of_density = weights("density", c.num_radial_basis, 1, scale=c.num_radial_basis**-0.5)
            divisor = 1.0 + learned_density(radial, of_density, neighbors)[None]
        messages = []
        for l, x in enumerate(sums):
            n_inputs = x.shape[2]
            messages.append(matmul(x, weights(f"mix{l}", n_inputs, channels, scale=n_inputs**-0.5)) / divisor)

        skip_scale, square = (n_elements * channels) ** -0.5, (n_elements, channels, channels)
        skips: list[Array | None] = [None] * len(orders)
        if kind in NON_RESIDUAL:
            messages = [
                element_matrices(x, weights(f"skip{l}", *square, scale=skip_scale), elements[None])
                for l, x in enumerate(messages)
            ]
        else:
            for l in orders[: len(features)]:
                skips[l] = element_matrices(features[l], weights(f"skip{l}", *square, scale=skip_scale), elements[None])

        n = elements.shape[0]
        products = symmetric_products(
            jnp.concatenate(messages).reshape(-1, n * channels), c.max_ell, c.correlation, orders
        )
        results = []
        for l, product, skip in zip(orders, products, skips, strict=True):
            shape = (n_elements, n_paths(c.max_ell, c.correlation, l), channels)
            of_path = weights(f"product{l}", *shape, scale=start_sizes(c.max_ell, c.correlation, l)[None, :, None])
            of_atom = matmul(elements, of_path.reshape(n_elements, -1)).reshape(n, *shape[1:]).swapaxes(0, 1)
            total = jnp.sum(product.reshape(2 * l + 1, *of_atom.shape) * of_atom[None], axis=1)
            total = matmul(total, weights(f"out{l}", channels, channels, scale=channels**-0.5))
            results.append(total if skip is None else total + skip)
        return results


def message_paths(max_l: int, max_ell: int) -> list[tuple[int, int, int]]:
    """Orders (l1, l2, l3) of the features, the harmonics and the messages, by l3 first."""
    paths = [
        (l1, l2, l3)
        for l1 in range(max_l + 1)
        for l2 in range(max_ell + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, max_ell) + 1)
        if (l1 + l2 + l3) % 2 == 0
    ]
    return sorted(paths, key=lambda path: (path[2], path[:2]))


def sum_messages(
    sources: list[Float[Array, "_ n c"]],
    filters: list[Float[Array, "n m c"]],
    harmonics: list[Float[Array, "n m _"]],
    neighbors: Dense,
    max_ell: int,
) -> list[Float[Array, "_ n k"]]:
    """Sums over neighbours of each order, [component, atom, (path, channel)], in the order of `message_paths`.

    The harmonics are summed with the filtered components of the features first, and coupled after that.
    """
    n, m, channels = filters[0].shape
    paths = message_paths(len(sources) - 1, max_ell)
    gathered = [neighbors.gather(x.swapaxes(0, 1).reshape(n, -1)).reshape(n, m, -1, channels) for x in sources]
    sums: list[list[Array]] = [[] for _ in range(max_ell + 1)]
    for (l1, l2, l3), of_edge in zip(paths, filters, strict=True):
        edges = (gathered[l1] * of_edge[:, :, None, :]).reshape(n, m, -1)
        product = einsum("nmy,nmx->nyx", harmonics[l2], edges)
        if l1 == 0:
            sums[l3].append(product.swapaxes(0, 1))
            continue
        # path weight √(2 l3 + 1) of e3nn
        table = coupling(l1, l2, l3).transpose(2, 1, 0).reshape(2 * l3 + 1, -1) * (2 * l3 + 1) ** 0.5
        rows = product.reshape(n, (2 * l2 + 1) * (2 * l1 + 1), channels)
        sums[l3].append(einsum("ky,nyc->knc", jnp.asarray(table, product.dtype), rows))
    return [jnp.concatenate(parts, axis=2) for parts in sums]
