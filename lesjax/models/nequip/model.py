r"""NequIP as a Flax Linen module.

Features of atom i are channels u of irreducible representations (l, p), components last but one: [n, 2 l + 1, u]. A
layer makes of them, with harmonics Y, Clebsch-Gordan coefficients C and a radial network R for each path::

    M_i[m, u] = (N)^{-1/2} Σ_j R(r_ij)[u] Σ_{m1 m2} √(2 l + 1) C[m1, m2, m] (L1 x_j)[m1, u] Y[m2](r_ij)
    x_i' = gate( L2 M_i + S_{z_i} x_i )

L1 and L2 mix the channels of one representation, S is the self-connection of each element. Gates multiply what is no
scalar by a nonlinear function of an even scalar. Nonlinear functions are scaled such that their second moment under
a normal distribution is one.

References:
    Batzner et al., Nat. Commun. 13, 2453 (2022), doi:10.1038/s41467-022-29939-5.
"""

from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lesjax.models import basis
from lesjax.models.irreps import coupling, element_matrices, spherical_harmonics, symmetric_tensors
from lesjax.models.nequip.config import Irrep, LayerIrreps, NequIPConfig, layer_irreps
from lesjax.models.short_range import Features, species_index
from lesjax.neighbors import Dense
from lesjax.numerics import einsum, matmul, safe_norm
from lesjax.system import System


# Scales of the nonlinear functions: those of e3nn, which are means over 10⁶ random numbers and off by 1e-3.
SCALES = {"silu": 1.6791767923989418, "tanh": 1.5937334472592695}

FeatureMap = dict[Irrep, Array]  # [n, 2 l + 1, u] of each representation


class NequIP(nn.Module):
    """Even scalars of the last layer; vectors and tensors are features of the layer before it."""

    config: NequIPConfig
    no_decay: ClassVar[tuple[str, ...]] = ("bessel_frequencies",)

    @nn.compact
    def __call__(self, system: System) -> Features:
        c = self.config
        dtype = system.positions.dtype
        species = jnp.asarray(species_index(c.elements))[system.atomic_numbers]
        shape = (c.num_bessels, c.cutoff)
        frequencies = self.param("bessel_frequencies", basis.first_frequencies, shape, dtype)
        if not c.bessel_trainable:
            frequencies = jax.lax.stop_gradient(frequencies)
        elements = (species[:, None] == jnp.arange(len(c.elements), dtype=species.dtype)[None, :]).astype(dtype)
        embedding = self.param("embedding", nn.initializers.normal(1.0), (len(c.elements), c.num_features), dtype)

        neighbors = system.neighborhood()
        distances = safe_norm(neighbors.vectors, neighbors.mask)
        of_pairs = neighbors.of_pairs(distances)
        # NequIP has 2 / r_c before sin(b r) / r, without the root
        envelope = basis.polynomial_cutoff(of_pairs, c.cutoff, c.polynomial_cutoff_p) * (2.0 / c.cutoff) ** 0.5
        radial = basis.bessel_functions(of_pairs, frequencies, c.cutoff) * envelope[..., None]
        angular = spherical_harmonics(neighbors.vectors / distances[..., None], c.l_max)

        layers = layer_irreps(c)
        x: FeatureMap = {(0, 1): embedding[species][:, None, :]}
        before: FeatureMap = {}
        for i, irreps in enumerate(layers):
            before = x
            layer = Convolution(c, irreps, c.use_sc and i > 0, c.resnet and i > 0, name=f"layer{i}")
            x = layer(x, elements, radial, angular, neighbors)
        invariants = x[0, 1][:, 0, :]
        if c.readout_by_element:
            invariants = (elements[:, :, None] * invariants[:, None, :]).reshape(len(invariants), -1)
        vectors, tensors = before.get((1, -1 if c.reflection_symmetric else 1)), before.get((2, 1))
        return Features(
            (invariants,),
            vectors=None if vectors is None else vectors.swapaxes(1, 2),
            tensors=None if tensors is None else symmetric_tensors(tensors),
        )


class Convolution(nn.Module):
    """One layer: messages, self-connection and gates.

    Attributes:
        config: hyper-parameters of the model.
        irreps: representations of the layer.
        use_sc: add the self-connection.
        resnet: add the features of the layer before, if they have the same representations.
    """

    config: NequIPConfig
    irreps: LayerIrreps
    use_sc: bool
    resnet: bool

    @nn.compact
    def __call__(
        self,
        x: FeatureMap,
        elements: Float[Array, "n z"],
        radial: Float[Array, "p b"],
        angular: list[Float[Array, "n m _"]],
        neighbors: Dense,
    ) -> FeatureMap:
        c, irreps, u = self.config, self.irreps, self.config.num_features
        # even scalars are followed by the gates
        widths = {irrep: u * (1 + len(irreps.gated) if irrep == (0, 1) else 1) for irrep in irreps.outputs}
        mixed = {irrep: matmul(x[irrep], self._matrix(f"linear_1_{name(irrep)}", u, u)) for irrep in irreps.inputs}
        messages = self._messages(mixed, radial, angular, neighbors)
        y: FeatureMap = {}
        for irrep, width in widths.items():
            y[irrep] = matmul(messages[irrep], self._matrix(f"linear_2_{name(irrep)}", messages[irrep].shape[2], width))
            if self.use_sc and irrep in x:
                shape = (len(c.elements), u, width)
                weights = self.param(f"sc_{name(irrep)}", nn.initializers.normal(u**-0.5), shape, radial.dtype)
                y[irrep] += element_matrices(x[irrep], weights, elements[:, None])
        scalars, gates = _function(c.nonlinearity_scalars), _function(c.nonlinearity_gates)
        even, *gate = jnp.split(y[0, 1], 1 + len(irreps.gated), axis=2)
        result: FeatureMap = {(0, 1): scalars(even)}
        if (0, -1) in y:
            result[0, -1] = _function("tanh")(y[0, -1])
        result |= {irrep: gates(g) * y[irrep] for irrep, g in zip(irreps.gated, gate, strict=True)}
        if self.resnet and irreps.inputs == irreps.outputs:
            result = {irrep: result[irrep] + x[irrep] for irrep in result}
        return result

    def _matrix(self, name: str, n_inputs: int, n_outputs: int, gain: float = 1.0) -> Float[Array, "i o"]:
        dtype = jax.dtypes.canonicalize_dtype(float)
        return self.param(name, nn.initializers.normal(gain * n_inputs**-0.5), (n_inputs, n_outputs), dtype)

    def _messages(
        self, x: FeatureMap, radial: Float[Array, "p b"], angular: list[Float[Array, "n m _"]], neighbors: Dense
    ) -> FeatureMap:
        """Products of the neighbours' features with the harmonics, summed; paths side by side as channels."""
        c, u, paths = self.config, self.config.num_features, self.irreps.paths
        n, m = neighbors.mask.shape
        hidden = radial
        for i in range(c.invariant_layers):
            gain = 1.0 if i == 0 else 2.0**0.5
            weights = self._matrix(f"radial{i}", hidden.shape[1], c.invariant_neurons, gain)
            hidden = jax.nn.silu(matmul(hidden, weights))
        gain = 2.0**0.5 if c.invariant_layers else 1.0
        weights = matmul(hidden, self._matrix("radial_output", hidden.shape[1], len(paths) * u, gain))
        weights = neighbors.of_both(weights * (c.avg_num_neighbors or 1.0) ** -0.5).reshape(n, m, len(paths), u)
        parts: dict[Irrep, list[Array]] = {irrep: [] for irrep in self.irreps.outputs}
        for irrep in self.irreps.inputs:
            gathered = neighbors.gather(x[irrep])
            for l2, harmonic in enumerate(angular):
                of_pair = [k for k, (first, second, _) in enumerate(paths) if (first, second) == (irrep, l2)]
                if not of_pair:
                    continue
                # the product of harmonic and features needs no coupling on the edges: it follows the sum
                edges = gathered[:, :, :, None, :] * weights[:, :, None, of_pair[0] : of_pair[-1] + 1, :]
                summed = einsum("nmb,nmx->nbx", harmonic, edges.reshape(n, m, -1))
                summed = summed.reshape(n, -1, len(of_pair) * u)  # [n, (m2, m1), (path, u)]
                for k, block in zip(of_pair, jnp.split(summed, len(of_pair), axis=2), strict=True):
                    output = paths[k][2]
                    matrix = _coupling(irrep[0], l2, output[0], block.dtype)
                    parts[output].append(einsum("nxu,xc->ncu", block, matrix))
        return {irrep: jnp.concatenate(blocks, axis=2) for irrep, blocks in parts.items()}


def name(irrep: Irrep) -> str:
    """Name of a representation: 1o for order 1 and odd parity."""
    return f"{irrep[0]}{'e' if irrep[1] > 0 else 'o'}"


def _coupling(l1: int, l2: int, l3: int, dtype: jnp.dtype) -> Float[Array, "x c"]:
    """√(2 l3 + 1) C as a matrix, rows (m2, m1)."""
    matrix = (2 * l3 + 1) ** 0.5 * coupling(l1, l2, l3).transpose(1, 0, 2)
    return jnp.asarray(matrix.reshape(-1, 2 * l3 + 1), dtype)


def _function(kind: str) -> Callable[[Array], Array]:
    function = {"silu": jax.nn.silu, "tanh": jnp.tanh}[kind]
    return lambda x: SCALES[kind] * function(x)
