r"""What the atoms give to the long-range part, and the heads that turn with the system.

A head is a sum over the channels k of the atomic basis A of order l of the last layer, weighted by gates that are
linear in the invariant features B:

.. math:: H_i = \frac{1}{\sqrt{K}} \sum_k g_k(B_i) \frac{A^l_{ik}}{\sqrt{1 + \langle |A^l_i|^2 \rangle}}

A^1 are vectors and A^2 symmetric tensors, so H is one as well. The denominator, with the mean over channels, keeps the
size of H that of the gates, however large A is.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax.models.basis import block_sizes, monomials
from lesjax.models.config import LongRangeConfig
from lesjax.numerics import einsum


# Where the responses start, e/V and e Å²/V (0.7 Å³ of polarizability): far from a catastrophe at σ = 1 Å, and their
# unit. Of equilibration: hardness and electronegativity, V/e and V per `charge_scale`.
KAPPA_SCALE, ALPHA_SCALE, HARDNESS_SCALE = 0.02, 0.07, 10.0


class Latent(NamedTuple):
    """Latent properties of n atoms in c channels, None for those that the model has not; zero for padded atoms.

    Attributes:
        charges: e.
        dipoles: e Å.
        quadrupoles: e Å², symmetric and without trace.
        kappa: charge per potential, e/V.
        alpha: polarizability, e Å²/V, one number or a tensor.
        electronegativity: V; in place of the charges where these are equilibrated.
        hardness: V/e; with it.
    """

    charges: Float[Array, "n c"] | None = None
    dipoles: Float[Array, "n c 3"] | None = None
    quadrupoles: Float[Array, "n c 3 3"] | None = None
    kappa: Float[Array, "n c"] | None = None
    alpha: Float[Array, "n c"] | Float[Array, "n c 3 3"] | None = None
    electronegativity: Float[Array, " n"] | None = None
    hardness: Float[Array, " n"] | None = None


class Heads(nn.Module):
    """Dipoles, quadrupoles and responses, as far as the configuration asks for them."""

    config: LongRangeConfig

    @nn.compact
    def __call__(self, features: Float[Array, "n f"], basis: Float[Array, "a n r s q"]) -> dict[str, Array]:
        """The fields of `Latent` by name; those of padded atoms have no meaning yet."""
        c = self.config
        found: dict[str, Array] = {}
        if c.dipoles:
            found["dipoles"] = c.charge_scale * self._gated("dipoles", features, basis, 1)
        if c.quadrupoles:
            tensor = _symmetric(self._gated("quadrupoles", features, basis, 2))
            trace = jnp.trace(tensor, axis1=-2, axis2=-1)[..., None, None] / 3.0
            found["quadrupoles"] = c.charge_scale * (tensor - trace * _identity(tensor))
        if c.hardness:
            found["kappa"] = KAPPA_SCALE * self._positive("kappa", features)
        if c.polarizability != "none":
            found["alpha"] = ALPHA_SCALE * self._positive("polarizability", features)
        if c.polarizability == "tensor":
            root = _symmetric(self._gated("anisotropy", features, basis, 2))
            square = einsum("ncab,ncbd->ncad", root, root)
            found["alpha"] = found["alpha"][..., None, None] * _identity(square) + ALPHA_SCALE * square
        return found

    def _positive(self, name: str, features: Float[Array, "n f"]) -> Float[Array, "n c"]:
        return jax.nn.softplus(self._dense(self.config.n_channels, name, features))

    def _dense(self, width: int, name: str, features: Float[Array, "n f"]) -> Float[Array, "n _"]:
        return nn.Dense(width, name=name, param_dtype=features.dtype, precision="highest")(features)

    def _gated(
        self, name: str, features: Float[Array, "n f"], basis: Float[Array, "a n r s q"], l: int
    ) -> Float[Array, "n c m"]:
        """H of order `l` for each channel of charge, its components in the order of `monomials`."""
        sizes = block_sizes(l)
        n = basis.shape[1]
        block = basis[sum(sizes[:-1]) : sum(sizes)].reshape(sizes[-1], n, -1)
        n_gates = block.shape[-1]
        # |A|² counts a component as often as it stands in the tensor
        squares = jnp.sum(jnp.asarray(_multiplicity(l), block.dtype)[:, None, None] * block * block, axis=0)
        block = block / jnp.sqrt(1.0 + jnp.mean(squares, axis=-1))[None, :, None]
        gates = self._dense(self.config.n_channels * n_gates, name, features)
        gates = gates.reshape(n, self.config.n_channels, n_gates)
        return n_gates**-0.5 * einsum("nck,mnk->ncm", gates, block)


def _multiplicity(l: int) -> np.ndarray:
    """How many components of the full tensor each monomial of order `l` <= 2 is: 1, or 2 off the diagonal."""
    return np.array([1.0 if max(exponents) == l else 2.0 for exponents in monomials(l) if sum(exponents) == l])


def _symmetric(packed: Float[Array, "n c 6"]) -> Float[Array, "n c 3 3"]:
    """Tensor from its components xx, xy, xz, yy, yz, zz, the order of `monomials`."""
    return packed[..., np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])]


def _identity(tensor: Float[Array, "n c 3 3"]) -> Float[Array, "1 1 3 3"]:
    return jnp.eye(3, dtype=tensor.dtype)[None, None]
